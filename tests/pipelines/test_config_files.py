"""Configuration: what comes in from YAML and --set, and how mistakes are told."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml
from prefect.utilities.schema_tools import ValidationError, validate

from curators.errors import ConfigError
from pipelines.config_files import FLOW_CONFIGS, check_inputs, load_config
from pipelines.judging.config import CurateConfig

ENOUGH = ["dataset=x", "prompts=p.jsonl", "policy=fake:", "judge=fake:judge"]


def test_assignments_go_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("dataset: x\nprompts: p.jsonl\npolicy: 'fake:'\njudge: {engine: 'fake:judge', votes: 3, temperature: 1.0}\n")
    config = load_config("curate", str(file), ["judge.votes=5", 'sampling.stop=["\\n"]', "caps.calls=10"])
    assert isinstance(config, CurateConfig)
    assert config.judge is not None
    assert (config.judge.votes, config.sampling.stop, config.caps.calls) == (5, ("\n",), 10)


def test_the_shorthand_spec_takes_more_keys() -> None:
    config = load_config("curate", None, [*ENOUGH, "policy.max_concurrency=7"])
    assert isinstance(config, CurateConfig)
    assert (config.policy.engine, config.policy.max_concurrency) == ("fake:", 7)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("sampling.temprature=1", "sampling.temprature: no such key .*did you mean 'temperature'"),
        ("judge.rubrik=x", "judge.rubrik: no such key .*did you mean 'rubric'"),
        ("sampling.n=zero", "sampling.n: .*valid integer.*came 'zero'"),
        ("policy=rm:x", "policy: rm:x is a reward model, which scores and writes nothing; give it as `reward`"),
        ("judge={engine: 'classify:m@http://h:1'}", "judge: classify:m@http://h:1 is a reward model"),
        ("reward.weights=3", "reward.weights"),
        ("sampling.n=0", "sampling.n: .*greater than or equal to 1"),
        ("dataset=No Good", "dataset: .*pattern"),
        ("nonsense", "must be KEY=VALUE"),
        ("dataset.x=1", "'dataset'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(assignment: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("curate", None, [*ENOUGH, assignment])


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("curate", None, ["policy=fake:", "sampling.n=0", "colour=red"])
    lines = str(caught.value).splitlines()
    assert {line.split(":")[0] for line in lines} == {"dataset", "prompts", "sampling.n", "colour"}


def test_nobody_labels_is_refused() -> None:
    with pytest.raises(ConfigError, match="nobody labels"):
        load_config("curate", None, ENOUGH[:3])


@pytest.mark.parametrize("text", ["- a\n", "a: [", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load_config("curate", str(file), [])


def test_every_deployment_fits_its_flow() -> None:
    """The YAML and the signatures cannot drift apart."""
    flows = {
        "pipelines.flows.curate.curate": "curate",
        "pipelines.flows.steps.steps": "steps",
        "pipelines.flows.select.select": "select",
        "pipelines.flows.train.train": "train",
        "pipelines.flows.export.export": "export",
        "pipelines.flows.nightly.nightly": "nightly",
        "pipelines.flows.iterate.iterate": "iterate",
        "pipelines.flows.importing.import_dataset": "import",
    }
    declared = yaml.safe_load((Path(__file__).parents[2] / "flows.yaml").read_text())["deployments"]
    assert declared
    for deployment in declared:
        FLOW_CONFIGS[flows[deployment["entrypoint"]]].model_validate(deployment["parameters"]["config"])


def test_one_deployment_runs_at_night_and_is_the_example() -> None:
    """Two at once would share the machine."""
    declared = yaml.safe_load((Path(__file__).parents[2] / "flows.yaml").read_text())["deployments"]
    scheduled = {each["name"]: [schedule.get("active", True) for schedule in each["schedules"]] for each in declared if "schedules" in each}
    assert scheduled == {"nightly": [True]}
    (night,) = [each["parameters"]["config"] for each in declared if each["name"] == "nightly"]
    assert night == yaml.safe_load((Path(__file__).parents[2] / "examples/arithmetic/nightly.yaml").read_text())


def test_the_demo_configurations_are_valid() -> None:
    root = Path(__file__).parents[2]
    files = sorted(root.glob("examples/*/*.yaml"))
    assert files
    for file in files:
        load_config(file.stem if file.stem in FLOW_CONFIGS else "curate", str(file), [])


@pytest.mark.parametrize(
    ("flow", "assignments", "said"),
    [
        ("curate", ["prompts=none.jsonl", "verifier=numeric"], r"prompts: no file 'none\.jsonl'; give a \.jsonl"),
        ("curate", ["prompts={here}", "verifier=numerc"], "'numerc' is not shipped"),
        ("steps", ["prompts={here}", "verifier=no_such_module:f"], "cannot import 'no_such_module'"),
        ("import", ["files=[{here}, none.parquet]"], r"files: no file 'none\.parquet'"),
        ("train", ["evaluation.prompts=none.csv", "evaluation.verifier=numeric"], r"evaluation\.prompts: no file 'none\.csv'"),
        ("train", ["evaluation.prompts={here}", "evaluation.verifier=numerc"], "'numerc' is not shipped"),
    ],
)
def test_what_is_not_there_is_told_before_a_server_starts(flow: str, assignments: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "here.jsonl").write_text("")
    given = [each.replace("{here}", str(tmp_path / "here.jsonl")) for each in assignments]
    engine = ["policy=fake:"] if flow in ("curate", "steps") else []
    with pytest.raises(ConfigError, match=said):
        check_inputs(load_config(flow, None, ["dataset=x", *engine, *given]))


def test_a_preset_may_be_named_alone_and_a_value_of_no_allowed_type_is_one_problem() -> None:
    enough = ["dataset=x", "prompts=p.jsonl", "policy=fake:", "verifier=numeric"]
    config = load_config("steps", None, [*enough, "search=paper", "pairs=ref"])
    assert (config.search.preset, config.pairs.preset) == ("paper", "ref")  # type: ignore[attr-defined]
    with pytest.raises(ConfigError) as caught:
        load_config("steps", None, [*enough, "search.max_depth=unlimted"])
    (line,) = str(caught.value).splitlines()
    assert line.startswith("search.max_depth: ")
    assert "'unlimted'" in line


def test_the_server_takes_every_deployment_as_it_stands() -> None:
    """Prefect checks parameters against the form's schema, where a shorthand such as `selector: k_center` is no object."""
    for declared in yaml.safe_load((Path(__file__).parents[2] / "flows.yaml").read_text())["deployments"]:
        module, _, name = declared["entrypoint"].rpartition(".")
        schema = getattr(importlib.import_module(module), name).parameters.model_dump_for_openapi()
        validate(declared.get("parameters", {}), schema, raise_on_error=True)
        wrong = {"config": {**declared["parameters"]["config"], "dataset": 1}}
        with pytest.raises(ValidationError):
            validate(wrong, schema, raise_on_error=True)
