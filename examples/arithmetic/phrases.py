"""The English of the word problems: people, things, and the sentence patterns of each split.

A sentence pattern is an opening joined to a clause ("Later, {who} buys {n} more {things}."). Every opening and every
clause occurs in both splits, but each *pair* of them belongs to one split only, so a held-out problem is written
entirely in sentences that training never showed, out of words that it did. A from-scratch model of this size cannot
know a verb that it never saw; what is tested is new sentences and new numbers, not new vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

PEOPLE = (
    ("Ana", "she"),
    ("Ben", "he"),
    ("Cara", "she"),
    ("Dev", "he"),
    ("Eva", "she"),
    ("Finn", "he"),
    ("Gita", "she"),
    ("Hugo", "he"),
)
THINGS = ("books", "coins", "cards", "shells", "apples", "stamps", "beads", "pens")

OPENINGS = ("", "Then ", "Later, ", "The next day ", "After lunch, ", "On Monday, ")
CLAUSES = {
    "+": (
        "{who} buys {n} more {things}",
        "{who} finds {n} {things}",
        "{who} gets {n} {things} as a gift",
        "a friend brings {n} more {things}",
        "{who} wins {n} {things}",
        "{who} picks up {n} more",
    ),
    "-": (
        "{who} gives away {n} {things}",
        "{who} sells {n} of the {things}",
        "{who} loses {n} {things}",
        "a friend takes {n} of the {things}",
        "{who} drops {n} {things}",
        "{who} uses up {n}",
    ),
    "*": (
        "the number of {things} grows to {n} times as many",
        "{who} swaps each of the {things} for {n} new ones",
        "{who} ends up with {n} times as many {things}",
        "a friend makes the pile of {things} {n} times as big",
        "the {things} become {n} times as many",
        "{who} trades every one for {n}",
    ),
}
STARTS = (
    "{name} has {n} {things}.",
    "{name} starts with {n} {things}.",
    "There are {n} {things} in a box, and they belong to {name}.",
    "{name} owns {n} {things}.",
)
QUESTIONS = (
    "How many {things} does {name} have now?",
    "How many {things} does {name} have in the end?",
    "How many {things} are there now?",
    "How many {things} are there in the end?",
)


class Patterns(NamedTuple):
    """The sentence patterns of one split: `frames` are (start, question); `steps[op]` are (opening, clause)."""

    frames: tuple[tuple[str, str], ...]
    steps: dict[str, tuple[tuple[str, str], ...]]


def patterns(*, heldout: bool) -> Patterns:
    """The patterns of the held-out split (a quarter of the frames, a third of the steps), or of all the others.

    >>> train, unseen = patterns(heldout=False), patterns(heldout=True)
    >>> set(train.steps["+"]) & set(unseen.steps["+"])
    set()
    >>> len(train.steps["+"]), len(unseen.steps["+"])
    (24, 12)
    """
    frames = [(s, q) for i, s in enumerate(STARTS) for j, q in enumerate(QUESTIONS) if ((i + j) % 4 == 0) == heldout]
    steps = {
        op: tuple((o, c) for i, o in enumerate(OPENINGS) for j, c in enumerate(clauses) if ((i + j) % 3 == 0) == heldout)
        for op, clauses in CLAUSES.items()
    }
    return Patterns(tuple(frames), steps)
