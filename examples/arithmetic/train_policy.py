"""Train the tiny policy from scratch on solutions with slips: `python -m examples.arithmetic.train_policy`.

Writes `policy/`. One thread; minutes, not steps, set the schedule. The slips (`world.slipped_solution`) are what
preference training can remove later.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator

import torch
from transformers import PreTrainedTokenizerFast

from curators.judging.prompts import render
from curators.judging.rubric import load_rubric
from examples.arithmetic.critiques import critique
from examples.arithmetic.tiny import HERE, Example, bucketed, build_model, build_tokenizer, encode, load, save, train
from examples.arithmetic.world import problem_stream, problems, slipped_solution


def tokenizer_texts() -> list[str]:
    """What the tokenizer learns its merges from: problems, solutions, the rubric, critiques."""
    rng, rubric = random.Random(0), load_rubric(str(HERE / "rubric.md"))
    texts = []
    for problem in problems(1500, seed=1, split="train"):
        first, second = slipped_solution(problem, rng, scale=2), slipped_solution(problem, rng)
        messages = render(rubric, prompt=problem.text, answers=[first, second])
        texts += [first, critique(first, second, problem.reference)]
        texts += ["\n".join(f"{m['role']}\n{m['content']}" for m in messages), "user\nassistant\n"]
    return texts


def examples(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> Iterator[Example]:
    """Problems of the train split with a slipped solution each, without end."""
    rng = random.Random(seed)
    for problem in problem_stream(seed=seed, split="train"):
        messages = [{"role": "user", "content": problem.text}]
        yield encode(tokenizer, messages, slipped_solution(problem, rng))


def main() -> None:
    """Build the tokenizer and the model, train, and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--start", help="go on from these weights instead of fresh ones")
    parser.add_argument("--out", default=str(HERE / "policy"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.start:
        model, tokenizer = load(args.start)
    else:
        tokenizer = build_tokenizer(tokenizer_texts())
        model = build_model(tokenizer, seed=args.seed)
    steps = train(
        model,
        bucketed(examples(tokenizer, seed=args.seed), batch=args.batch),
        pad=tokenizer.pad_token_id,
        minutes=args.minutes,
        peak=args.rate,
        on_checkpoint=lambda step: save(model, tokenizer, args.out),
        checkpoint_minutes=2.0,
    )
    save(model, tokenizer, args.out)
    print(f"{steps} steps, {model.num_parameters()} parameters, saved to {args.out}")


if __name__ == "__main__":
    main()
