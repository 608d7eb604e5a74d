"""Command `learning-curve`: how many pairs are enough?"""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.commands.datasets import lake_option
from pipelines.commands.output import json_option, one_line_errors, print_json, print_rows


@click.command(name="learning-curve")
@click.argument("datasets", nargs=-1, required=True)
@click.option("--tolerance", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05, show_default=True)
@click.option("--to", "page", help="HTML file to write the picture to.")
@lake_option
@json_option
@one_line_errors
def learning_curve(datasets: tuple[str, ...], tolerance: float, page: str | None, lake: str, as_json: bool) -> None:
    """Gain by number of pairs, over the checkpoints trained on versions of DATASETS, and the size that leaves --tolerance of it."""
    from pipelines.learning_curves import learning_curve as curve_of
    from pipelines.learning_curves import verdict

    found = curve_of(Path(lake), datasets, tolerance=tolerance)
    if page:
        from pipelines.report.curve import write_curve

        click.echo(f"report: {write_curve(found, Path(page)).absolute()}", err=True)
    if as_json:
        print_json(found)
        return
    print_rows([_row(point) for point in found["points"]], as_json=False)
    for each in found["left_out"]:
        click.echo(f"left out: {each['checkpoint']}, {each['reason']}")
    click.echo(f"\n{verdict(found)}")


def _row(point: dict[str, float]) -> dict[str, object]:
    shown = {name: f"{point[name]:+.1%}" for name in ("gain", "low", "high")}
    return {"pairs": point["pairs"], **shown, "dataset": point["dataset"], "checkpoint": point["checkpoint"]}


COMMANDS = (learning_curve,)
