"""From a YAML file and `--set KEY=VALUE` to a checked configuration, with errors that a person can act on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from curators.errors import ConfigError
from pipelines.config import ExportConfig, ImportConfig, TrainConfig
from pipelines.contrasting.config import ContrastConfig
from pipelines.evidence.config import EvidenceConfig
from pipelines.iterating.config import IterateConfig
from pipelines.judging.config import CurateConfig
from pipelines.nightly.config import NightlyConfig
from pipelines.references.config import ScoreConfig
from pipelines.selecting.config import SelectionConfig
from pipelines.steps.config import StepsConfig

FLOW_CONFIGS: dict[str, type[BaseModel]] = {
    "curate": CurateConfig,
    "steps": StepsConfig,
    "select": SelectionConfig,
    "contrast": ContrastConfig,
    "score": ScoreConfig,
    "train": TrainConfig,
    "nightly": NightlyConfig,
    "iterate": IterateConfig,
    "evidence": EvidenceConfig,
    "export": ExportConfig,
    "import": ImportConfig,
}
BARE = {**dict.fromkeys(("policy", "judge", "reward", "rationale", "writer"), "engine"), "selector": "selector"}
"""The keys whose value may be a bare string, and which of its keys that is."""
TOKEN = re.compile(r"hf_\w{6,}")
"""A token of the Hugging Face Hub, wherever somebody wrote it: no message repeats it."""


def load_config(flow: str, file: str | None, assignments: Iterable[str]) -> BaseModel:
    """The configuration of a flow.

    Args:
        flow: a name in `FLOW_CONFIGS`.
        file: a YAML mapping, or null.
        assignments: `a.b=value`, applied in order over the file; the value is YAML (`5`, `true`, `[a, b]`, text).

    Raises:
        ConfigError: one line a problem, each with the key's path, what came and what is allowed.
    """
    if flow not in FLOW_CONFIGS:
        raise ConfigError(f"no flow {flow!r}; there are {sorted(FLOW_CONFIGS)}")
    return assigned(FLOW_CONFIGS[flow], _read(file) if file is not None else {}, assignments)


Model = TypeVar("Model", bound=BaseModel)


def assigned(model: type[Model], values: dict[str, Any], assignments: Iterable[str]) -> Model:
    """The model of these values after `a.b=value` assignments.

    Raises:
        ConfigError: as `load_config`.
    """
    for assignment in assignments:
        _assign(values, assignment)
    return validated(model, values)


def validated(model: type[Model], values: Mapping[str, Any]) -> Model:
    """The model, or a ConfigError that names every problem."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_problem(model, dict(found)) for found in error.errors()]
        # A value that fits none of several types is one problem: the first says what is wrong with it.
        first = {problem.partition(": ")[0]: problem for problem in reversed(problems)}
        raise ConfigError("\n".join(reversed(first.values()))) from error


def check_inputs(config: Any) -> None:
    """Refuse a file or verifier that is not there, before a server is started for the run.

    Raises:
        ConfigError: what is not there, under the key that names it.
    """
    from curators.verifiers import load_verifier  # here, so that help is instant

    for stage in getattr(config, "stages", {}).values():
        check_inputs(stage)
    evaluation = getattr(config, "evaluation", None)
    places = [("prompts", getattr(config, "prompts", None)), *(("files", file) for file in getattr(config, "files", ()))]
    places += [("evaluation.prompts", evaluation.prompts)] if evaluation else []
    filters = getattr(config, "filters", {})
    places += [(f"filters.{name}.against", given["against"]) for name, given in filters.items() if isinstance(given.get("against"), str)]
    for name, path in places:
        if path is not None and not Path(path).exists():
            raise ConfigError(f"{name}: no file {path!r}; give a .jsonl[.gz], .parquet or .csv file")
    for verifier in (getattr(config, "verifier", None), evaluation.verifier if evaluation else None):
        if verifier is not None:
            load_verifier(verifier)


def _read(file: str) -> dict[str, Any]:
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"--config: no file {file!r}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--config {file}: must be a mapping of keys to values, is {type(values).__name__}")
    return values


def _assign(values: dict[str, Any], assignment: str) -> None:
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {assignment!r}: must be KEY=VALUE, such as sampling.n=8")
    *parents, last = path.split(".")
    for key in parents:
        if key in BARE and isinstance(values.get(key), str):  # the shorthand `policy: hf:…`, about to get a second key
            values[key] = {BARE[key]: values[key]}
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {assignment!r}: {key!r} is {inner!r}, which has no keys")
        values = inner
    try:
        value = yaml.safe_load(text)
        values[last] = text if isinstance(value, dict) and not text.lstrip().startswith("{") else value  # `fake:` is a spec
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment!r}: the value is not YAML: {' '.join(str(error).split())}") from error


def _problem(model: type[BaseModel], found: dict[str, Any]) -> str:
    path = [part for part in found["loc"] if isinstance(part, int) or part.isidentifier()]  # `literal['x']` is a type, and no key
    name = ".".join(map(str, path)) or "the configuration"
    came = TOKEN.sub("hf_…", repr(found.get("input")))
    came = came if len(came) <= 80 else came[:77] + "..."
    if found["type"] == "extra_forbidden":
        allowed = sorted(_fields_at(model, path[:-1]))
        near = difflib.get_close_matches(str(path[-1]), allowed, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{name}: no such key (value {came}); {hint}allowed here: {', '.join(allowed)}"
    if found["type"] == "missing":
        return f"{name}: is required and missing; add it to the file or give --set {name}=…"
    message = found["msg"].removeprefix("Value error, ")
    if not path:  # about the whole of it, which the user can see
        return f"{name}: {message[0].lower() + message[1:]}"
    return f"{name}: {message[0].lower() + message[1:]}; came {came}"


def _fields_at(model: type[BaseModel], path: list[str | int]) -> Iterable[str]:
    """The keys of the nested model at a path of an error's location."""
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return model.model_fields


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
