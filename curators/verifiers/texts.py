"""Checks of a text's form: patterns, keywords, length, case, JSON, and any list of constraints (`curators.constraints`)."""

from __future__ import annotations

import json
import re
from typing import Any

from curators import constraints


def regex(*, prompt: str, response: str, reference: str | None) -> bool | None:
    """The reference, a regular expression, is found in the response."""
    return None if reference is None else re.search(reference, response) is not None


def contains(*, prompt: str, response: str, reference: str | None) -> bool | None:
    """The reference, a keyword or a JSON list of them, stands in the response as whole words."""
    if reference is None:
        return None
    keywords = json.loads(reference) if reference.lstrip().startswith("[") else [reference]
    return constraints.holds(response, {"kind": "contains_all", "value": keywords})


def length(*, prompt: str, response: str, reference: str | None) -> bool | None:
    """Every bound of the reference holds: a JSON object such as `{"min_words": 20, "max_sentences": 3}`."""
    if reference is None:
        return None
    return all(constraints.holds(response, {"kind": kind, "value": value}) for kind, value in json.loads(reference).items())


def is_json(*, prompt: str, response: str, reference: str | None) -> bool:
    """The response is JSON and nothing else. The reference, where there is one, is a JSON list of keys that it must have, or a JSON object:
    the JSON Schema that it must meet (`$ref` to another document is an error; nothing is fetched).

    >>> is_json(prompt="", response='{"n": 3}', reference='{"properties": {"n": {"type": "integer"}}, "required": ["n"]}')
    True
    """
    wanted = json.loads(reference) if reference else None
    if not isinstance(wanted, dict):
        return constraints.holds(response, {"kind": "json", "value": wanted})
    try:
        value = constraints.parse_json(response)
    except ValueError:
        return False
    return _meets(value, wanted)


def _meets(value: Any, schema: dict[str, Any]) -> bool:
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    kind = validator_for(schema, default=Draft202012Validator)
    kind.check_schema(schema)
    return bool(kind(schema, registry=Registry()).is_valid(value))


def lowercase(*, prompt: str, response: str, reference: str | None) -> bool:
    """No letter of the response is upper case."""
    return constraints.holds(response, {"kind": "lowercase"})


def uppercase(*, prompt: str, response: str, reference: str | None) -> bool:
    """No letter of the response is lower case."""
    return constraints.holds(response, {"kind": "uppercase"})


def all_of(*, prompt: str, response: str, reference: str | None) -> bool:
    """Every constraint of the reference holds.

    >>> all_of(prompt="", response="The ocean is deep.", reference='{"constraints": [{"kind": "contains", "value": "ocean"}]}')
    True
    """
    return all(constraints.holds(response, constraint) for constraint in constraints.constraints_of(reference))


def share_of(*, prompt: str, response: str, reference: str | None) -> float:
    """The share of the reference's constraints that hold."""
    wanted = constraints.constraints_of(reference)
    return sum(constraints.holds(response, constraint) for constraint in wanted) / len(wanted)
