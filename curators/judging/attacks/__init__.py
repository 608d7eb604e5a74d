"""Attacks on judges: a suite of named ones, a run of them against any judge, and what can and cannot be said of the outcome.

`suite` holds the attacks, `texts` what they write, `audit` asks the judge, `outcomes` counts.
"""

from curators.judging.attacks.audit import Item, attack_judge, items_of_gold
from curators.judging.attacks.outcomes import LIMITS, attack_line, attack_rows, fooled, judged_attacks
from curators.judging.attacks.suite import ATTACKS, KINDS, Attack, Kind, choose_attacks

__all__ = [
    "ATTACKS",
    "KINDS",
    "LIMITS",
    "Attack",
    "Item",
    "Kind",
    "attack_judge",
    "attack_line",
    "attack_rows",
    "choose_attacks",
    "fooled",
    "items_of_gold",
    "judged_attacks",
]
