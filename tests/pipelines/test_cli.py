"""The command line: readers, and mistakes that cost one line each."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from click.testing import CliRunner

from pipelines.commands.datasets import checkpoints
from storage.checkpoints import history, promote, register, rollback
from tests.pipelines.conftest import command, outcome, write_prompts

Pairmill = Callable[..., CompletedProcess[str]]

ROWS = [{"prompt": f"Say {i}.", "chosen": f"{i}", "rejected": f"not {i}", "score_chosen": 5, "score_rejected": i % 5} for i in range(20)]


@pytest.fixture(scope="module")
def imported(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Pairmill:
    """The command with a lake that holds one version; nothing here adds another."""
    directory = tmp_path_factory.mktemp("imported")
    run = command(directory, directory / "lake", prefect_api)
    file = directory / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    done = run("import", str(file), "--as", "said")
    assert done.returncode == 0, done.stderr
    assert outcome(done)["counts"]["pairs"] == len(ROWS)
    return run


def test_the_readers(imported: Pairmill, tmp_path: Path) -> None:
    listed = json.loads(imported("datasets", "--json").stdout)
    assert [(row["dataset"], row["pairs"]) for row in listed] == [("said@1", 20)]
    assert imported("tag", "said@1", "prod").stdout.strip() == "said@prod is now said@1"
    assert json.loads(imported("show", "said@prod", "--json").stdout)["manifest"]["counts"]["pairs"] == 20
    assert "import" in imported("show", "said").stdout
    assert len(json.loads(imported("log", "said", "--json").stdout)) == 1
    pair_id = json.loads(imported("sql", "SELECT pair_id FROM said LIMIT 1", "--json").stdout)[0]["pair_id"]
    facts = json.loads(imported("lineage", "said@1", pair_id, "--json").stdout)
    assert len(facts["generations"]) == 2
    assert imported("verify", "said@1").returncode == 0
    exported = imported("export", "said@1", "--view", "dpo", "--to", str(tmp_path / "out"), "--format", "jsonl")
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "out" / "handoff.json").is_file()
    page = imported("report", "said@1", "--to", str(tmp_path / "said.html"))
    assert page.returncode == 0, page.stderr
    assert "<script" not in (tmp_path / "said.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "nothing"), "nothing"),
        (("show", "said@9"), "said@9"),
        (("export", "said@1", "--view", "dpoo", "--to", "x"), "dpoo"),
        (("sql", "SELECT * FROM read_csv('/etc/passwd')"), "etc/passwd"),
        (("sql", "SELEC 1"), "SELEC"),
        (("lineage", "said@1", "nope"), "nope"),
        (
            ("run", "curate", "--set", "dataset=x", "--set", "prompts=none.jsonl", "--set", "policy=fake:", "--set", "judge=fake:"),
            "none.jsonl",
        ),
        (("run", "curate", "--config", "none.yaml"), "none.yaml"),
        (("run", "train", "--set", "dataset=nothing"), "nothing"),
        (("import", "none.jsonl", "--as", "x"), "none.jsonl"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(imported: Pairmill, arguments: tuple[str, ...], said: str) -> None:
    done = imported(*arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("pairmill: ")
    assert said in line
    assert "Traceback" not in done.stderr


def test_files_that_cannot_be_read(pairmill: Pairmill, tmp_path: Path) -> None:
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS * 50).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jsonl").write_bytes(b"")
    for name in ("cut.jsonl.gz", "empty.jsonl"):
        done = pairmill("import", str(tmp_path / name), "--as", "x")
        assert done.returncode == 1
        assert name in done.stderr.strip().splitlines()[-1]
    assert pairmill("datasets", "--json").stdout.strip() in ("", "[]")


def test_bad_rows_are_rows(pairmill: Pairmill, tmp_path: Path) -> None:
    good = [json.dumps(row).encode() for row in ROWS]
    huge = json.dumps({**ROWS[0], "prompt": "x" * 2_000_000}).encode()
    lines = [*good, b"\xff\xfe not utf-8", b"{not json", huge, good[0], json.dumps({**ROWS[1], "chosen": ""}).encode()]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    told = outcome(pairmill("import", str(tmp_path / "rows.jsonl"), "--as", "mixed"))
    first = told["funnel"][0]
    assert (first["n_in"], first["n_kept"]) == (25, 20)
    assert first["dropped"] == {"not_utf8": 1, "not_json": 1, "too_long": 1, "duplicate": 1, "empty": 1}


def test_a_dead_endpoint_is_one_line(pairmill: Pairmill, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", ["Hi"])
    spec = "openai:m@http://127.0.0.1:9/v1"
    done = pairmill(
        "run", "curate", "--set", "dataset=x", "--set", f"prompts={prompts}", "--set", f"policy={spec}", "--set", "verifier=numeric"
    )
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr.strip().splitlines()[-1]


def test_checkpoints_roll_back(tmp_path: Path) -> None:
    """The tag moves back, and a later rollback does not return to what was undone."""
    (tmp_path / "model").mkdir()
    for number in (1, 2, 3):
        (tmp_path / "model" / "weights").write_text(str(number))
        register(tmp_path, "sums", tmp_path / "model", fingerprint=f"f{number}")
        promote(tmp_path, "sums", number)
    done = CliRunner().invoke(checkpoints, ["sums", "--rollback", "2", "--lake", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    assert [row["ref"] for row in json.loads(done.stdout) if "prod" in row["tags"]] == ["sums@2"]
    assert history(tmp_path, "sums")[-1]["event"] == "rolled_back"
    assert rollback(tmp_path, "sums").version == 1
    assert CliRunner().invoke(checkpoints, ["--rollback", "2", "--lake", str(tmp_path)]).exit_code == 2


def test_usage_errors_exit_2(pairmill: Pairmill) -> None:
    assert pairmill("run", "nothing").returncode == 2
    assert pairmill("show").returncode == 2


def test_doctor_finds_this_installation_well(pairmill: Pairmill) -> None:
    done = pairmill("doctor", "--json")
    rows = json.loads(done.stdout)
    assert done.returncode == 0, rows
    assert {row["check"] for row in rows} >= {"prefect", "lake extensions", "trainer"}


def test_help_needs_no_heavy_import() -> None:
    code = "import sys, pipelines.cli, storage; print([m for m in ('duckdb', 'polars', 'pyarrow', 'prefect', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    every = "import storage; print([name for name in storage.__all__ if getattr(storage, name, None) is None])"
    done = subprocess.run([sys.executable, "-c", every], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
