"""A judge with a known truth: an engine that answers by the quality of the texts it is shown, and errs exactly as it is told to.

For two texts with qualities q and lengths l in characters:

    logit P(first) = skill * (q'_1 - q'_2) + position + length * (l_1 - l_2) / 100 + noise * e

where q' = q + taste * t(text): t(text) and e are standard normal, e of the presentation (drawn anew for the other order, prompt or seed), t
of the text alone, so that neither the other order nor more votes remove it. A score is a normal of width `spread` around the middle of the
scale plus q' (and length) of the text, cut into whole numbers. Option requests get the probabilities, others one draw from them.

Everything follows from the request and the seed of the judge, so that it answers the same request alike. It reads texts between
the marks of fenced rubrics, or after `Answer A:` and `Answer B:`. Not here: rubrics with labelled lines, and replies as JSON.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import NormalDist

from curators.engines.base import Capability, Completion, Reply, Request, canonical, digest

_FENCED = re.compile(r"<<(A|B|answer|text\d+):(\w+)>>\n(.*?)\n<</\1:\2>>", re.DOTALL)
_PLAIN = re.compile(r"^Answer [AB]:\n(.*?)\n\n(?=Answer B:\n|Which answer )", re.DOTALL | re.MULTILINE)
_QUALITY = re.compile(r"quality=(-?\d+(?:\.\d+)?)")
_NORMAL = NormalDist()
TEXT: frozenset[Capability] = frozenset({"n", "seed", "stop"})
OPTIONS: frozenset[Capability] = frozenset({"n", "seed", "stop", "options"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Traits:
    """How a judge is; see the module. `unreadable` is the share of its text replies without a verdict. `scale` is that of its scores."""

    skill: float = 1.0
    position: float = 0.0
    length: float = 0.0
    taste: float = 0.0
    noise: float = 0.0
    spread: float = 0.7
    unreadable: float = 0.0
    scale: tuple[int, int] = (1, 5)


def planted_text(quality: float, length: int = 60) -> str:
    """A text of that many characters (at least 20) which `planted_quality` reads.

    >>> planted_text(-0.5, 30), planted_quality(planted_text(-0.5, 30))
    ('quality=-0.5000 word word word', -0.5)
    """
    text = f"quality={quality:.4f}"
    return (text + " word" * (1 + length // 5))[: max(length, 20)]


def planted_quality(text: str) -> float:
    """The first quality that a text states, 0 where it states none."""
    found = _QUALITY.search(text)
    return float(found[1]) if found else 0.0


class SimulatedJudge:
    """See the module. `quality` gives the truth about a text; two judges with other `seed` err independently."""

    def __init__(
        self, traits: Traits | None = None, *, quality: Callable[[str], float] = planted_quality, seed: int = 0, options: bool = True
    ) -> None:
        self.traits = traits or Traits()
        self.seed = seed
        self.calls = 0
        self._quality = quality
        self._capabilities = OPTIONS if options else TEXT

    @property
    def spec(self) -> str:
        return "fake:simulated"

    @property
    def fingerprint(self) -> str:
        return f"simulated:{digest(asdict(self.traits), self.seed, size=6)}"

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._capabilities

    async def complete(self, request: Request) -> Reply:
        self.calls += 1
        texts = shown_texts(request)
        if not texts:
            return Reply(error="unsupported", reason="the simulated judge finds no text to judge in the request")
        if request.options:
            logprobs = {option: math.log(p) for option, p in self._options(request, texts).items()}
            said = [Completion(text="", sample_index=request.first_sample, finish_reason="stop", option_logprobs=logprobs, n_tokens=1)]
        else:
            samples = range(request.first_sample, request.first_sample + request.n)
            said = [Completion(text=self._text(request, texts, i), sample_index=i, finish_reason="stop", n_tokens=3) for i in samples]
        n_tokens = sum(c.n_tokens or 0 for c in said)
        words = sum(len(str(m.get("content") or "").split()) for m in request.messages)
        return Reply(completions=tuple(said), prompt_tokens=words, completion_tokens=n_tokens, model=self.fingerprint)

    async def aclose(self) -> None:
        return None

    def p_first(self, first: str, second: str, *, position: bool = True) -> float:
        """What the judge thinks without noise: P(first is better)."""
        return _logistic(self._worth(first) - self._worth(second) + (self.traits.position if position else 0.0))

    def _worth(self, text: str) -> float:
        own = self.traits.taste * _NORMAL.inv_cdf(self._uniform("taste", text))
        return self.traits.skill * (self._quality(text) + own) + self.traits.length * len(text) / 100

    def _uniform(self, *what: object) -> float:
        key = hashlib.blake2b(canonical([self.seed, *what]), digest_size=8).digest()
        return (int.from_bytes(key, "big") + 0.5) / 2**64

    def _draw(self, request: Request, what: str, *more: object) -> float:
        return self._uniform(what, list(request.messages), request.sampling.seed, *more)

    def _p(self, request: Request, texts: Sequence[str]) -> float:
        noise = self.traits.noise * _NORMAL.inv_cdf(self._draw(request, "noise"))
        return _logistic(self._worth(texts[0]) - self._worth(texts[1]) + self.traits.position + noise)

    def _options(self, request: Request, texts: Sequence[str]) -> Mapping[str, float]:
        if len(texts) == 2:
            p = self._p(request, texts)
            return dict(zip(request.options, (p, 1 - p), strict=True))
        return dict(zip(request.options, self._scores(request, texts[0]), strict=True))

    def _scores(self, request: Request, text: str) -> list[float]:
        """The probability of each score of the scale."""
        low, high = self.traits.scale
        noise = self.traits.noise * _NORMAL.inv_cdf(self._draw(request, "noise", text))
        normal = NormalDist((low + high) / 2 + self._worth(text) + noise, self.traits.spread)
        below = [0.0, *(normal.cdf(score + 0.5) for score in range(low, high)), 1.0]
        return [max(upper - lower, 1e-9) for lower, upper in pairwise(below)]

    def _text(self, request: Request, texts: Sequence[str], sample: int) -> str:
        if self._draw(request, "unreadable", sample, request.attempt) < self.traits.unreadable:
            return "I would rather not say."
        drawn = self._draw(request, "verdict", sample, request.attempt)
        prompt = _FENCED.sub("", str(request.messages[-1].get("content") or ""))  # a candidate must not choose the form
        if "Rating:" in prompt:
            ratings = [self._score(request, text, self._draw(request, "rating", i, sample)) for i, text in enumerate(texts)]
            return "\n\n".join(f"Rating: {rating}\nRationale: by its quality" for rating in ratings)
        if len(texts) == 1:
            return f"Score: {self._score(request, texts[0], drawn)}"
        letter = "A" if drawn < self._p(request, texts) else "B"
        return f"Verdict: {letter}" if "Verdict:" in prompt else letter

    def _score(self, request: Request, text: str, drawn: float) -> int:
        low, high = self.traits.scale
        total = 0.0
        for score, p in enumerate(self._scores(request, text), low):
            total += p
            if drawn < total:
                return score
        return high


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-min(30.0, max(-30.0, x))))


def shown_texts(request: Request) -> list[str]:
    """The candidates' texts in the order shown."""
    prompt = "\n".join(str(m.get("content") or "") for m in request.messages)
    return [match[3] for match in _FENCED.finditer(prompt)] or [match[1] for match in _PLAIN.finditer(prompt)]
