"""Engines by role: who shares one, and what is refused before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from curators.errors import ConfigError
from pipelines.config import CapsConfig, EngineConfig
from pipelines.engines import budget, concrete_spec, engines_open, is_floating
from pipelines.judging.config import JudgeConfig
from storage.calls import CallLedger, open_ledger
from storage.checkpoints import register

POLICY = Path(__file__).parents[2] / "examples" / "arithmetic" / "policy"
LOCAL = EngineConfig(engine=f"hf:{POLICY}")
SERVER = EngineConfig(engine="openai:m@http://127.0.0.1:9/v1")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[CallLedger]:
    with open_ledger(tmp_path / "calls.sqlite") as opened:
        yield opened


@pytest.mark.skipif(not (POLICY / "model.safetensors").is_file(), reason="the embedded policy is not there")
async def test_a_cap_in_dollars_needs_a_price_of_servers_and_of_nothing_else(tmp_path: Path, ledger: CallLedger) -> None:
    spend = budget(CapsConfig(usd=1.0))
    async with engines_open(
        {"policy": LOCAL, "judge": EngineConfig(engine="fake:judge")}, tmp_path, ledger=ledger, spend=spend, run_id="r"
    ):
        pass
    with pytest.raises(ConfigError, match=r"a cap of 1.0 USD, but openai:m@.* has no price; set prompt_usd"):
        async with engines_open({"policy": LOCAL, "judge": SERVER}, tmp_path, ledger=ledger, spend=spend, run_id="r"):
            pass
    priced = SERVER.model_copy(update={"prompt_usd": 1.0, "completion_usd": 2.0})
    async with engines_open({"policy": LOCAL, "judge": priced}, tmp_path, ledger=ledger, spend=spend, run_id="r"):
        pass


@pytest.mark.parametrize(
    "option",
    [
        {"dtype": "bfloat16"},
        {"max_concurrency": 2},
        {"timeout_s": 5.0},
        {"prompt_usd": 1.0, "completion_usd": 2.0},
        {"share_requests": False},
        {"threads": 1},
        {"api_key_env": "MY_KEY"},
    ],
    ids=lambda option: next(iter(option)),
)
async def test_roles_share_an_engine_only_where_they_agree_in_every_option(
    tmp_path: Path, ledger: CallLedger, monkeypatch: pytest.MonkeyPatch, option: dict[str, object]
) -> None:
    monkeypatch.setenv("MY_KEY", "k")
    roles = {
        "policy": SERVER,
        "judge": JudgeConfig(engine=SERVER.engine, rubric="pointwise", temperature=0.5),
        "other": JudgeConfig.model_validate({"engine": SERVER.engine} | option),
    }
    async with engines_open(roles, tmp_path, ledger=ledger, spend=None, run_id="r") as engines:
        assert engines["policy"] is engines["judge"]
        assert engines["policy"] is not engines["other"]
        assert engines["policy"].spec == engines["other"].spec


@pytest.mark.parametrize(("kind", "opened"), [("", "hf:"), ("rm:", "rm:")])
def test_a_checkpoint_is_a_directory_of_its_kind_today(tmp_path: Path, kind: str, opened: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    found = register(tmp_path, "c", model, fingerprint="hf-1")
    engine = EngineConfig(engine=f"{kind}checkpoint:c")
    assert is_floating(engine)
    assert concrete_spec(engine, tmp_path) == f"{opened}{found.path}"
    pinned = EngineConfig(engine=f"{kind or 'hf:'}somewhere")
    assert not is_floating(pinned)
    assert concrete_spec(pinned, tmp_path) == pinned.engine
