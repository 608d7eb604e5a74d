"""Several attributes or counts of one answer, and the one score that they amount to.

Attributes with scales (`attributes: helpfulness 0-4, verbosity 0-4`; the scales and names of HelpSteer2, arXiv:2406.08673) amount to
their weighted mean on the rubric's scale. With u = (x - low) / (high - low), and 1 - u where the weight w is negative (less is better):

    overall = scale.low + (scale.high - scale.low) · Σ |w| u / Σ |w|

Counts (`counts: matched +, omission -, false_finding -`) amount to the share of what is right, as in GREEN (Ostmeier et al. 2024,
arXiv:2405.03595): Σ of the counts marked + by the Σ of all. 0/0 is no score.

An attribute that the judge does not give ("n/a", null) is null and never 0, and leaves no overall unless the rubric says
`missing: skip`: then the mean is over what is given. Attributes without a weight are kept and never missed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curators.errors import ConfigError
from curators.judging.grammars import Grammar, line_grammar
from curators.judging.parsing import Parsed, number, read_verdict

Given = tuple[float | None]
"""A value that was read, null where the judge says that it cannot be given."""

_NOT_GIVEN = re.compile(r"[\s*_`(\[]*(?:n/?a|not applicable|null|none)[\s*_`)\].]*", re.IGNORECASE)
_RESERVED = {"reason", "verdict", "score", "rationales", "ratings"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """`high` is null for a count. `weight` is that in the overall, of a count +1 or -1; 0: not part of it."""

    name: str
    low: int
    high: int | None
    weight: float = 1.0

    @property
    def range(self) -> str:
        """The menu in words."""
        return f"a whole number from {self.low} to {self.high}" if self.high is not None else f"a whole number, {self.low} or more"

    @property
    def grammar(self) -> Grammar:
        """Its line in a text reply, `Helpfulness: 3`."""
        words = r"[\s_-]".join(map(re.escape, self.name.split("_"))) + r"(?:\s*\([^()\n]{0,20}\))?"
        return line_grammar(words, "(?!)", "")

    def read(self, value: str) -> Given | None:
        """What a judge wrote for it; null for what is off its scale."""
        if _NOT_GIVEN.fullmatch(value):
            return (None,)
        read = number(value, (self.low, self.high))
        return None if read is None else (read,)


def parse_attributes(attributes: str, overall: str | None, origin: str) -> tuple[Attribute, ...]:
    """The header's `attributes` and `overall`; without the second all weigh 1.

    >>> [(a.name, a.high, a.weight) for a in parse_attributes("helpfulness 0-4, verbosity 0-4", "helpfulness 1", "r")]
    [('helpfulness', 4, 1.0), ('verbosity', 4, 0.0)]
    """
    scales = _named(attributes, r"(\d+)-(\d+)", "attributes", "helpfulness 0-4, correctness 0-4", origin)
    weights = _named(overall, r"(-?\d+(?:\.\d+)?)()", "overall", "helpfulness 1, verbosity -0.5", origin) if overall else {}
    if unknown := sorted(set(weights) - set(scales)):
        raise ConfigError(f"{origin}: overall names {unknown}; attributes are {sorted(scales)}")
    if wrong := [name for name, (low, high) in scales.items() if int(low) >= int(high)]:
        raise ConfigError(f"{origin}: the scales of {wrong} must go from the lower to the higher number")
    if weights and not any(float(weight) for weight, _ in weights.values()):
        raise ConfigError(f"{origin}: overall gives no attribute a weight")
    given = {name: float(weights[name][0]) if name in weights else 0.0 if weights else 1.0 for name in scales}
    return tuple(Attribute(name=name, low=int(low), high=int(high), weight=given[name]) for name, (low, high) in scales.items())


def parse_counts(counts: str, origin: str) -> tuple[Attribute, ...]:
    """The header's `counts`: a name with + for what is right, with - for an error.

    >>> [(a.name, a.high, a.weight) for a in parse_counts("matched +, omission -", "r")]
    [('matched', None, 1.0), ('omission', None, -1.0)]
    """
    signs = _named(counts, r"([+-])()", "counts", "matched +, omission -, false_finding -", origin)
    if {sign for sign, _ in signs.values()} != {"+", "-"}:
        raise ConfigError(f"{origin}: counts need at least one + and one -")
    return tuple(Attribute(name=name, low=0, high=None, weight=1.0 if sign == "+" else -1.0) for name, (sign, _) in signs.items())


def _named(text: str, value: str, key: str, example: str, origin: str) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for part in text.split(","):
        match = re.fullmatch(rf"([a-z][a-z0-9_]*)\s+{value}", part.strip())
        if not match or match[1] in found or match[1] in _RESERVED:
            raise ConfigError(
                f"{origin}: {key} has {part.strip()!r}; it is a list such as {example!r}, each name once and none of {sorted(_RESERVED)}"
            )
        found[match[1]] = (match[2], match[3])
    return found


def parse_lines(raw: str, attributes: Sequence[Attribute]) -> tuple[dict[str, float | None] | None, Parsed | None]:
    """The values of a text reply with one line for each attribute, or why there are none; one bad or missing line refuses all."""
    values: dict[str, float | None] = {}
    for attribute in attributes:
        given, problem = read_verdict(raw, attribute.grammar, attribute.read, attribute.range, bare=False)
        if given is None:
            reason = problem.reason if problem else None
            return None, Parsed(problem.state if problem else "parse_error", f"{attribute.name}: {reason}")
        (values[attribute.name],) = given
    return values, None


def overall(
    values: Mapping[str, float | None], attributes: Sequence[Attribute], *, scale: tuple[int, int], skip_missing: bool = False
) -> tuple[float | None, str | None]:
    """The score of a set of values, or null and why; see the module.

    >>> both = parse_attributes("helpfulness 0-4, verbosity 0-4", "helpfulness 3, verbosity -1", "r")
    >>> overall({"helpfulness": 4, "verbosity": 2}, both, scale=(1, 5))
    (4.5, None)
    >>> overall({"helpfulness": None, "verbosity": 2}, both, scale=(1, 5))
    (None, 'not given: helpfulness')
    >>> overall({"matched": 3, "omission": 1}, parse_counts("matched +, omission -", "r"), scale=(0, 1))
    (0.75, None)
    """
    weighted = [attribute for attribute in attributes if attribute.weight]
    missing = [attribute.name for attribute in weighted if values[attribute.name] is None]
    given = [(attribute, x) for attribute in weighted if (x := values[attribute.name]) is not None]
    if missing and (not skip_missing or not given):
        return None, f"not given: {', '.join(missing)}"
    if any(attribute.high is None for attribute in attributes):
        total = sum(x for _, x in given)
        return (sum(x for attribute, x in given if attribute.weight > 0) / total, None) if total else (None, "nothing was counted")
    mean = sum(abs(a.weight) * _unit(a, x) for a, x in given) / sum(abs(a.weight) for a, _ in given)
    return scale[0] + (scale[1] - scale[0]) * mean, None


def _unit(attribute: Attribute, x: float) -> float:
    """A value in 0..1, more is better."""
    assert attribute.high is not None
    u = (x - attribute.low) / (attribute.high - attribute.low)
    return u if attribute.weight > 0 else 1 - u


def scored(
    values: Mapping[str, float | None], attributes: Sequence[Attribute], *, scale: tuple[int, int], skip_missing: bool = False
) -> Parsed:
    """Values that were read, as a reply: `no_score` where they amount to none."""
    score, why = overall(values, attributes, scale=scale, skip_missing=skip_missing)
    kept = tuple((attribute.name, values[attribute.name]) for attribute in attributes)
    return Parsed("no_score", why, attributes=kept) if score is None else Parsed("ok", scores=(score,), attributes=kept)
