"""An export to the Hugging Face Hub from its configuration to the tag: version resolved, Hub looked at, folder written, pushed.

The command `pairmill export --to hf://…` and flow `export` do the same steps. The token is held by the open run alone: no configuration,
outcome, artifact or message has it.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curators.engines.base import digest
from curators.errors import ConfigError
from pipelines.config import ExportConfig
from pipelines.figures import Figures
from pipelines.runs import alone
from storage import Release, open_lake, resolve
from storage.hub import PREFIX, Repository, look, own_token, push, tag_of, url_of
from storage.shards import Order, request_of, write_folder


@dataclass(kw_only=True)
class Exporting:
    """An open export. `request`: what the repository must hold in the end; `found`: what it holds, once it was looked at."""

    key: str
    config: ExportConfig
    release: Release
    order: Order
    request: Mapping[str, Any]
    directory: Path
    token: str | None = field(repr=False)
    found: Repository = field(default_factory=Repository)
    about: Mapping[str, Any] = field(default_factory=dict)
    pushed: Mapping[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def is_there(self) -> bool:
        """Whether the Hub has all of it already, so that nothing is left to do."""
        return self.found.holds(self.request)

    def look(self) -> None:
        """See what the repository holds, and that the token may write to it."""
        self.found = look(self.order.repo, self.request, token=self.token)

    def write(self) -> None:
        """The folder to push; where the Hub has it already, and only the tag is missing, there is none to write."""
        if self.found.main == self.request:
            self.about = {"request": self.request}
        else:
            self.about = write_version(self.release, self.directory / "repository", self.order)

    def push(self) -> None:
        """One commit and the tag; the folder is no longer needed then."""
        assert self.token is not None
        folder = self.directory / "repository"
        self.pushed = push(self.order.repo, folder, self.about, self.found, token=self.token, private=self.config.private)
        shutil.rmtree(folder, ignore_errors=True)

    def outcome(self) -> dict[str, Any]:
        """What the export came to, as JSON: the last line of the command."""
        return {
            "outcome": "exported" if self.pushed else "reused",
            "dataset": self.release.name,
            "version": self.release.version,
            "digest": self.release.digest,
            "to": PREFIX + self.order.repo,
            "tag": tag_of(self.request),
            "url": url_of(self.order.repo, self.request),
            **({"views": rows} if (rows := self._rows()) else {}),
            "commit": self.pushed.get("commit"),
            "seconds": round(time.monotonic() - self.started, 2),
            "run_key": self.key,
        }

    def _rows(self) -> dict[str, dict[str, int]]:
        """Rows by view and split; empty where nothing had to be written."""
        return {
            view: {split: told["rows"] for split, told in found["splits"].items()} for view, found in self.about.get("views", {}).items()
        }


EXPORTS: dict[str, Exporting] = {}
"""The exports that are open in this process, by key."""


def write_version(release: Release, to: Path, order: Order) -> dict[str, Any]:
    """The folder of a version, with the figures of its judge and searches in the card. Returns its `pairmill.json`."""
    told = release.manifest.get
    figures = Figures(health=told("health"), search=told("search"), rationales=told("rationales"), trial=told("trial"))
    return write_folder(release.frozen, to, order, quality=figures.health_rows)


def order_of(config: ExportConfig) -> Order:
    return Order(
        repo=config.to.removeprefix(PREFIX), views=config.views, form=config.form, licenses=config.license, languages=config.language
    )


@asynccontextmanager
async def exporting(config: ExportConfig, version: int | None = None) -> AsyncIterator[Exporting]:
    """The open run of an export, registered under its key; two of the same wait for each other.

    Raises:
        DatasetNotFound, ViewError, HubError: as their messages say.
        ConfigError: no such Secret block.
    """
    ref = config.dataset if version is None else f"{config.dataset.partition('@')[0]}@{version}"
    with await asyncio.to_thread(open_lake, config.lake_root, create=False) as lake:
        release = await asyncio.to_thread(resolve, lake, ref)
        root = lake.root
    order = order_of(config)
    request = request_of(release.frozen, order)
    token = await _token(config.token_block) if config.token_block else own_token()
    key = digest("export", request, size=12)
    directory = (root / "runs" / f"export-{key}").absolute()
    run = Exporting(key=key, config=config, release=release, order=order, request=request, directory=directory, token=token)
    async with alone(directory):
        EXPORTS[key] = run
        try:
            yield run
        finally:
            del EXPORTS[key]


async def export_now(config: ExportConfig) -> dict[str, Any]:
    """The whole export in this process, without Prefect."""
    async with exporting(config) as run:
        run.look()
        if not run.is_there:
            run.write()
            run.push()
        return run.outcome()


async def _token(block: str) -> str:
    """The token in a Secret block of the Prefect server."""
    from prefect.blocks.system import Secret

    try:
        found: Any = await Secret.aload(block)
    except ValueError:
        raise ConfigError("token_block: the Prefect server has no Secret block of that name; make one in its UI under Blocks") from None
    return str(found.get())
