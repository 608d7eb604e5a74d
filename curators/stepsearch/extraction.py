"""Nodes of searched trees → pairs of sibling steps, by a named rule, with a reason for every parent that gives none.

The chosen step is the sibling with the highest value. The rejected one is, of those that may lose to it:

| rule | rejected |
|---|---|
| `lowest_q` | the lowest value |
| `second_best` | the second highest value, or none |
| `random_nonbest` | drawn by hash of id and seed |
| `hardest` | the highest prior: the mistake that the policy is likeliest to make |

A step stands for choice when it was visited `min_visits` times or is a graded answer, and was sampled, not injected. With
`require_outcomes` the chosen one has a right answer below it and the rejected one a wrong one (the rule of rStar-Math). A pair is
dropped, first reason first: `identical_text` (white space aside), `tie`, `below_gap`, `signs_disagree` (Q and W_mean order the two
differently: after few simulations Q may be the wrong way round), `duplicate_pair`, `over_cap`; a parent whose steps give none has one of
these, or `too_few_steps`, `no_right_below`, `no_wrong_below`, `unsolved`. Values are those of the moment when a sibling was committed to.

Presets: `paper` and `ref` pair what MCTS-DPO's text and code pair (Xie et al. 2024). They differ in the rejected step (the code's flags
make it a random one), in α, and in `solved_only` (the flag --filter of all scripts). Not done: the code's candidates of several steps (a
step with a single child is joined with it), and its pairs of equal value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, get_args

import polars as pl

from curators.errors import ConfigError, SchemaError
from curators.funnel import Funnel
from curators.pairs import KEPT, TINY, unit_hash
from curators.schema import check
from curators.stepsearch.smoothing import AlphaMode
from curators.stepsearch.writing import write_pairs

Rejected = Literal["lowest_q", "second_best", "random_nonbest", "hardest"]
LabelValue = Literal["q", "w_mean", "w_max"]
Parents = Literal["all", "path"]

_SIDE = ("node_id", "copy", "score", "visits", "q_then", "w_mean", "prior", "sibling", "standing", "n_correct", "n_wrong")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPairConfig:
    """How step pairs are made. `parents`: every node with steps below it, or those on the path committed to.

    `min_gap` is in the unit of the label value (inclusive). `kappa` and `tau` belong to `alpha_mode` (`smoothing`). `policy` is the
    fingerprint of the model that the dataset is for, and `test_share` of the prompts go into the split `test`, as in `PairConfig`.
    """

    parents: Parents = "all"
    rejected: Rejected = "lowest_q"
    label_value: LabelValue = "q"
    min_gap: float = 0.3
    min_visits: int = 1
    require_outcomes: bool = True
    signs_agree: bool = True
    allow_injected: bool = False
    solved_only: bool = False
    max_per_parent: int = 1
    max_per_prompt: int | None = 8
    alpha_mode: AlphaMode = "visits"
    kappa: float = 1.0
    tau: float = 0.5
    policy: str | None = None
    seed: int = 0
    test_share: float = 0.1

    def __post_init__(self) -> None:
        choices = {"parents": Parents, "rejected": Rejected, "label_value": LabelValue, "alpha_mode": AlphaMode}
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                raise ConfigError(f"step pairs: {name} is {getattr(self, name)!r}; allowed are {list(get_args(allowed))}")
        if (
            self.min_gap < 0
            or self.min_visits < 0
            or min(self.max_per_parent, 1 if self.max_per_prompt is None else self.max_per_prompt) < 1
        ):
            raise ConfigError(
                f"step pairs: min_gap is {self.min_gap} and min_visits {self.min_visits}, must be ≥ 0; "
                f"max_per_parent is {self.max_per_parent} and max_per_prompt {self.max_per_prompt}, must be ≥ 1"
            )
        if not 0 <= self.test_share < 1 or self.kappa < 0 or self.tau <= 0:
            raise ConfigError(
                f"step pairs: test_share is {self.test_share}, must be in [0, 1); kappa is {self.kappa}, must be ≥ 0; "
                f"tau is {self.tau}, must be > 0"
            )


_PAPER = StepPairConfig(
    parents="path",
    min_gap=0.0,
    min_visits=0,
    require_outcomes=False,
    signs_agree=False,
    allow_injected=True,
    max_per_prompt=None,
    alpha_mode="paper",
)
_REF = replace(_PAPER, rejected="random_nonbest", max_per_prompt=8, alpha_mode="ref", solved_only=True)
EXTRACTIONS: Mapping[str, StepPairConfig] = MappingProxyType({"default": StepPairConfig(), "paper": _PAPER, "ref": _REF})
"""The ways of making pairs by name; `dataclasses.replace` changes one."""


def step_pairs(prompts: pl.DataFrame, nodes: pl.DataFrame, *, config: StepPairConfig | None = None) -> tuple[pl.DataFrame, list[Funnel]]:
    """`step_pairs`, sorted by prompt and pair id, and two funnels: prompts, and parents (nodes that could give a pair).

    Prompts that are not ok are not counted, and nodes of other prompts are not read. Several trees of a prompt share its cap.

    Raises:
        SchemaError: a frame lacks a column, or a node comes twice.
    """
    config = config or StepPairConfig()
    prompts = check(prompts, "prompts").filter(pl.col("state") == "ok")
    nodes = check(nodes, "nodes").filter(pl.col("prompt_id").is_in(prompts["prompt_id"].implode()))
    if nodes["node_id"].is_duplicated().any():
        raise SchemaError("nodes: a node comes twice; give each tree once")
    steps = _steps(nodes, config)
    pairs, parents = _choose(steps, config)
    rows = write_pairs(prompts, nodes, pairs, config)
    kept = _limit(rows, config)
    fate = parents.join(kept.filter(pl.col("drop").is_null()).group_by("parent_id").agg(kept=pl.len()), on="parent_id", how="left")
    late = kept.filter(pl.col("drop").is_not_null()).unique("parent_id", keep="first", maintain_order=True).select("parent_id", late="drop")
    fate = fate.join(late, on="parent_id", how="left").with_columns(
        drop=pl.when(pl.col("kept").is_not_null()).then(pl.lit(KEPT)).otherwise(pl.coalesce("drop", "late"))
    )
    found = kept.filter(pl.col("drop").is_null()).drop("drop").sort("prompt_id", "pair_id")
    return check(found, "step_pairs"), _funnels(prompts, fate)


def _steps(nodes: pl.DataFrame, config: StepPairConfig) -> pl.DataFrame:
    """The steps that simulations could take, below the parents asked for, with what they are compared by."""
    parents = nodes.select(parent_id="node_id", on_path="chosen")
    visits, q = pl.coalesce("n_visits_at_commit", "n_visits"), pl.coalesce("q_at_commit", "q")
    rows = nodes.filter(pl.col("parent_id").is_not_null() & pl.col("n_visits").is_not_null()).join(parents, on="parent_id")
    rows = rows.filter(pl.lit(config.parents == "all") | pl.col("on_path"))
    graded = pl.col("terminal") & (pl.col("outcome").fill_null(0) != 0)
    score = {"q": q, "w_mean": pl.col("w_mean"), "w_max": pl.col("w_max")}[config.label_value]
    text = pl.col("text").str.normalize("NFC").str.replace_all(r"\s+", " ").str.strip_chars(" ")
    standing = ((visits >= config.min_visits) | graded) & (pl.lit(config.allow_injected) | ~pl.col("injected").fill_null(False))
    rows = rows.with_columns(copy=text, score=score, visits=visits, q_then=q, standing=standing)
    return rows.select("prompt_id", "tree_id", "parent_id", "depth", "outcome", "terminal", "on_path", *_SIDE)


def _choose(steps: pl.DataFrame, config: StepPairConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Candidate pairs in the order of the rule, at most `max_per_parent` a parent; and every parent with why it has none, or null."""
    right = pl.col("n_correct") > 0 if config.require_outcomes else pl.lit(True)
    wrong = pl.col("n_wrong") > 0 if config.require_outcomes else pl.lit(True)
    ranked = steps.filter("standing").sort("parent_id", "score", "visits", "prior", "sibling", descending=[False, True, True, True, False])
    best = ranked.filter(right).unique("parent_id", keep="first", maintain_order=True)
    others = (
        ranked.filter(wrong)
        .select("parent_id", *_SIDE)
        .join(best.select("parent_id", "prompt_id", "tree_id", "depth", *_SIDE), on="parent_id", suffix="_best")
    )
    others = others.filter(pl.col("node_id") != pl.col("node_id_best")).with_columns(_drop(config).alias("drop"))
    order, descending = _order(others, config)
    ordered = order.sort(["parent_id", *descending], descending=[False, *descending.values()])
    first = ordered.unique("parent_id", keep="first", maintain_order=True).select("parent_id", "drop", gap="gap")
    chosen = ordered.filter(pl.int_range(pl.len()).over("parent_id") < config.max_per_parent).filter(pl.col("drop").is_null())
    parents = steps.group_by("parent_id", maintain_order=True).agg(
        pl.col("prompt_id").first(),
        pl.col("tree_id").first(),
        few=pl.col("standing").sum() < 2,
        no_right=~(pl.col("standing") & right).any(),
    )
    nobody = (
        pl.when("few").then(pl.lit("too_few_steps")).when("no_right").then(pl.lit("no_right_below")).otherwise(pl.lit("no_wrong_below"))
    )
    parents = parents.join(first, on="parent_id", how="left")
    parents = parents.with_columns(drop=pl.when(pl.col("gap").is_null()).then(nobody).otherwise("drop"))
    if config.solved_only:
        solved = _solved(steps)
        unsolved = ~pl.col("tree_id").is_in(solved.implode())
        parents = parents.with_columns(drop=pl.when(unsolved).then(pl.lit("unsolved")).otherwise("drop"))
        chosen = chosen.filter(~unsolved)
    return chosen, parents


def _drop(config: StepPairConfig) -> pl.Expr:
    """Why a sibling does not lose to the best one, or null."""
    gap = pl.col("score_best") - pl.col("score")
    q, mean = pl.col("q_then_best") - pl.col("q_then"), pl.col("w_mean_best") - pl.col("w_mean")
    return (
        pl.when(pl.col("copy") == pl.col("copy_best"))
        .then(pl.lit("identical_text"))
        .when(gap <= TINY)
        .then(pl.lit("tie"))
        .when(gap < config.min_gap - TINY)
        .then(pl.lit("below_gap"))
        .when(pl.lit(config.signs_agree) & ((q <= TINY) | (mean <= TINY)))
        .then(pl.lit("signs_disagree"))
    )


def _order(others: pl.DataFrame, config: StepPairConfig) -> tuple[pl.DataFrame, dict[str, bool]]:
    """The candidates with the columns that order them, first those that may be taken, and which of these fall."""
    rows = others.with_columns(gap=pl.col("score_best") - pl.col("score"), refused=pl.col("drop").is_not_null())
    last = {"visits": True, "prior": True, "sibling": False}
    if config.rejected == "second_best":
        return rows, {"score": True} | last
    if config.rejected == "lowest_q":
        return rows, {"refused": False, "score": False} | last
    if config.rejected == "hardest":
        return rows, {"refused": False, "prior": True, "score": False, "sibling": False}
    draws = pl.Series([unit_hash("rejected", config.seed, node_id) for node_id in rows["node_id"]], dtype=pl.Float64)
    return rows.with_columns(draw=draws), {"refused": False, "draw": False, "sibling": False}


def _solved(steps: pl.DataFrame) -> pl.Series:
    """The trees whose best step at the deepest parent on the path ends a right answer."""
    order = ["tree_id", "depth", "score", "visits", "prior", "sibling"]
    deepest = steps.filter("on_path").sort(order, descending=[False, True, True, True, True, False])
    best = deepest.unique("tree_id", keep="first", maintain_order=True)
    return best.filter(pl.col("terminal") & (pl.col("outcome").fill_null(0) > 0))["tree_id"]


def _limit(rows: pl.DataFrame, config: StepPairConfig) -> pl.DataFrame:
    """The rows with `drop`, largest margins first: a pair that is there already, and one beyond the cap."""
    rows = rows.sort("prompt_id", "margin", "depth", "parent_id", "rejected_id", descending=[False, True, False, False, False])
    repeated = pl.int_range(pl.len()).over("pair_id") > 0
    rows = rows.with_columns(drop=pl.when(repeated).then(pl.lit("duplicate_pair")))
    if config.max_per_prompt is None:
        return rows
    beyond = pl.col("drop").is_null() & (pl.col("drop").is_null().cum_sum().over("prompt_id") > config.max_per_prompt)
    return rows.with_columns(drop=pl.when(beyond).then(pl.lit("over_cap")).otherwise("drop"))


def _funnels(prompts: pl.DataFrame, fate: pl.DataFrame) -> list[Funnel]:
    """What became of every prompt, by its parent with a pair or else with the largest gap, and of every parent."""
    kept_first = fate.sort(pl.col("drop") != KEPT, pl.col("gap").fill_null(-1), "parent_id", descending=[False, True, False])
    first = kept_first.unique("prompt_id", keep="first", maintain_order=True).select("prompt_id", "drop")
    by_prompt = prompts.select("prompt_id").join(first, on="prompt_id", how="left")["drop"].fill_null("no_steps")
    return [_count("prompts", by_prompt), _count("parents", fate["drop"])]


def _count(unit: str, fates: pl.Series) -> Funnel:
    dropped = dict(fates.value_counts().rows())
    return Funnel(stage="step_pairs", unit=unit, n_in=len(fates), n_kept=dropped.pop(KEPT, 0), dropped=dropped)
