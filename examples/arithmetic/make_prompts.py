"""Write `prompts.jsonl` and `eval.jsonl` again, byte for byte: `python -m examples.arithmetic.make_prompts`."""

from __future__ import annotations

import json
from pathlib import Path

from examples.arithmetic.world import Problem, problems

HERE = Path(__file__).parent
FILES = {"prompts.jsonl": (400, 7, "demo"), "eval.jsonl": (500, 11, "heldout")}
"""File name: how many problems, of which seed, of which split."""


def row(problem: Problem) -> str:
    """One line of a prompt file: `prompt` is a list of messages, `reference` a JSON string for the checkers."""
    return json.dumps({"prompt": [{"role": "user", "content": problem.text}], "reference": problem.reference})


def write(folder: Path) -> None:
    """Write both files into a folder."""
    for name, (n, seed, split) in FILES.items():
        lines = [row(problem) + "\n" for problem in problems(n, seed=seed, split=split)]
        (folder / name).write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write(HERE)
