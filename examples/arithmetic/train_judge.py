"""Train the tiny judge, from the policy's weights, to write critiques: `python -m examples.arithmetic.train_judge`.

Writes `judge/`. Half of its problems come with real samples of the policy, half with fresh synthetic solutions; every
critique and verdict comes from the exact checker. The rubric is the one that the pipeline uses, rendered by the same
function. Only the critique's tokens are learned.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from curators.judging.prompts import render
from curators.judging.rubric import load_rubric
from examples.arithmetic.critiques import critique
from examples.arithmetic.tiny import HERE, Example, bucketed, encode, load, sample, save, train
from examples.arithmetic.world import Problem, corrupted_solution, first_wrong, problem_stream, problems, slipped_solution

SAMPLES_SEED = 3
DECISION_WEIGHT = 4.0
"""How much more the two words that decide a line, ok and no, count in the loss than any other token."""

Pair = tuple[Problem, str, str]


def policy_samples(folder: str, *, n: int, seed: int, cache: Path | None) -> list[tuple[Problem, list[str]]]:
    """Two samples at T=1 of the policy for each of `n` training problems, kept in `cache` if one is given."""
    if n == 0:
        return []
    drawn = problems(n, seed=seed, split="train")
    if cache and cache.is_file():
        texts = json.loads(cache.read_text(encoding="utf-8"))
    else:
        model, tokenizer = load(folder)
        conversations = [[{"role": "user", "content": problem.text}] for problem in drawn for _ in range(2)]
        texts = sample(model, tokenizer, conversations, temperature=1.0, max_new_tokens=128, seed=seed, batch=256)
        if cache:
            cache.write_text(json.dumps(texts), encoding="utf-8")
    return [(problem, texts[2 * i : 2 * i + 2]) for i, problem in enumerate(drawn)]


def synthetic(problem: Problem, rng: random.Random) -> str:
    """A gold solution (1 in 5), one with the policy's slips (2 in 5), or one with a single planted error (2 in 5)."""
    kind = rng.random()
    if kind < 0.2:
        return problem.solution
    return slipped_solution(problem, rng) if kind < 0.6 else corrupted_solution(problem, rng)


def pairs(sampled: list[tuple[Problem, list[str]]], *, seed: int, longest: int) -> Iterator[Pair]:
    """Training pairs without end, half of them on problems with policy samples, in random order of presentation.

    Three of four such problems have a wrong sample: a judge that seldom sees a mistake learns to call everything right.
    """
    mistaken = [(p, texts) for p, texts in sampled if any(first_wrong(t, p.reference) is not None for t in texts)]
    rng = random.Random(seed)
    stream = (p for p in problem_stream(seed=seed, split="train") if len(p.steps) <= longest)
    while True:
        if sampled and rng.random() < 0.5:
            problem, texts = rng.choice(mistaken if rng.random() < 0.75 else sampled)
            both = [*texts]
            if rng.random() < 0.3:
                both[1] = synthetic(problem, rng)
        else:
            problem = next(stream)
            both = [synthetic(problem, rng), synthetic(problem, rng)]
        rng.shuffle(both)
        yield problem, both[0], both[1]


def examples(tokenizer: PreTrainedTokenizerFast, stream: Iterator[Pair]) -> Iterator[Example]:
    """The rendered rubric as the prompt, the gold critique as the completion."""
    rubric = load_rubric(str(HERE / "rubric.md"))
    for problem, first, second in stream:
        messages = render(rubric, prompt=problem.text, answers=[first, second])
        yield encode(tokenizer, messages, critique(first, second, problem.reference))


def main() -> None:
    """Sample the policy, train from its weights, and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=50.0)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--samples", type=int, default=2500, help="training problems to sample the policy on, twice; 0: none")
    parser.add_argument("--longest", type=int, default=8, help="the most steps of a synthetic problem")
    parser.add_argument("--cache", type=Path, help="a file that keeps the policy's samples between runs")
    parser.add_argument("--start", default=str(HERE / "policy"), help="the weights to start from")
    parser.add_argument("--out", default=str(HERE / "judge"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    sampled = policy_samples(str(HERE / "policy"), n=args.samples, seed=SAMPLES_SEED, cache=args.cache)
    model, tokenizer = load(args.start)
    weight = torch.ones(len(tokenizer))
    weight[tokenizer.convert_tokens_to_ids(["Ġok", "Ġno"])] = DECISION_WEIGHT
    steps = train(
        model,
        bucketed(examples(tokenizer, pairs(sampled, seed=args.seed, longest=args.longest)), batch=args.batch),
        pad=tokenizer.pad_token_id,
        minutes=args.minutes,
        peak=args.rate,
        weight=weight,
        on_checkpoint=lambda step: save(model, tokenizer, args.out),
    )
    save(model, tokenizer, args.out)
    print(f"{steps} steps, saved to {args.out}")


if __name__ == "__main__":
    main()
