"""Chosen and rejected nodes → rows of `step_pairs` with their texts, tokens and numbers; whole answers of the same trees as a baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from curators.engines.base import digest
from curators.funnel import Funnel
from curators.pairs import KEPT, assistant_turn, split_of, unit_hash
from curators.schema import STEP_PAIRS, check, frame
from curators.stepsearch.smoothing import smoothing

if TYPE_CHECKING:
    from curators.stepsearch.extraction import StepPairConfig

Row = Mapping[str, Any]

Line = tuple[str | None, str, list[int] | None, bool, float]
"""Of a node that has steps below it: its parent's id (null: it is the prompt), text, token ids, whether it was injected, and R."""

_LINE = ("node_id", "parent_id", "text", "token_ids", "injected", "r_value")
_READ = ("node_id", "parent_id", "prompt_id", "tree_id", "policy", "judge", "depth", "text", "token_ids", "prior", "r_value", "outcome")
_MORE = ("w_mean", "regret", "terminal", "injected", "n_visits", "q", "n_visits_at_commit", "q_at_commit")


def write_pairs(prompts: pl.DataFrame, nodes: pl.DataFrame, chosen: pl.DataFrame, config: StepPairConfig) -> pl.DataFrame:
    """Rows of `step_pairs` for candidates with `node_id_best`, `node_id`, `score_best` and `score`, in their order."""
    used = pl.concat([chosen["node_id_best"], chosen["node_id"]]).unique()
    of = _by_id(nodes.filter(pl.col("node_id").is_in(used.implode())))
    asked, lines = _asked(prompts), _lines(nodes)
    rows = []
    for best, other, score, lower in chosen.select("node_id_best", "node_id", "score_best", "score").iter_rows():
        before = _before(lines, of[best])
        prefix = "".join(text for _, text, *_ in before), _joined(ids for _, _, ids, *_ in before)
        rows.append(_row(asked, [of[best], of[other]], prefix, [score, lower], config))
        rows[-1]["parent_r_value"] = lines[of[best]["parent_id"]][-1]
    return frame(rows, STEP_PAIRS)


def answer_pairs(prompts: pl.DataFrame, nodes: pl.DataFrame, *, config: StepPairConfig) -> pl.DataFrame:
    """Whole answers of the same trees as `step_pairs` of kind `response`: the baseline that step pairs must beat.

    A prompt's different right answers against its different wrong ones, each used once, drawn by hash of id and seed, at most
    `max_per_prompt`. Answers that were cut off or whose beginning was injected take no part. Scores are R of the ended answers, the
    prefix is empty and α 0, since every right answer is better than every wrong one.

    Raises:
        SchemaError: a frame lacks a column.
    """
    prompts = check(prompts, "prompts").filter(pl.col("state") == "ok")
    nodes = check(nodes, "nodes").filter(pl.col("prompt_id").is_in(prompts["prompt_id"].implode()) & pl.col("n_visits").is_not_null())
    ended = nodes.filter(pl.col("terminal") & (pl.col("outcome").fill_null(0) != 0) & (pl.col("state") == "ok"))
    lines = _lines(nodes)
    sides: dict[str, dict[bool, dict[str, dict[str, Any]]]] = {}
    for node in sorted(_by_id(ended).values(), key=lambda row: unit_hash("answer", config.seed, row["node_id"])):
        before = _before(lines, node)
        if node["injected"] or any(injected for *_, injected, _ in before):
            continue
        answer = {
            **node,
            "text": "".join(text for _, text, *_ in before) + node["text"],
            "token_ids": _joined([*(ids for _, _, ids, *_ in before), node["token_ids"]]),
        }
        texts = sides.setdefault(node["prompt_id"], {True: {}, False: {}})[node["outcome"] > 0]
        texts.setdefault(" ".join(answer["text"].split()), answer)
    asked, rows = _asked(prompts), []
    for _, side in sorted(sides.items()):
        both = list(zip(side[True].values(), side[False].values(), strict=False))[: config.max_per_prompt]
        for right, wrong in both:
            rows.append(_row(asked, [right, wrong], ("", []), [right["r_value"], wrong["r_value"]], config))
            rows[-1] |= {"kind": "response", "pair_policy": "right_vs_wrong", "alpha": 0.0, "alpha_mode": "none", "parent_id": None}
            rows[-1]["pair_id"] = digest("response", *(rows[-1][name] for name in ("prompt", "chosen", "rejected")))
    return frame(rows, STEP_PAIRS).sort("prompt_id", "pair_id")


def answer_funnel(prompts: pl.DataFrame, nodes: pl.DataFrame, pairs: pl.DataFrame) -> Funnel:
    """What became of every prompt in `answer_pairs`.

    The reasons: `no_answer`, `no_right`, `no_wrong`, and `injected`, where all answers of one kind begin with what was injected.
    """
    prompts = check(prompts, "prompts").filter(pl.col("state") == "ok").select("prompt_id")
    graded = nodes.filter(pl.col("terminal") & (pl.col("outcome").fill_null(0) != 0) & (pl.col("state") == "ok"))
    kinds = graded.group_by("prompt_id").agg(right=(pl.col("outcome") > 0).any(), wrong=(pl.col("outcome") < 0).any())
    fates = prompts.join(kinds, on="prompt_id", how="left").select(
        pl.when(pl.col("prompt_id").is_in(pairs["prompt_id"].unique().implode()))
        .then(pl.lit(KEPT))
        .when(pl.col("right").is_null())
        .then(pl.lit("no_answer"))
        .when(~pl.col("right"))
        .then(pl.lit("no_right"))
        .when(~pl.col("wrong"))
        .then(pl.lit("no_wrong"))
        .otherwise(pl.lit("injected"))
        .alias("fate")
    )["fate"]
    dropped = Counter(fates.to_list())
    return Funnel(stage="answer_pairs", unit="prompts", n_in=fates.len(), n_kept=dropped.pop(KEPT, 0), dropped=dropped)


def _asked(prompts: pl.DataFrame) -> dict[str, Row]:
    columns = ("prompt_id", "messages", "tools", "chat_template_kwargs")
    return {row["prompt_id"]: row for row in prompts.select(columns).iter_rows(named=True)}


def _by_id(nodes: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["node_id"]: row for row in nodes.select(*_READ, *_MORE).iter_rows(named=True)}


def _lines(nodes: pl.DataFrame) -> dict[str, Line]:
    """What is needed of the nodes that have steps below them."""
    inner = nodes.filter(pl.col("node_id").is_in(nodes["parent_id"].drop_nulls().unique().implode()))
    return {node_id: tuple(line) for node_id, *line in inner.select(_LINE).iter_rows()}


def _before(lines: Mapping[str, Line], node: Row) -> list[Line]:
    """The steps before a node, from the first."""
    before: list[Line] = []
    line = lines[node["parent_id"]]
    while line[0] is not None:
        before.append(line)
        line = lines[line[0]]
    return before[::-1]


def _joined(token_ids: Iterable[list[int] | None]) -> list[int] | None:
    """The ids of all steps; null where one has none."""
    parts = list(token_ids)
    known = [part for part in parts if part is not None]
    return [token for part in known for token in part] if len(known) == len(parts) else None


def _row(
    asked: Mapping[str, Row], sides: list[Row], prefix: tuple[str, list[int] | None], scores: list[float], config: StepPairConfig
) -> dict[str, Any]:
    chosen = sides[0]
    prompt = asked[chosen["prompt_id"]]
    text, ids = prefix
    turns = [assistant_turn(text + side["text"], None, None) for side in sides]
    numbers = [_numbers(side) for side in sides]
    (n_w, q_w), (n_l, q_l) = [(side["visits"], side["q"]) for side in numbers]
    return {
        "pair_id": digest("step", prompt["messages"], *turns),
        "prompt_id": chosen["prompt_id"],
        "kind": "step",
        "pair_policy": config.rejected,
        "prompt": prompt["messages"],
        "chosen": turns[0],
        "rejected": turns[1],
        "tools": prompt["tools"],
        "chat_template_kwargs": prompt["chat_template_kwargs"],
        "chosen_score": scores[0],
        "rejected_score": scores[1],
        "margin": scores[0] - scores[1],
        "p_chosen": None,
        "label_source": chosen["judge"],
        "on_policy": None if config.policy is None else all(side["policy"] == config.policy for side in sides),
        "split": split_of(chosen["prompt_id"], config.test_share),
        "tree_id": chosen["tree_id"],
        "parent_id": chosen["parent_id"],
        "depth": chosen["depth"],
        "prefix": text,
        "prefix_token_ids": ids,
        "alpha": smoothing(n_w, n_l, chosen_q=q_w, rejected_q=q_l, mode=config.alpha_mode, kappa=config.kappa, tau=config.tau),
        "alpha_mode": config.alpha_mode,
        **{f"{side}_{name}": value for side, row in zip(("chosen", "rejected"), numbers, strict=True) for name, value in row.items()},
    }


def _numbers(node: Row) -> dict[str, Any]:
    """What a pair says of either side, with the visits and Q of the commit where there was one."""
    at_commit = node["q_at_commit"] is not None
    return {
        "id": node["node_id"],
        "policy": node["policy"],
        "step": node["text"],
        "token_ids": node["token_ids"],
        "terminal": node["terminal"],
        "q": node["q_at_commit"] if at_commit else node["q"],
        "visits": node["n_visits_at_commit"] if at_commit else node["n_visits"],
        "prior": node["prior"],
        "r_value": node["r_value"],
        "outcome": node["outcome"],
        "w_mean": node["w_mean"],
        "regret": node["regret"],
    }
