"""How commands print: tables for people, JSON for programs, one line for a user's mistake."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import click
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from curators.errors import CurationError
from storage.errors import StorageError

P = ParamSpec("P")
R = TypeVar("R")

UNBROKEN = 100_000
INTERRUPTED = 128 + signal.SIGINT

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """A user's mistake is one clear line on standard error and exit code 1, Ctrl-C exit code 130; what else happens is a bug, with its
    traceback.
    """

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (CurationError, StorageError) as error:
            click.echo(f"pairmill: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("pairmill: stopped", err=True)
            sys.exit(INTERRUPTED)

    return guarded


@contextmanager
def replies_kept() -> Iterator[None]:
    """Around work that buys replies: what Ctrl-C leaves, in one line."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("pairmill: stopped; replies so far are kept in the lake, and the same command does not buy them again", err=True)
        sys.exit(INTERRUPTED)


def print_cost(calls: Mapping[str, Any], capped: str | None) -> None:
    """What was asked of a judge's engine, what it cost, and which cap ended it."""
    price = "" if calls["usd"] is None else f", {calls['usd']:,.2f} $"
    asked = f"{calls['requests']:,} requests ({calls['hits']:,} samples from the ledger)"
    click.echo(f"{asked}, {calls['prompt_tokens']:,} + {calls['completion_tokens']:,} tokens{price}")
    if capped:
        click.echo(f"ended early by the cap on {capped}")


def print_json(value: Any) -> None:
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
    click.echo(orjson.dumps(value, option=option | orjson.OPT_NON_STR_KEYS, default=str).decode())


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    *,
    as_json: bool,
    empty: str = "nothing there",
    most_rows: int | None = None,
    widest: int | None = None,
) -> None:
    """A list of like mappings as a table, or as a JSON list. A table ends after `most_rows`, and its cells after `widest` characters."""
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0]:
        numeric = isinstance(rows[0][column], (int, float)) and not isinstance(rows[0][column], bool)
        table.add_column(column.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows[:most_rows]:
        table.add_row(*(escape(shortened(cell(value), widest)) for value in row.values()))
    console().print(table)
    if most_rows is not None and len(rows) > most_rows:
        click.echo(f"… {len(rows) - most_rows:,} more rows; --json shows all of them")


def shortened(text: str, widest: int | None) -> str:
    """One line of at most that many characters.

    >>> shortened("two\\nlines", 6)
    'two l…'
    """
    line = " ".join(text.split()) if widest is not None else text
    return line if widest is None or len(line) <= widest else line[: widest - 1] + "…"


def console() -> Console:
    """Standard output; where it is a file or a pipe as wide as the longest row, so that rows stay lines, whatever COLUMNS says."""
    return Console(width=None if sys.stdout.isatty() else UNBROKEN)


def cell(value: Any) -> str:
    """One value as a person reads it: nulls as a dash, shares with three digits, lists and objects joined."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {cell(each)}" for name, each in value.items()) or "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "-"
    return str(value)
