"""Publishing and comparing versions of a large dataset, against plain Parquet files in the same run.

Prints one JSON line a measurement: median, least and most over the rounds, and where there is a bar, the ratio and whether it holds.

    commit        pairs into the lake (digest included) against polars writing the same frame to zstd Parquet: at most 1.25 times
    digest        the content digest alone, which is part of `commit`
    freeze        the frozen copy, which comes after the commit
    second_commit a version with 1 % of the rows changed
    growth        what that version adds to the lake's data, frozen copies apart: at most 0.02 of what was there
    diff_ids      which ids changed, against DuckDB's EXCEPT both ways over two plain Parquet files: at most 0.1 times
    diff_rows     the same with the rows before and after

    python benchmarks/publish.py [--rows 1000000] [--rounds 3] [--place DIR]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from storage import Lake, diff, open_lake, resolve
from storage.digests import digest_frame
from storage.extensions import connect
from storage.publishing import record

TEXT_BYTES = {"prompt": 170, "chosen": 380, "rejected": 380}
BLOB_BYTES = 1 << 26
CHANGED = 100


def prose(rng: np.random.Generator, n_bytes: int) -> bytes:
    """Words of two to nine letters, drawn by Zipf's law from 30,000, with spaces."""
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgk", np.uint8)
    words = pl.Series([bytes(rng.choice(letters, size=rng.integers(2, 10))).decode() + " " for _ in range(30_000)])
    drawn = (rng.zipf(1.2, size=n_bytes // 4) - 1) % len(words)
    text: str = words.gather(drawn.astype(np.uint32)).str.join("").item()
    return text.encode()[:n_bytes]


def texts(rng: np.random.Generator, blob: bytes, rows: int, mean_bytes: int) -> pl.Series:
    """Stretches of the blob of about that length, one after another; each pass over it begins elsewhere."""
    parts, left = [], rows
    while left > 0:
        ends = rng.integers(0, len(blob) // 2) + np.cumsum(rng.integers(mean_bytes // 2, mean_bytes * 3 // 2, size=left + 1))
        offsets = ends[ends < len(blob)].astype(np.int64)
        parts.append(pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(blob)))
        left -= len(offsets) - 1
    return pl.Series(pa.chunked_array(parts))


def pairs(rows: int, seed: int = 0) -> pl.DataFrame:
    """A frame with the columns of real pairs, about 1 KB a row."""
    rng = np.random.default_rng(seed)
    blob = prose(rng, BLOB_BYTES)
    turns = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    index = pl.Series("index", np.arange(rows, dtype=np.uint64))
    ids = {"pair_id": index, "prompt_id": index // 2, "chosen_id": index * 2, "rejected_id": index * 2 + 1}
    constant = {
        "kind": "response",
        "pair_policy": "best_vs_worst",
        "label_source": "judge",
        "chosen_policy": "policy",
        "rejected_policy": "policy",
    }
    columns = {
        **{name: hashes(values, salt) for salt, (name, values) in enumerate(ids.items())},
        **{name: texts(rng, blob, rows, size) for name, size in TEXT_BYTES.items()},
        **{name: pl.Series(rng.random(rows)) for name in ("chosen_score", "rejected_score", "margin", "p_chosen")},
        "split": pl.Series(np.where(rng.random(rows) < 0.1, "test", "train")),
    }
    return pl.DataFrame(columns).with_columns(
        *(pl.concat_str(pl.lit('[{"content":"'), name, pl.lit(f'","role":"{role}"}}]')).alias(name) for name, role in turns.items()),
        *(pl.lit(value).alias(name) for name, value in constant.items()),
        on_policy=pl.lit(True),
        tools=pl.lit(None, pl.String),
        chat_template_kwargs=pl.lit(None, pl.String),
    )


def hashes(values: pl.Series, salt: int) -> pl.Series:
    """Ids that look like content ids: 32 hexadecimal digits, different for different values (both halves together spell the value)."""
    plain = values.to_numpy()
    mixed = (plain + np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    text = (
        np.stack([mixed, (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)], axis=1).astype(">u8").tobytes().hex().encode()
    )
    offsets = np.arange(0, len(text) + 1, 32, dtype=np.int64)
    return pl.Series(pa.LargeStringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(text)))


def changed(frame: pl.DataFrame) -> pl.DataFrame:
    """The same frame with another answer in every hundredth row."""
    return frame.with_columns(
        chosen=pl.when(pl.int_range(pl.len()) % CHANGED == 7).then(pl.col("chosen").str.replace("]$", " ]")).otherwise("chosen")
    )


def timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def lake_bytes(lake: Lake) -> int:
    return sum(path.stat().st_size for path in (lake.root / "data").rglob("*.parquet"))


def plain_diff(before: Path, after: Path, columns: str) -> list[tuple[object, ...]]:
    """Both directions of EXCEPT over two Parquet files."""
    con = connect()
    con.execute(f"CREATE VIEW a AS FROM '{before}'; CREATE VIEW b AS FROM '{after}'")
    removed, added = ("SELECT 'removed' AS change, * FROM (FROM a EXCEPT FROM b)", "SELECT 'added', * FROM (FROM b EXCEPT FROM a)")
    try:
        return con.sql(f"SELECT {columns} FROM ({removed} UNION ALL {added})").fetchall()
    finally:
        con.close()


def one_round(first: pl.DataFrame, second: pl.DataFrame, place: Path) -> dict[str, float]:
    """Seconds of every step, and the growth in bytes; the files of the round are gone after it."""
    a, b = place / "a.parquet", place / "b.parquet"
    found = {"polars": timed(lambda: first.write_parquet(a, compression="zstd"))}
    second.write_parquet(b, compression="zstd")
    with open_lake(place / "lake") as lake:
        with lake.reading() as con:
            con.execute("FROM lake.releases").fetchall()  # DuckDB, its extensions and the catalog are open before the clock starts
        found["commit"] = timed(lambda: record(lake, "pairs", first, manifest={}, author="benchmark", commit_id="1"))
        size = lake_bytes(lake)
        found["digest"] = timed(lambda: digest_frame(first, "pair_id"))
        found["freeze"] = timed(lambda: resolve(lake, "pairs@1"))
        found["second_commit"] = timed(lambda: record(lake, "pairs", second, manifest={}, author="benchmark", commit_id="2"))
        found["size"], found["growth"] = size, lake_bytes(lake) - size
        resolve(lake, "pairs@2")
        ids, rows, plain = [], [], []
        found["diff_ids"] = timed(lambda: ids.append(diff(lake, "pairs@1", "pairs@2")))
        found["diff_rows"] = timed(lambda: rows.append(diff(lake, "pairs@1", "pairs@2", full=True)))
    found["except_ids"] = timed(lambda: plain.append(plain_diff(a, b, "DISTINCT pair_id")))
    found["except_rows"] = timed(lambda: plain_diff(a, b, "*"))
    full = rows[0].rows
    if full is None or {row[0] for row in plain[0]} != set(ids[0].changes["pair_id"]) or full.height != 2 * len(plain[0]):
        raise SystemExit("the lake's diff and EXCEPT do not agree")
    return found


def report(rounds: list[dict[str, float]], rows: int) -> None:
    def line(what: str, values: list[float], **more: object) -> None:
        spread = {"median": round(statistics.median(values), 4), "min": round(min(values), 4), "max": round(max(values), 4)}
        print(json.dumps({"benchmark": "publish", "what": what, "rows": rows, **spread, **more}), flush=True)

    def against(what: str, other: str, bar: float | None = None) -> None:
        ratio = statistics.median(each[what] / each[other] for each in rounds)
        held = {} if bar is None else {"bar": bar, "ok": ratio <= bar}
        line(what, [each[what] for each in rounds], unit="s" if what != "growth" else "bytes", against=other, ratio=round(ratio, 4), **held)

    for what in ("polars", "except_ids", "except_rows"):
        line(what, [each[what] for each in rounds], unit="s")
    line("size", [each["size"] for each in rounds], unit="bytes")
    against("commit", "polars", 1.25)
    for what in ("digest", "freeze", "second_commit"):
        against(what, "polars")
    against("growth", "size", 0.02)
    against("diff_ids", "except_ids", 0.1)
    against("diff_rows", "except_rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--place", type=Path, help="directory for the files; default: a temporary one")
    asked = parser.parse_args()
    first = pairs(asked.rows)
    second = changed(first)
    rounds = []
    for _ in range(asked.rounds):
        place = Path(tempfile.mkdtemp(prefix="pairmill-publish-", dir=asked.place))
        try:
            rounds.append(one_round(first, second, place))
        finally:
            shutil.rmtree(place)
    report(rounds, asked.rows)


if __name__ == "__main__":
    main()
