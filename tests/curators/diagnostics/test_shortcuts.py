"""Planted shortcuts are found at their planted strength; nothing is found where nothing was planted; small sets say so."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest

from curators.diagnostics import audit_shortcuts
from curators.diagnostics.lexical import model_hits, swapped
from curators.diagnostics.shortcuts import accuracies, rule_hits, source_hits
from curators.diagnostics.sides import FEATURES, pair_texts
from curators.errors import SchemaError
from curators.gates import Candidate, GateResult, max_shortcut_accuracy
from curators.importing import import_facts
from curators.judging.verdicts import group_scores, verdicts
from curators.pairs import PairConfig, build_pairs
from storage.files import read_rows

DATA = Path(__file__).parents[3] / "../shared/data"
WORDS = [f"word{i}" for i in range(60)]


def messages(text: str) -> str:
    return orjson.dumps([{"role": "assistant", "content": text}]).decode()


def pair(i: int, prompt: str, chosen: str, rejected: str, **other: Any) -> dict[str, Any]:
    row = {"pair_id": f"pair{i:04d}", "prompt_id": f"p{prompt}", "prompt": messages(prompt)}
    return {**row, "chosen": messages(chosen), "rejected": messages(rejected), "on_policy": True, **other}


def said(draw: random.Random, n: int) -> str:
    return " ".join(draw.choices(WORDS, k=n))


def noise(n: int, seed: int = 0) -> pl.DataFrame:
    """Pairs whose sides have as many words and differ in nothing that means anything, two a prompt."""
    draw = random.Random(seed)
    prompts = [said(draw, 8) for _ in range(n)]
    return pl.DataFrame([pair(i, f"{i // 2} {prompts[i // 2]}", said(draw, 12), said(draw, 12)) for i in range(n)])


def hits(pairs: pl.DataFrame) -> dict[str, list[float]]:
    return {name: each.tolist() for name, each in rule_hits(pair_texts(pairs)).items()}


def test_each_rule_reads_what_its_name_says() -> None:
    pairs = pl.DataFrame(
        [
            pair(0, "a", "one\n- two\n- three", "one two three is what I say"),
            pair(1, "b", "It is 42.", "It is 4 but I really think so."),
            pair(2, "c", "I cannot help with that.", "Yes, of course I can do this"),
            pair(3, "d", "same", "same"),
        ]
    )
    found = hits(pairs)
    assert found["longer"] == [0, 0, 0, pytest.approx(np.nan, nan_ok=True)]
    assert found["more_lines"] == pytest.approx([1, np.nan, np.nan, np.nan], nan_ok=True)
    assert found["more_bullets"] == pytest.approx([1, np.nan, np.nan, np.nan], nan_ok=True)
    assert found["more_digits"] == pytest.approx([np.nan, 1, np.nan, np.nan], nan_ok=True)
    assert found["refuses"] == pytest.approx([np.nan, np.nan, 1, np.nan], nan_ok=True)
    assert set(found) == {*FEATURES, "source"}


def test_accuracy_is_of_decided_pairs_and_expected_of_all_with_undecided_ones_half() -> None:
    prompts = pl.Series([f"p{i}" for i in range(10)])
    (row,) = accuracies({"r": np.array([1.0, 1, 1, 0, *[np.nan] * 6])}, prompts, kind="rule").rows(named=True)
    assert (row["n"], row["n_decided"], row["accuracy"]) == (10, 4, 0.75)
    assert row["expected"] == pytest.approx((3 + 6 * 0.5) / 10)
    assert row["low"] < 0.75 < row["high"]
    (none,) = accuracies({"r": np.full(3, np.nan)}, prompts[:3], kind="rule").rows(named=True)
    assert (none["accuracy"], none["low"], none["expected"], none["reason"]) == (None, None, None, "decides no pair")


def test_intervals_are_by_prompt() -> None:
    # 40 pairs of 10 prompts, alike within a prompt, know no more than 10 pairs
    each = np.repeat([1.0, 1, 1, 1, 1, 1, 1, 0, 0, 0], 4)
    four = accuracies({"r": each}, pl.Series([f"p{i // 4}" for i in range(40)]), kind="rule").row(0, named=True)
    apart = accuracies({"r": each}, pl.Series([f"p{i}" for i in range(40)]), kind="rule").row(0, named=True)
    assert four["high"] - four["low"] > 1.5 * (apart["high"] - apart["low"])


def test_the_better_writer_is_learned_on_other_prompts() -> None:
    writers = [("a", "b")] * 80 + [("b", "a")] * 20
    rows = [pair(i, str(i), "x", "y", chosen_policy=c, rejected_policy=r) for i, (c, r) in enumerate(writers)]
    rows += [pair(100 + i, str(100 + i), "x", "y", chosen_policy=c, rejected_policy="a") for i, c in enumerate(["a", None])]
    found = source_hits(pair_texts(pl.DataFrame(rows)))
    assert found[:100].tolist() == [1.0] * 80 + [0.0] * 20
    assert np.isnan(found[100:]).all()
    # one prompt a writer: nothing of it is known from the others
    once = [pair(i, str(i), "x", "y", chosen_policy=f"w{i}", rejected_policy=f"l{i}") for i in range(10)]
    assert np.isnan(source_hits(pair_texts(pl.DataFrame(once)))).all()


def test_a_word_that_gives_the_label_away_is_found_and_noise_is_not() -> None:
    plain = noise(200)
    leaky = plain.with_columns(chosen=pl.col("chosen").str.replace("word", "certainly word", literal=True))
    found, reason = model_hits(pair_texts(leaky))
    assert reason is None
    assert np.nanmean(found["words"]) > 0.97
    nothing, _ = model_hits(pair_texts(plain))
    assert abs(np.nanmean(nothing["words"]) - 0.5) < 0.12  # 200 pairs: two standard errors are .07


def test_a_label_that_needs_the_prompt_is_found_only_with_it() -> None:
    # the chosen side repeats the prompt's word, the rejected one that of another prompt; each word is as often right as wrong
    draw = random.Random(1)
    rows = []
    for i in range(240):
        right, wrong = draw.sample(WORDS[:30], 2)
        rows.append(pair(i, f"{i} {right}", f"{said(draw, 5)} {right}", f"{said(draw, 5)} {wrong}"))
    texts = pair_texts(pl.DataFrame(rows))
    found, _ = model_hits(texts)
    shares = {name: np.nanmean(each) for name, each in found.items()}
    assert shares["words_and_prompt"] > 0.8
    assert max(shares["words"], shares["prompt_emptied"], shares["prompt_swapped"]) < 0.62
    assert all(own != other for own, other in zip(texts["prompt_text"], swapped(texts), strict=True))


def test_prompts_are_never_learned_and_tested_at_once() -> None:
    # 40 prompts with 4 pairs each and a word of their own in chosen: learned by heart it would predict everything
    draw = random.Random(2)
    rows = [pair(4 * i + k, str(i), f"only{i} {said(draw, 6)}", said(draw, 6)) for i in range(40) for k in range(4)]
    found, _ = model_hits(pair_texts(pl.DataFrame(rows)))
    assert abs(np.nanmean(found["words"]) - 0.5) < 0.15


def test_too_few_prompts_and_no_words_have_a_reason_and_no_figure() -> None:
    audit = audit_shortcuts(noise(10))
    models = audit.shortcuts.filter(pl.col("kind") != "rule")
    assert models["expected"].null_count() == models.height == 4
    assert set(models["reason"]) == {"5 prompts; a model needs at least 20"}
    assert audit.summary["ablation"] == {}
    silent = pl.DataFrame([pair(i, str(i), "!", "?") for i in range(30)])
    assert "cannot be counted" in audit_shortcuts(silent).summary["shortcuts"]["words"]["reason"]


def test_no_pairs_at_all_is_an_audit_with_nothing_in_it() -> None:
    audit = audit_shortcuts(noise(2).clear())
    assert audit.summary["n_pairs"] == 0
    assert audit.shortcuts["expected"].null_count() == audit.shortcuts.height
    result = gate(audit.summary)
    assert (result.passed, result.figure) == (True, None)
    assert "not applicable" in result.detail


def test_the_audit_does_not_depend_on_the_order_of_rows_and_is_json() -> None:
    pairs = noise(60)
    one, other = audit_shortcuts(pairs), audit_shortcuts(pairs.sample(fraction=1.0, shuffle=True, seed=3))
    assert one.summary == other.summary
    assert one.shortcuts.equals(other.shortcuts)
    assert one.pairs.equals(other.pairs)
    assert json.loads(json.dumps(one.summary)) == one.summary
    assert one.summary["on_policy"]["value"] == 1.0
    assert one.shortcuts.height == len(FEATURES) + 1 + 4


def gate(summary: Mapping[str, Any]) -> GateResult:
    return max_shortcut_accuracy(Candidate(pairs=noise(1), audit=summary), 0.65)


def longer_wins(share: float, n: int = 100) -> pl.DataFrame:
    """Of n pairs that share of the chosen sides is the longer one."""
    rows = []
    for i in range(n):
        sides = ("a b c d e", "a b c") if i < share * n else ("a b c", "a b c d e")
        rows.append(pair(i, str(i), *sides))
    return pl.DataFrame(rows)


@pytest.mark.parametrize(("share", "passed"), [(0.5, True), (0.65, True), (0.66, False), (0.35, True), (0.34, False)])
def test_the_gate_refuses_a_rule_and_its_opposite_beyond_the_bound(share: float, passed: bool) -> None:
    summary = {"shortcuts": {"longer": audit_rows(longer_wins(share))["longer"]}}
    result = gate(summary)
    assert result.passed is passed
    assert result.figure == pytest.approx(max(share, 1 - share))
    assert ("'not longer'" if share < 0.5 else "'longer'") in result.detail
    assert f"{max(share, 1 - share):.1%} of 100 labels" in result.detail


def audit_rows(pairs: pl.DataFrame) -> dict[str, dict[str, Any]]:
    texts = pair_texts(pairs)
    return {row["name"]: row for row in accuracies(rule_hits(texts), texts["prompt_id"], kind="rule").iter_rows(named=True)}


def test_the_gates_interval_is_that_of_what_it_names() -> None:
    row = audit_rows(longer_wins(0.3))["longer"]
    detail = gate({"shortcuts": {"longer": row}}).detail
    assert f"{1 - row['expected_high']:.1%} to {1 - row['expected_low']:.1%}" in detail


def test_a_rule_that_is_always_right_about_few_pairs_is_no_leak() -> None:
    rows = [pair(i, str(i), "a b c 7" if i < 5 else "a b c d", "a b c d") for i in range(100)]
    found = audit_rows(pl.DataFrame(rows))["more_digits"]
    assert (found["accuracy"], found["expected"]) == (1.0, 0.525)


def test_a_model_that_takes_the_prompt_is_no_leak_and_one_that_is_wrong_is_none() -> None:
    row = {"expected_low": None, "expected_high": None, "n": 9, "n_decided": 9}
    rows = {
        "words": {**row, "name": "words", "kind": "model", "expected": 0.3},
        "words_and_prompt": {**row, "name": "words_and_prompt", "kind": "ablation", "expected": 0.99},
    }
    assert gate({"shortcuts": rows}).figure == 0.3


def test_pairs_without_their_columns_are_refused() -> None:
    with pytest.raises(SchemaError, match=r"columns \['rejected'\] are missing"):
        audit_shortcuts(noise(2).drop("rejected"))
    with pytest.raises(SchemaError, match="stands twice"):
        audit_shortcuts(pl.concat([noise(2), noise(2)]))


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="the real rows are not here")
def test_on_human_pairs_the_longer_answer_loses_more_often_and_words_know_more() -> None:
    path = DATA / "hh_rlhf_harmless_base_test.jsonl.gz"
    facts = import_facts({path.name: read_rows(path)}, name="hh")
    decided = verdicts(facts.judgments)
    scores = group_scores(decided, facts.generations, facts.judgments)
    pairs, _ = build_pairs(facts.prompts, facts.generations, scores, verdicts=decided, config=PairConfig(pair_policy="recorded"))
    summary = audit_shortcuts(pairs).summary
    assert summary["n_pairs"] == 1159
    assert summary["shortcuts"]["longer"]["high"] < 0.5
    assert summary["shortcuts"]["words"]["low"] > 0.55
    assert gate(summary).passed
