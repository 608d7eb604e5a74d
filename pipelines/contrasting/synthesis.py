"""A contrast run from its configuration to an open run, and its contrasts made, shard by shard of the source's prompts."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl

from curators.contrast.candidates import contrasts, of_synthesis, settings
from curators.contrast.checkers import Checker, by_judge, by_verifier
from curators.engines.base import canonical, digest
from curators.errors import ConfigError
from curators.judging.rubric import load_rubric
from curators.sampling import gather_all
from curators.verifiers import load_verifier
from pipelines.config import EngineConfig
from pipelines.contrasting.config import ContrastConfig
from pipelines.contrasting.methods import METHODS, Hands, roles_used, settings_of
from pipelines.contrasting.source import Span, open_source
from pipelines.judging.labelling import asking, open_judge
from pipelines.prompt_runs import Opener, prompt_run
from pipelines.runs import Run


@asynccontextmanager
async def contrast_run(config: ContrastConfig, open_run: Opener = prompt_run) -> AsyncIterator[Run]:
    """The open run of a configuration, registered under its key, with everything refused that can be before anything is paid.

    Raises:
        ConfigError: a rubric, verifier or engine that is not there, or a version without the rows that a method starts from.
        DatasetNotFound: there is no such version.
    """
    roles: dict[str, EngineConfig] = {
        **({"writer": config.writer} if config.writer else {}),
        **({"judge": config.judge} if config.judge else {}),
    }
    files = {"judge.rubric": config.judge.rubric} if config.judge and config.judge.rubric.endswith(".md") else {}
    if config.judge and (rubric := load_rubric(config.judge.rubric)).protocol != "pairwise":
        raise ConfigError(f"judge.rubric {config.judge.rubric}: is {rubric.protocol}; two texts are compared by a pairwise one")
    code = {} if config.verifier is None else {"verifier": load_verifier(config.verifier).judge}
    if config.of_file:
        files["source"] = config.source
    source = None if config.of_file else config.source
    async with open_run("contrast", config, roles, files=files, code=code, source=source) as run:
        if run.release is None:
            run.drop_shards()  # those of a killed attempt, perhaps of another size; their calls are in the ledger
            verifier = load_verifier(config.verifier) if config.verifier else None
            run.source = await asyncio.to_thread(open_source, run, verifier)
        yield run


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """One method of a run: its settings, its hands, and the id of what is asked."""

    name: str
    config: Any
    hands: Hands
    synthesis_id: str


class Synthesiser:
    """Makes the contrasts of some prompts. Everything that they need is resolved once a run."""

    def __init__(self, run: Run, syntheses: Sequence[Synthesis]) -> None:
        self.run, self.source, self.prompt_ids = run, run.source, run.source.prompt_ids
        self.parts = {whole: [each for each in syntheses if METHODS[each.name].whole(each.config) == whole] for whole in (False, True)}

    @property
    def has_whole(self) -> bool:
        """Whether a method looks at all attempts at once."""
        return bool(self.parts[True])

    async def __call__(self, start: int, stop: int, whole: bool) -> pl.DataFrame:
        """Rows of `contrasts` of a range of prompts; of the methods that look at all attempts at once, or of all others."""
        prompt_ids = self.prompt_ids[start:stop]
        made = await gather_all(self._made(each, (prompt_ids[0], prompt_ids[-1])) for each in self.parts[whole])
        for prompt_id in prompt_ids:
            self.run.advance(prompt_id)
        return pl.concat([contrasts([]), *made])

    async def _made(self, synthesis: Synthesis, span: Span) -> pl.DataFrame:
        method = METHODS[synthesis.name]
        rows = await asyncio.to_thread(self.source.rows, method.rows, span)
        found = await asyncio.to_thread(method.make, rows, synthesis.config, synthesis.hands)
        if inspect.isawaitable(found):
            found = await found
        if method.rows == "scored answers" and self.source.scores.label_source is not None:
            found = found.with_columns(pl.col("label_source").fill_null(self.source.scores.label_source))
        return of_synthesis(found, synthesis.synthesis_id)


async def synthesiser(run: Run) -> Synthesiser:
    """Who makes the contrasts of this run; a judge has shown by which channel it can be asked.

    Raises:
        ConfigError: rubric, engine and channel of the judge do not fit together.
    """
    config = _config(run)
    verifier = load_verifier(config.verifier) if config.verifier else None
    judge: Checker | None = None
    if config.judge is not None:
        opened = await open_judge(run.engines["judge"], config.judge, asking(config.judge, seed=run.seed, secret=run.lake.secret))
        judge = by_judge(opened.engine, rubric=opened.rubric, config=opened.config)
    known = await asyncio.to_thread(run.source.known_bad) if "d2o" in config.methods else ()
    hands = Hands(
        writer=run.engines.get("writer"),
        verifier=verifier,
        checker=by_verifier(verifier) if verifier else judge,
        judge=judge if config.scores == "judge" else None,
        known=known,
    )
    ids = synthesis_ids(run)
    return Synthesiser(run, [Synthesis(name=name, config=_settings(run, name), hands=hands, synthesis_id=ids[name]) for name in ids])


def synthesis_ids(run: Run) -> Mapping[str, str]:
    """By method, the content id of what is asked: settings, who writes, checks and scores, the seed, and the run, whose source, caps and
    code decide what became of an attempt.
    """
    config = _config(run)
    asked = {role: _who(run, role) for role in ("writer", "verifier", "judge")}
    return {
        name: digest(
            name,
            settings(_settings(run, name)),
            {role: asked[role] for role in roles_used(config, name)},
            config.scores if METHODS[name].rows == "scored answers" else None,
            run.seed,
            run.key,
        )
        for name in config.methods
    }


def told(run: Run) -> dict[str, Any]:
    """What the manifest says of a run beside its counts: its hands and the methods' settings."""
    config, ids = _config(run), synthesis_ids(run)
    hands = {role: who for role in ("writer", "verifier", "judge") if (who := run.fingerprints.get(role) or _who(run, role))}
    scores = run.source.scores.label_source
    return {
        **hands,
        **({"scores": scores} if scores else {}),
        "methods": {
            name: {"settings": orjson.loads(canonical(settings(_settings(run, name)))), "synthesis_id": ids[name]}
            for name in config.methods
        },
    }


def _who(run: Run, role: str) -> Any:
    config = _config(run)
    if role == "verifier":
        return load_verifier(config.verifier).judge if config.verifier else None
    if role == "judge" and config.judge is not None:
        how = config.judge.model_dump(mode="json", exclude=set(EngineConfig.model_fields) | {"rubric"})
        return [run.fingerprints["judge"], load_rubric(config.judge.rubric).digest, how]
    return run.fingerprints.get(role)


def _settings(run: Run, name: str) -> Any:
    return settings_of(name, _config(run).methods[name], seed=run.seed)


def _config(run: Run) -> ContrastConfig:
    assert isinstance(run.config, ContrastConfig)
    return run.config
