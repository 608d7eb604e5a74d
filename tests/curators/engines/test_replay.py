"""Recorded completions: what is there is given, what is not is an error that says what there is."""

from __future__ import annotations

import gzip

import orjson
import pytest

from curators.engines import Request, open_engine
from curators.errors import ConfigError, EngineError


def record(path, *lines):
    text = b"\n".join(orjson.dumps(line) for line in lines)
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return open_engine(f"replay:{path}")


def ask(key: str, **fields: object) -> Request:
    return Request(key=key, messages=[{"role": "user", "content": "whatever"}], **fields)


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz"])
async def test_all_shapes_of_a_line(tmp_path, name):
    engine = record(
        tmp_path / name,
        {"key": "a", "text": "one"},
        {"key": "b", "completions": [{"text": "x"}, {"text": "y", "finish_reason": "length"}]},
        {"key": "b", "sample_index": 2, "text": "z", "logprobs": [-0.5], "token_ids": [7], "n_tokens": 1},
        {"key": "c", "error": "refused", "reason": "policy"},
        {"key": "a", "attempt": 1, "text": "again"},
    )
    assert (await engine.complete(ask("a"))).completions[0].text == "one"
    assert (await engine.complete(ask("a", attempt=1))).completions[0].text == "again"
    reply = await engine.complete(ask("b", first_sample=1, n=2))
    assert [(c.text, c.sample_index, c.finish_reason) for c in reply.completions] == [("y", 1, "length"), ("z", 2, None)]
    refused = await engine.complete(ask("c"))
    assert (refused.error, refused.reason) == ("refused", "policy")
    assert {"logprobs", "token_ids"} <= engine.capabilities
    assert "options" not in engine.capabilities


async def test_a_miss_is_an_error_that_names_the_nearest(tmp_path):
    engine = record(tmp_path / "r.jsonl", *[{"key": f"judge/item-{i}/0/0", "text": "x"} for i in range(20)])
    with pytest.raises(EngineError, match=r"no line has the key 'judge/item-99/0/0'; the nearest are \['judge/item-"):
        await engine.complete(ask("judge/item-99/0/0"))
    with pytest.raises(EngineError, match=r"recorded for the samples \[0\], not for \[1, 2\]"):
        await engine.complete(ask("judge/item-1/0/0", n=3))
    assert (await engine.complete(ask("judge/item-1/0/0", attempt=1))).error == "unsupported"
    assert (await engine.complete(ask("judge/item-1/0/0", options=("A",)))).error == "unsupported"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b'{"key": "a", "text": "x"}\nnot json', "line 2 is not JSON"),
        (b'{"text": "x"}', "line 1 has no `key`"),
        (b'{"key": "a"}', "`text` is None"),
        (b'{"key": "a", "txt": "x"}', r"unknown fields \['txt'\]"),
        (b'{"key": "a", "error": "bad"}', "error is 'bad'; allowed are"),
        (b'{"key": "a", "text": "x"}\n{"key": "a", "text": "y"}', "line 2: sample 0 of 'a' is there already"),
        (b"\n\n", "holds no line"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, content, match):
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=match) as caught:
        open_engine(f"replay:{path}")
    assert "r.jsonl" in str(caught.value)


def test_a_missing_or_truncated_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        open_engine(f"replay:{tmp_path / 'none.jsonl'}")
    path = tmp_path / "r.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"key": "a", "text": "x"}' * 50)[:40])
    with pytest.raises(ConfigError, match="cannot be read"):
        open_engine(f"replay:{path}")


def test_an_edited_recording_is_another_engine(tmp_path):
    one = record(tmp_path / "r.jsonl", {"key": "a", "text": "x"}).fingerprint
    assert one != record(tmp_path / "r.jsonl", {"key": "a", "text": "y"}).fingerprint
    assert one == record(tmp_path / "r.jsonl", {"key": "a", "text": "x"}).fingerprint
