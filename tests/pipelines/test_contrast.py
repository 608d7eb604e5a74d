"""Flow `contrast` without a server: which attempts are made of a version, what of them is published, and what is refused before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import storage
from curators.engines.base import Request
from curators.engines.fake import FakeEngine
from curators.errors import ConfigError
from examples.arithmetic.world import check_answer, problems
from pipelines import candidates
from pipelines.config import ImportConfig
from pipelines.config_files import load_config
from pipelines.contrasting import pairs as contrast_pairs
from pipelines.contrasting import tasks
from pipelines.contrasting.config import ContrastConfig
from pipelines.contrasting.synthesis import contrast_run, synthesiser
from pipelines.imports import import_candidate, importation
from pipelines.report.page import build_report

N = 12
SHARD = 5
WORLD = problems(N, seed=3, split="demo")
CHECK = "examples.arithmetic.world:check_answer"
Answers = Callable[[Any], list[tuple[str, float]]]


def right_and_wrong(problem: Any) -> list[tuple[str, float]]:
    return [(problem.solution, 1.0), ("1. 1 + 1 = 2\nAnswer: 2", 0.0), ("Answer: 0", 0.25)]


async def imported(lake: Path, folder: Path, answers: Answers = right_and_wrong, *, name: str = "sums") -> None:
    """A version of the world's problems with scored answers, three for each."""
    rows = [
        {"prompt": p.text, "reference": p.reference, "texts": [text for text, _ in answers(p)], "scores": [s for _, s in answers(p)]}
        for p in WORLD
    ]
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "prompt", "reference": "reference", "response_text": "texts[]", "response_score": "scores[]"}
    async with importation(ImportConfig(dataset=name, lake=str(lake), files=(str(file),), columns=columns)) as run:
        import_candidate(run)
        assert candidates.publish(run)["outcome"] == "published"


def config_of(lake: Path, **values: Any) -> ContrastConfig:
    given = {"dataset": "edits", "source": "sums", "shard_prompts": SHARD, "lake": str(lake), **values}
    found = load_config("contrast", None, [f"{name}={json.dumps(value)}" for name, value in given.items()])
    assert isinstance(found, ContrastConfig)
    return found


async def staged(config: ContrastConfig) -> dict[str, Any]:
    """The flow's steps, without Prefect; what it says at the end."""
    async with contrast_run(config) as run:
        if run.release is not None:
            return run.outcome("reused")
        run.synthesise = made = await synthesiser(run)
        for number, start in enumerate(range(0, len(made.prompt_ids), config.shard_prompts)):
            await tasks.contrast_shard.fn(run.key, number, start, start + config.shard_prompts)
        if made.has_whole:
            await tasks.contrast_shard.fn(run.key, tasks.WHOLE, 0, len(made.prompt_ids))
        contrast_pairs.build(run)
        return candidates.publish(run)


def adds_up(told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The funnel by stage and unit; every line of it adds up."""
    for stage in told["funnel"]:
        assert stage["n_in"] == stage["n_kept"] + sum(stage["dropped"].values())
    return {f"{stage['stage']}/{stage['unit']}": stage for stage in told["funnel"]}


def said(turns: str) -> str:
    return str(json.loads(turns)[-1]["content"])


async def test_methods_in_one_run_make_pairs_that_the_program_confirms(tmp_path: Path, lake_root: Path) -> None:
    await imported(lake_root, tmp_path)
    methods = {"ladder": {"operator": "corrupt", "degrees": [1]}, "step_error": {}, "mapl_intra": {}}
    config = config_of(lake_root, methods=methods, verifier=CHECK)
    told = await staged(config)
    assert (told["outcome"], told["version"], told["parents"][0]["ref"]) == ("published", 1, "sums@1")
    funnel = adds_up(told)
    assert funnel["source/answers"]["n_kept"] == 3 * N
    assert {unit.split("/")[1] for unit in funnel} == {"answers", "ladder attempts", "step_error attempts", "mapl_intra attempts"}
    n_pairs = sum(stage["n_kept"] for unit, stage in funnel.items() if unit.startswith("contrast/"))
    assert n_pairs == told["counts"]["pairs"] > 2 * N
    with storage.open_lake(lake_root) as lake:
        release, facts = storage.resolve(lake, "edits@1"), lake.facts("contrasts")
        assert (
            facts.height
            == told["counts"]["attempts"]
            == sum(sum(each["attempts"].values()) for each in told["contrast"]["methods"].values())
        )
        assert facts["synthesis_id"].n_unique() == 3
        counts = storage.verify(lake, "edits@1")["files"]
        pairs = storage.scan(release).collect()
        assert pairs.height == counts["pairs.parquet"] == n_pairs
        prompts = {row["prompt_id"]: row for row in lake.facts("prompts").iter_rows(named=True)}
        joint = pairs.filter(pl.col("rejected_prompt").is_not_null())
        assert set(joint["kind"]) == {"mapl_intra"} == set(pairs["kind"]) - {"ladder", "step_error"}
        for pair in pairs.filter(pl.col("rejected_prompt").is_null()).iter_rows(named=True):
            asked = {"prompt": said(pair["prompt"]), "reference": prompts[pair["prompt_id"]]["reference"]}
            assert check_answer(**asked, response=said(pair["chosen"]))
            assert not check_answer(**asked, response=said(pair["rejected"]))
        parent = storage.scan(storage.resolve(lake, "sums@1")).collect()
        splits = dict(parent.select("prompt_id", "split").iter_rows())
        assert all(splits[prompt_id] == split for prompt_id, split in pairs.select("prompt_id", "split").iter_rows())
        traced = storage.lineage(lake, "edits@1", joint["pair_id"][0])
        assert {row["pair_id"] for row in traced["contrasts"]} == {joint["pair_id"][0]}
        assert len(traced["generations"]) == 3
        frozen = pl.read_parquet(release.frozen / "contrasts.parquet")
        assert set(frozen["state"]) > {"ok"}, "attempts that failed belong to the version"
    both = storage.load("edits@1", view="joint", lake=lake_root)
    assert sum(part.num_rows for part in both.values()) == joint.height
    dpo = storage.load("edits@1", view="dpo", lake=lake_root)
    assert sum(part.num_rows for part in dpo.values()) == pairs.height - joint.height
    assert (await staged(config))["outcome"] == "reused"
    assert (await staged(config_of(lake_root, methods=methods, verifier=CHECK, source="sums@1")))["outcome"] == "reused"


async def test_the_report_shows_what_became_of_each_method_and_what_differs(tmp_path: Path, lake_root: Path) -> None:
    await imported(lake_root, tmp_path, lambda p: [(f"<b>So</b>\n{p.solution}", 1.0), ("Answer: 0", 0.0)])
    methods = {"mapl_intra": {}, "ladder": {"operator": "inject", "injections": ["<script>x</script>"], "degrees": [1]}}
    told = await staged(config_of(lake_root, methods=methods, verifier=CHECK))
    assert told["outcome"] == "published"
    with storage.open_lake(lake_root) as lake:
        page = build_report(storage.resolve(lake, "edits"))
    assert [f"Method {name}" in page for name in methods] == [True, True]
    assert "checker_failed" in page
    assert "answered by" in page
    assert "&lt;b&gt;So&lt;/b&gt;" in page
    assert "<b>" not in page
    assert "<script" not in page


async def test_attempts_of_other_runs_on_the_same_prompts_belong_to_their_own_versions(tmp_path: Path, lake_root: Path) -> None:
    await imported(lake_root, tmp_path)
    first = await staged(config_of(lake_root, methods="mapl_intra"))
    other = await staged(config_of(lake_root, methods="mapl_intra", seed=1, dataset="others"))
    child = await staged(config_of(lake_root, methods={"reversed": {}}, source="edits", dataset="turned"))
    await imported(lake_root, tmp_path, lambda problem: [*right_and_wrong(problem), ("Answer: 1", 0.5)], name="later")
    ids = {
        ref: {each["synthesis_id"] for each in told["contrast"]["methods"].values()} for ref, told in (("edits", first), ("others", other))
    }
    own = {each["synthesis_id"] for each in child["contrast"]["methods"].values()}
    with storage.open_lake(lake_root) as lake:
        frozen = {
            ref: pl.read_parquet(storage.resolve(lake, ref).frozen / "contrasts.parquet") for ref in ("edits", "others", "turned", "later")
        }
        turned, edits = (storage.scan(storage.resolve(lake, ref)).collect() for ref in ("turned", "edits"))
    found = {ref: set(rows["synthesis_id"]) for ref, rows in frozen.items()}
    assert found == {"edits": ids["edits"], "others": ids["others"], "turned": ids["edits"] | own, "later": set()}
    assert ids["edits"] != ids["others"]
    prompts = ("prompt", "rejected_prompt")
    assert set(turned.select(prompts).rows()) == set(edits.select(prompts[::-1]).rows())


CORRECTED = "Corrected answer:\n"


def answer_in(request: Request) -> str:
    """The answer that a reviser was shown."""
    return str(request.messages[0]["content"]).split("The student's answer:\n")[1].split("\n\nFirst write")[0]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make engines those that their specs open."""
    return lambda **engines: monkeypatch.setattr("pipelines.engines.open_engine", lambda spec, options: engines[spec.strip(":")])


async def test_a_reviser_that_changes_nothing_makes_no_pair_and_is_paid_once(
    tmp_path: Path, lake_root: Path, use: Callable[..., None]
) -> None:
    await imported(lake_root, tmp_path)
    parrot = FakeEngine(lambda request, index: CORRECTED + answer_in(request))
    use(fake=parrot)
    config = config_of(lake_root, methods="clair", writer="fake:", verifier=CHECK)
    told = await staged(config)
    assert (told["outcome"], told["version"]) == ("refused", None)
    assert adds_up(told)["contrast/clair attempts"]["dropped"] == {"unchanged": 3 * N}
    assert parrot.calls == told["calls"]["requests"] == 3 * N
    again = await staged(config)
    assert (again["outcome"], again["calls"]["requests"], parrot.calls) == ("refused", 0, 3 * N)
    with storage.open_lake(lake_root) as lake:
        assert lake.facts("contrasts")["state"].to_list() == ["unchanged"] * 3 * N
        assert [release.name for release in storage.list_datasets(lake)] == ["sums"]


async def test_revisions_are_checked_by_the_program_and_a_cap_ends_the_run_with_what_there_is(
    tmp_path: Path, lake_root: Path, use: Callable[..., None]
) -> None:
    await imported(lake_root, tmp_path)
    gold = {p.text: p.solution for p in WORLD}

    def revise(request: Request, index: int) -> str:
        shown = str(request.messages[0]["content"])
        return CORRECTED + next(solution for text, solution in gold.items() if text in shown)

    use(fake=FakeEngine(revise))
    methods = {"clair": {"min_edit_sim": 0}}
    told = await staged(config_of(lake_root, methods=methods, writer="fake:", verifier=CHECK))
    # Of the three answers of a problem one is right already, and both wrong ones become right.
    assert adds_up(told)["contrast/clair attempts"]["dropped"] == {"unchanged": N}
    with storage.open_lake(lake_root) as lake:
        pairs = storage.scan(storage.resolve(lake, "edits")).collect()
    assert pairs.height == 2 * N
    assert pairs.select("chosen_score", "rejected_score").unique().rows() == [(1.0, 0.0)]
    assert {gold[said(prompt)] for prompt in pairs["prompt"]} == {said(chosen) for chosen in pairs["chosen"]}

    capped = await staged(config_of(lake_root, methods=methods, writer="fake:", verifier=CHECK, seed=1, dataset="few", caps={"calls": 10}))
    states = adds_up(capped)["contrast/clair attempts"]
    assert (capped["outcome"], capped["capped"], states["n_in"]) == ("published", "calls", 3 * N)
    assert states["dropped"]["budget_skipped"] == 3 * N - 10


async def test_a_judge_checks_where_there_is_no_verifier(tmp_path: Path, lake_root: Path, use: Callable[..., None]) -> None:
    await imported(lake_root, tmp_path)
    writer = FakeEngine(lambda request, index: f"{CORRECTED}{answer_in(request)}\nIt follows.")
    judge = FakeEngine(lambda request, index: "Verdict: A", spec="fake:judge")
    use(fake=writer, **{"fake:judge": judge})
    config = config_of(lake_root, methods="clair", writer="fake:", judge={"engine": "fake:judge", "channel": "text"})
    told = await staged(config)
    # A judge that always says A says nothing when both orders are asked.
    assert adds_up(told)["contrast/clair attempts"]["dropped"] == {"checker_failed": 3 * N}
    assert judge.calls >= 2 * 3 * N


async def test_scores_are_those_of_the_judge_who_labelled_and_quantiles_know_no_shards(tmp_path: Path, lake_root: Path) -> None:
    await imported(lake_root, tmp_path, lambda p: [*right_and_wrong(p)[1:], (p.solution, 1 + 0.1 * len(p.steps))])
    methods = {"max_second": {}, "west_of_n": {"confidence_quantile": 0.5}}
    loose = {"gates": {"max_duplicate_share": None}}
    told = [await staged(config_of(lake_root, methods=methods, shard_prompts=size, dataset=f"by-{size}", **loose)) for size in (2, N)]
    assert told[0]["counts"] == told[1]["counts"]
    funnel = adds_up(told[0])
    assert funnel["contrast/max_second attempts"]["n_kept"] == N
    assert funnel["contrast/west_of_n attempts"]["dropped"]["low_confidence"] > 0
    with storage.open_lake(lake_root) as lake:
        pairs = [storage.scan(storage.resolve(lake, f"by-{size}")).collect() for size in (2, N)]
    assert pairs[0].equals(pairs[1])
    assert (pairs[0]["margin"] > 0).all()
    assert set(pairs[0]["label_source"]) == {"source:sums"} == {told[0]["contrast"]["scores"]}
    verified = await staged(config_of(lake_root, methods="max_min", scores="verifier", verifier=CHECK, dataset="verified"))
    assert verified["counts"]["pairs"] == N
    assert verified["contrast"]["scores"].startswith("verifier:examples.arithmetic.world:check_answer@")


async def test_matches_of_a_judge_find_the_best_and_the_worst_of_n(tmp_path: Path, lake_root: Path, use: Callable[..., None]) -> None:
    """The recorded scores say otherwise; the judge prefers a solution to a wrong sum, and that to a bare number."""
    await imported(lake_root, tmp_path, lambda p: [(text, -score) for text, score in right_and_wrong(p)])
    order = [*(p.solution for p in WORLD), "1. 1 + 1 = 2", "Answer: 0"]

    def verdict(request: Request, index: int) -> str:
        shown = str(request.messages[-1]["content"])
        places = [shown.find(text) for text in order if text in shown]
        assert len(places) == 2
        return "Verdict: A" if places[0] < places[1] else "Verdict: B"

    use(**{"fake:judge": FakeEngine(verdict, spec="fake:judge")})
    judge = {"engine": "fake:judge", "channel": "text"}
    told = await staged(config_of(lake_root, methods="west_of_n", scores="judge", judge=judge))
    assert told["counts"]["pairs"] == N
    with storage.open_lake(lake_root) as lake:
        pairs = storage.scan(storage.resolve(lake, "edits")).collect()
    assert {said(chosen) for chosen in pairs["chosen"]} == {p.solution for p in WORLD}
    assert {said(rejected) for rejected in pairs["rejected"]} == {"Answer: 0"}
    assert (pairs["p_chosen"] > 0.5).all()


async def test_anchors_are_held_against_the_bad_answers_of_all_shards(tmp_path: Path, lake_root: Path, use: Callable[..., None]) -> None:
    """The writer copies a bad answer of the last problem in the file, for whichever problem it is asked."""
    await imported(lake_root, tmp_path, lambda p: [(p.solution, 1.0), (f"It is {p.answer} times nothing, {p.text}", 0.0)])
    last = WORLD[-1]
    use(fake=FakeEngine(lambda request, index: f"It is {last.answer} times nothing, {last.text}" if index else "Let me see."))
    told = await staged(config_of(lake_root, methods={"d2o": {"k": 2}}, writer="fake:", shard_prompts=1))
    funnel = adds_up(told)
    assert funnel["source/rejected answers"]["n_kept"] == N
    assert (funnel["contrast/d2o attempts"]["n_kept"], funnel["contrast/d2o attempts"]["dropped"]) == (N, {"contaminated": N})


async def test_answers_for_two_profiles_make_a_pair_each_and_one_that_was_cut_off_says_so(
    tmp_path: Path, lake_root: Path, use: Callable[..., None]
) -> None:
    await imported(lake_root, tmp_path)

    def write(request: Request, index: int) -> Any:
        told, asked = (str(turn["content"]) for turn in request.messages)
        return "" if asked == WORLD[0].text and "Rhyme" in told else f"{told}: {asked}"

    use(fake=FakeEngine(write))
    told = await staged(config_of(lake_root, methods={"janus": {"profiles": ["Rhyme.", "Be brief."]}}, writer="fake:"))
    found = adds_up(told)["contrast/janus attempts"]
    assert (found["n_in"], found["dropped"]) == (2 * N, {"empty": 1, "no_other_profile": 1})
    with storage.open_lake(lake_root) as lake:
        pairs = storage.scan(storage.resolve(lake, "edits")).collect()
        splits = dict(storage.scan(storage.resolve(lake, "sums")).collect().select("prompt_id", "split").iter_rows())
    assert pairs.height == 2 * N - 2
    assert all(splits[prompt_id] == split for prompt_id, split in pairs.select("prompt_id", "split").iter_rows())
    for pair in pairs.iter_rows(named=True):
        system = json.loads(pair["prompt"])[0]["content"]
        assert said(pair["chosen"]).startswith(system)
        assert not said(pair["rejected"]).startswith(system)


async def test_what_cannot_be_satisfied_is_counted_and_nothing_is_published(tmp_path: Path, lake_root: Path) -> None:
    await imported(lake_root, tmp_path)
    told = await staged(config_of(lake_root, methods={"mapl_intra": {"n_constraints": 15}}))
    assert told["outcome"] == "refused"
    assert adds_up(told)["contrast/mapl_intra attempts"]["dropped"] == {"unsatisfiable": 3 * N}
    assert "min_pairs (0 pairs; at least 1)" in told["refusal"]


REFUSED: Mapping[str, tuple[dict[str, Any], str]] = {
    "no method": ({"methods": {}}, "methods: .*at least 1 item"),
    "unknown method": ({"methods": "ladders"}, "methods: 'ladders' is not one; there are rlcd, clair, ladder, "),
    "unknown setting": (
        {"methods": {"ladder": {"degree": 2}}, "verifier": CHECK},
        "methods.ladder: no setting 'degree'; there are operator, ",
    ),
    "wrong value": (
        {"methods": {"ladder": {"degrees": ["x"]}}},
        r"methods\.ladder\.degrees\.0: input should be a valid integer.*; came 'x'",
    ),
    "not allowed": (
        {"methods": {"ladder": {"degrees": [2, 1]}}, "verifier": CHECK},
        r"ladder: degrees are \(2, 1\); they are whole numbers",
    ),
    "a rule's name is its rule": ({"methods": {"max_min": {"rule": "sigma"}}}, "methods.max_min: no setting 'rule'; there are none"),
    "nested setting": (
        {"methods": {"clair": {"sampling": {"top": 1}}}},
        r"methods\.clair\.sampling: no setting 'top'; there are temperature, ",
    ),
    "no writer": ({"methods": "rlcd"}, r"methods.rlcd needs `writer` \(an engine that writes\)"),
    "no verifier": ({"methods": ["mapl_intra", "step_error"]}, r"methods.step_error needs `verifier`"),
    "judge unused": (
        {"methods": "mapl_intra", "judge": "fake:judge"},
        "`judge` would not be used: none of mapl_intra asks it; leave it out",
    ),
    "two checkers": (
        {"methods": "clair", "writer": "fake:", "verifier": "numeric", "judge": "fake:judge"},
        "`judge` would not be used: a verifier is taken first; leave it out",
    ),
    "matches for a rule": ({"methods": "max_min", "scores": "judge", "judge": "fake:judge"}, "scores: judge is for west_of_n"),
    "no scores wanted": (
        {"methods": "mapl_intra", "scores": "verifier"},
        "scores: no method takes scores; leave it out, or add one of west_of_n",
    ),
    "no profiles": ({"methods": "janus", "writer": "fake:"}, "profiles: give at least two different `profiles`"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_one_clear_error(case: str, tmp_path: Path) -> None:
    values, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message) as raised:
        config_of(tmp_path, **values)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (
            {"source": "sum"},
            storage.errors.DatasetNotFound,
            "there is no dataset 'sum' in the lake: there are bare, sums; did you mean sums",
        ),
        ({"source": "sums@7"}, storage.errors.DatasetNotFound, "there is no sums@7"),
        (
            {"source": "bare"},
            ConfigError,
            r"methods\.max_min starts from answers, and bare@1 has none; it has 0 generations, 0 judgments, 1 pairs",
        ),
        (
            {"scores": "source:nobody"},
            ConfigError,
            "scores: 'source:nobody' is none of them; sums@1 has judgments of source:sums; give scores",
        ),
        (
            {"methods": "clair", "writer": "fake:", "judge": {"engine": "fake:judge", "rubric": "pointwise"}},
            ConfigError,
            "is pointwise; two",
        ),
    ],
)
async def test_a_version_without_what_a_method_needs_is_refused(
    tmp_path: Path, lake_root: Path, values: dict[str, Any], error: type[Exception], message: str
) -> None:
    await imported(lake_root, tmp_path)
    with storage.open_lake(lake_root) as lake:
        pairs = pl.DataFrame({"pair_id": ["a"], "prompt_id": ["p"], "split": ["train"]})
        storage.publish(lake, "bare", pairs, manifest={}, author="a", commit_id="b")
    with pytest.raises(error, match=message):
        await staged(config_of(lake_root, **{"methods": "max_min", **values}))


async def test_pairs_that_are_no_steps_are_made_of_a_version_of_steps(tmp_path: Path, lake_root: Path) -> None:
    """Its facts name their trees by a column that contrastive pairs do not have."""
    await imported(lake_root, tmp_path)
    with storage.open_lake(lake_root) as lake:
        parent = storage.resolve(lake, "sums@1")
        steps = storage.scan(parent).collect().with_columns(tree_id=pl.lit("t"))
        storage.publish(lake, "steps", steps, manifest={"counts": {}}, author="a", commit_id="steps", facts={"nodes": "tree_id"})
    told = await staged(config_of(lake_root, source="steps", methods=["mapl_intra"]))
    assert told["outcome"] == "published"
    with storage.open_lake(lake_root) as lake:
        assert storage.resolve(lake, "edits@1").manifest["facts"]["nodes"] == []


@pytest.mark.parametrize(("source", "tag"), [("edits", None), ("edits@prod", "prod")])
def test_a_run_does_not_feed_on_its_own_result(lake_root: Path, source: str, tag: str | None) -> None:
    with pytest.raises(ConfigError, match="would be this run's own result the next time"):
        config_of(lake_root, source=source, tag=tag, methods=["reversed"])
    config_of(lake_root, source="edits@prod", tag="nightly", methods=["reversed"])


async def test_attempts_of_a_capped_run_are_not_those_of_the_whole_one(tmp_path: Path, lake_root: Path) -> None:
    await imported(lake_root, tmp_path)
    asked = {"methods": {"janus": {"profiles": ["Be brief.", "Be kind."]}}, "writer": "fake:"}
    await staged(config_of(lake_root, **asked, caps={"calls": 3}, dataset="capped"))
    await staged(config_of(lake_root, **asked))
    with storage.open_lake(lake_root) as lake:
        release = storage.resolve(lake, "edits@1")
        attempts = pl.read_parquet(release.frozen / "contrasts.parquet")
    assert attempts["state"].to_list().count("budget_skipped") == 0
    assert attempts.height == sum(release.manifest["contrast"]["methods"]["janus"]["attempts"].values())


async def test_only_profiles_that_can_be_a_side_are_written_for(tmp_path: Path, lake_root: Path) -> None:
    await imported(lake_root, tmp_path)
    profiles = [f"Be like number {i}." for i in range(6)]
    told = await staged(config_of(lake_root, methods={"janus": {"profiles": profiles, "per_prompt": 1}}, writer="fake:"))
    assert told["calls"]["requests"] == 2 * N
    assert told["counts"]["pairs"] == N


async def test_two_runs_of_one_configuration_work_one_after_the_other(tmp_path: Path, lake_root: Path) -> None:
    await imported(lake_root, tmp_path)
    config = config_of(lake_root, methods=["mapl_intra"])
    one, other = await asyncio.gather(staged(config), staged(config))
    assert sorted((one["outcome"], other["outcome"])) == ["published", "reused"]
    assert one["digest"] == other["digest"]
    assert {one["counts"]["pairs"], other["counts"]["pairs"]} == {one["counts"]["pairs"]}


async def test_a_prompt_with_pairs_in_both_splits_is_one_of_the_test_split(tmp_path: Path, lake_root: Path) -> None:
    await imported(lake_root, tmp_path)
    profiles = [f"Be like number {i}." for i in range(6)]
    held = {"janus": {"profiles": profiles, "held_out_share": 0.5}}
    assert (await staged(config_of(lake_root, dataset="held", methods=held, writer="fake:")))["outcome"] == "published"
    await staged(config_of(lake_root, source="held", methods=["reversed"]))
    with storage.open_lake(lake_root) as lake:
        before, after = (storage.scan(storage.resolve(lake, ref)).collect() for ref in ("held@1", "edits@1"))
    assert set(before["split"]) == {"train", "test"}
    sides = {(row["chosen"], row["rejected"]): row["split"] for row in before.iter_rows(named=True)}
    assert all(sides[row["rejected"], row["chosen"]] == row["split"] for row in after.iter_rows(named=True))


def a_file(folder: Path) -> Path:
    """One answer a prompt, of which no version can be made: no pair comes of it."""
    rows = [{"prompt": p.text, "reference": p.reference, "texts": [p.solution], "scores": [1.0]} for p in WORLD]
    file = folder / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


COLUMNS = {"prompt": "prompt", "reference": "reference", "response_text": "texts[]", "response_score": "scores[]"}


async def test_a_file_is_a_source_and_its_answers_are_facts_of_the_version(tmp_path: Path, lake_root: Path) -> None:
    file = str(a_file(tmp_path))
    config = config_of(lake_root, source=file, columns=COLUMNS, methods=["step_error"], verifier=CHECK)
    told = await staged(config)
    assert told["outcome"] == "published"
    assert "parents" not in told
    assert told["source"]["layouts"] == {"answers.jsonl": "declared"}
    assert adds_up(told)["source/answers"]["n_kept"] == N
    with storage.open_lake(lake_root) as lake:
        pairs = storage.scan(storage.resolve(lake, "edits@1")).collect()
        texts = set(lake.facts("generations")["text"])
    assert pairs.height == told["counts"]["pairs"] > 0
    assert {said(turns) for turns in pairs["chosen"]} <= texts
    assert (await staged(config))["outcome"] == "reused"
    with Path(file).open("a") as more:
        more.write(json.dumps({"prompt": "What is 1 + 1?", "texts": ["1. 1 + 1 = 2\nAnswer: 2"], "reference": "2", "scores": [1.0]}) + "\n")
    assert (await staged(config))["run_key"] != told["run_key"]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"source": "nowhere.jsonl", "methods": ["mapl_intra"]}, "source: no file 'nowhere.jsonl'"),
        (
            {"methods": ["reversed"], "columns": COLUMNS},
            r"methods.reversed starts from pairs, and answers.jsonl has none; it has 12 generations, 12 judgments, 12 prompts",
        ),
        ({"source": "sums", "methods": ["mapl_intra"], "columns": COLUMNS}, "columns: are of a file, and source 'sums' is a version"),
    ],
)
async def test_files_that_are_no_source_are_refused(given: dict[str, Any], problem: str, tmp_path: Path, lake_root: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        await staged(config_of(lake_root, **{"source": str(a_file(tmp_path)), **given}))
