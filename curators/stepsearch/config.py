"""How a tree is searched, and the three named ways.

`paper` is the text of MCTS-DPO (Xie et al. 2024, arXiv 2405.00451), `ref` its released code (`YuxiXie/MCTS-DPO`, commit fb23437), `default`
ours. Where they differ, and why ours does:

| field | paper | ref | default |
|---|---|---|---|
| `prior_mode`, `length_power` | paper, 1 | ref, 1.25 | sibling_softmax, 1 |
| `backup_weights` | visits | at_least_one | visits |
| `root_visits` | 1 | 2 | 1 |
| `tie_rule` | index | index | prior |
| `simulations`, `root_multiplier` | 5, 1 | 64, 4 | 32, 1 |
| `first_children`, `children`, `depth_limit` | 5, 3, 4 | 2, 2, 3 | 4, 3, none |
| `truncated_outcome` | -1 | none | -1 |
| `adjustments` | none | ref | none |

Why ours deviates. Prior: π/len vanishes for a long step (2.6e-4 at 16 tokens), exp(log π/len^1.25) stays near 1 and rewards length,
and neither sums to 1 over siblings. Backup: an unvisited sibling has no value worth averaging in. Root: counted twice, its exploration is
√2 too large. Ties: the likelier of equal steps, as nothing else tells them apart. Simulations: 5 leave most of a tree unsearched, and
beyond saturation (66 expansions for 5, 3, 4) they only move visit counts. Depth: a simulation that ends before the answer learns nothing
from a verifier, and where that is the only value, early steps stay at 0 and give no pairs. Truncated: an answer that never comes is
wrong. Adjustments: factors that the paper does not mention (`values.state_value`).

What concerns sampling is the caller's: duplicates, a reference solution as a candidate, the self-evaluation prompt. Not done: the
reference's commit temperature (0 in every script) and its KL term (never in effect).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Literal, get_args, get_type_hints

from curators.errors import ConfigError

PriorMode = Literal["sibling_softmax", "ref", "paper"]
BackupWeights = Literal["visits", "at_least_one"]
TieRule = Literal["prior", "index"]
CommitRule = Literal["visits_range", "visits", "q"]
Adjustments = Literal["none", "ref"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueWeights:
    """R(s) = verifier · O(s) + self_eval · C(s) + reward · ρ(s). A part that nobody was asked for is 0; one of weight 0 is not asked for.

    Raises:
        ConfigError: a weight that is negative or no number.
    """

    verifier: float = 1.0
    self_eval: float = 1.0
    reward: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= (weight := getattr(self, field.name)) < math.inf:
                raise ConfigError(f"search: the weight {field.name} is {weight}, must be a number ≥ 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """The parameters of one tree. The defaults are the recommended ones; `PRESETS` has all three ways.

    `simulations` are made before each commit, `root_multiplier` times as many before the first. `depth_limit` counts steps below the
    current root (null: none) and `max_depth` below the prompt, where the search ends. `virtual_loss` is how much a simulation in flight
    lowers Q of the steps on its path (0: it only adds to their visits). `prior_temperature` divides log-probabilities in the mode
    sibling_softmax. `truncated_outcome` is O of an answer that was cut off (null: it keeps only what else it is worth). `weights` are those
    of the parts of a value.
    """

    c_puct: float = 1.0
    gamma: float = 1.0
    prior_mode: PriorMode = "sibling_softmax"
    length_power: float = 1.0
    prior_temperature: float = 1.0
    backup_weights: BackupWeights = "visits"
    root_visits: int = 1
    tie_rule: TieRule = "prior"
    simulations: int = 32
    root_multiplier: int = 1
    first_children: int = 4
    children: int = 3
    depth_limit: int | None = None
    max_depth: int | None = 16
    commit_rule: CommitRule = "visits_range"
    virtual_loss: float = 0.0
    truncated_outcome: float | None = -1.0
    adjustments: Adjustments = "none"
    weights: ValueWeights = ValueWeights()

    def __post_init__(self) -> None:
        hints = get_type_hints(SearchConfig)
        for field in fields(self):
            value, allowed = getattr(self, field.name), get_args(hints[field.name])
            if isinstance(value, str) and value not in allowed:
                raise ConfigError(f"search: {field.name} is {value!r}; allowed are {list(allowed)}")
        at_least = {
            "simulations": 1,
            "root_multiplier": 1,
            "first_children": 1,
            "children": 1,
            "depth_limit": 1,
            "max_depth": 1,
            "c_puct": 0,
        }
        for name, least in at_least.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise ConfigError(f"search: {name} is {value}, must be ≥ {least}")
        if not 0 <= self.gamma <= 1 or self.root_visits not in (1, 2) or self.virtual_loss < 0 or self.prior_temperature <= 0:
            raise ConfigError(
                f"search: gamma is {self.gamma}, must be in [0, 1]; root_visits is {self.root_visits}, must be 1 or 2; "
                f"virtual_loss is {self.virtual_loss}, must be ≥ 0; prior_temperature is {self.prior_temperature}, must be > 0"
            )

    def children_at(self, depth: int) -> int:
        """How many steps to sample below a node of that depth."""
        return self.children if depth else self.first_children

    def simulations_at(self, depth: int) -> int:
        """How many simulations to make at a root of that depth."""
        return self.simulations if depth else self.simulations * self.root_multiplier


PRESETS: Mapping[str, SearchConfig] = MappingProxyType(
    {
        "default": SearchConfig(),
        "paper": SearchConfig(prior_mode="paper", tie_rule="index", simulations=5, first_children=5, children=3, depth_limit=4),
        "ref": SearchConfig(
            prior_mode="ref",
            length_power=1.25,
            backup_weights="at_least_one",
            root_visits=2,
            tie_rule="index",
            simulations=64,
            root_multiplier=4,
            first_children=2,
            children=2,
            depth_limit=3,
            truncated_outcome=None,
            adjustments="ref",
        ),
    }
)
"""The searches by name; `dataclasses.replace` changes one."""


def preset(name: str) -> SearchConfig:
    """A search by name.

    >>> preset("ref").root_visits
    2

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"search: there is no preset {name!r}; there are {sorted(PRESETS)}")
    return PRESETS[name]
