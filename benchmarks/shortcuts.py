"""The shortcut audit over existing preference data: one JSON line a set and rule, one with the ablations and shares, one with the gate.

python benchmarks/shortcuts.py --files ultrafeedback_binarized_sample.jsonl.gz hh_rlhf_harmless_base_test.jsonl.gz
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from curators.diagnostics import audit_shortcuts
from curators.gates import Candidate, max_shortcut_accuracy
from curators.importing import import_facts
from curators.judging.verdicts import group_scores, verdicts
from curators.pairs import PairConfig, build_pairs
from storage.files import read_rows


def report(path: Path) -> None:
    """The file's recorded pairs, audited."""
    facts = import_facts({path.name: read_rows(path)}, name=path.name)
    decided = verdicts(facts.judgments)
    scores = group_scores(decided, facts.generations, facts.judgments)
    pairs, _ = build_pairs(facts.prompts, facts.generations, scores, verdicts=decided, config=PairConfig(pair_policy="recorded"))
    summary = audit_shortcuts(pairs).summary
    for row in summary["shortcuts"].values():
        _print(path, row)
    _print(path, {name: value for name, value in summary.items() if name != "shortcuts"})
    _print(path, max_shortcut_accuracy(Candidate(pairs=pairs, audit=summary), 0.65).as_dict())


def _print(path: Path, row: dict[str, Any]) -> None:
    print(json.dumps({"bench": "shortcuts", "set": path.name} | row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, nargs="+", required=True)
    for path in parser.parse_args().files:
        report(path)


if __name__ == "__main__":
    main()
