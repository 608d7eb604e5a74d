"""Constraints that a text meets or does not, and the pairs of prompts that they make."""

from __future__ import annotations

import random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curators.constraints import holds
from curators.contrast.candidates import contrast_pairs
from curators.contrast.generators import GENERATORS, wording
from curators.contrast.prompt_side import ConstraintConfig, flag_case, inter_sample, intra_sample
from curators.engines.base import as_json, digest
from curators.errors import ConfigError
from curators.sampling import make_prompt
from curators.schema import PAIRS, frame
from examples.arithmetic.world import problems
from tests.curators.contrast.conftest import answered, one, said

WORDS = ["the", "ocean", "is", "deep,", "and", "Der", "Hund", "und", "die", "Katze", "7", "tell", "{}", "[]", "velvet", "LOUD", "loud."]
WORDS += ["Really?", "*", "-", "no!", "item\n\n1)"]
SENTENCES = st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join)
TEXTS = st.one_of(st.text(max_size=60), SENTENCES, st.sampled_from(['{"a": 1}', "ÄÖ", "3"]))


@given(st.sampled_from(sorted(GENERATORS)), TEXTS, st.booleans(), st.integers(0, 2**30))
def test_every_generator_provably_sets_its_flag_for_any_text(name: str, text: str, flag: bool, draw: int) -> None:
    constraint = GENERATORS[name].make(text, flag, draw)
    if constraint is not None:
        assert holds(text, constraint) is flag
        assert wording(constraint).endswith(".") or constraint["kind"] in ("starts_with", "ends_with", "contains", "not_contains")


def test_more_bullets_than_are_counted_are_no_constraint() -> None:
    text = "\n".join(["- item"] * 202)
    for draw in range(3):
        for flag in (True, False):
            constraint = GENERATORS["bullets"].make(text, flag, draw)
            assert constraint is None or holds(text, constraint) is flag


def test_generators_write_something_for_an_ordinary_answer() -> None:
    text = "The ocean is deep. It is blue, and it is 7 miles wide."
    possible = {name: {flag for flag in (True, False) if GENERATORS[name].make(text, flag, 0)} for name in GENERATORS}
    assert [name for name, flags in possible.items() if False not in flags] == []
    assert [name for name, flags in possible.items() if True not in flags] == ["bullets", "case", "json", "no_commas"]


def test_bounds_of_a_known_text() -> None:
    text = "one two three"
    assert all((GENERATORS["words_at_least"].make(text, True, draw) or {})["value"] in (2, 3) for draw in range(9))
    assert all((GENERATORS["words_at_least"].make(text, False, draw) or {})["value"] in (4, 5, 6) for draw in range(9))
    assert wording({"kind": "min_words", "value": 2}) == "Use at least 2 words."
    assert wording({"kind": "max_words", "value": 1}) == "Use at most 1 word."


def test_the_two_forms() -> None:
    assert flag_case([True, True], [True, False]) == "a"
    assert flag_case([True, False], [False, False]) == "b"
    assert flag_case([False, False], [True, False]) == "swap"
    assert flag_case([True, True], [True, True]) is None
    assert flag_case([True, False], [True, False]) is None


def test_a_thousand_answers_under_a_prompt_that_they_satisfy_and_one_that_they_do_not() -> None:
    n = 1000
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(6, 60))) for _ in range(7 * n // 10)]
    texts += [problem.solution for problem in problems(3 * n // 10, seed=3, split="demo")]
    rows = answered([(make_prompt(f"Question {i}?"), [text]) for i, text in enumerate(texts)])
    found = intra_sample(rows)
    assert found.height == n
    assert set(found["state"]) == {"ok"}
    by_id = dict(rows.select("generation_id", "text").iter_rows())
    prompts = dict(rows.select("prompt_id", "messages").iter_rows())
    for row in found.iter_rows(named=True):
        checks, text = orjson.loads(row["checks"]), by_id[row["source_ids"][0]]
        wanted, unwanted = checks["constraints_w"], checks["constraints_l"]
        assert len(wanted) == len(unwanted) == 3
        assert [holds(text, each) for each in wanted] == checks["satisfied_w"] == [True] * 3
        assert [holds(text, each) for each in unwanted] == checks["satisfied_l"]
        assert not all(checks["satisfied_l"])
        assert row["chosen"] == row["rejected"]
        assert said(row["chosen"]) == text
        assert checks["text"] == digest(text)
        question = orjson.loads(prompts[row["prompt_id"]])[-1]["content"]
        for prompt, constraints in ((row["prompt"], wanted), (row["rejected_prompt"], unwanted)):
            assert said(prompt) == "\n\n".join([question, "\n".join(f"- {wording(each)}" for each in constraints)])
    _, joint, _ = contrast_pairs(found)
    assert joint.height == n
    assert intra_sample(rows.sample(fraction=1.0, shuffle=True, seed=4)).equals(found)


def test_the_form_in_which_none_of_the_second_prompt_is_met() -> None:
    rows = answered([(make_prompt(f"{i}?"), [problem.solution]) for i, problem in enumerate(problems(50, seed=3, split="demo"))])
    found = intra_sample(rows, config=ConstraintConfig(form="b"))
    assert set(found["state"]) == {"ok"}
    for row in found.iter_rows(named=True):
        checks = orjson.loads(row["checks"])
        assert sorted(checks["satisfied_w"]) == [False, True, True]
        assert checks["satisfied_l"] == [False] * 3
        assert row["degree"] == 3


def test_an_answer_for_which_too_few_constraints_can_be_written_is_no_pair() -> None:
    found = intra_sample(one("3"), config=ConstraintConfig(n_constraints=12, n_unmet=12))
    assert found.select("state", "pair_id").row(0) == ("unsatisfiable", None)
    parts = make_prompt([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}])
    found = intra_sample(answered([(parts, ["The ocean is deep, and it is blue."])]))
    assert found["state"].to_list() == ["unsupported"]
    assert contrast_pairs(found)[1].is_empty()


def pairs_of(*texts: tuple[str, str]):  # type: ignore[no-untyped-def]
    rows = []
    for i, (chosen, rejected) in enumerate(texts):
        sides = {name: as_json([{"role": "assistant", "content": text}]) for name, text in (("chosen", chosen), ("rejected", rejected))}
        about = {"pair_id": f"pair{i}", "prompt_id": f"p{i}", "prompt": '[{"role":"user","content":"?"}]', "chosen_policy": "good"}
        rows.append({**about, **sides, "rejected_policy": "bad", "label_source": "judge"})
    return frame(rows, PAIRS)


def test_a_pair_under_added_constraints_keeps_its_side_or_is_no_pair() -> None:
    rng = random.Random(1)
    texts = [(" ".join(rng.choices(WORDS, k=30)), " ".join(rng.choices(WORDS, k=12))) for _ in range(200)]
    found = inter_sample(pairs_of(*texts))
    assert set(found["state"]) == {"ok", "checker_failed"}
    for row in found.iter_rows(named=True):
        checks = orjson.loads(row["checks"])
        met, met_low = sum(checks["satisfied_w"]), sum(checks["satisfied_l"])
        assert (met >= met_low) == (row["state"] == "ok")
        assert [holds(said(row["chosen"]), each) for each in checks["constraints"]] == checks["satisfied_w"]
        assert (said(row["chosen"]), said(row["rejected"])) == texts[int(row["prompt_id"][1:])]
    pairs, joint, _ = contrast_pairs(found)
    assert pairs.height == (found["state"] == "ok").sum()
    assert joint.is_empty()  # one prompt


def test_constraints_overrule_quality_only_where_asked() -> None:
    rng = random.Random(1)
    texts = [(" ".join(rng.choices(WORDS, k=30)), " ".join(rng.choices(WORDS, k=12))) for _ in range(200)]
    found = inter_sample(pairs_of(*texts), config=ConstraintConfig(override=True))
    turned = [row for row in found.iter_rows(named=True) if orjson.loads(row["checks"])["turned"]]
    assert turned
    for row in turned:
        checks = orjson.loads(row["checks"])
        assert all(checks["satisfied_w"])
        assert not all(checks["satisfied_l"])
        assert (said(row["rejected"]), said(row["chosen"])) == texts[int(row["prompt_id"][1:])]
        assert (row["chosen_policy"], row["label_source"], row["state"]) == ("bad", "constraints", "ok")


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="n_unmet is 4"):
        ConstraintConfig(n_unmet=4)
    with pytest.raises(ConfigError, match="not there"):
        ConstraintConfig(generators=("rhymes",))
    with pytest.raises(ConfigError, match="form is 'c'"):
        ConstraintConfig(form="c")


@pytest.mark.parametrize("text", ['"Quoted" is the first word.', 'The last one is "quoted".', "\u201eDas\u201c sagte er \u201eso\u201c"])
def test_no_constraint_puts_quotation_marks_into_quotation_marks(text: str) -> None:
    for name in ("starts_with", "ends_with"):
        found = GENERATORS[name].make(text, True, 0)
        assert found is None or '"' not in str(found["value"])
        assert found is None or wording(dict(found)).count('"') == 2
