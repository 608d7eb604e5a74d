"""The in-process engine over a random byte-level Llama on disk: requests, texts, errors, threads. The numbers are `test_decoding`'s."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from curators.engines.base import Reply, Request, Sampling
from curators.engines.fingerprint import fingerprint
from curators.engines.local import LocalEngine, open_local
from curators.engines.prefixes import PrefixCache
from curators.engines.transcripts import Prompt, Prompts, StopStrings, encode, token_pieces
from curators.errors import ConfigError, EngineError

CONTEXT = 700
TEMPLATE = (
    "{% if tools %}<|start|>tools\n{{ tools | tojson }}<|end|>{% endif %}"
    "{% for m in messages %}{% if m.role == 'narrator' %}{{ raise_exception('no narrators') }}{% endif %}"
    "<|start|>{{ m.role }}\n{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{{ opening or '' }}{% endif %}"
)
POLICY = Path(__file__).parents[3] / "examples/arithmetic/policy"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory: 2 layers, 4 query heads over 2 key heads, a byte-level BPE of 300 tokens, sharp random weights."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|pad|>", "<|start|>", "<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat\nand then the hat sat on the cat\n"] * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", extra_special_tokens=["<|start|>"])
    fast.chat_template = TEMPLATE
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.25,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[LocalEngine]:
    opened = open_local(str(folder), threads=1)
    yield opened
    await opened.aclose()


def ask(content: str = "the cat", **fields: object) -> Request:
    sampling = fields.pop("sampling", None) or Sampling(
        **{name: fields.pop(name) for name in ("temperature", "top_p", "max_tokens", "stop", "seed") if name in fields}
    )
    return Request(key=content[:20], messages=[{"role": "user", "content": content}], sampling=sampling, **fields)


def seen(reply: Reply) -> list[tuple[int, str, tuple[int, ...], str | None]]:
    assert reply.error is None, reply.reason
    return [(c.sample_index, c.text, tuple(c.token_ids or ()), c.finish_reason) for c in reply.completions]


CONTENTS = [f"the {word} sat on the mat " * (i % 7 + 1) for i, word in enumerate(["cat", "hat", "bat", "rat"] * 3)]


async def test_samples_do_not_depend_on_what_shares_the_batch(engine):
    requests = [ask(content, n=4, max_tokens=16, seed=5) for content in CONTENTS]
    together = [seen(r) for r in await asyncio.gather(*map(engine.complete, requests))]
    order = random.Random(0).sample(range(len(requests)), len(requests))
    shuffled = dict(zip(order, await asyncio.gather(*(engine.complete(requests[i]) for i in order)), strict=True))
    assert [seen(shuffled[i]) for i in range(len(requests))] == together
    assert seen(await engine.complete(requests[3])) == together[3]


async def test_one_request_for_four_samples_equals_four_for_one(engine):
    four = seen(await engine.complete(ask(n=4, max_tokens=20, first_sample=2)))
    ones = [seen(await engine.complete(ask(n=1, max_tokens=20, first_sample=i)))[0] for i in (2, 3, 4, 5)]
    assert four == ones
    assert [index for index, *_ in four] == [2, 3, 4, 5]
    assert len({text for _, text, *_ in four}) == 4


async def test_seed_attempt_prompt_and_tools_each_give_other_samples(engine):
    base = ask(max_tokens=20)
    others = [
        ask(max_tokens=20, seed=1),
        ask(max_tokens=20, attempt=1),
        ask("the hat", max_tokens=20),
        ask(max_tokens=20, tools=[{"a": 1}]),
    ]
    texts = {seen(await engine.complete(request))[0][1] for request in [base, *others]}
    assert len(texts) == 5


async def test_logprobs_and_text_are_those_of_the_tokens(engine, folder):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    reply = await engine.complete(ask(n=6, max_tokens=30))
    text = tokenizer.apply_chat_template([{"role": "user", "content": "the cat"}], add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert reply.prompt_tokens == len(prompt)
    assert reply.completion_tokens == sum(c.n_tokens for c in reply.completions)
    for completion in reply.completions:
        ids = torch.tensor([[*prompt, *completion.token_ids]])
        with torch.inference_mode():
            rows = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        own = rows.gather(1, ids[0, len(prompt) :, None])[:, 0]
        assert completion.logprobs == pytest.approx(own.tolist(), abs=1e-4)
        assert completion.text == tokenizer.decode(completion.token_ids, skip_special_tokens=True)
        assert completion.finish_reason == ("stop" if completion.token_ids[-1] == tokenizer.eos_token_id else "length")
        assert tokenizer.eos_token not in completion.text


async def test_a_stop_string_ends_the_sample_and_is_not_in_its_text(engine):
    free = [c.text for c in (await engine.complete(ask(n=8, max_tokens=40))).completions]
    pairs = sorted({text[i : i + 2] for text in free for i in range(len(text) - 1) if "\N{REPLACEMENT CHARACTER}" not in text[i : i + 2]})
    stop = max(pairs, key=lambda pair: sum(pair in text for text in free))
    reply = await engine.complete(ask(n=8, max_tokens=40, stop=(stop, "never")))
    cut = 0
    for whole, completion in zip(free, reply.completions, strict=True):
        assert completion.text == whole.partition(stop)[0]
        assert completion.ended == (completion.finish_reason == "stop" and stop not in whole)
        if stop in whole:
            cut += 1
            assert completion.finish_reason == "stop"
            assert completion.n_tokens <= 40
    assert cut


async def test_max_tokens_and_the_end_of_the_context_end_with_length(engine):
    reply = await engine.complete(ask(n=2, max_tokens=3))
    assert {(c.n_tokens, c.finish_reason) for c in reply.completions} <= {(3, "length"), (2, "stop"), (1, "stop"), (3, "stop")}
    empty = (await engine.complete(ask("", max_tokens=1))).prompt_tokens
    short = await engine.complete(ask("z" * (CONTEXT - empty - 2), n=8, max_tokens=50))
    assert short.prompt_tokens == CONTEXT - 2
    assert max(c.n_tokens for c in short.completions) == 2


async def test_greedy_and_near_greedy_agree(engine):
    greedy = seen(await engine.complete(ask(n=2, temperature=0.0, max_tokens=20)))
    assert greedy[0][1:] == greedy[1][1:]
    assert seen(await engine.complete(ask(temperature=1.0, top_p=1e-6, max_tokens=20)))[0][1:] == greedy[0][1:]


async def test_a_prefix_is_continued_as_if_the_model_had_written_it(engine, folder):
    whole = (await engine.complete(ask(temperature=0.0, max_tokens=24))).completions[0]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for n in (1, 5, 11):
        prefix = tokenizer.decode(whole.token_ids[:n])
        if encode(tokenizer, prefix) != tuple(whole.token_ids[:n]):
            continue  # sampled tokens that the tokenizer would not choose
        rest = (await engine.complete(ask(temperature=0.0, max_tokens=24 - n, prefix=prefix))).completions[0]
        assert rest.token_ids == whole.token_ids[n:]
        assert prefix + rest.text == whole.text
        break
    else:
        pytest.fail("no prefix could be compared")


async def test_steps_are_the_same_whether_what_stands_before_them_was_kept_or_not(engine, folder):
    """Each prefix after the one that it goes on from, side by side with others, and each of them alone in a new engine."""

    def step(content: str, prefix: str) -> Request:
        return ask(content, n=3, max_tokens=8, prefix=prefix or None, stop=("t",))

    found: dict[tuple[str, str], object] = {}
    ends = dict.fromkeys(CONTENTS[:6], "")
    for _ in range(4):
        replies = await asyncio.gather(*(engine.complete(step(content, prefix)) for content, prefix in ends.items()))
        found |= {place: seen(reply) for place, reply in zip(ends.items(), replies, strict=True)}
        ends = {c: prefix + (reply.completions[0].text or "?") for (c, prefix), reply in zip(ends.items(), replies, strict=True)}
    for content, prefix in list(found)[::5]:
        fresh = open_local(str(folder), threads=1)
        assert seen(await fresh.complete(step(content, prefix))) == found[content, prefix]
        await fresh.aclose()


async def test_a_closed_engine_keeps_no_prefixes(folder):
    def n_caches() -> int:
        gc.collect()
        return sum(type(thing) is PrefixCache for thing in gc.get_objects())

    before = n_caches()
    engine = open_local(str(folder), threads=1)
    await engine.complete(ask(max_tokens=2))
    assert n_caches() == before + 1
    await engine.aclose()
    assert n_caches() == before


def test_text_after_a_special_token_is_encoded_from_there_on(folder):
    """The same tokens as of the whole text, with the seam anywhere, for two tokenizers that read it by itself and one that does not."""
    first = Tokenizer(models.BPE(unk_token="<unk>"))
    first.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "<|start|>"], show_progress=False)
    first.train_from_iterator(["assistant the cat sat on the mat"] * 9, trainer)
    merging = PreTrainedTokenizerFast(tokenizer_object=first, unk_token="<unk>", extra_special_tokens=["<|start|>"])
    merging.chat_template = TEMPLATE
    words = ("the cat", " sat", "\n1. 多", "<|start|>user", "  ", "mat\n\n")
    separate = []
    for tokenizer in (AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(POLICY), merging):
        prompts = Prompts(tokenizer)
        for i, prefix in enumerate(["".join(random.Random(i).choices(words, k=1 + i % 4)) for i in range(20)]):
            plain = prompts.read(ask("the mat"))
            prompt = prompts.read(ask("the mat", prefix=prefix))
            text = plain.text + prefix
            assert prompt.text == text
            assert prompt.ids == plain.ids + Prompts(tokenizer).continuation(Prompt(plain.text, plain.ids), prefix)
            assert prompts.continuation(prompt, words[i % 6]) == prompts.continuation(Prompt(text, prompt.ids), words[i % 6])
        separate.append(prompt.n_head > 0)
    assert separate == [True, True, False]


def test_a_continuation_keeps_the_tokens_before_it(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, addition in (("the ca", "t sat"), ("the", " cat"), ("on", "\n")):
        ids = encode(tokenizer, text)
        more = Prompts(tokenizer).continuation(Prompt(text, ids), addition)
        assert tokenizer.decode([*ids, *more]) == text + addition
    assert encode(tokenizer, "the cat")[: len(encode(tokenizer, "the ca"))] != encode(tokenizer, "the ca")  # a seam inside a token


async def test_options_are_scored_exactly_and_next_to_samples(engine, folder):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    options = ("A", "B", "the cat sat", "\nand then 多")
    scorings = [ask(content, options=options, max_tokens=1, prefix=" mat ") for content in CONTENTS]
    replies = await asyncio.gather(*map(engine.complete, [*scorings, *(ask(c, n=2, max_tokens=8) for c in CONTENTS)]))
    for content, reply in zip(CONTENTS, replies, strict=False):
        (completion,) = reply.completions
        text = tokenizer.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False) + " mat "
        before = tokenizer(text, add_special_tokens=False)["input_ids"]
        for option in options:
            after = tokenizer(option, add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[*before, *after]])
            with torch.inference_mode():
                rows = model(ids).logits[0, len(before) - 1 : -1].log_softmax(-1)
            assert completion.option_logprobs[option] == pytest.approx(float(rows.gather(1, ids[0, len(before) :, None]).sum()), abs=1e-4)
        assert list(completion.option_logprobs) == list(options)
        assert completion.text == ""


async def test_requests_that_cannot_be_answered_say_why_and_hurt_no_other(engine):
    good = [ask(content, n=2, max_tokens=12) for content in CONTENTS[:6]]
    alone = [seen(await engine.complete(request)) for request in good]
    bad = [
        ask("mat " * 5000, max_tokens=12),
        ask("mat " * 5000, options=("A",)),
        Request(key="n", messages=[{"role": "narrator", "content": "x"}]),
        ask(json_schema={"type": "object"}),
        ask(n=0),
        ask(options=("A", "")),
        ask(max_tokens=0),
        ask(top_p=0.0),
    ]
    replies = await asyncio.gather(*map(engine.complete, [*bad, *good]))
    kinds = ["context_overflow", "context_overflow", "refused", "unsupported", "refused", "refused", "refused", "refused"]
    assert [reply.error for reply in replies[: len(bad)]] == kinds
    assert all(reply.reason and not reply.completions for reply in replies[: len(bad)])
    assert str(CONTEXT) in replies[0].reason
    assert "no narrators" in replies[2].reason
    assert [seen(reply) for reply in replies[len(bad) :]] == alone


async def test_chat_template_kwargs_and_tools_reach_the_template(engine):
    plain, opened, tools = [
        (await engine.complete(request)).prompt_tokens
        for request in (
            ask(max_tokens=1),
            ask(max_tokens=1, chat_template_kwargs={"opening": "zzzz"}),
            ask(max_tokens=1, tools=[{"name": "x"}]),
        )
    ]
    assert opened == plain + 4
    assert tools > plain + 5


async def test_a_torn_character_is_decoded_with_a_replacement(engine, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stops = StopStrings(tokenizer, ("多",), token_pieces(tokenizer))
    ids = encode(tokenizer, "a多b")
    assert not stops.complete(ids[:-2])
    assert stops.complete(ids[:-1])
    assert ids[-2] in stops.suspects
    assert stops.cut("a多b") == "a"
    reply = await engine.complete(ask(n=16, max_tokens=10))
    assert any("\N{REPLACEMENT CHARACTER}" in c.text for c in reply.completions)  # random bytes are mostly torn
    json.dumps([c.text for c in reply.completions])


async def test_a_cancelled_request_leaves_the_others_alone(engine):
    expected = seen(await engine.complete(ask("the mat", n=4, max_tokens=40)))
    tasks = [asyncio.create_task(engine.complete(ask(c, n=4, max_tokens=600))) for c in CONTENTS]
    kept = asyncio.create_task(engine.complete(ask("the mat", n=4, max_tokens=40)))
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    assert seen(await kept) == expected
    assert all(isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*tasks, return_exceptions=True))
    assert seen(await engine.complete(ask("the mat", n=4, max_tokens=40))) == expected


async def test_closing_ends_the_thread_and_fails_what_is_in_flight(folder):
    before = set(threading.enumerate())
    engine = open_local(str(folder), threads=1, max_concurrency=2)
    await engine.complete(ask(max_tokens=2))
    flying = [asyncio.create_task(engine.complete(ask(c, n=4, max_tokens=600))) for c in CONTENTS]
    await asyncio.sleep(0)
    await engine.aclose()
    outcomes = await asyncio.gather(*flying, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {EngineError, Reply}
    assert any(isinstance(outcome, EngineError) for outcome in outcomes)
    with pytest.raises(EngineError, match="closed"):
        await engine.complete(ask())
    await engine.aclose()
    new = [thread.name for thread in threading.enumerate() if thread not in before]
    assert [name for name in new if not name.startswith("asyncio_")] == []  # asyncio keeps the pool that waited for the engine's thread


async def test_an_unused_engine_closes_and_loads_nothing(folder):
    engine = open_local(f"hf:{folder}")
    assert engine.fingerprint.startswith("hf-")
    await engine.aclose()
    assert engine._thread is None


def changed(folder: Path, to: Path, name: str, edit: bytes) -> Path:
    shutil.copytree(folder, to)
    file = to / name
    content = file.read_bytes() if file.exists() else b""
    file.write_bytes(content[: -len(edit)] + edit if name.endswith("safetensors") else content + edit)
    return to


def test_the_fingerprint_changes_with_weights_and_template_and_nothing_else(folder, tmp_path):
    own = fingerprint(folder)
    assert own == fingerprint(changed(folder, tmp_path / "a", "README.md", b"words"))
    assert own != fingerprint(changed(folder, tmp_path / "b", "model.safetensors", b"\x01\x02"))
    assert own != fingerprint(changed(folder, tmp_path / "c", "chat_template.jinja", b" "))
    assert own != fingerprint(changed(folder, tmp_path / "d", "tokenizer_config.json", b" "))
    assert len(own) == len("hf-") + 16
    assert open_local(f"{folder}@{own}").fingerprint == own
    assert open_local(f"hf:{folder}@{own[:8]}").fingerprint == own
    with pytest.raises(EngineError, match=f"is {own}; pin that fingerprint, or leave out @hf-0"):
        open_local(f"{folder}@hf-0")


async def test_what_is_no_model_says_so_in_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for spec, message in (
        (str(tmp_path / "nowhere"), "there is no such directory or .gguf file"),
        (str(folder / "config.json"), "allowed are a model directory and a .gguf file"),
        (str(tmp_path), "no config.json"),
    ):
        with pytest.raises(EngineError, match=message):
            open_local(spec)
    with pytest.raises(ConfigError, match="dtype is 'int3'"):
        open_local(str(folder), dtype="int3")
    with pytest.raises(ConfigError, match="max_concurrency 0"):
        open_local(str(folder), max_concurrency=0)
    broken = changed(folder, tmp_path / "broken", "config.json", b"}")
    bare = shutil.copytree(folder, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    for path, message in ((broken, "does not load"), (bare, "no chat template")):
        engine = open_local(str(path), threads=1)
        with pytest.raises(EngineError, match=message) as caught:
            await engine.complete(ask())
        assert "\n" not in str(caught.value)
        with pytest.raises(EngineError, match=message):  # and again, without loading it again
            await engine.complete(ask())
        await engine.aclose()


@pytest.mark.skipif(not (POLICY / "model.safetensors").is_file(), reason="the embedded policy is not there")
async def test_the_embedded_policy_writes_steps():
    engine = open_local(str(POLICY), threads=1)
    problem = "Ana has 12 beads. She buys 7 more beads. Then she gives away 5 beads. How many beads does Ana have?"
    reply = await engine.complete(ask(problem, n=4, max_tokens=160))
    assert all(c.text.startswith("1. 12") and c.finish_reason == "stop" for c in reply.completions)
    step = await engine.complete(ask(problem, n=4, max_tokens=160, stop=("\n",)))
    assert [c.text for c in step.completions] == [c.text.partition("\n")[0] for c in reply.completions]
    assert {(c.ended, d.ended) for c, d in zip(reply.completions, step.completions, strict=True)} == {(True, False)}
    await engine.aclose()


def test_numbers_of_another_kind_are_another_engine_in_the_ledger(folder):
    own = fingerprint(folder)
    assert open_local(str(folder), dtype="bfloat16").fingerprint == f"{own}+bfloat16"
    assert open_local(f"{folder}@{own}", dtype="bfloat16").fingerprint == f"{own}+bfloat16"


async def test_models_load_side_by_side(folder: Path) -> None:
    """As the judges of a panel do. transformers changes torch's defaults while it loads, for the whole process."""
    engines = [open_local(str(path), threads=1) for path in (folder, POLICY) * 3]
    try:
        replies = await asyncio.gather(*(engine.complete(ask(max_tokens=4, temperature=0.0)) for engine in engines))
    finally:
        await asyncio.gather(*(engine.aclose() for engine in engines))
    texts = [seen(reply)[0][1] for reply in replies]
    assert texts == texts[:2] * 3
