"""The methods of flow `contrast`: what each starts from, whom it needs, and its settings, which are those of its curator.

A combination that cannot work is refused here, before anything is opened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import polars as pl
from pydantic import TypeAdapter, ValidationError

from curators.contrast.affixes import RlcdConfig, rlcd
from curators.contrast.checkers import Checker
from curators.contrast.ladders import LadderConfig, degradation_ladder
from curators.contrast.negatives import D2oConfig, d2o, reversals
from curators.contrast.prompt_side import ConstraintConfig, inter_sample, intra_sample
from curators.contrast.revisions import ClairConfig, clair
from curators.contrast.rules import READS, RULES, RuleConfig, rule_pairs
from curators.contrast.single_edits import SingleEditConfig, single_edits
from curators.contrast.step_errors import StepErrorConfig, inject_step_errors
from curators.contrast.west_of_n import WestConfig, west_of_n
from curators.errors import ConfigError
from pipelines.contrasting.config import ContrastConfig
from pipelines.contrasting.profiles import ProfilesConfig, by_profiles

Rows = Literal["prompts", "answers", "scored answers", "rejected answers", "pairs"]
"""What a method starts from. Rejected answers are those that are rejected in some pair and chosen in none."""

ROLES: Mapping[str, str] = {
    "writer": "an engine that writes",
    "verifier": "a shipped check or module:function",
    "judge": "a model judge",
}


@dataclass(frozen=True, kw_only=True)
class Hands:
    """Who writes and who checks. `checker` is the verifier where there is one, else the judge. `known`: texts known to be bad."""

    writer: Any = None  # an Engine, where a method of the run needs one
    verifier: Any = None  # a Verifier, likewise
    checker: Checker | None = None
    judge: Checker | None = None
    known: Sequence[str] = ()


Make = Callable[[pl.DataFrame, Any, Hands], "pl.DataFrame | Awaitable[pl.DataFrame]"]


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """Of a method that has none."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method. `needs` and `takes` are roles, the second where they are given; `fixed` settings are what its name says.

    `whole` says whether settings look at all attempts at once, so that they cannot be made shard by shard.
    """

    rows: Rows
    make: Make
    settings: type[Any] = NoSettings
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    only: tuple[str, ...] | None = None
    whole: Callable[[Any], bool] = lambda config: False

    @property
    def allowed(self) -> list[str]:
        """The names of its settings."""
        return [
            each.name for each in fields(self.settings) if each.name not in self.fixed and (self.only is None or each.name in self.only)
        ]


def _rule(name: str) -> Method:
    return Method(
        rows="scored answers",
        make=lambda rows, config, hands: rule_pairs(rows, config=config),
        settings=RuleConfig,
        fixed={"rule": name},
        only=tuple(READS.get(name, ())),
    )


def _profiles(place: Literal["system", "context"]) -> Method:
    return Method(
        rows="prompts",
        make=lambda rows, config, hands: by_profiles(rows, place=place, config=config, engine=hands.writer, verifier=hands.verifier),
        settings=ProfilesConfig,
        needs=("writer",),
        takes=("verifier",),
    )


METHODS: Mapping[str, Method] = {
    "rlcd": Method(
        rows="prompts",
        make=lambda rows, config, hands: rlcd(rows, config=config, engine=hands.writer, checker=hands.checker),
        settings=RlcdConfig,
        needs=("writer",),
        takes=("verifier", "judge"),
    ),
    "clair": Method(
        rows="answers",
        make=lambda rows, config, hands: clair(rows, config=config, engine=hands.writer, checker=hands.checker),
        settings=ClairConfig,
        needs=("writer",),
        takes=("verifier", "judge"),
    ),
    "ladder": Method(
        rows="answers",
        make=lambda rows, config, hands: degradation_ladder(rows, config=config, verifier=hands.verifier),
        settings=LadderConfig,
        needs=("verifier",),
    ),
    "step_error": Method(
        rows="answers",
        make=lambda rows, config, hands: inject_step_errors(rows, config=config, verifier=hands.verifier),
        settings=StepErrorConfig,
        needs=("verifier",),
    ),
    "single_edit": Method(rows="answers", make=lambda rows, config, hands: single_edits(rows, config=config), settings=SingleEditConfig),
    "west_of_n": Method(
        rows="scored answers",
        make=lambda rows, config, hands: west_of_n(rows, config=config, judge=hands.judge),
        settings=WestConfig,
        whole=lambda config: bool(config.confidence_quantile or config.likelihood_quantile),
    ),
    **{name: _rule(name) for name in RULES},
    "mapl_intra": Method(rows="answers", make=lambda rows, config, hands: intra_sample(rows, config=config), settings=ConstraintConfig),
    "mapl_inter": Method(rows="pairs", make=lambda rows, config, hands: inter_sample(rows, config=config), settings=ConstraintConfig),
    "janus": _profiles("system"),
    "context": _profiles("context"),
    "d2o": Method(
        rows="rejected answers",
        make=lambda rows, config, hands: d2o(rows, config=config, engine=hands.writer, verifier=hands.verifier, known=hands.known),
        settings=D2oConfig,
        needs=("writer",),
        takes=("verifier",),
    ),
    "reversed": Method(rows="pairs", make=lambda rows, config, hands: reversals(rows)),
}


def settings_of(name: str, given: Mapping[str, Any], *, seed: int) -> Any:
    """The settings of a method: its curator's configuration, with the run's seed where none is given.

    >>> settings_of("ladder", {"operator": "drop", "degrees": [1, 2]}, seed=3)
    LadderConfig(operator='drop', degrees=(1, 2), pairs='original', injections=(), min_edit_sim=0.0, seed=3)
    >>> settings_of("clair", {"sampling": {"temperature": 0}}, seed=3).sampling
    Sampling(temperature=0.0, top_p=1.0, max_tokens=4096, stop=(), seed=3)

    Raises:
        ConfigError: no such method or setting, or a value that is not allowed.
    """
    if name not in METHODS:
        raise ConfigError(f"methods: {name!r} is not one; there are {', '.join(METHODS)}")
    method = METHODS[name]
    if unknown := sorted(set(given) - set(method.allowed)):
        raise ConfigError(f"methods.{name}: no setting {unknown[0]!r}; there are {', '.join(method.allowed) or 'none'}")
    values = {**method.fixed, **given}
    for each in fields(method.settings):
        if each.name == "seed":
            values.setdefault("seed", seed)
        if each.name == "sampling" and isinstance(sampling := values.get("sampling", {}), dict):
            default: Any = each.default_factory() if callable(each.default_factory) else each.default
            values["sampling"] = asdict(default) | {"seed": seed} | sampling
            if unknown := sorted(set(sampling) - set(asdict(default))):
                raise ConfigError(f"methods.{name}.sampling: no setting {unknown[0]!r}; there are {', '.join(asdict(default))}")
    try:
        return TypeAdapter(method.settings).validate_python(values)
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, (name, *found["loc"])))
        raise ConfigError(f"methods.{where}: {found['msg'][0].lower()}{found['msg'][1:]}; came {found['input']!r:.80}") from error


def roles_used(config: ContrastConfig, name: str) -> set[str]:
    """The roles that a method of a configuration needs, and those that it takes because they are given."""
    method = METHODS[name]
    used = {*method.needs, *(role for role in method.takes if getattr(config, role) is not None)}
    if {"verifier", "judge"} <= used:
        used.remove("judge")  # a verifier is taken first
    if method.rows == "scored answers" and config.scores in ("verifier", "judge"):
        used.add(config.scores)
    return used


def fault(config: ContrastConfig) -> str | None:
    """Why methods, writer, verifier, judge and scores do not fit together; null where they do."""
    scored = [name for name in config.methods if METHODS[name].rows == "scored answers"]
    if config.scores == "judge" and (others := [name for name in scored if name != "west_of_n"]):
        return (
            f"scores: judge is for west_of_n, whose judge compares answers; {others[0]} takes scores: recorded, verifier or a judge's name"
        )
    if config.scores != "recorded" and not scored:
        return f"scores: no method takes scores; leave it out, or add one of west_of_n, {', '.join(RULES)}"
    used: set[str] = set()
    for name in config.methods:
        used |= roles_used(config, name)
        if missing := sorted(role for role in roles_used(config, name) if getattr(config, role) is None):
            return f"methods.{name} needs `{missing[0]}` ({ROLES[missing[0]]}); give it, or leave the method out"
    for role in ROLES:
        if getattr(config, role) is not None and role not in used:
            first = role == "judge" and config.verifier is not None and any("judge" in METHODS[name].takes for name in config.methods)
            why = "a verifier is taken first" if first else f"none of {', '.join(config.methods)} asks it"
            return f"`{role}` would not be used: {why}; leave it out"
    return None
