"""A selection from its configuration to an open run, with everything refused that can be before a text is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipelines.runs import Run, file_digest, registered, run_key
from pipelines.selecting.config import SelectionConfig
from pipelines.selecting.settings import against_files, check_columns, filters_by_vectors, own_code, selects_by_vectors
from pipelines.selecting.vectors import encoder_fingerprint, pinned
from storage import Lake, open_lake, resolve, scan


@asynccontextmanager
async def selection(config: SelectionConfig) -> AsyncIterator[Run]:
    """The open run of a selection, registered under its key, which holds the version that `source` means today.

    Raises:
        ConfigError: a selector, filter, column, file or encoder that is not there.
        DatasetNotFound: there is no such version.
    """
    with await asyncio.to_thread(open_lake, config.lake_root, create=False) as lake:
        run = await asyncio.to_thread(opened, config, lake)
        async with registered(run):
            yield run


def opened(config: SelectionConfig, lake: Lake) -> Run:
    """The run of a selection, not registered yet.

    Raises:
        ConfigError: as `selection`.
    """
    code = own_code(config)
    parent = resolve(lake, config.source)
    check_columns(config, parent.ref, scan(parent).collect_schema())
    used = config.encoder if selects_by_vectors(config) or filters_by_vectors(config) else None
    config = config.model_copy(update={"source": parent.ref, "encoder": pinned(used, lake.root) if used else None})
    inputs = {"source": parent.digest, "source facts": parent.facts_digest, **code}
    inputs |= {name: file_digest(file) for name, file in against_files(config).items()}
    encoder = {"encoder": encoder_fingerprint(config.encoder, lake.root)} if config.encoder else {}
    key = run_key("select", config, seed=config.seed, fingerprints=encoder, inputs=inputs)
    # Who wrote and judged the parent's rows wrote and judged these.
    made_by = {role: parent.manifest[role] for role in ("policy", "judge", "reward") if parent.manifest.get(role)}
    run = Run(key=key, kind="select", config=config, lake=lake, directory=lake.root / "runs" / key, seed=config.seed)
    run.fingerprints, run.parents = made_by | encoder, (parent,)
    return run
