"""Which checks there are, and how one is named: a shipped check or `module:function`, settings in parentheses.

A check is called as `check(prompt=…, response=…, reference=…)`, all strings (the reference may be null), and returns whether the
response passes, or a score, or null where it cannot tell; `Graded` adds a reason. What is set, `numeric(rel_tol=0.01)`, is given to it by
name. Its judge is named `verifier:<name>@<digest of the code>`, so that labels made by another version of the code, or with other
settings, are labels of another judge.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType
from typing import Any, TypedDict

from curators import constraints
from curators.errors import ConfigError
from curators.judging import parsing
from curators.verifiers import answers, jail, texts, unit_tests
from curators.verifiers.unit_tests import Graded

Check = Callable[..., "bool | float | Graded | None"]


class Case(TypedDict):
    """What a check is called with."""

    prompt: str
    response: str
    reference: str | None


CHECKS: Mapping[str, Check] = {
    "exact": answers.exact,
    "numeric": answers.numeric,
    "boxed": answers.boxed,
    "choice": answers.choice,
    "math": answers.equivalent,
    "regex": texts.regex,
    "contains": texts.contains,
    "length": texts.length,
    "json": texts.is_json,
    "lowercase": texts.lowercase,
    "uppercase": texts.uppercase,
    "constraints": texts.all_of,
    "constraints_share": texts.share_of,
    "unit_tests": unit_tests.unit_tests,
}

QUICK = frozenset({"exact", "numeric", "boxed", "choice", "lowercase", "uppercase"})
"""The shipped checks that take no longer than the text is long, and are called in the event loop on texts of fewer than `QUICK_CHARS`."""

QUICK_CHARS = 10_000

_CODE: Mapping[ModuleType, Sequence[ModuleType]] = {answers: (parsing,), texts: (constraints,), unit_tests: (jail,)}
_LIBRARIES = {"math": "math-verify", "json": "jsonschema"}
_SPEC = re.compile(r"(?P<name>[^()]+?)\s*(?:\((?P<settings>.*)\))?\s*", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verifier:
    """A check with its name, its settings included, and the digest of its code.

    It is called in this process, where it must neither hang nor take long, on texts of fewer than `in_process_chars` characters. On any
    other a worker process calls it, which loads it by its name from `module` (null: a shipped one). `own_limit_s` is the time limit that a
    check sets itself, and is given beside anybody else's.
    """

    name: str
    check: Check
    code_digest: str
    in_process_chars: float = 0
    module: str | None = None
    own_limit_s: float = 0.0

    @property
    def judge(self) -> str:
        """What `judgments.judge` holds."""
        return f"verifier:{self.name}@{self.code_digest}"


def load_verifier(spec: str) -> Verifier:
    """A shipped check by name, or `module:function`, with settings in parentheses where it has some.

    >>> load_verifier("numeric").judge.startswith("verifier:numeric@")
    True
    >>> load_verifier("numeric( rel_tol = 1e-2 )").name
    'numeric(rel_tol=0.01)'

    Raises:
        ConfigError: no such check, module or function, or one that cannot be called with prompt, response, reference and the settings.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ConfigError(f"verifier: {spec!r} is none; give a name or module:function, with settings as in numeric(rel_tol=0.01)")
    name, settings = match["name"], _settings(spec, match["settings"] or "")
    check = _imported(name) if ":" in name else _shipped(name)
    limits = _bound(spec, check, settings)
    shipped = CHECKS.get(name) is check
    return Verifier(
        name=f"{name}({', '.join(f'{key}={settings[key]!r}' for key in sorted(settings))})" if settings else name,
        check=functools.partial(check, **settings) if settings else check,
        code_digest=_digest(name, check, shipped=shipped),
        in_process_chars=QUICK_CHARS if shipped and name in QUICK else 0,
        module=None if shipped else check.__module__,
        own_limit_s=float(limits.get("timeout_s") or 0),
    )


def _settings(spec: str, text: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"settings({text})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args or not all(k.arg for k in call.keywords):
            raise ValueError("each needs a name")
        return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"verifier {spec!r}: the settings cannot be read: {error}; write them as in numeric(rel_tol=0.01)") from error


def _shipped(name: str) -> Check:
    if name not in CHECKS:
        raise ConfigError(f"verifier: {name!r} is not shipped; there are {sorted(CHECKS)}, or give module:function")
    return CHECKS[name]


def _imported(name: str) -> Check:
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"verifier {name!r}: cannot import {module_name!r}: {error}; is its folder on PYTHONPATH?") from error
    check: Check | None = getattr(module, function_name, None)
    if not callable(check):
        raise ConfigError(f"verifier {name!r}: {module_name!r} has no function {function_name!r}")
    return check


def _bound(spec: str, check: Check, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The check's settings with their defaults; refused is one that it does not have, or of another type than its default."""
    try:
        bound = inspect.signature(check).bind(prompt="", response="", reference=None, **settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"verifier {spec!r} must take prompt, response and reference by name: {error}") from error
    for name, value in settings.items():
        parameter = bound.signature.parameters.get(name)
        default = None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default
        fits = isinstance(value, type(default)) or (isinstance(default, float) and type(value) is int)
        if default is not None and not fits:
            raise ConfigError(f"verifier {spec!r}: {name} is {value!r}, must be of type {type(default).__name__}, as {default!r} is")
    bound.apply_defaults()
    return dict(bound.arguments)


def _digest(name: str, check: Check, *, shipped: bool) -> str:
    """Of the source of the module that defines the check; for a shipped one also of what that relies on."""
    module = sys.modules.get(check.__module__) or sys.modules[name.partition(":")[0]]
    modules = [module, *(_CODE[module] if shipped else ())]
    try:
        source = "\n".join(inspect.getsource(each) for each in modules)
    except (OSError, TypeError) as error:
        raise ConfigError(f"verifier: the source of {module.__name__!r} cannot be read, so its code has no digest: {error}") from error
    if shipped and name in _LIBRARIES:
        source += version(_LIBRARIES[name])
    return hashlib.sha256(source.encode()).hexdigest()[:12]
