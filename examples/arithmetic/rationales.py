"""Rationales of arithmetic pairs that name the first wrong step: a template that writes them, and a program that confirms them.

A rationale names a step as `Line 2 of the rejected answer: "8 * 3 = 25", is 24 no`, the words of the judge's critique (`critiques.py`)
once the letters are gone. `confirms` believes none of it: it walks both answers along the gold steps of `reference` itself.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from typing import Any, NamedTuple

import polars as pl

import storage
from curators.rationales.prompts import side_text
from examples.arithmetic.critiques import walk
from examples.arithmetic.world import first_wrong, solution_lines

_CLAIM = re.compile(r"\bline (\d+) of the (chosen|rejected) answer: \"([^\"]*)\", is (.+?) (ok|no)\b", re.IGNORECASE)


class Claim(NamedTuple):
    """What a rationale says of one line; `line` counts from 1, `truth` is what should stand there."""

    line: int
    side: str
    quoted: str
    truth: str
    right: bool


def claims(rationale: str) -> list[Claim]:
    """What a rationale says, line by line.

    >>> claims('Line 2 of the rejected answer: "8 * 3 = 25", is 24 no')
    [Claim(line=2, side='rejected', quoted='8 * 3 = 25', truth='24', right=False)]
    """
    return [
        Claim(int(number), side.lower(), quoted, truth, mark.lower() == "ok")
        for number, side, quoted, truth, mark in _CLAIM.findall(rationale)
    ]


def template_rationale(chosen: str, rejected: str, reference: str) -> str | None:
    """The rationale of a pair whose chosen answer is right and whose rejected one is not; null for any other pair.

    >>> gold = '{"answer": 24, "steps": ["12 - 4 = 8", "8 * 3 = 24"]}'
    >>> right, wrong = "1. 12 - 4 = 8\\n2. 8 * 3 = 24\\nAnswer: 24", "1. 12 - 4 = 8\\n2. 8 * 3 = 25\\nAnswer: 25"
    >>> print(template_rationale(right, wrong, gold))
    The rejected answer goes wrong at one step, and the chosen answer does not. Line 2 of the rejected answer: "8 * 3 = 25", is 24 no
    Every step of the chosen answer is right, down to its last line, "Answer: 24".
    """
    wrong = first_wrong(rejected, reference)
    if wrong is None or first_wrong(chosen, reference) is not None or wrong >= len(solution_lines(rejected)):
        return None
    said, _, truth = walk("", rejected, reference)[-1].partition(": ")[2].rpartition(", is ")
    return (
        "The rejected answer goes wrong at one step, and the chosen answer does not. "
        f'Line {wrong + 1} of the rejected answer: "{said}", is {truth}\n'
        f'Every step of the chosen answer is right, down to its last line, "{solution_lines(chosen)[-1]}".'
    )


def confirms(rationale: str, chosen: str, rejected: str, reference: str) -> bool:
    """Whether a rationale names the first wrong step of the rejected answer, as it stands there and with what it should have been, and
    says nothing false of any other line.

    >>> gold = '{"answer": 24, "steps": ["12 - 4 = 8", "8 * 3 = 24"]}'
    >>> right, wrong = "1. 12 - 4 = 8\\n2. 8 * 3 = 24\\nAnswer: 24", "1. 12 - 4 = 8\\n2. 8 * 3 = 25\\nAnswer: 25"
    >>> confirms('Line 2 of the rejected answer: "8 * 3 = 25", is 24 no', right, wrong, gold)
    True
    >>> confirms('Line 1 of the rejected answer: "12 - 4 = 8", is 7 no', right, wrong, gold)
    False
    """
    true = {side: walk("", text, reference) for side, text in (("chosen", chosen), ("rejected", rejected))}
    said = [(c.side, f"{c.line}: {c.quoted}, is {c.truth} {'ok' if c.right else 'no'}") for c in claims(rationale)]
    names_it = true["rejected"][-1].endswith(" no") and ("rejected", true["rejected"][-1]) in said
    return names_it and all(line in true[side] for side, line in said)


def measure(pairs: pl.DataFrame, prompts: pl.DataFrame, rationales: pl.DataFrame) -> dict[str, Any]:
    """How many rationales of each state `confirms` confirms: `{state: {"n": …, "confirmed": …}}`.

    A rationale without text (a call that failed) is confirmed by nobody.
    """
    rows = rationales.join(pairs.select("pair_id", "chosen", "rejected"), on="pair_id").join(
        prompts.select("prompt_id", "reference"), on="prompt_id"
    )
    counts: dict[str, Counter[str]] = {}
    for row in rows.iter_rows(named=True):
        chosen, rejected = (side_text(row[side]) for side in ("chosen", "rejected"))
        true = row["text"] is not None and confirms(row["text"], chosen, rejected, row["reference"])
        counts.setdefault(row["state"], Counter()).update(n=1, confirmed=int(true))
    return {state: dict(count) for state, count in sorted(counts.items())}


def main() -> None:
    """`python -m examples.arithmetic.rationales NAME@VERSION`: what the program confirms of a published version, as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("ref")
    parser.add_argument("--lake", default="lake")
    args = parser.parse_args()
    with storage.open_lake(args.lake, create=False) as lake:
        frozen = storage.resolve(lake, args.ref).frozen
    print(json.dumps(measure(*(pl.read_parquet(frozen / f"{name}.parquet") for name in ("pairs", "prompts", "rationales")))))


if __name__ == "__main__":
    main()
