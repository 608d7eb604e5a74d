"""System-message and context variants: one instruction under several profiles, an answer written for each, rejected from another profile.

Janus (Lee et al. 2024, arXiv 2405.17977): author, instruction and general quality are the same on both sides; only the fit to what the
profile asks for differs. A profile is a system message (`place` system: after what a system message says already) or a context (`place`
context: it stands above the instruction in the last user turn).

`profile_prompts` makes the prompts, sampling answers them as any others, and `profile_pairs` pairs the answers: each (instruction,
profile) has one chosen answer, the sample with the smallest index, and the rejected one is drawn from the instruction's other profiles.
Profiles are held out by a hash of their text: chosen and rejected come from profiles of the same split, so that no profile of `test` is
ever seen in `train`.

Whether a judge that does not see the profile can tell the sides apart (it should not: 50 %) is the leak test of such a set; run it with
`judging` on the prompts without their profiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
import polars as pl

from curators.contrast.candidates import Attempt, contrasts, text_of, with_system
from curators.contrast.checkers import compared, scores_of
from curators.errors import ConfigError
from curators.pairs import unit_hash
from curators.sampling import Row, make_prompt
from curators.schema import PROMPTS, check, frame
from curators.verifiers import Verifier

Place = Literal["system", "context"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantConfig:
    """`per_prompt`: how many of an instruction's profiles are used, drawn (Janus: 1; null: all). `held_out_share` of the profiles are
    `test`.
    """

    per_prompt: int | None = None
    held_out_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.held_out_share < 1 or (self.per_prompt is not None and self.per_prompt < 1):
            told = f"held_out_share is {self.held_out_share}, must be in [0, 1); per_prompt is {self.per_prompt}, must be ≥ 1 or null"
            raise ConfigError(f"variants: {told}")


def profile_prompts(
    prompts: pl.DataFrame, profiles: Sequence[str], *, place: Place = "system", per_prompt: int | None = None, seed: int = 0
) -> pl.DataFrame:
    """`prompts`, one for each of the instruction's profiles: all of them, or `per_prompt` drawn. Prompts that are not ok give none.

    What a prompt is made from is in `meta`: `base_prompt_id`, `place`, `profile`. One whose last turn is no user's plain text gives a row
    with the state `wrong_type`.

    Raises:
        ConfigError: fewer than two different profiles.
    """
    texts = sorted({profile.strip() for profile in profiles if profile.strip()})
    if len(texts) < 2:
        raise ConfigError(f"variants: {len(texts)} different profiles; it takes two to contrast")
    out = []
    for prompt in check(prompts, "prompts").filter(pl.col("state") == "ok").iter_rows(named=True):
        drawn = sorted(texts, key=lambda text: (unit_hash("profile", seed, prompt["prompt_id"], text), text))[:per_prompt]
        out += [_with_profile(prompt, profile, place) for profile in sorted(drawn)]
    return frame(out, PROMPTS)


def profile_pairs(rows: pl.DataFrame, *, config: VariantConfig | None = None, verifier: Verifier | None = None) -> pl.DataFrame:
    """`contrasts` of `answers` to prompts of `profile_prompts`, one for each instruction and profile (or `per_prompt` of them).

    They are of the instruction's prompt. With `held_out_share` the split is that of the profiles, so that an instruction stands in both.

    `verifier` reads each prompt's own reference: the chosen answer must score higher by it than the rejected one.
    """
    config = config or VariantConfig()
    groups: dict[str, dict[str, Row]] = {}
    for row in rows.sort("sample_index", "generation_id", nulls_last=True).iter_rows(named=True):
        meta = orjson.loads(row["meta"] or "{}")
        if "base_prompt_id" in meta and "profile" in meta:
            groups.setdefault(meta["base_prompt_id"], {}).setdefault(meta["profile"], {**row, "meta": meta})
    return contrasts(made for base, by_profile in sorted(groups.items()) for made in _group(base, by_profile, config, verifier))


def profiles_needed(base: str, profiles: Sequence[str], config: VariantConfig) -> list[str]:
    """The profiles whose answers `profile_pairs` looks at first for an instruction: those drawn for it, and for each its first partner.

    Without `per_prompt` these are all. A partner that gives the same answer has no substitute among them.
    """
    drawn = _drawn(base, profiles, config)
    if config.per_prompt is None:
        return drawn
    partners = (_partners(base, profile, profiles, config)[:1] for profile in drawn)
    return sorted({*drawn, *(each for found in partners for each in found)})


def _drawn(base: str, profiles: Iterable[str], config: VariantConfig) -> list[str]:
    """The profiles that an instruction has pairs for, in the order of the draw."""
    return sorted(profiles, key=lambda profile: (unit_hash("variant", config.seed, base, profile), profile))[: config.per_prompt]


def _partners(base: str, profile: str, profiles: Iterable[str], config: VariantConfig) -> list[str]:
    """The other profiles of its split, in the order in which they are taken for the rejected side."""
    split = profile_split(profile, config.held_out_share)
    others = [each for each in profiles if each != profile and profile_split(each, config.held_out_share) == split]
    return sorted(others, key=lambda name: (unit_hash("rejected profile", config.seed, base, profile, name), name))


def profile_split(profile: str, held_out_share: float) -> str:
    """`test` for profiles held out, by a hash of the text."""
    return "test" if unit_hash("profile split", profile) < held_out_share else "train"


def _with_profile(prompt: Row, profile: str, place: Place) -> Row:
    turns: list[dict[str, Any]] = orjson.loads(prompt["messages"])
    if place == "context":
        last = turns[-1]
        told = f"Context:\n{profile}\n\n{last.get('content')}" if isinstance(last.get("content"), str) else None
        turns = [*turns[:-1], {**last, "content": told}]
    else:
        turns = with_system(turns, profile)
    meta = orjson.loads(prompt["meta"] or "{}")
    return make_prompt(
        turns,
        tools=orjson.loads(prompt["tools"]) if prompt["tools"] else None,
        chat_template_kwargs=orjson.loads(prompt["chat_template_kwargs"]) if prompt["chat_template_kwargs"] else None,
        reference=prompt["reference"],
        meta={**meta, "base_prompt_id": prompt["prompt_id"], "place": place, "profile": profile},
        source=prompt["source"],
    )


def _group(base: str, by_profile: dict[str, Row], config: VariantConfig, verifier: Verifier | None) -> list[Row]:
    return [_row(base, profile, by_profile, config, verifier) for profile in _drawn(base, by_profile, config)]


def _row(base: str, profile: str, by_profile: dict[str, Row], config: VariantConfig, verifier: Verifier | None) -> Row:
    row = by_profile[profile] | {"prompt_id": base}
    split = profile_split(profile, config.held_out_share)
    others = [each for each in _partners(base, profile, by_profile, config) if text_of(by_profile[each]).strip() != text_of(row).strip()]
    parameters = {"place": row["meta"].get("place"), "profile": profile, "held_out_share": config.held_out_share, "seed": config.seed}
    method = "context" if row["meta"].get("place") == "context" else "janus"
    if not others:
        attempt = Attempt(source=row, method=method, axis="fit to the profile", parameters=parameters, source_ids=[row["generation_id"]])
        return attempt.row(row, state="no_other_profile", reason="no other profile of its split has another answer", split=split)
    other = others[0]
    rejected = by_profile[other]
    attempt = Attempt(
        source=row,
        method=method,
        axis="fit to the profile",
        parameters={**parameters, "rejected_profile": other},
        held_fixed=("instruction", "author"),
        source_ids=[row["generation_id"], rejected["generation_id"]],
    )
    sides = row | {"score": None}, rejected | {"score": None}
    if verifier is None:
        return attempt.row(*sides, split=split if config.held_out_share else None)
    found = compared(verifier, scores_of(verifier, row, [text_of(row), text_of(rejected)]))
    told = {"state": found.state, "reason": found.reason, "checks": found.checks, **found.columns}
    return attempt.row(*sides, split=split if config.held_out_share else None, **told)
