"""Minimal revisions: CLAIR (D'Oosterlinck et al. 2024, arXiv 2408.06266).

The rejected text is an answer as it is, the chosen one its revision by a reviser that changes as little as it must. The reviser writes its
reasoning, then a heading, then the corrected answer; a reply without the heading is no revision. The states, first check first:

| state | the revision |
|---|---|
| `truncated`, `empty`, `transport_error` … | did not arrive whole |
| `parse_error` | has no heading `Corrected answer`, or nothing below it |
| `unchanged` | is the answer again, white space at its ends aside |
| `meta_talk` | speaks of correcting where the answer did not ("corrected", "revised", "student") |
| `rewrite` | has an edit similarity to the answer below `min_edit_sim`: it is another answer |
| `checker_failed`, `unverified` | is not better by the checker, a judge in both orders or a verifier |

The wording of the request is ours. Losses that suit these pairs: `apo_zero` where the policy is worse than the revision, else `apo_down`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson
import polars as pl

from curators.contrast.candidates import Attempt, contrasts, text_of
from curators.contrast.checkers import Checker
from curators.contrast.differences import edit_sim
from curators.engines.base import Engine, Request, Sampling, digest
from curators.errors import ConfigError
from curators.judging.prompts import conversation_text
from curators.sampling import Row, gather_all, sample_state

BRIEF = """\
You are a teacher who corrects a student's answer. Make it clearer, more correct and more engaging, and change as little as that needs: \
copy word for word whatever is good as it is. The corrected answer is read by people who never saw the first one, so it must not speak of \
corrections.

The question:
{prompt}

The student's answer:
{answer}

First write in a few sentences what must change and why. Then write a line that says "Corrected answer:", and below it the whole \
corrected answer and nothing else."""

_HEADING = re.compile(
    r"^[ \t]*(?:#+[ \t]*|\*\*)?corrected answer(?::|\*\*:|:\*\*|\*\*)?[ \t]*:?(?:\*\*)?[ \t]*", re.IGNORECASE | re.MULTILINE
)
_META_TALK = re.compile(r"\b(?:corrected|corrections?|revised|revisions?|student'?s?)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClairConfig:
    """`min_edit_sim`: below it a revision is a rewrite (`differences`)."""

    min_edit_sim: float = 0.3
    brief: str = BRIEF
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.7, max_tokens=4096))

    def __post_init__(self) -> None:
        if missing := [name for name in ("{prompt}", "{answer}") if name not in self.brief]:
            raise ConfigError(f"clair: the brief has no {' and no '.join(missing)}")
        if not 0 <= self.min_edit_sim < 1:
            raise ConfigError(f"clair: min_edit_sim is {self.min_edit_sim}, must be in [0, 1)")


async def clair(rows: pl.DataFrame, *, config: ClairConfig | None = None, engine: Engine, checker: Checker | None = None) -> pl.DataFrame:
    """`contrasts` of `answers`, one for each; without a `checker` only the form of a revision is checked.

    Raises:
        EngineBusy: the endpoint is down.
    """
    config = config or ClairConfig()
    return contrasts(await gather_all(_clair(row, config, engine, checker) for row in rows.iter_rows(named=True)))


def parse_revision(raw: str) -> tuple[str, str] | None:
    """Reasoning and corrected text of a reply, parted by its last heading; null without heading or text.

    >>> parse_revision("It is wrong.\\n**Corrected answer:**\\nIt is 4.")
    ('It is wrong.', 'It is 4.')
    >>> parse_revision("# Corrected Answer\\nIt is 4."), parse_revision("It is 4.")
    (('', 'It is 4.'), None)
    """
    headings = list(_HEADING.finditer(raw))
    if not headings:
        return None
    reasoning, text = raw[: headings[-1].start()].strip(), raw[headings[-1].end() :].strip()
    return (reasoning, text) if text else None


def revision_fault(answer: str, revision: str, *, min_edit_sim: float) -> tuple[str, str] | None:
    """State and reason of a revision whose form is wrong, null for one that is right."""
    if revision.strip() == answer.strip():
        return "unchanged", "the revision is the answer again"
    new = {found.lower() for found in _META_TALK.findall(revision)} - {found.lower() for found in _META_TALK.findall(answer)}
    if new:
        return "meta_talk", f"the revision says {sorted(new)[0]!r}"
    similarity = edit_sim(revision.split(), answer.split())
    if similarity < min_edit_sim:
        return "rewrite", f"edit_sim {similarity:.4g} is below {min_edit_sim:g}"
    return None


async def _clair(source: Row, config: ClairConfig, engine: Engine, checker: Checker | None) -> Row:
    answer = text_of(source)
    parameters = {"brief": digest(config.brief), "min_edit_sim": config.min_edit_sim, "sampling": config.sampling}
    attempt = Attempt(
        source=source,
        method="clair",
        axis="what the reviser corrected",
        parameters=parameters,
        held_fixed=("what needs no correction",),
        source_ids=[source["generation_id"]],
    )
    values = {"prompt": conversation_text(orjson.loads(source["messages"])), "answer": answer}
    request = Request(key=f"clair/{source['generation_id']}", messages=_messages(config.brief, values), sampling=config.sampling)
    reply = await engine.complete(request)
    completion = reply.completions[0] if reply.completions else None
    if completion is None:
        return attempt.row(None, source, state=reply.error or "transport_error", reason=reply.reason)
    raw = completion.text
    state, reason = sample_state(raw, completion.finish_reason)
    if state != "ok":
        return attempt.row(None, source, state=state, reason=reason, raw=raw)
    parsed = parse_revision(raw)
    if parsed is None:
        return attempt.row(None, source, state="parse_error", reason="no heading `Corrected answer:` with a text below it", raw=raw)
    reasoning, revision = parsed
    columns: Row = {"raw": raw, "chosen_policy": engine.fingerprint, "rejected_score": None}
    if fault := revision_fault(answer, revision, min_edit_sim=config.min_edit_sim):
        return attempt.row(revision, source, state=fault[0], reason=fault[1], **columns)
    if checker is None:
        return attempt.row(revision, source, checks={"rational": reasoning}, **columns)
    found = await checker(source, revision, answer)
    checks = {"rational": reasoning, **found.checks}
    return attempt.row(revision, source, state=found.state, reason=found.reason, checks=checks, **{**columns, **found.columns})


def _messages(brief: str, values: Mapping[str, str]) -> list[Row]:
    """The brief with both texts filled in at once, so that a text that holds a placeholder changes nothing."""
    return [{"role": "user", "content": re.sub(r"\{(prompt|answer)\}", lambda found: values[found[1]], brief)}]
