"""Programmatic checks as judges: a shipped check by name, or a user's own function as `module:function` (docs/verifiers.md).

`registry` names them, `answers`, `texts` and `unit_tests` are those shipped, `grading` makes judgments of what they say, and `processes`
runs those that may hang in worker processes, which are killed at a time limit.
"""

from __future__ import annotations

from curators.verifiers.grading import TIMEOUT_S, verify_group, verify_rows
from curators.verifiers.registry import CHECKS, Check, Verifier, load_verifier
from curators.verifiers.unit_tests import Graded

__all__ = ["CHECKS", "TIMEOUT_S", "Check", "Graded", "Verifier", "load_verifier", "verify_group", "verify_rows"]
