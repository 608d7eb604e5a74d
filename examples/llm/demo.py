"""`make demo-llm`: a real chat model as policy and as its own judge; the gates publish one set of labels and refuse the other."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    from examples.llm.fetch_model import FetchError, fetch
    from pipelines.commands.running import run_flow
    from pipelines.config import default_lake
    from pipelines.config_files import load_config
    from pipelines.server import prefect_server

    begun = time.monotonic()
    try:
        fetch()
    except FetchError as error:
        sys.exit(f"demo: {error}")
    lake_root = Path(default_lake()).absolute()
    outcomes = []
    with prefect_server(lake_root) as api_url:
        for name in ("verifier", "judge"):
            print(f"demo: labels by the {name}; watch it at {api_url.removesuffix('/api')}", file=sys.stderr, flush=True)
            outcomes.append(run_flow("curate", load_config("curate", f"examples/llm/curate-{name}.yaml", [f"lake={lake_root}"])))
    show(outcomes, time.monotonic() - begun)
    published, refused = outcomes
    return 0 if published["version"] is not None and refused["version"] is None else 1


def show(outcomes: list[dict[str, Any]], seconds: float) -> None:
    """Every gate of both datasets with its figure, then what that means."""
    console = Console(width=140)
    table = Table(title="\nThe same answers, labelled by a program and by the model itself", title_justify="left", box=None)
    for column in ("dataset", "gate", "", "figure"):
        table.add_column(column)
    for outcome in outcomes:
        for gate in outcome["gates"]:
            verdict = "[green]passed[/green]" if gate["passed"] else "[red]refused[/red]"
            table.add_row(outcome["dataset"], gate["name"], verdict, gate["detail"])
        table.add_section()
    console.print(table)
    for outcome in outcomes:
        came = f"{outcome['dataset']}@{outcome['version']} is published" if outcome["version"] else str(outcome["refusal"])
        calls = outcome["calls"] or {}
        console.print(f"\n[bold]{outcome['dataset']}[/bold]: {came}", highlight=False, soft_wrap=True)
        console.print(f"  {calls.get('requests', 0)} calls sent, {calls.get('hits', 0)} samples from the ledger", highlight=False)
    console.print(
        f"\n{seconds:.0f} s in all. Next: pairmill show {outcomes[0]['dataset']}, pairmill report {outcomes[0]['dataset']}", highlight=False
    )


if __name__ == "__main__":
    sys.exit(main())
