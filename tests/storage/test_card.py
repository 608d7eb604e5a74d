"""The dataset card: metadata that the Hub reads, and only what may be public."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from huggingface_hub import DatasetCard

from storage.card import card as card_text
from storage.card import public
from storage.shards import Order, write_folder

MANIFEST = {
    "kind": "curate",
    "author": "ann-login",
    "created_at": "2026-11-22T00:00:00Z",
    "policy": "hf-0123",
    "policy_spec": "hf:/home/ann/models/small",
    "judge": "http-4567",
    "seed": 7,
    "code_digest": "c0de",
    "recipe_digest": "beef",
    "on_policy_share": 0.875,
    "parents": [{"ref": "big@2", "digest": "d" * 64, "facts_digest": "f"}],
    "recipe": {
        "prompts": "/home/ann/secret-project/prompts.jsonl",
        "judge": {"engine": "openai:judge-70b@http://user:pass@10.1.2.3:8000/v1", "api_key_env": "JUDGE_KEY", "rubric": "../up/rubric.md"},
        "note": "a ```fence``` and ~~~",
    },
    "funnel": [{"stage": "judge", "unit": "judgments", "n_in": 1200, "n_kept": 1000, "dropped": {"a|b": 150, "no\nreply": 50}}],
    "gates": [{"name": "min_pairs", "passed": True, "detail": "4 pairs; at least <1>"}],
}


@pytest.fixture
def card(make_frozen: Callable[..., Path], rows: Any, tmp_path: Path) -> Callable[..., DatasetCard]:
    root = make_frozen([rows.pair(f"{n}?", "yes", "no", split="test" if n == 0 else "train") for n in range(4)])
    written = orjson.loads((root / "manifest.json").read_bytes())
    (root / "manifest.json").write_bytes(orjson.dumps({**MANIFEST, **written}))

    def make(**order: Any) -> DatasetCard:
        quality = [{"measure": "agreement with the gold", "count": "3 of 4"}]
        write_folder(root, tmp_path / "out", Order(repo="ann/sums", **order), quality=quality)
        return DatasetCard.load(tmp_path / "out" / "README.md")

    return make


def test_the_head_is_metadata_that_the_hub_reads(card: Callable[..., DatasetCard]) -> None:
    found = card(views=("dpo", "sft"), licenses=("mit", "cc-by-4.0"), languages=("en", "de")).data.to_dict()
    assert found["license"] == ["mit", "cc-by-4.0"]
    assert found["language"] == ["en", "de"]
    assert found["size_categories"] == ["n<1K"]
    assert found["pretty_name"] == "sums"
    splits = [{"split": split, "path": f"dpo/{split}-*.parquet"} for split in ("train", "test")]
    assert found["configs"][0] == {"config_name": "dpo", "data_files": splits, "default": True}
    assert [config["config_name"] for config in found["configs"]] == ["dpo", "sft"]


def test_what_is_not_known_is_not_said(card: Callable[..., DatasetCard]) -> None:
    found = card()
    assert not {"license", "language"} & found.data.to_dict().keys()
    assert "None was stated" in found.text


def test_the_text_says_how_it_was_made_and_how_to_load_it(card: Callable[..., DatasetCard]) -> None:
    text = card().text
    for said in (
        'load_dataset("ann/sums", "dpo", revision="v1")',
        "| made by | flow curate |",
        "| made from | big@2 (`dddddddddddd`) |",
        "| policy | hf:small |",
        "| policy fingerprint | `hf-0123` |",
        "| judge | `http-4567` |",
        "| on-policy share | 87.5% |",
        "| seed | 7 |",
        "| code digest | `c0de` |",
        "| judge | judgments | 1,200 | 1,000 | 150 a\\|b, 50 no reply |",
        "| min_pairs | yes | 4 pairs; at least &lt;1> |",
        "| agreement with the gold | 3 of 4 |",
        "````yaml\n",  # longer than the fence in the recipe
    ):
        assert said in text


def test_nothing_private_is_in_the_folder(card: Callable[..., DatasetCard], tmp_path: Path) -> None:
    card()
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").glob("*.*"))
    assert b"openai:judge-70b" in written
    for private in (b"ann-login", b"/home", b"secret-project", b"10.1.2.3", b"user:pass", b"JUDGE_KEY", b"../", str(tmp_path).encode()):
        assert private not in written


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("hf:/models/x", "hf:x"),
        ("~/p.jsonl", "p.jsonl"),
        ("/data/set/", "set/"),
        ("../../p.jsonl", "p.jsonl"),
        ("examples/p.jsonl", "examples/p.jsonl"),
        ("openai:a@http://h/v1,http://i/v1", "openai:a"),
        ("a / b", "a / b"),
        ("see https://ann:pw@example.org/x", "see https://example.org/x"),
        ("mod:function", "mod:function"),
        ("last-token:/srv/m", "last-token:m"),
    ],
)
def test_paths_and_addresses_are_cut(value: str, shown: str) -> None:
    assert public({"recipe": [value]}) == {"recipe": [shown]}


def test_a_column_that_only_this_versions_rows_have_is_listed(make_frozen: Callable[..., Path], rows: Any, tmp_path: Path) -> None:
    about = write_folder(make_frozen([rows.pair("a?", "yes", "no")]), tmp_path / "out", Order(repo="ann/sums"))
    about["views"]["dpo"]["columns"]["attr_safety"] = "number"
    assert "| `attr_safety` | number |  |" in card_text(about, [])
