"""Scored groups → pairs, by a named policy, with a reason for every prompt that gives none.

| policy | pairs of a prompt |
|---|---|
| `best_vs_worst` | the highest score against the lowest of another text |
| `best_vs_random` | the highest against one drawn among those at least `min_margin` lower, by a hash of id and seed |
| `all_pairs` | every two generations with different scores |
| `recorded` | every two generations that were compared directly, as the verdict says (imported pairs) |

Equal scores are broken by the smaller id. A candidate pair is dropped, first reason first, when its two texts are the
same (`identical_text`), when a pairwise judge contradicts itself about it (`inconsistent`), calls it a tie or scores it the same (`tie`),
when the margin is too small (`below_margin`), when the judge's direct verdict names the other side (`contradicted`),
when another pair has the same texts (`duplicate_pair`), and beyond `max_per_prompt`, largest margins first (`over_cap`). A prompt
without a pair has the reason of its candidate with the largest margin, or `too_few_generations`, `too_few_scored`.

Everything is a function of ids and the seed: the order of rows never matters. KL bound of best-of-n sampling: `best_of_n_kl`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import orjson
import polars as pl

from curators.engines.base import as_json, digest
from curators.errors import ConfigError, SchemaError
from curators.funnel import Funnel
from curators.schema import PAIRS, check

PairPolicy = Literal["best_vs_worst", "best_vs_random", "all_pairs", "recorded"]
POLICIES: tuple[PairPolicy, ...] = ("best_vs_worst", "best_vs_random", "all_pairs", "recorded")
KEPT = "kept"
TINY = 1e-9  # score differences below it are rounding


@dataclass(frozen=True, kw_only=True, slots=True)
class PairConfig:
    """How pairs are built. `policy` is the fingerprint of the model that the dataset is for; it decides `on_policy`.

    `min_margin` is inclusive and in the unit of the scores. `test_share` of the prompts, by a hash of their id and so the same in every
    version, go into the split `test`.
    """

    pair_policy: PairPolicy = "best_vs_worst"
    min_margin: float = 0.0
    max_per_prompt: int | None = None
    policy: str | None = None
    seed: int = 0
    test_share: float = 0.1
    use_truncated: bool = False
    kind: str = "response"

    def __post_init__(self) -> None:
        if self.pair_policy not in POLICIES:
            raise ConfigError(f"pair policy is {self.pair_policy!r}; allowed are {list(POLICIES)}")
        if self.min_margin < 0 or not 0 <= self.test_share < 1:
            raise ConfigError(f"pairs: min_margin is {self.min_margin}, must be ≥ 0; test_share is {self.test_share}, must be in [0, 1)")
        if self.max_per_prompt is not None and self.max_per_prompt < 1:
            raise ConfigError(f"pairs: max_per_prompt is {self.max_per_prompt}, must be ≥ 1 or null")


def build_pairs(
    prompts: pl.DataFrame,
    generations: pl.DataFrame,
    scores: pl.DataFrame,
    *,
    verdicts: pl.DataFrame | None = None,
    label_source: str | None = None,
    config: PairConfig | None = None,
) -> tuple[pl.DataFrame, list[Funnel]]:
    """`pairs`, sorted by prompt and pair id, and two funnels: prompts, and candidate pairs of that policy.

    `scores` has `generation_id` and `score` (null: unscored), as `group_scores` and `verdict` scores give them; `verdicts` of a pairwise
    judge decide `p_chosen` and veto what contradicts them. Prompts that are not ok are not counted: the stage before has dropped them.

    Raises:
        ConfigError: the policy `recorded` without verdicts.
        SchemaError: a frame lacks a column, or a generation has two scores.
    """
    config = config or PairConfig()
    prompts = check(prompts, "prompts").filter(pl.col("state") == "ok")
    usable = _usable(prompts, generations, config)
    if scores["generation_id"].is_duplicated().any():
        raise SchemaError("scores: a generation has more than one score; combine judges or votes first (group_scores)")
    scored = usable.join(scores.select("generation_id", "score"), on="generation_id", how="left")
    if verdicts is not None and verdicts.select("a_id", "b_id").is_duplicated().any():
        raise SchemaError("verdicts: a pair has more than one verdict; choose one judge, or combine them first")
    if config.pair_policy == "recorded":
        if verdicts is None:
            raise ConfigError("pair policy 'recorded' takes the pairs from verdicts, and there are none; give verdicts or another policy")
        candidates = _recorded(scored, verdicts)
    else:
        candidates = _candidates(scored.filter(pl.col("score").is_not_null()), config)
    judged = _drops(candidates, usable, verdicts, config)
    kept = judged.filter(pl.col("drop").is_null())
    return _as_pairs(kept, usable, prompts, config, label_source), _funnels(prompts, scored, judged)


def best_of_n_kl(n: int) -> float:
    """The bound log n - (n - 1)/n on the KL divergence, in nats, of the best of n samples from the policy that wrote them.

    >>> round(best_of_n_kl(4), 4)
    0.6363
    """
    return math.log(n) - (n - 1) / n


def unit_hash(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts only: the same on every machine and in every version of every library.

    >>> round(unit_hash("split", "p1"), 6)
    0.077184
    """
    return int(digest(*parts, size=7), 16) / 2**56


def split_of(prompt_id: str, test_share: float) -> str:
    """`train` or `test`, by prompt, so that no prompt stands on both sides and a growing dataset never moves one."""
    return "test" if unit_hash("split", prompt_id) < test_share else "train"


def _usable(prompts: pl.DataFrame, generations: pl.DataFrame, config: PairConfig) -> pl.DataFrame:
    """The generations that may stand in a pair; `same` is the smallest id of the prompt's generations with the same content."""
    states = ["ok", "truncated"] if config.use_truncated else ["ok"]
    rows = check(generations, "generations").filter(pl.col("state").is_in(states))
    rows = rows.join(prompts.select("prompt_id"), on="prompt_id", how="semi").unique("generation_id", keep="any")
    columns = ["generation_id", "prompt_id", "policy", "text", "reasoning", "tool_calls"]
    rows = rows.select(*columns, content=_normalised(rows["text"].fill_null("")))
    content = pl.struct("content", "tool_calls").hash()  # 64 bits, compared within one prompt only
    return rows.select(*columns, same=pl.col("generation_id").min().over("prompt_id", content))


def _normalised(texts: pl.Series) -> pl.Series:
    """`parsing.normalise` of a million texts: the same text up to NFC and white space."""
    unusual = texts.str.len_bytes() != texts.str.len_chars()
    if unusual.any():
        texts = texts.scatter(unusual.arg_true(), texts.filter(unusual).str.normalize("NFC"))
    return texts.str.replace_all(r"\s\s+|[^\S ]", " ").str.strip_chars(" ")


def _candidates(scored: pl.DataFrame, config: PairConfig) -> pl.DataFrame:
    """Columns prompt_id, chosen_id, rejected_id, chosen_score, rejected_score, margin of every pair that the policy looks at."""
    side = ["prompt_id", "generation_id", "score", "same"]
    rows = scored.select(side).sort("prompt_id", "score", "generation_id", descending=[False, True, False])
    if config.pair_policy == "all_pairs":
        rows = rows.with_columns(place=pl.int_range(pl.len()).over("prompt_id"))
        joined = rows.join(rows, on="prompt_id", suffix="_low").filter(pl.col("place") < pl.col("place_low"))
    else:
        best = rows.unique("prompt_id", keep="first", maintain_order=True)
        others = rows.join(best, on="prompt_id", suffix="_best").filter(pl.col("generation_id") != pl.col("generation_id_best"))
        others = others.with_columns(copy=pl.col("same") == pl.col("same_best"))  # of the best: only where there is nothing else
        lowest = (
            _draw(others, config) if config.pair_policy == "best_vs_random" else others.sort("prompt_id", "copy", "score", "generation_id")
        )
        joined = best.join(lowest.unique("prompt_id", keep="first", maintain_order=True).select(side), on="prompt_id", suffix="_low")
    return joined.select(
        "prompt_id",
        chosen_id="generation_id",
        rejected_id="generation_id_low",
        chosen_score="score",
        rejected_score="score_low",
        margin=pl.col("score") - pl.col("score_low"),
    )


def _draw(others: pl.DataFrame, config: PairConfig) -> pl.DataFrame:
    """The others in drawn order: those that may lose to the best by hash, then the rest by score (they only say why there is no pair)."""
    gap = pl.col("score_best") - pl.col("score")
    draws = [unit_hash("rejected", config.seed, generation_id) for generation_id in others["generation_id"]]
    eligible = (gap > TINY) & (gap >= config.min_margin - TINY) & ~pl.col("copy")
    order = others.with_columns(eligible=eligible, draw=pl.when(eligible).then(pl.Series(draws, dtype=pl.Float64)).otherwise(0.0))
    return order.sort("prompt_id", "eligible", "draw", "copy", "score", "generation_id", descending=[False, True, *[False] * 4])


def _recorded(scored: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """A candidate for every verdict about two usable generations; margin and scores are the recorded ones."""
    a_wins = ~((pl.col("verdict") == "b") | ((pl.col("verdict") != "a") & (pl.col("p_a") < 0.5).fill_null(False)))
    # a bare label is stored as probability 0 or 1, which nobody stated: its margin is unknown
    stated = pl.when(pl.col("p_a").is_between(0, 1, closed="none")).then("margin")
    sides = scored.select("generation_id", "score")
    a, b = pl.col("a_id"), pl.col("b_id")
    rows = verdicts.join(sides, left_on="a_id", right_on="generation_id").join(sides, left_on="b_id", right_on="generation_id", suffix="_b")
    by_score = pl.col("scores_delta").is_not_null()
    return rows.select(
        "prompt_id",
        chosen_id=pl.when(a_wins).then(a).otherwise(b),
        rejected_id=pl.when(a_wins).then(b).otherwise(a),
        chosen_score=pl.when(by_score).then(pl.when(a_wins).then("score").otherwise("score_b")),
        rejected_score=pl.when(by_score).then(pl.when(a_wins).then("score_b").otherwise("score")),
        margin=pl.when(by_score).then(pl.col("scores_delta").abs()).otherwise(stated),
    )


def _drops(candidates: pl.DataFrame, usable: pl.DataFrame, verdicts: pl.DataFrame | None, config: PairConfig) -> pl.DataFrame:
    """The candidates with `p_chosen` and `drop`, the reason or null."""
    same = usable.select("generation_id", "same")
    rows = candidates.join(same, left_on="chosen_id", right_on="generation_id").join(
        same, left_on="rejected_id", right_on="generation_id", suffix="_low"
    )
    chosen, rejected = pl.col("chosen_id"), pl.col("rejected_id")
    rows = rows.with_columns(a_id=pl.min_horizontal(chosen, rejected), b_id=pl.max_horizontal(chosen, rejected))
    direct = pl.DataFrame(schema={"a_id": pl.String, "b_id": pl.String, "p_a": pl.Float64, "verdict": pl.String})
    if verdicts is not None:
        direct = verdicts.select("a_id", "b_id", "p_a", "verdict")
    rows = rows.join(direct, on=["a_id", "b_id"], how="left")
    is_a, verdict, margin = pl.col("a_id") == chosen, pl.col("verdict"), pl.col("margin")
    recorded = config.pair_policy == "recorded"
    p_chosen = pl.when(is_a).then("p_a").otherwise(1 - pl.col("p_a"))
    drop = (
        pl.when(pl.col("same") == pl.col("same_low"))
        .then(pl.lit("identical_text"))
        .when(pl.lit(recorded) & (verdict == "unscored"))
        .then(pl.lit("unscored"))
        .when(verdict == "inconsistent")
        .then(pl.lit("inconsistent"))
        .when((verdict == "tie") | (margin <= TINY))
        .then(pl.lit("tie"))
        .when(margin.is_null() & pl.lit(config.min_margin > 0))
        .then(pl.lit("no_margin"))
        .when(margin < config.min_margin - TINY)
        .then(pl.lit("below_margin"))
        .when(((verdict == "b") & is_a) | ((verdict == "a") & ~is_a))
        .then(pl.lit("contradicted"))
    )
    stated = pl.col("p_a").is_between(0, 1, closed="none") | pl.lit(not recorded)
    return _limit(rows.with_columns(drop=drop, p_chosen=pl.when(stated).then(p_chosen)), config)


def _limit(rows: pl.DataFrame, config: PairConfig) -> pl.DataFrame:
    """Drop pairs with the same two texts as a better one, and those beyond the cap."""
    by_margin = ["prompt_id", "margin", "chosen_id", "rejected_id"]
    rows = rows.sort(by_margin, descending=[False, True, False, False], nulls_last=True)
    texts = ["prompt_id", pl.min_horizontal("same", "same_low"), pl.max_horizontal("same", "same_low")]
    alive = pl.col("drop").is_null()
    rows = rows.with_columns(drop=pl.when(alive & (alive.cum_sum().over(texts) > 1)).then(pl.lit("duplicate_pair")).otherwise("drop"))
    if config.max_per_prompt is None:
        return rows
    beyond = alive & (alive.cum_sum().over("prompt_id") > config.max_per_prompt)
    return rows.with_columns(drop=pl.when(beyond).then(pl.lit("over_cap")).otherwise("drop"))


def _funnels(prompts: pl.DataFrame, scored: pl.DataFrame, judged: pl.DataFrame) -> list[Funnel]:
    """What became of every prompt, and of every candidate pair."""
    counts = scored.group_by("prompt_id").agg(n_usable=pl.len(), n_scored=pl.col("score").count())
    outcomes = judged.group_by("prompt_id").agg(kept=pl.col("drop").is_null().any(), first=pl.col("drop").first())
    fate = prompts.select("prompt_id").join(counts, on="prompt_id", how="left").join(outcomes, on="prompt_id", how="left")
    reason = (
        pl.when("kept")
        .then(pl.lit(KEPT))
        .when(pl.col("first").is_not_null())
        .then("first")
        .when(pl.col("n_usable").fill_null(0) < 2)
        .then(pl.lit("too_few_generations"))
        .otherwise(pl.lit("too_few_scored"))
    )
    return [
        _count("prompts", fate.select(reason.alias("drop"))["drop"]),
        _count("candidate pairs", judged["drop"].fill_null(KEPT)),
    ]


def _count(unit: str, fates: pl.Series) -> Funnel:
    dropped = dict(fates.value_counts().rows())
    return Funnel(stage="pairs", unit=unit, n_in=len(fates), n_kept=dropped.pop(KEPT, 0), dropped=dropped)


def _as_pairs(
    kept: pl.DataFrame, usable: pl.DataFrame, prompts: pl.DataFrame, config: PairConfig, label_source: str | None
) -> pl.DataFrame:
    used = pl.concat([kept["chosen_id"], kept["rejected_id"]]).unique()
    texts = usable.filter(pl.col("generation_id").is_in(used.implode())).select(
        "generation_id", "policy", "text", "reasoning", "tool_calls"
    )
    turns = [
        assistant_turn(text, reasoning, calls) for text, reasoning, calls in texts.select("text", "reasoning", "tool_calls").iter_rows()
    ]
    sides = texts.select("generation_id", "policy", turn=pl.Series(turns, dtype=pl.String))
    asked = prompts.filter(pl.col("state") == "ok")
    rows = (
        kept.join(sides, left_on="chosen_id", right_on="generation_id")
        .join(sides, left_on="rejected_id", right_on="generation_id", suffix="_low")
        .join(asked.select("prompt_id", "messages", "tools", "chat_template_kwargs").unique("prompt_id", keep="any"), on="prompt_id")
    )
    content = rows.select("messages", "turn", "turn_low").iter_rows()
    splits = {prompt_id: split_of(prompt_id, config.test_share) for prompt_id in rows["prompt_id"].unique()}
    computed = rows.with_columns(
        pair_id=pl.Series([digest(config.kind, *texts) for texts in content], dtype=pl.String),
        split=pl.Series([splits[prompt_id] for prompt_id in rows["prompt_id"]], dtype=pl.String),
        kind=pl.lit(config.kind),
        pair_policy=pl.lit(config.pair_policy),
        label_source=pl.lit(label_source, dtype=pl.String),
        on_policy=_on_policy(config.policy),
    ).rename({"messages": "prompt", "turn": "chosen", "turn_low": "rejected", "policy": "chosen_policy", "policy_low": "rejected_policy"})
    return computed.select([pl.col(column).cast(dtype) for column, dtype in PAIRS.items()]).sort("prompt_id", "pair_id")


def _on_policy(policy: str | None) -> pl.Expr:
    if policy is None:
        return pl.lit(None, dtype=pl.Boolean)
    return (pl.col("policy") == policy) & (pl.col("policy_low") == policy)


def assistant_turn(text: str | None, reasoning: str | None, tool_calls: str | None) -> str:
    """A generation as the JSON message list of its turn.

    >>> assistant_turn("4", None, None)
    '[{"role":"assistant","content":"4"}]'
    """
    turn: dict[str, object] = {"role": "assistant", "content": text or ""}
    if reasoning:
        turn["reasoning_content"] = reasoning
    if tool_calls:
        turn["tool_calls"] = orjson.loads(tool_calls)
    return as_json([turn])
