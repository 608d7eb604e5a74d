"""Measure the policy and the judge on held-out problems: `python -m examples.arithmetic.evaluate`.

Prints one JSON object. Problems come from the `heldout` split (numbers and sentence patterns that no training saw);
the judge sees pairs of real policy samples, each pair in both orders, and answers greedily. A verdict is compared with
the exact checker. Position bias is reported, not corrected: how often the verdict changes when the two solutions
change places, and how often the judge names the solution shown first.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import defaultdict
from typing import Any

import torch

from curators.judging.prompts import render
from curators.judging.rubric import load_rubric
from examples.arithmetic.critiques import verdict
from examples.arithmetic.tiny import HERE, load, sample
from examples.arithmetic.world import Problem, check_answer, check_steps, problems

Pair = tuple[Problem, str, str]

_VERDICT = re.compile(r"^Verdict: (A|B|tie)$", re.MULTILINE)
_SWAPPED = {"A": "B", "B": "A", "tie": "tie", None: None}


def measure_policy(folder: str, drawn: list[Problem]) -> tuple[dict[str, Any], list[str]]:
    """Accuracy of one sample at T=1 and of greedy decoding, and three more samples each for the judge's pairs."""
    model, tokenizer = load(folder)
    conversations = [[{"role": "user", "content": problem.text}] for problem in drawn]
    greedy = sample(model, tokenizer, conversations, temperature=0.0, max_new_tokens=128)
    drawings = [sample(model, tokenizer, conversations, temperature=1.0, max_new_tokens=128, seed=s) for s in range(4)]
    by_length: dict[int, list[bool]] = defaultdict(list)
    for problem, text in zip(drawn, drawings[0], strict=True):
        by_length[len(problem.steps)].append(is_right(problem, text))
    report = {
        "problems": len(drawn),
        "accuracy_t1": share([is_right(p, t) for texts in drawings for p, t in zip(drawn, texts, strict=True)]),
        "answer_accuracy_t1": share([answers(p, t) for texts in drawings for p, t in zip(drawn, texts, strict=True)]),
        "accuracy_greedy": share([is_right(p, t) for p, t in zip(drawn, greedy, strict=True)]),
        "accuracy_t1_by_steps": {n: share(hits) for n, hits in sorted(by_length.items())},
    }
    return report, [text for four in zip(*drawings, strict=True) for text in four]


def is_right(problem: Problem, text: str) -> bool:
    """Every step and the answer."""
    return check_steps(prompt=problem.text, response=text, reference=problem.reference)


def answers(problem: Problem, text: str) -> bool:
    """The answer alone."""
    return check_answer(prompt=problem.text, response=text, reference=problem.reference)


def choose_pairs(drawn: list[Problem], texts: list[str], *, n_ties: int) -> list[Pair]:
    """For each problem with both a right and a wrong sample the first of each, as drawn; and `n_ties` pairs of alikes."""
    decidable, ties = [], []
    for i, problem in enumerate(drawn):
        four = texts[4 * i : 4 * i + 4]
        others = [j for j in range(1, 4) if is_right(problem, four[j]) != is_right(problem, four[0])]
        if others:
            decidable.append((problem, four[0], four[others[0]]))
        else:
            ties.append((problem, four[0], four[1]))
    return decidable + ties[:n_ties]


def measure_judge(folder: str, pairs: list[Pair]) -> dict[str, Any]:
    """Agreement with the checker over both orders of every pair, position bias, and the length of the critiques."""
    model, tokenizer = load(folder)
    rubric = load_rubric(str(HERE / "rubric.md"))
    shown = [(p, *order) for p, a, b in pairs for order in ((a, b), (b, a))]
    prompts = [render(rubric, prompt=p.text, answers=[first, second]) for p, first, second in shown]
    replies = sample(model, tokenizer, prompts, temperature=0.0, max_new_tokens=400, batch=64)
    said = [match[-1] if (match := _VERDICT.findall(reply)) else None for reply in replies]
    gold = [verdict(first, second, p.reference) for p, first, second in shown]
    hits = [s == g for s, g in zip(said, gold, strict=True)]
    decidable = [i for i, g in enumerate(gold) if g != "tie"]
    by_steps: dict[int, list[bool]] = defaultdict(list)
    for i in decidable:
        by_steps[len(shown[i][0].steps)].append(hits[i])
    flips = [said[i] != _SWAPPED[said[i + 1]] for i in decidable if i % 2 == 0]
    return {
        "decidable_pairs": len(decidable) // 2,
        "agreement": share([hits[i] for i in decidable]),
        "agreement_by_steps": {n: share(h) for n, h in sorted(by_steps.items())},
        "agreement_right_one_first": share([hits[i] for i in decidable if gold[i] == "A"]),
        "agreement_right_one_second": share([hits[i] for i in decidable if gold[i] == "B"]),
        "verdict_changes_on_swap": share(flips),
        "names_first": share([said[i] == "A" for i in decidable]),
        "names_second": share([said[i] == "B" for i in decidable]),
        "says_tie": share([said[i] == "tie" for i in decidable]),
        "no_verdict": share([s is None for s in said]),
        "tie_pairs": (len(shown) - len(decidable)) // 2,
        "tie_agreement": share([h for h, g in zip(hits, gold, strict=True) if g == "tie"]),
        "mean_critique_tokens": round(sum(len(tokenizer(r)["input_ids"]) for r in replies) / max(1, len(replies)), 1),
    }


def share(hits: list[bool]) -> float | None:
    """The share of true values, or None of nothing.

    >>> share([True, True, False]), share([])
    (0.667, None)
    """
    return round(sum(hits) / len(hits), 3) if hits else None


def main() -> None:
    """Draw problems, measure both models, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--ties", type=int, default=100)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--policy", default=str(HERE / "policy"))
    parser.add_argument("--judge", default=str(HERE / "judge"), help="a folder, or 'none' to measure the policy alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    drawn = problems(args.problems, seed=args.seed, split="heldout")
    policy, texts = measure_policy(args.policy, drawn)
    report = {"policy": policy}
    if args.judge != "none":
        report["judge"] = measure_judge(args.judge, choose_pairs(drawn, texts, n_ties=args.ties))
    print(json.dumps({**report, "minutes": round((time.monotonic() - began) / 60, 1)}, indent=2))


if __name__ == "__main__":
    main()
