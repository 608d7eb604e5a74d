"""Pushes with the real client to a Hub on loopback: what arrives, that nothing is sent twice, what is refused, what a break leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storage.errors import HubError
from storage.handoff import open_handoff, write_handoff
from storage.hub import Repository, look, own_token, push, repository_of
from storage.shards import Order, request_of, write_folder
from tests.hub_server import Fault, Hub, hub_server

REPO = "ann/sums"

# The client uploads files in a way that its own HTTP library would rather not have.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The client's Hub is one on loopback, and it waits for nothing before it tries again."""
    with hub_server() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))
        yield hub


@pytest.fixture
def version(make_frozen: Callable[..., Path], rows: Any) -> Callable[..., Path]:
    """The frozen copy of a version of so many pairs, with a group view."""

    def make(n: int, **more: Any) -> Path:
        pairs = [rows.pair(f"{i} + 1?", f"{i + 1}", f"{i}", split="test" if i % 5 == 0 else "train") for i in range(n)]
        generations, judgments = rows.scored(pairs)
        return make_frozen(pairs, generations=generations, judgments=judgments, **more)

    return make


def export(frozen: Path, folder: Path, token: str | None, *, shard_bytes: int = 450_000_000, **order: Any) -> dict[str, Any]:
    """As the command does it: look, write, push."""
    wanted = Order(repo=REPO, **order)
    found = look(REPO, request_of(frozen, wanted), token=token)
    about = write_folder(frozen, folder, wanted, shard_bytes=shard_bytes)
    return push(REPO, folder, about, found, token=token or "")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_arrives_is_the_folder_and_the_same_again_is_no_commit(hub: Hub, version: Callable[..., Path], tmp_path: Path) -> None:
    token, frozen = hub.token("ann"), version(12)
    pushed = export(frozen, tmp_path / "out", token)
    assert hub.files(REPO, "v1") == hub.files(REPO) == contents(tmp_path / "out")
    assert pushed == {"commit": hub.repos[REPO].main, "tag": "v1"}
    assert hub.repos[REPO].messages[1:] == ["sums@1"]
    before = len(hub.requests)
    assert look(REPO, request_of(frozen, Order(repo=REPO)), token=token).holds(request_of(frozen, Order(repo=REPO)))
    assert export(frozen, tmp_path / "out", token)["commit"] is None
    assert [found for found in hub.requests[before:] if found[0] not in ("GET", "HEAD")] == []


def test_a_newer_version_takes_the_place_of_the_older_one_which_stays_under_its_tag(
    hub: Hub, version: Callable[..., Path], tmp_path: Path
) -> None:
    token, first, second = hub.token("ann"), version(30), version(12, version=2)
    export(first, tmp_path / "1", token, shard_bytes=2_000)
    hub.repos[REPO].commits[hub.repos[REPO].main]["figure.png"] = (b"mine", False)
    export(second, tmp_path / "2", token, views=("dpo",))
    assert hub.files(REPO) == contents(tmp_path / "2") | {"figure.png": b"mine"}, "shards of before are gone, a person's file is not"
    assert hub.files(REPO, "v1") == contents(tmp_path / "1") | {"figure.png": b"mine"}
    uploads, tagged = len(hub.uploads), dict(hub.repos[REPO].tags)
    assert export(first, tmp_path / "1", token)["commit"] is not None, "back to the first: a commit of what the Hub has"
    assert hub.files(REPO) == contents(tmp_path / "1") | {"figure.png": b"mine"}
    assert (len(hub.uploads), hub.repos[REPO].tags) == (uploads, tagged)


def test_other_views_of_a_version_move_its_tag(hub: Hub, version: Callable[..., Path], tmp_path: Path) -> None:
    token, frozen = hub.token("ann"), version(12)
    export(frozen, tmp_path / "1", token, views=("dpo",))
    export(frozen, tmp_path / "2", token, views=("dpo", "kto"))
    assert hub.files(REPO, "v1") == hub.files(REPO) == contents(tmp_path / "2")


@pytest.mark.parametrize("how", ["cut", 503])
def test_an_upload_that_breaks_off_publishes_nothing_and_goes_on_where_it_was(
    hub: Hub, version: Callable[..., Path], tmp_path: Path, how: int | str
) -> None:
    token, frozen = hub.token("ann"), version(60)
    hub.faults = [Fault("PUT", "/lfs/", how, nth=4)]
    with pytest.raises(HubError, match="nothing was published, and the same command sends only what is missing") as caught:
        export(frozen, tmp_path / "out", token, shard_bytes=2_000)
    assert "\n" not in str(caught.value)
    assert "Signature" not in str(caught.value)
    assert "parquet" in str(caught.value)
    assert hub.repos[REPO].messages == ["initial commit"]
    assert hub.repos[REPO].tags == {}
    assert hub.uploads
    sent, hub.faults = list(hub.uploads), []
    export(frozen, tmp_path / "out", token)
    assert not set(hub.uploads[len(sent) :]) & set(sent)
    assert hub.files(REPO, "v1") == contents(tmp_path / "out")


def test_one_break_is_mended_by_the_client(hub: Hub, version: Callable[..., Path], tmp_path: Path) -> None:
    hub.faults = [Fault("PUT", "/lfs/", "cut", nth=2, once=True), Fault("POST", "/batch", 502, once=True)]
    export(version(12), tmp_path / "out", hub.token("ann"))
    assert hub.files(REPO, "v1") == contents(tmp_path / "out")


def test_a_tag_that_was_not_set_is_set_by_the_next_export(hub: Hub, version: Callable[..., Path], tmp_path: Path) -> None:
    token, frozen = hub.token("ann"), version(12)
    hub.faults = [Fault("POST", "/tag/", 500)]
    with pytest.raises(HubError, match=r"the Hub answered 500 .*the data is published, but its tag is not; the same command sets it"):
        export(frozen, tmp_path / "out", token)
    hub.faults = []
    assert export(frozen, tmp_path / "out", token)["commit"] is None
    assert hub.files(REPO, "v1") == contents(tmp_path / "out")
    assert len(hub.repos[REPO].commits) == 2


def test_somebody_elses_commit_meanwhile_is_not_overwritten(hub: Hub, version: Callable[..., Path], tmp_path: Path) -> None:
    token, frozen = hub.token("ann"), version(12)
    repo, wanted = hub.make(REPO), Order(repo=REPO)
    found, about = look(REPO, request_of(frozen, wanted), token=token), write_folder(frozen, tmp_path / "out", wanted)
    repo.commit({**repo.commits[repo.main], "notes.txt": (b"x", False)}, "by hand")
    with pytest.raises(HubError, match="was changed by somebody else meanwhile; run the same command again"):
        push(REPO, tmp_path / "out", about, found, token=token)
    assert hub.files(REPO) == {"notes.txt": b"x"}


def about_of(**request: Any) -> dict[str, str]:
    return {"pairmill.json": json.dumps({"request": {"dataset": "sums", "version": 1, "digest": "d" * 64, **request}, "files": {}})}


@pytest.mark.parametrize(
    ("files", "tag", "match"),
    [
        (about_of(dataset="other"), None, "holds the dataset other, not sums; give another repository"),
        ({"README.md": "# Mine", "data.csv": "a"}, None, r"files that no export brought \(data.csv\)"),
        ({"README.md": "---\npretty_name: Mine\n---\n# Mine"}, None, r"files that no export brought \(README.md\)"),
        ({"pairmill.json": "{"}, None, r"files that no export brought \(pairmill.json\)"),
        ({"pairmill.json": '{"request": {"dataset": "sums"}, "files": 3}'}, None, r"files that no export brought \(pairmill.json\)"),
        (about_of(), "v1", r"has another sums@1 as v1 \(digest dddddddddddd, here .*versions never change"),
        ({}, "v1", "has a tag v1 that no export set; delete it there"),
    ],
)
def test_a_repository_of_something_else_is_refused(
    hub: Hub, version: Callable[..., Path], files: dict[str, str], tag: str | None, match: str
) -> None:
    repo = hub.make(REPO, files)
    if tag:
        repo.tags[tag] = repo.main
    with pytest.raises(HubError, match=match):
        look(REPO, request_of(version(5), Order(repo=REPO)), token=hub.token("ann"))
    assert [found for found in hub.requests if found[0] not in ("GET", "HEAD")] == []


def test_a_repository_that_the_hub_made_is_taken(hub: Hub, version: Callable[..., Path], tmp_path: Path) -> None:
    hub.make(REPO, {"README.md": "---\nlicense: mit\n---\n"})
    export(version(5), tmp_path / "out", hub.token("ann"))
    assert hub.files(REPO) == contents(tmp_path / "out")


def test_tokens_that_may_not_write_send_nothing_and_are_in_no_message(hub: Hub, version: Callable[..., Path]) -> None:
    request = request_of(version(5), Order(repo=REPO))
    reader, stranger = hub.token("ann", "read"), hub.token("bob")
    forbidden = r"the token may not write to hf://ann/sums; make one with write access at http://\S+/settings/tokens"
    cases = [(reader, forbidden), ("hf_unknown0123", "the Hub does not know the token"), (None, "no token for hf://ann/sums: set HF_TOKEN")]
    for there in (False, True):
        if there:
            hub.make(REPO)
            cases.append((stranger, forbidden))
        for token, match in cases:
            with pytest.raises(HubError, match=match) as caught:
                look(REPO, request, token=token)
            assert "hf_" not in str(caught.value)
            assert "\n" not in str(caught.value)
            assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert [found for found in hub.requests if found[0] not in ("GET", "HEAD")] == []


def test_a_token_that_may_not_make_the_repository_is_one_line(hub: Hub, version: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"the token may not write to hf://ann/sums.*nothing was published"):
        export(version(5), tmp_path / "out", hub.token("bob"))
    assert hub.repos == {}


def test_a_repository_that_the_token_cannot_see_is_not_written_over(hub: Hub, version: Callable[..., Path], tmp_path: Path) -> None:
    hub.faults = [Fault("GET", "auth-check", 404, message="Repository not found")]
    hub.make(REPO, {"data.csv": "a"})
    with pytest.raises(HubError, match="hf://ann/sums is there, and was not to be seen with this token"):
        export(version(5), tmp_path / "out", hub.token("ann"))
    assert hub.files(REPO) == {"data.csv": b"a"}


def test_what_the_server_repeats_of_a_token_is_cut_out(hub: Hub, version: Callable[..., Path], tmp_path: Path) -> None:
    token = hub.token("ann")
    hub.faults = [Fault("POST", "/commit/", 500, message=f"token {token} and hf_another01 failed")]
    with pytest.raises(HubError, match=r"the Hub answered 500 \(token hf_… and hf_… failed\)") as caught:
        export(version(5), tmp_path / "out", token)
    assert token not in str(caught.value)


def test_a_card_that_the_hub_refuses_sends_nothing(hub: Hub, version: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r'the Hub refused it: Invalid metadata in README.md. - "license" must be one of .*, is mine;'):
        export(version(5), tmp_path / "out", hub.token("ann"), licenses=("mine",))
    assert hub.uploads == []
    assert hub.repos[REPO].messages == ["initial commit"]


def test_a_hub_that_is_not_there_is_one_line(
    hub: Hub, version: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    request = request_of(version(5), Order(repo=REPO))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"http://127.0.0.1:9 cannot be reached or broke off \(ConnectError: .*nothing was sent"):
        look(REPO, request, token="hf_x0000000")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set; unset it to export"):
        look(REPO, request, token="hf_x0000000")


def test_a_private_repository(hub: Hub, version: Callable[..., Path], tmp_path: Path) -> None:
    frozen, token = version(5), hub.token("ann")
    about = write_folder(frozen, tmp_path / "out", Order(repo=REPO))
    push(REPO, tmp_path / "out", about, Repository(), token=token, private=True)
    assert hub.repos[REPO].private
    assert look(REPO, about["request"], token=token).holds(about["request"])


@pytest.mark.parametrize(
    "target",
    ["ann/sums", "hf://sums", "hf://", "hf://ann/sums/more", "hf://ann/su ms", "hf://ann/sums@main", "hf://ann/a--b", "s3://ann/sums"],
)
def test_names_that_are_no_repository(target: str) -> None:
    with pytest.raises(HubError, match=r"names no repository on the Hub.*write hf://OWNER/NAME"):
        repository_of(target)


def test_names_of_repositories() -> None:
    assert repository_of("hf://ann/sums") == repository_of("hf://datasets/ann/sums") == "ann/sums"


def test_the_token_is_the_clients_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    assert own_token() == "hf_of_the_environment"


READ = """
import json, sys
from datasets import load_dataset
found = {}
for view in ("dpo", "group"):
    loaded = load_dataset(sys.argv[1], view, revision="v1")
    found[view] = {split: {"features": part.features.to_dict(), "rows": part.to_list()} for split, part in loaded.items()}
found["default"] = sorted(load_dataset(sys.argv[1])["train"]["pair_id"])
found["folder"] = {split: part.to_list() for split, part in load_dataset(sys.argv[2], "dpo").items()}
print(json.dumps(found))
"""


def test_datasets_reads_the_same_rows_and_features_from_the_hub(
    hub: Hub, make_frozen: Callable[..., Path], rows: Any, tmp_path: Path
) -> None:
    pairs = [rows.pair(f"{n} + 1?", f"{n + 1}", f"{n}", split="test" if n % 5 == 0 else "train", margin=0.1 * n) for n in range(60)]
    generations, judgments = rows.scored(pairs)
    call = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "CET", "h": 1.0}}}
    pairs.append(rows.pair("time?", rows.answer("noon", reasoning_content="sun"), rows.answer(None, tool_calls=[call]), tools=[]))
    frozen = make_frozen(pairs, generations=generations, judgments=judgments)
    export(frozen, tmp_path / "out", hub.token("ann"), shard_bytes=1_500)
    assert len(list((tmp_path / "out" / "dpo").glob("train-*"))) > 2
    environment = {name: value for name, value in os.environ.items() if "OFFLINE" not in name and name != "HF_TOKEN"}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", READ, REPO, str(tmp_path / "out")], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for view in ("dpo", "group"):
        mine = open_handoff(write_handoff(frozen, tmp_path / view, view=view, format="parquet")).dataset_dict()
        for split, part in mine.items():
            assert found[view][split]["features"] == json.loads(json.dumps(part.features.to_dict()))
            assert found[view][split]["rows"] == part.to_list()
        assert set(found[view]) == set(mine)
    assert found["folder"] == {split: told["rows"] for split, told in found["dpo"].items()}, "the folder of a dry run loads as well"
    assert found["default"] == [row["pair_id"] for row in found["dpo"]["train"]["rows"]]
