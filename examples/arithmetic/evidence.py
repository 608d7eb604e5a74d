"""`make evidence`: which version is better to train on? Four of the embedded policy's own, against each other over seeds.

    evidence-both      the judge's labels, where it names the same answer in both orders (which `curate` does by itself)
    the same again     trained with other seeds: the difference is what chance alone does
    evidence-one       the judge asked in one order only: what it says by position is in the labels
    evidence-flipped   the pairs of the first with chosen and rejected exchanged

It is what to run before `@candidate` becomes `@prod`, with versions of your own: `pairmill run evidence` (docs/evidence.md).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CURATE = "examples/arithmetic/curate.yaml"
LOOSE = ["gates.min_pairs=1", "gates.min_judge_agreement=null", "gates.max_judge_inconsistent_share=null"]
EXAM = "{prompts: examples/arithmetic/eval.jsonl, verifier: 'examples.arithmetic.world:check_answer', max_tokens: 160, n_prompts: %d}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=400, help="of the curation")
    parser.add_argument("--exam", type=int, default=300, help="unseen problems")
    args = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    from pipelines.commands.running import finish, run_flow
    from pipelines.config import default_lake
    from pipelines.config_files import load_config
    from pipelines.server import prefect_server

    def ran(flow: str, file: str | None, *assignments: str) -> dict[str, Any]:
        print(f"evidence: {flow} {' '.join(assignments)}", file=sys.stderr, flush=True)
        return run_flow(flow, load_config(flow, file, [*assignments, f"lake={lake}"]))

    lake = Path(default_lake()).absolute()
    with prefect_server(lake):
        versions = []
        for name, orders in (("evidence-both", "true"), ("evidence-one", "false")):
            made = ran("curate", CURATE, f"dataset={name}", f"limit={args.prompts}", f"judge.both_orders={orders}", *LOOSE)
            versions.append(f"{name}@{made['version']}")
        flipped = ran("contrast", None, "dataset=evidence-flipped", f"source={versions[0]}", "methods=[reversed]")
        versions = [versions[0], versions[0], versions[1], f"evidence-flipped@{flipped['version']}"]
        asked = [f"versions=[{', '.join(versions)}]", f"seeds={args.seeds}", "params={threads: 1}", f"evaluation={EXAM % args.exam}"]
        finish(ran("evidence", None, *asked), as_json=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
