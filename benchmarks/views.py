"""Every training view of a large version, against the plain polars expression that makes the same rows in the same run.

A view is a whole hand-off in Parquet (files of the version hashed, rows told apart, split by prompt, digests, files synced). The peer reads
the same Parquet files, makes the rows and writes one zstd Parquet file a split; it checks nothing and counts nothing. Each is a process of
its own, polars on one thread, one after the other. Prints one JSON line a view: rows, rows a second, CPU seconds and peak memory of both,
and the ratios of their times.

The version has a pair a prompt of about 1 KB, its two generations with eight tokens each, a pairwise judgment in both orders, the
attributes of a second judge, a rationale; the versions for `joint` and `prompt-contrast`, `context`, and trees are made likewise. Views of
two rows a pair have twice as many.

    python benchmarks/views.py [--rows 1000000] [--views dpo,kto] [--place DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl
from publish import hashes, pairs

from curators.schema import GENERATIONS, JOINT_PAIRS, JUDGMENTS, NODES, PAIRS, PROMPTS, RATIONALES, STEP_PAIRS
from storage.handoff import open_handoff, write_handoff
from storage.views import VIEWS

SPECIAL = {
    "joint": "two",
    "prompt-contrast": "two",
    "context": "system",
    **dict.fromkeys(("step", "step-dpo", "stepwise", "nodes"), "trees"),
}
TURN = pl.Struct({"role": pl.String, "content": pl.String})
MESSAGES = pl.List(TURN)
CONTEXT = ("tools", "chat_template_kwargs")
SYSTEM = '[{"content":"Be brief.","role":"system"},'


def full(frame: pl.DataFrame, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """The frame with every column of the schema; what it does not say is null."""
    return frame.select((pl.col(name) if name in frame.columns else pl.lit(None)).cast(dtype).alias(name) for name, dtype in schema.items())


def write(root: Path, tables: Mapping[str, tuple[pl.DataFrame, Mapping[str, pl.DataType]]]) -> None:
    """A frozen copy of a version of these rows."""
    root.mkdir(parents=True)
    for name, (frame, schema) in tables.items():
        full(frame, schema).write_parquet(root / f"{name}.parquet", compression="zstd", statistics=False)
    digest = hashlib.sha256((root / "pairs.parquet").read_bytes()).hexdigest()
    (root / "manifest.json").write_text(json.dumps({"name": root.name, "version": 1, "digest": digest}))


def content(name: str) -> pl.Expr:
    return pl.col(name).str.json_path_match("$[0].content")


def make(place: Path, rows: int) -> None:
    """The four versions."""
    index = pl.Series(np.arange(rows, dtype=np.uint64))
    ids = {"prompt_id": hashes(index, 7), "chosen_id": hashes(index * 2, 11), "rejected_id": hashes(index * 2 + 1, 11)}
    base = pairs(rows).with_columns(**ids).sort("pair_id")
    prompts = base.select("prompt_id", messages="prompt", state=pl.lit("ok")).sort("prompt_id")
    sides = [
        base.select("prompt_id", generation_id=f"{side}_id", text=content(side), sample_index=pl.lit(index), policy=pl.lit("policy"))
        for index, side in enumerate(("chosen", "rejected"))
    ]
    tokens = {"token_ids": pl.lit([5] * 8), "logprobs": pl.lit([-0.5] * 8), "sum_logprob": pl.lit(-4.0)}
    generations = pl.concat(sides).with_columns(state=pl.lit("ok"), **tokens).sort("generation_id")
    facts = {"prompts": (prompts, PROMPTS), "generations": (generations, GENERATIONS), "judgments": (judgments(base), JUDGMENTS)}
    told = base.select("pair_id", "prompt_id", rationale_id=pl.lit("r") + pl.col("pair_id"), text=content("chosen").str.slice(0, 200))
    told = told.with_columns(kind=pl.lit("general"), state=pl.lit("ok"), attempt=pl.lit(0)).sort("rationale_id")
    write(place / "plain", {"pairs": (base, PAIRS), **facts, "rationales": (told, RATIONALES)})
    other = pl.lit('[{"content":"Not ') + pl.col("prompt").str.slice(len('[{"content":"'))
    write(place / "two", {"pairs": (base.with_columns(rejected="chosen", rejected_prompt=other), JOINT_PAIRS)})
    write(place / "system", {"pairs": (base.with_columns(prompt=pl.lit(SYSTEM) + pl.col("prompt").str.slice(1)), PAIRS)})
    write(place / "trees", {"pairs": (steps(base), STEP_PAIRS), "prompts": (prompts, PROMPTS), "nodes": (nodes(base), NODES)})


def judgments(base: pl.DataFrame) -> pl.DataFrame:
    """Both orders of a pairwise judge, who prefers chosen, and the attributes of each answer by another."""
    one, two = pl.concat_list("chosen_id", "rejected_id"), pl.concat_list("rejected_id", "chosen_id")
    compared = {"judge": pl.lit("judge"), "protocol": pl.lit("pairwise"), "channel": pl.lit("text")}
    orders = [
        base.select("prompt_id", generation_ids=shown, p_first=pl.lit(p), label=pl.lit(label), order=pl.lit(order), **compared)
        for order, (shown, p, label) in enumerate(((one, 1.0, "first"), (two, 0.0, "second")))
    ]
    given = {"judge": pl.lit("heads"), "protocol": pl.lit("pointwise"), "channel": pl.lit("json")}
    graded = [
        base.select(
            "prompt_id",
            generation_ids=pl.concat_list(f"{side}_id"),
            scores=pl.lit([score]),
            attributes=pl.lit(attributes),
            order=pl.lit(0),
            **given,
        )
        for side, score, attributes in (("chosen", 3.0, '{"help":4,"brief":1}'), ("rejected", 2.0, '{"help":2,"brief":3}'))
    ]
    told = pl.concat([*orders, *graded], how="diagonal_relaxed").with_columns(state=pl.lit("ok"), vote=pl.lit(0), attempt=pl.lit(0))
    return told.with_columns(judgment_id=hashes(pl.Series(np.arange(told.height, dtype=np.uint64)), 9)).sort("judgment_id")


def steps(base: pl.DataFrame) -> pl.DataFrame:
    prefix, chosen, rejected = content("chosen").str.slice(0, 100), content("chosen").str.slice(100), content("rejected")
    numbers = {f"{side}_{name}": pl.lit(value) for side in ("chosen", "rejected") for name, value in (("q", 0.5), ("visits", 8))}
    ends = {"chosen_terminal": pl.lit(True), "rejected_terminal": pl.lit(False), "alpha": pl.lit(0.1), "depth": pl.lit(2)}
    texts = {"prefix": prefix, "chosen_step": chosen, "rejected_step": rejected}
    return base.with_columns(kind=pl.lit("step"), tree_id=pl.lit("t") + pl.col("prompt_id"), **texts, **numbers, **ends)


def nodes(base: pl.DataFrame) -> pl.DataFrame:
    """A tree a prompt: the prompt, a step, and a step that ends the answer."""
    known = {
        "q": pl.lit(0.5),
        "regret": pl.lit(0.0),
        "n_visits": pl.lit(4),
        "n_correct": pl.lit(1),
        "soft_label": pl.lit(1.0),
        "w_mean": pl.lit(1.0),
    }
    lines = [
        base.select(
            "prompt_id",
            node_id=pl.lit(f"{depth}") + pl.col("prompt_id"),
            tree_id=pl.lit("t") + pl.col("prompt_id"),
            place=pl.lit([0] * depth, dtype=pl.List(pl.Int32)),
            depth=pl.lit(depth),
            text=text,
            terminal=pl.lit(depth == 2),
            outcome=pl.lit(1.0 if depth == 2 else None, dtype=pl.Float64),
            **known,
        )
        for depth, text in enumerate((pl.lit(""), content("chosen").str.slice(0, 100), content("chosen").str.slice(100)))
    ]
    return pl.concat(lines).sort("node_id")


def decoded(name: str, alias: str | None = None) -> pl.Expr:
    return pl.col(name).str.json_decode(MESSAGES).alias(alias or name)


def turn(text: pl.Expr) -> pl.Expr:
    """One assistant turn."""
    return pl.concat_list(pl.struct(role=pl.lit("assistant"), content=text))


class Peer:
    """The rows of every view in polars, from the files of a version."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def table(self, name: str) -> pl.LazyFrame:
        return pl.scan_parquet(self._root / f"{name}.parquet")

    def pairs(self, *columns: str | pl.Expr) -> pl.LazyFrame:
        return self.table("pairs").sort("pair_id").select(*columns, "pair_id", *CONTEXT, "split")

    def of_prompts(self) -> pl.LazyFrame:
        """Prompt, id and split."""
        splits = self.table("pairs").group_by("prompt_id").agg(pl.col("split").min())
        told = self.table("prompts").filter(pl.col("state") == "ok").join(splits, on="prompt_id")
        return told.select(decoded("messages", "prompt"), "prompt_id", "reference", *CONTEXT, "split")

    def compared(self) -> pl.LazyFrame:
        """p of every ordered two answers, both orders averaged."""
        told = self.table("judgments").filter((pl.col("state") == "ok") & (pl.col("protocol") == "pairwise"))
        first, second = pl.col("generation_ids").list.get(0), pl.col("generation_ids").list.get(1)
        as_is = told.select("prompt_id", x=first, y=second, p="p_first", won=pl.col("label") == "first", tied=pl.col("label") == "tie")
        back = told.select(
            "prompt_id", x=second, y=first, p=1 - pl.col("p_first"), won=pl.col("label") == "second", tied=pl.col("label") == "tie"
        )
        return pl.concat([as_is, back]).group_by("prompt_id", "x", "y").agg(pl.col("p").mean(), pl.col("won").sum(), pl.col("tied").sum())

    def scored(self) -> pl.LazyFrame:
        scores = self.compared().group_by("prompt_id", generation_id="x").agg(score=pl.col("p").mean())
        return self.table("generations").join(scores, on=("prompt_id", "generation_id")).with_columns(turn=turn(pl.col("text")))

    def listed(self, order: list[str | pl.Expr], *columns: pl.Expr) -> pl.LazyFrame:
        lists = self.scored().sort(order).group_by("prompt_id", maintain_order=True).agg(*columns, generation_ids="generation_id")
        return self.of_prompts().join(lists, on="prompt_id").sort("prompt_id")

    def rated(self) -> pl.LazyFrame:
        given = self.table("judgments").filter(pl.col("attributes").is_not_null())
        values = [pl.col("attributes").str.json_path_match(f"$.{name}").cast(pl.Float64).alias(name) for name in ("help", "brief")]
        told = given.select("judge", *values, generation_id=pl.col("generation_ids").list.get(0))
        return told.group_by("judge", "generation_id").agg(pl.col("help", "brief").mean())

    def rationale(self, first: pl.Expr | None = None, *, permuted: bool = False, twin: bool = False) -> pl.LazyFrame:
        told = self.table("rationales").select("pair_id", "rationale_id", text="text", rationale_kind="kind")
        both = self.table("pairs").join(told, on="pair_id").sort("pair_id")
        if permuted:
            both = both.with_columns(pl.col("text").shift(-1, fill_value=pl.col("text").first()).over("split"))
        first = pl.lit(True) if first is None else first
        above, below = (pl.when(yes).then(content("chosen")).otherwise(content("rejected")) for yes in (first, ~first))
        parts = (
            content("prompt"),
            pl.lit("Which of these two responses is preferable and follows the prompt better, and why?"),
            above,
            below,
        )
        question = pl.concat_list(pl.struct(role=pl.lit("user"), content=pl.concat_str(*parts, separator="\n\n")))
        more = [] if twin else [question.alias("rationale_prompt"), turn(pl.col("text")).alias("rationale")]
        sides = [decoded(name) for name in ("prompt", "chosen", "rejected")]
        return both.select(*sides, *more, "rationale_kind", "margin", "p_chosen", "rationale_id", "pair_id", *CONTEXT, "split")

    def lines(self, ends: pl.LazyFrame) -> pl.LazyFrame:
        """Every step of the answers that end at these nodes."""
        key = pl.col("place").cast(pl.List(pl.String)).list.join("/")
        prefixes = ends.select("tree_id", "place", end="node_id", k=pl.int_ranges(1, pl.col("depth") + 1)).explode("k")
        begins = prefixes.select("tree_id", "end", key=pl.col("place").list.head(pl.col("k")).cast(pl.List(pl.String)).list.join("/"))
        return begins.join(self.table("nodes").with_columns(key=key), on=("tree_id", "key")).sort("end", "depth")


SIDES = [decoded(name) for name in ("prompt", "chosen", "rejected")]
PAIR: list[str | pl.Expr] = [*SIDES, "margin", "p_chosen"]
EVIDENCE: list[str | pl.Expr] = [(2 * pl.col("p_chosen") - 1).alias("strength"), "chosen_policy", "rejected_policy"]
UNIT = ("prompt", "prompt_id", *CONTEXT, "split")
ABOVE = pl.col("pair_id").hash(0) % 2 == 0


def sft(peer: Peer) -> pl.LazyFrame:
    kept = peer.table("pairs").sort("pair_id").unique(["prompt_id", "chosen"], keep="first", maintain_order=True)
    return kept.select(decoded("prompt"), decoded("chosen", "completion"), "prompt_id", "chosen_id", "chosen_score", *CONTEXT, "split")


def kto(peer: Peer) -> pl.LazyFrame:
    both = [
        peer.table("pairs").select(
            "prompt", "prompt_id", "split", *CONTEXT, completion=side, reward=f"{side}_score", label=pl.lit(side == "chosen")
        )
        for side in ("chosen", "rejected")
    ]
    kept = pl.concat(both).unique(["prompt_id", "completion"], keep="first").sort(pl.col("completion").hash(0))
    return kept.with_columns(decoded("prompt"), decoded("completion"))


def matrix(peer: Peer) -> pl.LazyFrame:
    told = peer.compared()
    members = peer.table("generations").select("prompt_id", "sample_index", "generation_id", turn=turn(pl.col("text")))
    members = members.join(told.select("prompt_id", generation_id="x").unique(), on=("prompt_id", "generation_id"))
    x = members.select("prompt_id", x="generation_id", x_index="sample_index")
    y = members.select("prompt_id", y="generation_id", y_index="sample_index")
    cells = x.join(y, on="prompt_id").join(told, on=("prompt_id", "x", "y"), how="left").sort("x_index", "y_index")
    lines = cells.group_by("prompt_id", "x", maintain_order=True).agg("p", pl.col("won", "tied").fill_null(0))
    squares = lines.group_by("prompt_id").agg("p", "won", "tied", "x")
    texts = members.sort("sample_index").group_by("prompt_id").agg("turn")
    return peer.of_prompts().join(squares, on="prompt_id").join(texts, on="prompt_id").sort("prompt_id")


def scored_pair(peer: Peer) -> pl.LazyFrame:
    y = peer.scored().select("prompt_id", y="turn", reward_y="score", y_id="generation_id")
    both = y.join(y, on="prompt_id", suffix="_prime").filter(pl.col("y_id") < pl.col("y_id_prime"))
    return peer.of_prompts().join(both, on="prompt_id").sort("y_id")


def attributes(peer: Peer) -> pl.LazyFrame:
    told = peer.table("generations").join(peer.rated(), on="generation_id")
    told = told.select("prompt_id", "generation_id", "judge", "help", "brief", response=turn(pl.col("text")))
    return peer.of_prompts().join(told, on="prompt_id").sort("generation_id")


def objectives(peer: Peer) -> pl.LazyFrame:
    rated = peer.rated().select("generation_id", "help", "brief")
    both = peer.table("pairs").join(rated, left_on="chosen_id", right_on="generation_id")
    both = both.join(rated, left_on="rejected_id", right_on="generation_id", suffix="_r")
    margins = [(pl.col(name) - pl.col(f"{name}_r")).alias(f"margin_{name}") for name in ("help", "brief")]
    whole = both.with_columns(*margins, decoded("prompt"), decoded("chosen"), decoded("rejected"))
    rows = [whole.with_columns(objective=pl.lit(name), difference=pl.col(f"margin_{name}")) for name in ("help", "brief")]
    return turned(pl.concat(rows).filter(pl.col("difference") != 0), pl.col("difference") > 0, "objective", "margin_help", "margin_brief")


def turned(rows: pl.LazyFrame, as_is: pl.Expr, *columns: str) -> pl.LazyFrame:
    """Pairs with the sides exchanged where `as_is` is false."""
    sides = {
        "chosen": pl.when(as_is).then("chosen").otherwise("rejected"),
        "rejected": pl.when(as_is).then("rejected").otherwise("chosen"),
    }
    return rows.select("prompt", "pair_id", *CONTEXT, "split", *columns, **sides).sort("pair_id")


def user(peer: Peer) -> pl.LazyFrame:
    whole = peer.table("pairs").with_columns(decoded("prompt"), decoded("chosen"), decoded("rejected"))
    pairwise = whole.join(peer.compared(), left_on=("prompt_id", "chosen_id", "rejected_id"), right_on=("prompt_id", "x", "y"))
    scores = (
        peer.table("judgments")
        .filter(pl.col("protocol") == "pointwise")
        .select(generation_id=pl.col("generation_ids").list.get(0), score=pl.col("scores").list.get(0))
    )
    graded = whole.join(scores, left_on="chosen_id", right_on="generation_id").join(
        scores, left_on="rejected_id", right_on="generation_id", suffix="_r"
    )
    names = ("prompt", "chosen", "rejected", "pair_id", *CONTEXT, "split", "p", "user_id")
    graded = graded.with_columns(p=(pl.col("score") > pl.col("score_r")).cast(pl.Float64), user_id=pl.lit("heads"))
    said = pl.concat([pairwise.with_columns(user_id=pl.lit("judge")).select(names), graded.select(names)])
    most = ((pl.col("p") > 0.5).cast(pl.Int32) * 2 - 1).sum().over("pair_id")
    said = said.with_columns(agrees=(pl.col("p") > 0.5) == (most > 0), role=pl.col("pair_id").hash(0) % 2)
    return turned(said, pl.col("p") > 0.5, "user_id", "p", "agrees", "role")


def tokens(peer: Peer) -> pl.LazyFrame:
    sampled = peer.table("generations").select("generation_id", "token_ids", "logprobs")
    both = peer.table("pairs").join(sampled, left_on="chosen_id", right_on="generation_id")
    both = both.join(sampled, left_on="rejected_id", right_on="generation_id", suffix="_r").sort("pair_id")
    return both.select(*SIDES, "margin", "token_ids", "logprobs", "token_ids_r", "logprobs_r", "pair_id", *CONTEXT, "split")


def negatives(peer: Peer) -> pl.LazyFrame:
    bad = peer.table("pairs").select("prompt_id", "rejected", "rejected_id", decoded("prompt"), *CONTEXT, "split", text=content("rejected"))
    bad = bad.unique(["prompt_id", "text"], keep="first")
    own = peer.table("generations").filter(pl.col("state") == "ok").join(bad, on=("prompt_id", "text"), how="anti")
    lists = own.select("prompt_id", turn=turn(pl.col("text"))).group_by("prompt_id").agg("turn")
    return bad.join(lists, on="prompt_id").with_columns(decoded("rejected")).sort("rejected_id")


def stepwise(peer: Peer) -> pl.LazyFrame:
    ends = peer.table("nodes").filter(pl.col("terminal") & (pl.col("outcome") != 0))
    told = {"completions": pl.col("text"), "labels": pl.col("n_correct") > 0, "soft_labels": pl.col("soft_label")}
    lists = peer.lines(ends).group_by("end", maintain_order=True).agg("q", "regret", **told, prompt_id=pl.col("prompt_id").first())
    return peer.of_prompts().join(lists, on="prompt_id").sort("end")


def tree_nodes(peer: Peer) -> pl.LazyFrame:
    visited = peer.table("nodes").filter((pl.col("n_visits") > 0) & (pl.col("depth") > 0))
    texts = peer.lines(visited).group_by("end", maintain_order=True).agg(answer=pl.col("text").str.join(""))
    rows = visited.join(texts, left_on="node_id", right_on="end")
    prefix = pl.col("answer").str.head(pl.col("answer").str.len_chars() - pl.col("text").str.len_chars()).alias("prefix")
    names = ("text", "q", "w_mean", "soft_label", "n_visits", "prior", "depth", "terminal", "outcome", "node_id")
    return peer.of_prompts().join(rows.select(prefix, "prompt_id", *names), on="prompt_id").sort("node_id")


STEP: list[str | pl.Expr] = ["prefix", "chosen_terminal", "rejected_terminal", "alpha", "margin"]
LISTED = [pl.col("turn"), pl.col("score")]
PEERS: Mapping[str, Callable[[Peer], pl.LazyFrame]] = {
    "prompt-only": lambda peer: peer.of_prompts().unique("prompt_id", keep="first").sort("prompt_id"),
    "sft": sft,
    "dpo": lambda peer: peer.pairs(*PAIR, *EVIDENCE),
    "reward": lambda peer: peer.pairs(*SIDES, "margin"),
    "kto": kto,
    "joint": lambda peer: peer.pairs(*SIDES, decoded("rejected_prompt")),
    "group": lambda peer: peer.listed(["sample_index", "generation_id"], *LISTED),
    "ranked": lambda peer: peer.listed(
        [-pl.col("score"), "generation_id"], *LISTED, pl.col("score").rank("min", descending=True).alias("ranks")
    ),
    "matrix": matrix,
    "scored-pair": scored_pair,
    "attributes": attributes,
    "objectives": objectives,
    "user": user,
    "tokens": tokens,
    "context": lambda peer: peer.pairs(*PAIR[1:3], decoded("prompt").list.slice(1), content("prompt").alias("system")),
    "prompt-contrast": lambda peer: peer.pairs(decoded("prompt"), decoded("rejected_prompt"), decoded("chosen")),
    "revision": lambda peer: peer.pairs(
        pl.concat_list(
            decoded("prompt"), decoded("rejected"), pl.concat_list(pl.struct(role=pl.lit("user"), content=pl.lit("Improve.")))
        ).alias("revise_prompt"),
        *PAIR[1:2],
        *PAIR[3:],
    ),
    "negatives": negatives,
    "rationale": lambda peer: peer.rationale(),
    "rationale-random-order": lambda peer: peer.rationale(ABOVE),
    "rationale-permuted": lambda peer: peer.rationale(permuted=True),
    "rationale-twin": lambda peer: peer.rationale(twin=True),
    "step": lambda peer: peer.pairs(decoded("prompt"), *STEP, "chosen_step", "rejected_step", "chosen_q", "rejected_q", "depth"),
    "step-dpo": lambda peer: peer.pairs(*SIDES, *STEP),
    "stepwise": stepwise,
    "nodes": tree_nodes,
}


def run(kind: str, view: str, frozen: Path, to: Path) -> None:
    """One measurement, in this process: prints its rows, seconds and peak memory in MB."""
    begin, cpu = time.perf_counter(), time.process_time()
    if kind == "view":
        rows = sum(open_handoff(write_handoff(frozen, to, view=view, format="parquet"), verify=False).splits.values())
    else:
        to.mkdir()
        made = PEERS[view](Peer(frozen)).collect()
        for split in ("train", "test"):
            made.filter(pl.col("split") == split).drop("split").write_parquet(to / f"{split}.parquet", compression="zstd")
        rows = made.height
    print(json.dumps({"rows": rows, "s": time.perf_counter() - begin, "cpu_s": time.process_time() - cpu, "peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Of this program: getrusage would also count what the parent held when it started it."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def measured(kind: str, view: str, frozen: Path, place: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=place) as to:
        command = [sys.executable, __file__, "--run", kind, view, str(frozen), f"{to}/out"]
        told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, float] = json.loads(told.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--views", default=",".join(VIEWS), help="of them, with commas")
    parser.add_argument("--place", type=Path, help="directory for the files; default: a temporary one")
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run:
        kind, view, frozen, to = asked.run
        run(kind, view, Path(frozen), Path(to))
        return
    with tempfile.TemporaryDirectory(prefix="pairmill-views-", dir=asked.place) as name:
        place = Path(name)
        make(place, asked.rows)
        for view in asked.views.split(","):
            ours, peer = (measured(kind, view, place / SPECIAL.get(view, "plain"), place) for kind in ("view", "polars"))
            if ours["rows"] != peer["rows"]:
                raise SystemExit(f"{view}: {ours['rows']} rows, and {peer['rows']} by polars")
            line: dict[str, object] = {"benchmark": "views", "view": view, "rows": ours["rows"]}
            for kind, found in (("view", ours), ("polars", peer)):
                line |= {f"{kind}_rows_a_second": round(found["rows"] / found["s"]), f"{kind}_cpu_s": round(found["cpu_s"], 2)}
                line[f"{kind}_peak_mb"] = round(found["peak_mb"])
            line |= {"ratio": round(ours["s"] / peer["s"], 2), "cpu_ratio": round(ours["cpu_s"] / peer["cpu_s"], 2)}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
