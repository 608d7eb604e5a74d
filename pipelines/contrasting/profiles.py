"""Janus and context pairs in one go: prompts under every profile, an answer written for each, and pairs of two profiles' answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson
import polars as pl

from curators.contrast.candidates import Attempt, answers, contrasts
from curators.contrast.variants import Place, VariantConfig, profile_pairs, profile_prompts, profiles_needed
from curators.engines.base import Engine, Sampling
from curators.errors import ConfigError
from curators.sampling import Row, sample
from curators.verifiers import Verifier


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfilesConfig:
    """`profiles` are system messages (janus) or contexts; `per_prompt`, `held_out_share` and `seed` as in `VariantConfig`."""

    profiles: tuple[str, ...] = ()
    per_prompt: int | None = None
    held_out_share: float = 0.0
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        if len({profile.strip() for profile in self.profiles} - {""}) < 2:
            raise ConfigError("profiles: give at least two different `profiles`, the texts that answers are written for")
        self.variants()  # refuses what is out of bounds

    def variants(self) -> VariantConfig:
        return VariantConfig(per_prompt=self.per_prompt, held_out_share=self.held_out_share, seed=self.seed)


async def by_profiles(
    rows: pl.DataFrame, *, place: Place, config: ProfilesConfig, engine: Engine, verifier: Verifier | None = None
) -> pl.DataFrame:
    """`contrasts` of `prompts`: one for each prompt and profile (or `per_prompt` of them) with an answer, one for each without.

    The answers are made here: no generation has their text, which the attempt itself keeps.

    Raises:
        EngineBusy: the endpoint is down.
    """
    asked = _needed(profile_prompts(rows, config.profiles, place=place), config)
    written = await sample(asked, engine, n=1, sampling=config.sampling)
    said = answers(asked, written)
    paired = await asyncio.to_thread(profile_pairs, said, config=config.variants(), verifier=verifier)
    made_here = paired.with_columns(
        chosen_id=pl.lit(None, dtype=pl.String), rejected_id=pl.lit(None, dtype=pl.String), source_ids=pl.concat_list("prompt_id")
    )
    return pl.concat([made_here, contrasts(_unanswered(asked, written, place))]).sort("prompt_id", "contrast_id")


def _needed(asked: pl.DataFrame, config: ProfilesConfig) -> pl.DataFrame:
    """Of the prompts under every profile those whose answers can become a side: nobody pays for the others."""
    made_of = [orjson.loads(meta or "{}") for meta in asked["meta"]]
    profiles = sorted({meta["profile"] for meta in made_of if "profile" in meta})
    bases = {meta["base_prompt_id"] for meta in made_of if "base_prompt_id" in meta}
    wanted = {base: set(profiles_needed(base, profiles, config.variants())) for base in bases}
    kept = ["base_prompt_id" not in meta or meta["profile"] in wanted[meta["base_prompt_id"]] for meta in made_of]
    return asked.filter(pl.Series(kept, dtype=pl.Boolean))


def _unanswered(asked: pl.DataFrame, written: pl.DataFrame, place: Place) -> Iterator[Row]:
    """An attempt for every prompt that was no prompt, and for every answer that was none."""
    said = {row["prompt_id"]: row for row in written.iter_rows(named=True)}
    for prompt in asked.iter_rows(named=True):
        outcome = prompt if prompt["state"] != "ok" else said[prompt["prompt_id"]]
        if outcome["state"] == "ok":
            continue
        meta = orjson.loads(prompt["meta"] or "{}")
        yield Attempt(
            source={**prompt, "prompt_id": meta.get("base_prompt_id", prompt["prompt_id"])},
            method="janus" if place == "system" else "context",
            axis="fit to the profile",
            parameters={"place": place, "profile": meta.get("profile")},
        ).row(outcome.get("text"), state=outcome["state"], reason=outcome["reason"])
