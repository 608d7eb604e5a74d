"""What can go wrong in curation, as types.

A `CurationError` is the caller's to mend (a wrong column, a wrong key, a dead endpoint). A bad *row* is never an
exception: it is a row with a state and a reason (`curators.schema`).
"""

from __future__ import annotations


class CurationError(Exception):
    """The root of everything that `curators` raises on purpose."""


class SchemaError(CurationError):
    """A frame lacks a column, has a wrong type, or breaks a promise about nulls or ids."""


class ConfigError(CurationError):
    """A parameter, rubric, engine spec or `module:function` is not what it must be."""


class EngineError(CurationError):
    """An engine cannot serve: a model that does not load, a field that the server refuses for good, a replay miss."""


class EngineBusy(EngineError):
    """The endpoint itself is down or refuses everything. The only error that a Prefect task retries."""


class VerdictError(CurationError):
    """Judgments that cannot be combined: of different prompts, or about generations that are not there."""
