"""A process that runs checks for others: one JSON object a line on standard input, one in reply on standard output.

`{"load": name, "digest": …, "path": sys.path}` imports a verifier and answers `{}`, or `{"error": …}`;
`{"check": name, "case": {…}, "timeout_s": …}` answers with the outcome. Whoever asks kills it when an answer takes too
long; it ends with its standard input, and by an alarm should it then be inside a check. What checks print goes to standard error.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
from typing import Any

from curators.errors import ConfigError
from curators.verifiers.grading import outcome
from curators.verifiers.registry import Verifier, load_verifier

SHIPPED_MEMORY = 2 << 30  # bytes of data: mathematics can ask for any amount
_LOADED: dict[str, Verifier] = {}


def main() -> None:
    with os.fdopen(os.dup(0), encoding="utf-8") as asked, os.fdopen(os.dup(1), "w", encoding="utf-8") as said:
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        for line in asked:
            said.write(json.dumps(_answer(json.loads(line))) + "\n")
            said.flush()


def _answer(message: dict[str, Any]) -> dict[str, Any]:
    if "load" in message:
        return _load(message)
    verifier = _LOADED[message["check"]]
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    bounded = verifier.module is None and most == resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_DATA, (SHIPPED_MEMORY if bounded else most, most))
    signal.alarm(math.ceil(message["timeout_s"]) + 1)
    try:
        return outcome(verifier, message["case"])
    finally:
        signal.alarm(0)


def _load(message: dict[str, Any]) -> dict[str, Any]:
    sys.path[:] = message["path"]
    try:
        verifier = load_verifier(message["load"])
    except ConfigError as error:
        return {"error": str(error)}
    if verifier.code_digest != message["digest"]:
        return {"error": f"its code has changed: the digest was {message['digest']} and is {verifier.code_digest}"}
    _LOADED[verifier.name] = verifier
    return {}
