"""Transcripts of judges from files: `pairmill judge-check --transcripts FILE`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from curators.engines.base import digest
from curators.engines.replay import ReplayEngine
from curators.errors import SchemaError
from curators.judging.recordings import Recording, recording_report, recordings, replay_lines, replayed
from curators.judging.transcripts import Item, Texts, layout_of, read_item, text_id
from storage.files import FileRow, read_rows

_PEEK_ROWS = 100


async def check_transcripts(
    file: str, texts_file: str | None, advance: Callable[[str, int, int], None], *, limit: int | None = None
) -> dict[str, Any]:
    """Every recorded judge of a file under every strategy, judged again through `replay:`; what came of it as JSON.

    `limit`: pairs (or answers) at most, the same ones for every judge, drawn by a hash of their ids; null: all. `judges` counts the pairs
    of judge and strategy; the first round of one that was asked twice is a recording more. `items` are the pairs or answers (`what`).

    Raises:
        SchemaError: the file's columns are those of no transcript that is known, or none of its rows can be read.
    """
    texts = _texts(texts_file) if texts_file else {}
    layout, rows = _layout(file)
    dropped: Counter[str] = Counter()
    every = list(_items(rows, layout, texts, dropped))
    if not every:
        raise SchemaError(f"{file}: none of its {dropped.total()} rows is one of {layout}: {dict(dropped.most_common(3))}")
    kept = set(sorted({item.key for item in every}, key=lambda key: digest("limit", key))[:limit])
    items = [item for item in every if item.key in kept]
    found = recordings(items)
    reports = []
    for number, recording in enumerate(found, 1):
        reports.append(await _report(recording))
        advance("recordings", number, len(found))
    return {
        "file": file,
        "layout": layout,
        "rows": {"read": len({(*_asked(item), item.key) for item in every}), "dropped": dict(dropped)},
        "judges": len({_asked(item) for item in items}),
        "items": len(kept),
        "what": "pairs" if all(len(item.texts) == 2 for item in items) else "answers",
        "without_texts": len({item.key for item in items if None in item.texts}),
        "recordings": reports,
    }


def _asked(item: Item) -> tuple[str, str]:
    """Judge and strategy, whatever the round."""
    return item.judge, item.strategy.partition(" (round")[0]


async def _report(recording: Recording) -> dict[str, Any]:
    with TemporaryDirectory(prefix="pairmill-replay-") as directory:
        path = Path(directory) / "replies.jsonl"
        path.write_bytes(b"\n".join(orjson.dumps(line) for line in replay_lines(recording)))
        judgments = await replayed(recording, ReplayEngine(path))
    return recording_report(recording, judgments)


def _texts(file: str) -> Texts:
    rows = (row.row for row in read_rows(file) if row.row is not None)
    return {name: row for row in rows if (name := text_id(row)) is not None}


def _layout(file: str) -> tuple[str, Iterator[FileRow]]:
    rest = read_rows(file)
    first = list(islice(rest, _PEEK_ROWS))
    return layout_of([row.row for row in first if row.row is not None], file=file), chain(first, rest)


def _items(rows: Iterator[FileRow], layout: str, texts: Texts, dropped: Counter[str]) -> Iterator[Item]:
    for row in rows:
        if row.row is None:
            dropped[row.state] += 1
            continue
        try:
            yield from read_item(row.row, layout, texts)
        except SchemaError as error:
            dropped[str(error)] += 1
