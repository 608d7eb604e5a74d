"""Exports to a Hub on loopback as a user runs them: the command, flow `export`, a killed upload, a tag that starts one, and mistakes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import polars as pl
import psutil
import pytest
import yaml
from click.testing import CliRunner

from curators.errors import ConfigError
from curators.schema import PAIRS
from pipelines.candidates import announce
from pipelines.cli import main
from pipelines.config import RunConfig
from pipelines.config_files import load_config
from pipelines.runs import Run
from pipelines.server import QUIET, answers, free_port
from pipelines.serving import ask, deployments
from storage import open_lake, publish, resolve
from storage.errors import HubError
from tests.hub_server import Fault, Hub, hub_server
from tests.pipelines.conftest import command as command_in

ROOT = Path(__file__).parents[2]
REPO = "ann/sums"
HERE = f"hf://{REPO}"

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as hub:
        yield hub


@pytest.fixture
def reach(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """The environment in which the client's Hub is that one, with the token of its owner."""
    return {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": ""} | {
        "HF_TOKEN": hub.token("ann")
    }


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with two versions of sums; the second has two pairs more. Tests that change it take a copy."""
    root = tmp_path_factory.mktemp("published") / "lake"
    turn = lambda role, text: json.dumps([{"role": role, "content": text}])  # noqa: E731
    rows = [
        {
            "pair_id": f"p{n:03}",
            "prompt_id": f"q{n:03}",
            "kind": "response",
            "prompt": turn("user", f"{n} + 1?"),
            "chosen": turn("assistant", f"{n + 1}"),
            "rejected": turn("assistant", f"{n}"),
            "split": "test" if n % 4 == 0 else "train",
        }
        for n in range(22)
    ]
    measured = {"usable": {"n": 40, "hits": 39, "share": 0.975, "low": 0.87, "high": 0.99}}
    with open_lake(root) as lake:
        for n in (20, 22):
            pairs = pl.DataFrame(rows[:n], schema=dict(PAIRS))
            publish(lake, "sums", pairs, manifest={"rationales": measured, "kind": "curate"}, author="ann-login", commit_id=f"c{n}")
    return root


@pytest.fixture
def lake_root(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "lake"))


@pytest.fixture
def say(hub: Hub, reach: dict[str, str], published: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """The command within this process: exit code and everything that it printed."""
    for name, value in {**reach, "PAIRMILL_LAKE": str(published)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(published / "no-token"))
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))

    def run(*arguments: str, **environment: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, [*arguments], env=environment)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_export_pushes_the_folder_of_the_dry_run_once(
    say: Callable[..., tuple[int, str]], hub: Hub, published: Path, tmp_path: Path
) -> None:
    to = tmp_path / "dry"
    code, printed = say("export", "sums@1", "--to", HERE, "--dry-run", "--to-dir", str(to), "--license", "mit", HF_TOKEN="")
    assert (code, printed.strip()) == (0, str(to))
    assert hub.requests == [], "a dry run asks nobody and needs no token"
    code, printed = say("export", "sums@1", "--to", HERE, "--license", "mit", "--private")
    assert code == 0, printed
    told = json.loads(printed.splitlines()[-1])
    assert (told["outcome"], told["version"], told["tag"], told["to"]) == ("exported", 1, "v1", HERE)
    assert told["views"] == {"dpo": {"train": 15, "test": 5}}
    assert told["commit"] == hub.repos[REPO].main
    assert told["url"] == f"{hub.url}/datasets/{REPO}/tree/v1"
    assert hub.files(REPO, "v1") == contents(to)
    assert b"| 39 of 40 | 97.5% | 87.0% to 99.0% |" in contents(to)["README.md"]
    assert hub.repos[REPO].private
    before = len(hub.requests)
    code, printed = say("export", "sums@1", "--to", HERE, "--license", "mit")
    told = json.loads(printed.splitlines()[-1])
    assert (code, told["outcome"], told["commit"]) == (0, "reused", None)
    assert {method for method, _, _ in hub.requests[before:]} <= {"GET", "HEAD"}
    assert {path.name for path in (published / "runs").rglob("*") if path.is_file()} == {".lock"}


def test_a_tag_of_the_lake_names_the_version(say: Callable[..., tuple[int, str]], hub: Hub) -> None:
    assert say("tag", "sums@1", "old", PREFECT_API_URL="http://127.0.0.1:9/api") == (0, "sums@old is now sums@1\n")
    code, printed = say("export", "sums@old", "--to", HERE, "--view", "kto", "--view", "sft")
    assert (code, json.loads(printed.splitlines()[-1])["version"]) == (0, 1)
    assert {name.partition("/")[0] for name in hub.files(REPO, "v1")} == {"README.md", "pairmill.json", "kto", "sft"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("sums@prod", "--to", HERE), 1, "pairmill: there is no sums@prod; of sums there are versions 1 to 2"),
        (("nothing", "--to", HERE), 1, "pairmill: there is no dataset 'nothing'"),
        (("sums", "--to", "hf://sums"), 1, "pairmill: 'hf://sums' names no repository on the Hub"),
        (("sums", "--to", HERE, "--view", "stepwise"), 1, "pairmill: view stepwise needs prompts, and sums@2 has no prompts.parquet"),
        (("sums", "--to", HERE, "--view", "dpoo"), 1, "pairmill: there is no view 'dpoo'"),
        (("sums", "--to", HERE, "--license", "My own"), 1, "pairmill: license.0: "),
        (
            ("sums", "--to", HERE, "--license", "my-own"),
            1,
            f'pairmill: {HERE}: the Hub refused it: Invalid metadata in README.md. - "license"',
        ),
        (("sums", "--to", "hf://other/sums"), 1, "pairmill: the token may not write to hf://other/sums; make one with write access at"),
        (("sums", "--to", "hf://ann/taken"), 1, "pairmill: hf://ann/taken holds the dataset texts, not sums; give another repository"),
        (("sums", "--to", HERE, "--format", "jsonl"), 2, "Error: --format jsonl is for a directory; the Hub gets Parquet"),
        (("sums", "--to", HERE, "--to-dir", "x"), 2, "Error: --to-dir is for --dry-run"),
        (("sums", "--to", "out", "--view", "dpo", "--license", "mit"), 2, "Error: --license is for --to hf://OWNER/NAME"),
        (("sums", "--to", "out"), 2, "Error: a directory holds one view: give one --view"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_published(
    say: Callable[..., tuple[int, str]], hub: Hub, arguments: tuple[str, ...], code: int, said: str
) -> None:
    about = {"request": {"dataset": "texts", "version": 1, "digest": "d"}, "files": {}}
    hub.make("ann/taken", {"pairmill.json": json.dumps(about)})
    found, printed = say("export", *arguments)
    assert found == code, printed
    assert printed.strip().splitlines()[-1].startswith(said)
    assert code == 2 or len(printed.strip().splitlines()) == 1
    assert "hf_" not in printed
    assert hub.uploads == []
    assert hub.asked("POST", "/commit/") == 0


def test_no_token_and_a_token_that_only_reads(say: Callable[..., tuple[int, str]], hub: Hub) -> None:
    assert say("export", "sums", "--to", HERE, HF_TOKEN="") == (
        1,
        f"pairmill: no token for {HERE}: set HF_TOKEN, run `hf auth login`, or name a Prefect Secret block in token_block\n",
    )
    code, printed = say("export", "sums", "--to", HERE, HF_TOKEN=hub.token("ann", "read"))
    assert (code, printed.partition(";")[0]) == (1, f"pairmill: the token may not write to {HERE}")
    assert hub.repos == {}


def test_no_message_repeats_a_token() -> None:
    enough = ["dataset=sums", f"to={HERE}"]
    for wrong in ("token=hf_0123456789", "token_block=hf_0123456789", "private=hf_0123456789", "to=hf://hf_0123456789"):
        with pytest.raises((ConfigError, HubError), match=r"token|private|names no repository") as caught:
            load_config("export", None, [*enough, wrong])
        assert "0123456789" not in str(caught.value)


def test_a_killed_upload_goes_on_where_it_was(
    say: Callable[..., tuple[int, str]], hub: Hub, reach: dict[str, str], published: Path, tmp_path: Path
) -> None:
    hub.faults = [Fault("PUT", "/lfs/", "hang", nth=3, once=True)]
    words = ("export", "sums", "--to", HERE, "--view", "dpo", "--view", "sft", "--lake", str(published))
    command = [sys.executable, "-m", "pipelines.cli", *words]
    killed = subprocess.Popen(command, env={**os.environ, **reach}, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (len(hub.uploads) == 3 and hub.faults[0].seen == 4) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(hub.uploads) == 3, "three of four shards arrived"
    assert hub.repos[REPO].messages == ["initial commit"]
    code, printed = say(*words)
    assert code == 0, printed
    assert len(hub.uploads) == len(set(hub.uploads)) == 4, "only the fourth was sent"
    assert hub.repos[REPO].messages == ["initial commit", "sums@2"]
    assert hub.repos[REPO].tags.keys() == {"v2"}


def recorded(api: str) -> str:
    """Whatever the server tells of runs, as text."""
    places = ("flow_runs/filter", "task_runs/filter", "logs/filter", "artifacts/filter", "block_documents/filter")
    return "".join(json.dumps(ask(api, place, {})) for place in places)


RUNS = """
import sys
from pipelines.commands.running import run_flow
from pipelines.config_files import load_config
to, *tokens = sys.argv[1:]
for token in tokens:
    if token:
        from prefect.blocks.system import Secret
        Secret(value=token).save("hub-token", overwrite=True)
    try:
        block = "hub-token" if token else "none-such"
        print(run_flow("export", load_config("export", None, ["dataset=sums@1", f"to={to}", f"token_block={block}"]))["outcome"])
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_the_flow_takes_its_token_from_a_block_and_records_it_nowhere(
    hub: Hub, reach: dict[str, str], lake_root: Path, prefect_api: str, tmp_path: Path
) -> None:
    """One process for three runs: without a block, with a token that may only read, with one that may write."""
    token, reader = reach.pop("HF_TOKEN"), hub.token("ann", "read")
    hub.make(REPO)
    env = {**os.environ, **QUIET, **reach, "HF_TOKEN": "", "PREFECT_API_URL": prefect_api, "PAIRMILL_LAKE": str(lake_root)}
    done = subprocess.run([sys.executable, "-c", RUNS, HERE, "", reader, token], env=env, capture_output=True, text=True, timeout=240)
    no_block, refused, exported = done.stdout.splitlines()
    assert no_block == "ConfigError token_block: the Prefect server has no Secret block of that name; make one in its UI under Blocks"
    assert refused.startswith(f"HubError the token may not write to {HERE}")
    assert exported == "exported"
    assert set(hub.repos[REPO].tags) == {"v1"}
    told = done.stdout + done.stderr + recorded(prefect_api)
    assert HERE in told
    for secret in (token, reader):
        assert secret not in told
        assert secret.encode() not in b"".join(contents(lake_root).values())


def eventually(found: Callable[[], Any], within_s: float) -> Any:
    deadline = time.monotonic() + within_s
    while not (answer := found()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return answer


def events(api: str, tag: str) -> list[dict[str, Any]]:
    asked = {"filter": {"event": {"name": ["pairmill.dataset.tagged"]}, "resource": {"labels": {"pairmill.tag": [tag]}}}}
    found: list[dict[str, Any]] = ask(api, "events/filter", asked)["events"]
    return found


def test_a_tag_that_moves_is_an_event_where_a_server_answers(lake_root: Path, prefect_api: str, tmp_path: Path) -> None:
    done: CompletedProcess[str] = command_in(tmp_path, lake_root, prefect_api)("tag", "sums@1", "of-this-test")
    assert (done.returncode, done.stdout) == (0, "sums@of-this-test is now sums@1\n"), done.stderr
    (found,) = eventually(lambda: events(prefect_api, "of-this-test"), 30)
    assert found["resource"]["prefect.resource.id"] == "pairmill.dataset.sums"
    assert {name: found["payload"][name] for name in ("version", "tag", "dataset")} == {
        "version": 1,
        "tag": "of-this-test",
        "dataset": "sums@1",
    }


def test_a_run_that_moves_its_tag_sends_both_events_once(lake_root: Path) -> None:
    sent: list[tuple[str, str]] = []
    with open_lake(lake_root) as lake:
        run = Run(key="k", kind="curate", config=RunConfig(dataset="sums", tag="prod"), lake=lake, directory=lake_root / "runs" / "k")
        run.directory.mkdir(parents=True)
        run.release = resolve(lake, "sums@1")
        for _ in range(2):
            announce(run, lambda release: sent.append(("published", release.ref)), lambda release, tag: sent.append((tag, release.ref)))
    assert sent == [("prod", "sums@1"), ("published", "sums@1")]


SAVE = "import sys; from prefect.blocks.system import Secret; Secret(value=sys.argv[1]).save('hub-token', overwrite=True)"


def save_token(api: str, token: str) -> None:
    done = subprocess.run([sys.executable, "-c", SAVE, token], env={**os.environ, **QUIET, "PREFECT_API_URL": api}, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_tag_that_moves_exports_the_version(hub: Hub, reach: dict[str, str], lake_root: Path, tmp_path: Path) -> None:
    """The deployment of flows.yaml, switched on: a worker exports what the tag points at, with the token of a Secret block."""
    flows = yaml.safe_load((ROOT / "flows.yaml").read_text())
    (export,) = [deployment for deployment in flows["deployments"] if deployment["name"] == "export-on-prod"]
    (trigger,) = export["triggers"]
    assert trigger.pop("enabled") is False
    trigger["match"]["prefect.resource.id"] = "pairmill.dataset.sums"
    export["parameters"]["config"] = {"dataset": "sums", "to": HERE, "token_block": "hub-token"}
    (tmp_path / "flows.yaml").write_text(yaml.safe_dump({"deployments": [export]}))
    token, port = reach.pop("HF_TOKEN"), free_port()
    api = f"http://127.0.0.1:{port}/api"
    env = {**os.environ, **QUIET, **reach, "PAIRMILL_LAKE": str(lake_root)}
    for name in ("PREFECT_API_URL", "HF_TOKEN"):
        env.pop(name, None)
    serve = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "serve", "--port", str(port)],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert eventually(lambda: answers(api), 120)
        assert eventually(lambda: deployments(api), 120)
        save_token(api, token)
        assert eventually(lambda: ask(api, "automations/filter", {}), 30)
        time.sleep(5)  # the automation must be loaded by the service that watches events
        tagged = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", "tag", "sums@1", "prod"], cwd=tmp_path, env=env, capture_output=True
        )
        assert tagged.returncode == 0, tagged.stderr
        log = lake_root / "prefect" / "worker.log"
        assert eventually(lambda: REPO in hub.repos and "v1" in hub.repos[REPO].tags, 180), log.read_text()[-4000:]
        assert hub.repos[REPO].messages == ["initial commit", "sums@1"]
        assert token not in recorded(api) + log.read_text()
        assert token.encode() not in b"".join(contents(lake_root).values()), "also not in the server's database, which holds the block"
    finally:
        family = psutil.Process(serve.pid).children(recursive=True)
        serve.send_signal(signal.SIGINT)
        serve.wait(60)
    psutil.wait_procs(family, timeout=20)
