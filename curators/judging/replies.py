"""One reply of a judge → the columns of its judgment: state, label or scores, and the raw text, which is always kept.

The rules of reading are in `parsing`; here they are applied to what an engine returned, and stated in words for a re-ask.
"""

from __future__ import annotations

from curators.engines.base import Completion, Reply, canonical
from curators.judging.parsing import (
    P_FIRST,
    Parsed,
    expected_score,
    option_probabilities,
    parse_listwise,
    parse_pairwise,
    parse_pointwise,
)
from curators.judging.prompts import Rubric
from curators.sampling import Row


def read_options(rubric: Rubric, reply: Reply, *, min_label_mass: float) -> Row:
    """The verdict in the log-probabilities of the rubric's labels; labels that hold less than the minimum together are ambiguous."""
    labels = rubric.labels
    if not reply.completions:
        return no_answer(reply)
    logprobs = reply.completions[0].option_logprobs or {}
    raw = canonical(dict(logprobs)).decode()
    if missing := [label for label in labels if label not in logprobs]:
        return {"state": "parse_error", "reason": f"no log-probability for {missing}", "raw": raw}
    chosen = {label: logprobs[label] for label in labels}
    p, mass = option_probabilities(chosen)
    if mass < min_label_mass:
        reason = f"the labels hold {mass:.3g} of the probability, fewer than {min_label_mass:g}"
        return {"state": "ambiguous", "reason": reason, "raw": raw, "label_mass": mass}
    row: Row = {"state": "ok", "raw": raw, "label_mass": mass}
    if rubric.protocol == "pairwise":
        first = p[labels[0]]
        return row | {"p_first": first, "label": "first" if first > 0.5 else "second" if first < 0.5 else "tie"}
    return row | {"scores": [expected_score(chosen, labels, rubric.scale)[0]]}


def read_text(rubric: Rubric, n: int, completion: Completion) -> Row:
    """The verdict in a text about `n` generations shown."""
    if completion.finish_reason == "length":
        return {"state": "truncated", "reason": "cut off by max_tokens", "raw": completion.text}
    parsed = parse(completion.text, rubric, n)
    return {
        "state": parsed.state,
        "reason": parsed.reason,
        "raw": completion.text,
        "label": parsed.label,
        "p_first": None if parsed.label is None else P_FIRST[parsed.label],
        "scores": None if parsed.scores is None else list(parsed.scores),
    }


def parse(raw: str, rubric: Rubric, n: int) -> Parsed:
    """A raw reply by the rubric's protocol; the same text always gives the same result. A label stands for A or B, or for its score."""
    if rubric.protocol == "listwise":
        return parse_listwise(raw, n, rubric.scale)
    pairwise = rubric.protocol == "pairwise"
    meant = "AB" if pairwise else map(str, range(rubric.scale[0], rubric.scale[1] + 1))
    own = {label.lower(): what for label, what in zip(rubric.labels, meant, strict=False)}
    said = own.get(raw.strip().strip("*.()").lower(), raw)
    return parse_pairwise(said) if pairwise else parse_pointwise(said, rubric.scale)


def required_form(rubric: Rubric, n: int) -> str:
    """The form of a reply in words, as a re-ask states it; it quotes nothing that a candidate or a judge wrote."""
    low, high = rubric.scale
    if rubric.labels:
        return f"Reply with one of these and nothing else: {', '.join(rubric.labels)}."
    if rubric.protocol == "pairwise":
        return 'End with one line that is exactly "Verdict: A", "Verdict: B" or "Verdict: tie", and write that word on no other line.'
    if rubric.protocol == "pointwise":
        return f'End with one line "Score: N", where N is one whole number from {low} to {high}, and write no other score.'
    section = f'a line "Rating: N" with one whole number from {low} to {high} and a line "Rationale: …"'
    return f"Write exactly {n} sections in the order of the texts, each {section}."


def no_answer(reply: Reply) -> Row:
    """The state of a request that brought no completion."""
    return {"state": reply.error or "transport_error", "reason": reply.reason or reply.error or "the engine gave no completion"}


def tokens(reply: Reply, completion: Completion | None = None, vote: int = 0) -> Row:
    """A request's tokens on the row of one of its completions, null where that did not arrive: all on the only one, else the prompt's
    on the first and each one's own. A request that brought none has them on vote 0.
    """
    whole = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
    if not reply.completions:
        return whole if vote == 0 else {}
    first = completion is reply.completions[0]
    if len(reply.completions) == 1:
        return whole if first else {}
    return {"prompt_tokens": reply.prompt_tokens if first else 0, "completion_tokens": completion.n_tokens if completion else None}
