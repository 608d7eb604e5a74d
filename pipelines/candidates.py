"""The candidate version of a run: its prompts read, its pairs weighed by the gates, and what passes published.

Shared by every flow that ends in a published version. Where the pairs come from is `judging.pairs`, `steps.pairs`, `selecting.choosing`
and `contrasting.pairs`. Everything here is synchronous; the tasks run it in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from curators.errors import SchemaError
from curators.funnel import count_states
from curators.gates import Candidate, GateBounds, check_gates
from curators.sampling import bad_prompt, mark_duplicates, prompt_of
from curators.schema import CONTRASTS, GENERATIONS, JUDGMENTS, PROMPTS, RATIONALES, frame
from pipelines.config import PromptsConfig, login_name
from pipelines.derived import NO_FACTS, inherited_facts, parents_told
from pipelines.runs import Run, code_digest
from storage import Release
from storage import publish as publish_version
from storage import tag as move_tag
from storage.files import read_rows


def read_prompts(run: Run) -> dict[str, int]:
    """The prompt file → `prompts.parquet`, bad and repeated rows included with their states."""
    config = run.config
    assert isinstance(config, PromptsConfig)
    name = Path(config.prompts).name
    rows = mark_duplicates(prompt_row(row, name) for row in islice(read_rows(config.prompts), config.limit))
    prompts = frame(rows, PROMPTS)
    run.write("prompts", prompts)
    run.figures.funnels = [count_states(prompts, stage="prompts", unit="rows")]
    if not run.figures.funnels[0].n_kept:
        reasons = dict(run.figures.funnels[0].dropped)
        raise SchemaError(f"{config.prompts}: none of {len(rows)} rows is a usable prompt: {reasons}; the first: {rows[0]['reason']}")
    return {"prompts": run.figures.funnels[0].n_kept}


def prompt_row(row: Any, file: str) -> dict[str, Any]:
    """A row of a file as a row of `prompts`; `source` is the file's name and the row's number."""
    source = f"{file}:{row.number}"
    if row.row is None:
        return bad_prompt(row.state, row.reason or row.state, source=source)
    return prompt_of(row.row, source=source)


def weigh(run: Run, pairs: pl.DataFrame, counts: Mapping[str, int]) -> dict[str, int]:
    """The gates' results of a candidate and its counts into the run's figures, its pairs into the run's directory."""
    figures, bounds = run.figures, GateBounds(**run.config.gates.model_dump())
    if bounds.max_shortcut_accuracy is not None and figures.audit is None:
        from curators.diagnostics import audit_shortcuts  # here: it brings scikit-learn, which most runs do without

        figures.audit = dict(audit_shortcuts(pairs).summary)
    judged = {name: getattr(figures, name) for name in ("health", "search", "trial", "rationales", "audit")}
    figures.gates = check_gates(Candidate(pairs=pairs, **judged), bounds)
    figures.counts = {**counts, "pairs": pairs.height}
    known = pairs["on_policy"].drop_nulls()
    figures.on_policy_share = int(known.sum()) / pairs.height if known.len() else None
    run.write("pairs", pairs)
    return figures.counts


OWN_FACTS = {
    "generations": ["policy", "sampling", "seed"],
    "judgments": ["judge", "rubric_digest", "sampling"],
    "rationales": ["writer", "rubric_digest", "sampling"],
    "contrasts": ["synthesis_id"],
}
"""What a version's facts have in common: without it, a night's version would hold every earlier night's samples of the same prompts."""


def publish(run: Run) -> dict[str, Any]:
    """Every fact into the lake, also of a refused candidate: it was paid for. The pairs only when all gates pass."""
    own = own_facts(run, keep=lambda table, data: _append(run, table, data))
    if run.figures.refusal is None:
        pairs = run.read("pairs")
        release = publish_version(
            run.lake,
            run.config.dataset,
            pairs,
            manifest=manifest(run),
            author=run.config.author or login_name(),
            commit_id=run.key,
            facts=facts_named(own, pairs),
        )
        run.release = release
    outcome = run.outcome()
    run.note("outcome", outcome)
    _drop_intermediates(run)
    return outcome


def own_facts(run: Run, keep: Callable[[str, pl.DataFrame], None] | None = None) -> dict[str, pl.DataFrame | str]:
    """By fact table, what a version of this run has in common, as `storage.publish` takes it. `keep` is given every table of facts."""
    own = inherited_facts(run.parents)
    for table, data in _facts(run):
        if keep is not None and data.height:
            keep(table, data)
        own |= {table: _with(own.get(table), data.select(OWN_FACTS[table]).unique())} if table in OWN_FACTS else {}
    return own


def facts_named(own: Mapping[str, pl.DataFrame | str], pairs: pl.DataFrame) -> dict[str, pl.DataFrame | str]:
    """The same for these pairs: trees are those that a pair names, and no facts are named by a column that the pairs lack."""
    named = {"nodes": "tree_id", **own}
    return {table: NO_FACTS if isinstance(which, str) and which not in pairs.columns else which for table, which in named.items()}


def _append(run: Run, table: str, data: pl.DataFrame) -> None:
    run.lake.append(table, data, commit_id=f"{run.key}/{table}", replacing="reference" if table == "prompts" else None)


def announce(run: Run, emit: Callable[[Release], None], emit_tag: Callable[[Release, str], None]) -> None:
    """Move the tag and send the events of the run's version, each once, also where a killed attempt published it."""
    release, done = run.release, run.noted("announced") or {"tags": [], "event": False}
    if release is None:
        return
    if (tag := run.config.tag) and tag not in done["tags"]:
        emit_tag(move_tag(run.lake, release.ref, tag), tag)
        done["tags"].append(tag)
    if not release.reused and not done["event"]:
        emit(release)
        done["event"] = True
    run.note("announced", done)


def _with(inherited: pl.DataFrame | str | None, new: pl.DataFrame) -> pl.DataFrame:
    """What names a version's facts: its own, and those of the version that it starts from."""
    return pl.concat([inherited, new]) if isinstance(inherited, pl.DataFrame) and inherited.height else new


def _facts(run: Run) -> Iterable[tuple[str, pl.DataFrame]]:
    yield "contrasts", run.read_shards("contrasts", CONTRASTS)
    if run.parents:
        return
    # A duplicate has the id of the row that it repeats, and that row is there.
    yield "prompts", run.read("prompts").filter(pl.col("state") != "duplicate").unique("prompt_id", keep="first", maintain_order=True)
    yield "generations", run.read_shards("generations", GENERATIONS)
    yield "judgments", run.read_shards("judgments", JUDGMENTS)
    yield "rationales", run.read_shards("rationales", RATIONALES)


def _drop_intermediates(run: Run) -> None:
    """The frames are in the lake now; the outcome stays as the run's record."""
    for path in run.directory.glob("*.parquet"):
        path.unlink()


def manifest(run: Run) -> Mapping[str, Any]:
    """What the version says of itself: how it was made, by which code and models, and every count on the way."""
    figures = run.figures
    source: Mapping[str, Any] = run.parents[0].manifest if run.parents else {}
    return {
        "kind": run.kind,
        "recipe": run.config.model_dump(mode="json", exclude={"lake", "author"}),
        "recipe_digest": run.key,
        **parents_told(run.parents),
        "code_digest": code_digest(),
        "seed": run.seed,
        "policy": run.fingerprints.get("policy", source.get("policy")),
        "policy_spec": run.engines["policy"].spec if "policy" in run.engines else source.get("policy_spec"),
        "judge": run.fingerprints.get("judge"),
        "reward": run.fingerprints.get("reward"),
        "funnel": [funnel.as_dict() for funnel in figures.funnels],
        "health": figures.health,
        "search": figures.search,
        **({"rationales": figures.rationales} if figures.rationales else {}),
        **({"contrast": figures.contrast} if figures.contrast else {}),
        **({"selection": figures.selection} if figures.selection else {}),
        "trial": figures.trial,
        **({"audit": figures.audit} if figures.audit else {}),
        "gates": [gate.as_dict() for gate in figures.gates],
        "counts": figures.counts,
        "on_policy_share": figures.on_policy_share,
        "capped": run.capped,
        **({"source": figures.source} if figures.source else {}),
    }
