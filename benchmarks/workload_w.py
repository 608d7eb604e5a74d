"""Workload W in Pairmill, one run: N prompts × 4 samples, one judge call over the four, highest against lowest → pairs, published.

`--mode n`: one request with n=4 (2 N requests); `--mode x`: one request a sample (5 N). The whole product runs: Prefect flow,
call ledger, funnel, gates, lake, frozen copy. A harness starts this as a process and measures it from outside; `overhead.py` is ours.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

RUBRIC = Path(__file__).parent / "rubrics" / "workload_w.md"


def main() -> int:
    from pipelines.commands.running import EXIT_CODES, run_flow
    from pipelines.config_files import load_config

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", required=True, help="JSON lines with `instruction`, or with `prompt`")
    parser.add_argument("--out", required=True, help="directory of the lake")
    parser.add_argument("--mode", choices=["n", "x"], default="n")
    parser.add_argument("--base", default="http://127.0.0.1:8900/v1")
    parser.add_argument("--concurrency", type=int, default=64)
    args = parser.parse_args()
    engine = f"openai:mock@{args.base}"
    values = [
        "dataset=w",
        f"lake={args.out}",
        f"prompts={_as_prompts(Path(args.prompts))}",
        f"policy.engine={engine}",
        f"policy.max_concurrency={args.concurrency}",
        f"policy.share_requests={args.mode == 'n'}",
        "sampling={n: 4, max_tokens: 256}",
        f"judge.engine={engine}",
        f"judge.max_concurrency={args.concurrency}",
        f"judge.share_requests={args.mode == 'n'}",  # as the policy's: one engine for both, and one limit
        f"judge.rubric={RUBRIC}",
        "judge.max_tokens=256",
        "gates={max_unscored_share: null, max_duplicate_share: null}",
    ]
    outcome = run_flow("curate", load_config("curate", None, values))
    print("RESULT " + json.dumps({key: outcome[key] for key in ("outcome", "counts", "funnel", "calls", "seconds")}))
    return EXIT_CODES.get(outcome["outcome"], 1)


def _as_prompts(path: Path) -> Path:
    """The peers' prompt file with the column that Pairmill reads."""
    target = path.with_suffix(".prompts.jsonl")
    if not target.exists():
        rows = (json.loads(line) for line in path.open())
        target.write_text("".join(json.dumps({"prompt": row["instruction"]}) + "\n" for row in rows))
    return target


if __name__ == "__main__":
    sys.exit(main())
