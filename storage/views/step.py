"""Pairs of sibling steps (MCTS-DPO, Xie et al. 2024, arXiv 2405.00451; Step-DPO, arXiv 2406.18629), in two renderings.

`step` keeps what was sampled: the answer's beginning that both share, the next step of either side and their tokens. `step-dpo` has the
columns of `dpo`: prompt, and an assistant turn of beginning and step on either side. A step that does not end the answer must not be
followed by an end-of-turn token, which would teach the model to stop in the middle; only a trainer that reads `chosen_terminal` and
`rejected_terminal` can know. Pairs of whole answers from the same trees are rows with an empty `prefix`.
"""

from __future__ import annotations

from storage.views.view import CONTEXT, PROMPT, Column, View

_ENDS = {
    "chosen_terminal": Column(kind="flag", meaning="the chosen step ends the answer; without it no end of turn may follow"),
    "rejected_terminal": Column(kind="flag", meaning="the same of the rejected one"),
    "label_smoothing": Column(kind="number", meaning="α of this pair: the weight of the flipped label in the loss, 0 to 0.5"),
    "margin": Column(kind="number", meaning="value of chosen minus value of rejected"),
    "pair_id": Column(kind="text", meaning="id of the pair"),
}
_PREFIX = Column(
    kind="text", meaning="the answer's beginning that both share, with the delimiter of its last step; empty at the first step"
)
_KEYS = """
    SELECT pair_id AS row_id, pair_id AS source_id, split, md5(prompt) AS prompt_hash,
        CASE WHEN open_turn(prompt) THEN 'prompt_ends_with_assistant' END AS drop
    FROM pairs
"""
_SHARED = (
    *("pair_id", "prompt_id", "prompt", "prefix", "chosen_terminal", "rejected_terminal", "alpha", "margin"),
    *("tools", "chat_template_kwargs", "split"),
)
_TOKENS = ("prefix_token_ids", "chosen_token_ids", "rejected_token_ids")
_NUMBERS = ("chosen_q", "rejected_q", "chosen_visits", "rejected_visits", "chosen_prior", "rejected_prior", "depth")
_ROWS = """
    SELECT row_id, source_id, keys.split, prompt, prefix, {sides}, chosen_terminal, rejected_terminal, alpha AS label_smoothing, margin,
        pair_id, tools, chat_template_kwargs
    FROM keys JOIN pairs ON pair_id = row_id WHERE drop IS NULL
"""

STEP = View(
    row="a pair of steps",
    trainers="`pipelines.training.dpo`",
    unit="pairs",
    columns={
        "prompt": PROMPT,
        "prefix": _PREFIX,
        "chosen": Column(kind="text", meaning="the preferred next step, with its delimiter"),
        "rejected": Column(kind="text", meaning="the other one"),
        "prefix_token_ids": Column(kind="integers", present="any", meaning="as sampled; text may come back as other tokens"),
        "chosen_token_ids": Column(kind="integers", present="any", meaning="as sampled, null where the engine did not say"),
        "rejected_token_ids": Column(kind="integers", present="any", meaning="likewise"),
        "chosen_q": Column(kind="number", meaning="value that the search gave the step, when one of the siblings was committed to"),
        "rejected_q": Column(kind="number", meaning="likewise"),
        "chosen_visits": Column(kind="integer", meaning="simulations through the step, at the same moment"),
        "rejected_visits": Column(kind="integer", meaning="likewise"),
        "chosen_prior": Column(kind="number", present="any", meaning="share of the step among its siblings by the policy's probability"),
        "rejected_prior": Column(kind="number", present="any", meaning="likewise"),
        "depth": Column(kind="integer", meaning="number of the step in the answer, 1 for the first"),
    }
    | _ENDS
    | CONTEXT,
    needs={"pairs": (*_SHARED, "chosen_step", "rejected_step", *_TOKENS, *_NUMBERS)},
    keys=_KEYS,
    rows=_ROWS.format(sides=", ".join(("chosen_step AS chosen, rejected_step AS rejected", *_TOKENS, *_NUMBERS))),
)

STEP_DPO = View(
    row="a pair of steps",
    trainers="those that read `chosen_terminal`; DPOTrainer loads it and ends every step with an end of turn",
    unit="pairs",
    columns={
        "prompt": PROMPT,
        "prefix": _PREFIX,
        "chosen": Column(kind="messages", side="answer", meaning="the answer up to and with the preferred step"),
        "rejected": Column(kind="messages", side="answer", meaning="the answer up to and with the other step"),
    }
    | _ENDS
    | CONTEXT,
    needs={"pairs": (*_SHARED, "chosen", "rejected")},
    keys=_KEYS,
    rows=_ROWS.format(sides="chosen, rejected"),
)
