"""The batcher against plain forward passes of the same model, in float32."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from curators.engines.attention import ATTENTION
from curators.engines.decoding import LANES, Decoder
from curators.engines.groups import Sample, Scoring

END = 1
VOCABULARY = 80


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plain() -> LlamaForCausalLM:
    """A random model with two key heads for four query heads, sharp enough that its choices matter."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.25,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model(plain) -> LlamaForCausalLM:
    rows = copy.deepcopy(plain)
    rows.set_attn_implementation(ATTENTION)
    return rows


def prompts(n: int, *, shortest: int = 1, longest: int = 60) -> list[tuple[int, ...]]:
    rng = random.Random(n)
    return [tuple(rng.randrange(2, VOCABULARY) for _ in range(rng.randint(shortest, longest))) for _ in range(n)]


def samples(prompts: list[tuple[int, ...]], *, n: int, max_tokens: int = 30, temperature: float = 1.0) -> list[Sample]:
    return [
        Sample(prompt, key=hash((prompt, i)) % (1 << 64), max_tokens=max_tokens, temperature=temperature)
        for prompt in prompts
        for i in range(n)
    ]


def run(model: LlamaForCausalLM, work: list[Sample], **options: int) -> list[tuple[list[int], str | None]]:
    decoder = Decoder(model, end_ids={END}, **options)
    for sample in work:
        decoder.submit(sample)
    finished = []
    while not decoder.idle:
        finished += decoder.step()
    assert sorted(map(id, finished)) == sorted(map(id, work))
    assert decoder.n_waiting == 0
    return [(sample.tokens, sample.finish) for sample in work]


def logits_after(plain: LlamaForCausalLM, ids: tuple[int, ...] | list[int]) -> torch.Tensor:
    return plain(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]


def test_greedy_equals_an_uncached_forward_pass_token_by_token(plain, model):
    work = samples(prompts(50), n=1, max_tokens=8, temperature=0.0)
    for (tokens, finish), sample in zip(run(model, work), work, strict=True):
        ids = list(sample.prompt)
        while len(ids) - len(sample.prompt) < 8 and (not ids[len(sample.prompt) :] or ids[-1] != END):
            ids.append(int(logits_after(plain, ids)[-1].argmax()))
        assert tokens == ids[len(sample.prompt) :]
        assert finish == ("stop" if tokens[-1] == END else "length")


def test_logprobs_equal_a_plain_forward_pass(plain, model):
    work = samples(prompts(20), n=5)  # more samples than lanes: a row is shared, copied and used again
    run(model, work)
    for sample in work:
        rows = logits_after(plain, [*sample.prompt, *sample.tokens])[len(sample.prompt) - 1 : -1].log_softmax(-1)
        own = rows.gather(1, torch.tensor(sample.tokens)[:, None])[:, 0]
        assert sample.logprobs == pytest.approx(own.tolist(), abs=1e-4)


def test_the_batch_does_not_change_a_sample(model):
    """Alone, in another order, with other rows, and with memory so short that rows are put back and started again."""
    given = prompts(10)

    def fresh() -> list[Sample]:
        return samples(given, n=6, max_tokens=16)

    together = run(model, fresh())
    assert [run(model, [sample])[0] for sample in fresh()[::20]] == together[::20]
    shuffled = fresh()
    order = random.Random(1).sample(range(len(shuffled)), len(shuffled))
    run(model, [shuffled[i] for i in order], max_rows=5, prefill_tokens=50)
    assert [(s.tokens, s.finish) for s in shuffled] == together
    assert run(model, fresh(), cache_bytes=400 * CELL_BYTES) == together
    assert run(model, fresh()[:24], max_rows=1) == together[:24]


class Reading(Decoder):
    """A decoder that counts the tokens that it puts through the model."""

    n_read = 0

    def _forward(self, ids: list[int], *rest: object) -> torch.Tensor:
        self.n_read += len(ids)
        return super()._forward(ids, *rest)


def answer_by_steps(decoder: Reading, given: list[tuple[int, ...]], *, n_steps: int, n: int, temperature: float) -> list[Sample]:
    """Search-like: `n` samples of up to six tokens, then as many from the end of the first of them, and so on. All samples."""
    done: list[Sample] = []
    ends = given
    for step in range(n_steps):
        work = [
            Sample(end, key=hash((end, step, i)) % (1 << 64), max_tokens=3 + len(end) % 4, temperature=temperature)
            for end in ends
            for i in range(n)
        ]
        for sample in work:
            decoder.submit(sample)
        while not decoder.idle:
            decoder.step()
        done += work
        ends = [(*work[i].prompt, *work[i].tokens) for i in range(0, len(work), n)]
    return done


def test_greedy_by_steps_with_kept_prefixes_equals_an_uncached_forward_pass_token_by_token(plain, model):
    given = prompts(20, shortest=10)
    decoder = Reading(model, end_ids=set())
    work = answer_by_steps(decoder, given, n_steps=4, n=3, temperature=0.0)
    for sample in work:
        rows = logits_after(plain, [*sample.prompt, *sample.tokens])[len(sample.prompt) - 1 : -1]
        assert sample.tokens == rows.argmax(-1).tolist()
    # What every step costs is the prompt's last token and all new ones but the last; greedy samples of one prompt are read once.
    assert decoder.n_read == 1 + sum(len(prompt) - 1 for prompt in given) + sum(len(sample.tokens) for sample in work) // 3


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_kept_prefixes_change_no_sample(plain, model, temperature):
    """Cold, warm, and with room for a few tokens only, so that prefixes are thrown out all the time; all by the model's own numbers."""
    given = prompts(12, shortest=10)

    def answers(decoder: Reading) -> tuple[list[tuple[list[int], list[float]]], int]:
        before = decoder.n_read
        work = answer_by_steps(decoder, given, n_steps=4, n=3, temperature=temperature)
        return [(sample.tokens, sample.logprobs) for sample in work], decoder.n_read - before

    decoder, poor, none = (Reading(model, end_ids={END}, cache_bytes=size) for size in (1 << 30, 1000 * CELL_BYTES, 120 * CELL_BYTES))
    cold, n_cold = answers(decoder)
    warm, n_warm = answers(decoder)
    thrown_out, n_poor = answers(poor)
    none.prefixes.limit(0)
    assert [tokens for tokens, _ in warm] == [tokens for tokens, _ in cold]
    assert [tokens for tokens, _ in thrown_out] == [tokens for tokens, _ in cold]
    assert [tokens for tokens, _ in answers(none)[0]] == [tokens for tokens, _ in cold]
    assert n_warm < n_cold < n_poor
    assert poor.prefixes.n_bytes <= 1000 * CELL_BYTES
    for (_, own), (_, other) in zip(cold, warm, strict=True):
        assert own == pytest.approx(other, abs=1e-4)


def test_samples_that_are_the_same_so_far_are_read_once(plain, model):
    """At a low temperature siblings begin alike: fewer tokens are read than drawn, and each still has its own log-probabilities."""
    work = samples(prompts(10), n=4, max_tokens=12, temperature=0.1)
    decoder = Reading(model, end_ids=set())
    for sample in work:
        decoder.submit(sample)
    while not decoder.idle:
        decoder.step()
    drawn = {sample.prompt: [tuple(s.tokens) for s in work if s.prompt == sample.prompt] for sample in work}
    different = sum(len({tokens[:n] for tokens in own for n in range(12)}) for own in drawn.values())
    assert decoder.n_read == 1 + sum(len(prompt) - 1 for prompt in drawn) + different
    assert different < 0.8 * 12 * len(work)
    assert max(len(set(own)) for own in drawn.values()) > 1
    for sample in work:
        rows = logits_after(plain, [*sample.prompt, *sample.tokens])[len(sample.prompt) - 1 : -1].log_softmax(-1)
        assert sample.logprobs == pytest.approx(rows.gather(1, torch.tensor(sample.tokens)[:, None])[:, 0].tolist(), abs=1e-4)


def test_scorings_after_a_kept_prefix_equal_those_without(plain, model):
    rng = random.Random(5)
    given = prompts(8, shortest=20)
    decoder = Reading(model, end_ids={END})
    for new in (2, 3):
        for prompt in given:
            longer = (*prompt, new, rng.randrange(2, VOCABULARY), rng.randrange(2, VOCABULARY))
            options = [tuple(rng.randrange(2, VOCABULARY) for _ in range(n)) for n in (1, 4)]
            scoring = Scoring(longer, options)
            decoder.submit(scoring)
            before = decoder.n_read
            while not decoder.idle:
                decoder.step()
            for option, found in zip(options, scoring.logprobs, strict=True):
                rows = logits_after(plain, longer + option)[len(longer) - 1 : -1].log_softmax(-1)
                assert found == pytest.approx(float(rows.gather(1, torch.tensor(option)[:, None]).sum()), abs=1e-4)
    assert decoder.n_read - before == 3 + 3  # of the last scoring: what was new of its prompt, and its option but for the last token


def test_an_answer_that_the_model_ended_is_not_kept(model):
    decoder = Decoder(model, end_ids=set(range(VOCABULARY)))
    prompt = prompts(5, shortest=20)[0]
    decoder.submit(Sample(prompt, key=3, max_tokens=9))
    while not decoder.idle:
        decoder.step()
    assert len(decoder.prefixes) == len(prompt) - 1


CELL_BYTES = 2 * 2 * 2 * 16 * 4
"""Keys and values, layers, key heads, dimensions, bytes of a float32."""


def test_memory_stays_within_its_bound(model):
    decoder = Decoder(model, end_ids=set(), cache_bytes=330 * CELL_BYTES)
    decoder.submit(Sample((5,), key=0, max_tokens=1))  # a first pass shows how large a cell is
    while not decoder.idle:
        decoder.step()
    work = samples(prompts(3, shortest=20, longest=30), n=1, max_tokens=160)
    for sample in work:
        decoder.submit(sample)
    most, put_back = 0, 0
    while not decoder.idle:
        before = {id(s): len(s.tokens) for s in work}
        decoder.step()
        put_back += any(len(s.tokens) < before[id(s)] for s in work)
        most = max(most, decoder.cache.n_rows * decoder.cache.n_columns)
        assert decoder.cache.n_bytes + decoder.prefixes.n_bytes <= 330 * CELL_BYTES
    assert all(sample.finish for sample in work)
    assert 0 < most <= 330
    assert put_back
    assert decoder.cache.n_rows == 0  # given back when idle


def test_samples_of_one_prompt_never_see_each_other(plain, model):
    """Sixteen samples of one prompt in two rows at a time: each has the log-probabilities of its own text alone."""
    prompt = prompts(3)[0]
    work = samples([prompt], n=16, max_tokens=40)
    run(model, work, max_rows=2)
    assert len({tuple(sample.tokens) for sample in work}) > 8
    for sample in work:
        rows = logits_after(plain, [*prompt, *sample.tokens])[len(prompt) - 1 : -1].log_softmax(-1)
        assert sample.logprobs == pytest.approx(rows.gather(1, torch.tensor(sample.tokens)[:, None])[:, 0].tolist(), abs=1e-4)


def test_option_scores_equal_sums_over_a_plain_forward_pass(plain, model):
    rng = random.Random(4)
    decoder = Decoder(model, end_ids={END}, prefill_tokens=100)
    work = []
    for prompt in prompts(30):
        options = [tuple(rng.randrange(2, VOCABULARY) for _ in range(n)) for n in (1, 1, 2, 5)]
        work.append(Scoring(prompt, options))
        decoder.submit(work[-1])
        decoder.submit(Sample(prompt, key=1, max_tokens=5))
    while not decoder.idle:
        decoder.step()
    for scoring in work:
        for option, found in zip(scoring.options, scoring.logprobs, strict=True):
            rows = logits_after(plain, scoring.prompt + option)[len(scoring.prompt) - 1 : -1].log_softmax(-1)
            assert found == pytest.approx(float(rows.gather(1, torch.tensor(option)[:, None]).sum()), abs=1e-4)


def test_cancelled_work_leaves_and_the_rest_is_untouched(model):
    given = prompts(12)
    expected = run(model, samples(given, n=4))
    decoder = Decoder(model, end_ids={END}, max_rows=3)
    work = samples(given, n=4)
    for sample in work:
        decoder.submit(sample)
    finished = decoder.step()
    finished += decoder.step()
    cancelled = [sample for i, sample in enumerate(work) if i % 3 == 0 and not sample.finish]
    for sample in cancelled:
        sample.cancelled = True
    while not decoder.idle:
        finished += decoder.step()
    assert not {id(s) for s in cancelled} & {id(s) for s in finished if s.cancelled}
    kept = [i for i, sample in enumerate(work) if not sample.cancelled]
    assert [(work[i].tokens, work[i].finish) for i in kept] == [expected[i] for i in kept]
    assert decoder.n_waiting == 0


def test_the_batch_holds_more_prompts_where_their_samples_are_the_same(model):
    """Four greedy samples are one branch: once that has shown, about four times as many prompts run, and no more branches than allowed."""
    decoder = Decoder(model, end_ids=set(), max_rows=4)
    for sample in samples(prompts(200), n=4, max_tokens=5, temperature=0.0):
        decoder.submit(sample)
    sizes = []
    while not decoder.idle:
        decoder.step()
        sizes.append(len(decoder._groups))
        assert sum(len(group.branches) for group in decoder._groups) <= LANES * 4
    assert sizes[0] == 4
    assert 10 <= max(sizes) <= 16


def test_only_as_many_samples_run_as_allowed(model):
    decoder = Decoder(model, end_ids=set(), max_rows=4)
    for sample in samples(prompts(40), n=3, max_tokens=5):
        decoder.submit(sample)
    most = 0
    while not decoder.idle:
        decoder.step()
        most = max(most, decoder._n_running)
    assert most == 15  # groups of three within LANES * 4 = 16
    assert LANES == 4
