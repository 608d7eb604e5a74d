"""Training formats. `VIEWS` names them all; adding one is one `View` in a module of its own and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from storage.views.attributes import ATTRIBUTES, OBJECTIVES
from storage.views.context import CONTEXT_PAIR
from storage.views.group import GROUP
from storage.views.joint import JOINT, PROMPT_CONTRAST
from storage.views.kto import KTO
from storage.views.matrix import MATRIX
from storage.views.negatives import NEGATIVES
from storage.views.preference import DPO, REFERENCE, REWARD
from storage.views.prompt_only import PROMPT_ONLY
from storage.views.ranked import RANKED, SCORED_PAIR
from storage.views.rationale import PERMUTED, RANDOM_ORDER, RATIONALE, TWIN
from storage.views.revision import REVISION
from storage.views.sft import SFT
from storage.views.step import STEP, STEP_DPO
from storage.views.tokens import TOKENS
from storage.views.tree import NODES, STEPWISE
from storage.views.user import USER
from storage.views.view import Column, View

VIEWS: Mapping[str, View] = MappingProxyType(
    {
        "prompt-only": PROMPT_ONLY,
        "sft": SFT,
        "dpo": DPO,
        "dpo-ref": REFERENCE,
        "reward": REWARD,
        "kto": KTO,
        "joint": JOINT,
        "group": GROUP,
        "ranked": RANKED,
        "matrix": MATRIX,
        "scored-pair": SCORED_PAIR,
        "attributes": ATTRIBUTES,
        "objectives": OBJECTIVES,
        "user": USER,
        "tokens": TOKENS,
        "context": CONTEXT_PAIR,
        "prompt-contrast": PROMPT_CONTRAST,
        "revision": REVISION,
        "negatives": NEGATIVES,
        "rationale": RATIONALE,
        "rationale-random-order": RANDOM_ORDER,
        "rationale-permuted": PERMUTED,
        "rationale-twin": TWIN,
        "step": STEP,
        "step-dpo": STEP_DPO,
        "stepwise": STEPWISE,
        "nodes": NODES,
    }
)

_HOLDS = {
    "messages": "messages",
    "message_lists": "list of messages",
    "json": "JSON",
    "text": "text",
    "texts": "list of texts",
    "number": "float64",
    "numbers": "list of float64",
    "number_lists": "list of lists of float64",
    "integer": "int64",
    "integers": "list of int32",
    "flag": "bool",
    "flags": "list of bool",
}
_PRESENCE = {"always": "", "any": " Only where a row has one.", "all": " Only where every row has one."}


def views_table() -> str:
    """The views and their columns as Markdown, as `docs/views.md` holds them."""
    return "\n".join(_section(name, view) for name, view in VIEWS.items())


def _section(name: str, view: View) -> str:
    head = f"### `{name}`\n\nOne row is {view.row}. Trainers: {view.trainers}.\n\n| column | holds | meaning |\n|---|---|---|\n"
    more = f"\nAnd {view.more}.\n" if view.more else ""
    return head + "".join(_line(column, about) for column, about in view.columns.items()) + more


def _line(name: str, column: Column) -> str:
    meaning = column.meaning[0].upper() + column.meaning[1:]
    return f"| `{name}` | {_HOLDS[column.kind]} | {meaning}.{_PRESENCE[column.present]} |\n"
