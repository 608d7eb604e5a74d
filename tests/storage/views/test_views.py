"""The rows, columns and counts of each view, and what a version must have to give it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curators.judging.presentations import IDENTICAL
from curators.judging.verdicts import group_scores, verdicts
from curators.pairs import assistant_turn
from curators.schema import GENERATIONS, JUDGMENTS, frame
from storage.errors import ViewError
from storage.handoff import Handoff, open_handoff, write_handoff
from storage.views import VIEWS, views_table
from storage.views.trainers import OTHERS, TRL_STEPS, trainers_table

MakeFrozen = Callable[..., Path]
DOCS = Path(__file__).parents[3] / "docs" / "views.md"
TABLES = {"views": views_table, "trainers": trainers_table}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Handoff]:
    def run(frozen: Path, view: str, form: str = "conversational", **options: Any) -> Handoff:
        return open_handoff(write_handoff(frozen, tmp_path / f"out-{frozen.name}-{view}-{form}", view=view, form=form, **options))

    return run


Export = Callable[..., Handoff]


@pytest.fixture
def scored_version(make_frozen: MakeFrozen, rows: Any) -> Path:
    pairs = [
        rows.pair(f"{n} + 1?", str(n + 1), str(n), split="test" if n % 3 == 0 else "train", margin=5.0, p_chosen=0.9, label_source="judge")
        for n in range(9)
    ]
    generations, judgments = rows.scored(pairs)
    return make_frozen(pairs, prompts=rows.prompts_of(pairs, **{"1 + 1?": "2"}), generations=generations, judgments=judgments)


EXPECTED: Mapping[str, Mapping[str, str]] = {
    "prompt-only": {"prompt": "messages", "reference": "text", "prompt_id": "text"},
    "sft": {"prompt": "messages", "completion": "messages", "prompt_id": "text", "generation_id": "text"},
    "dpo": {
        "prompt": "messages",
        "chosen": "messages",
        "rejected": "messages",
        "margin": "number",
        "p_chosen": "number",
        "strength": "number",
        "pair_id": "text",
    },
    "reward": {"prompt": "messages", "chosen": "messages", "rejected": "messages", "margin": "number", "pair_id": "text"},
    "kto": {"prompt": "messages", "completion": "messages", "label": "flag", "prompt_id": "text", "generation_id": "text"},
    "group": {
        "prompt": "messages",
        "completions": "message_lists",
        "rewards": "numbers",
        "generation_ids": "texts",
        "reference": "text",
        "prompt_id": "text",
    },
}
ROWS = {"prompt-only": (6, 3), "sft": (6, 3), "dpo": (6, 3), "reward": (6, 3), "kto": (12, 6), "group": (6, 3)}


@pytest.mark.parametrize("form", ["conversational", "standard"])
@pytest.mark.parametrize("view", list(EXPECTED))
def test_a_view_has_the_columns_that_it_declares_and_splits_by_prompt(scored_version: Path, export: Export, view: str, form: str) -> None:
    from datasets import Features

    handoff = export(scored_version, view, form)
    texts = {"messages": "text", "message_lists": "texts"}
    expected = {name: texts.get(kind, kind) if form == "standard" else kind for name, kind in EXPECTED[view].items()}
    assert handoff.columns == expected
    data = handoff.dataset_dict()
    assert (data["train"].num_rows, data["test"].num_rows) == ROWS[view] == tuple(handoff.splits.values())
    for part in data.values():
        assert part.features == Features.from_dict(handoff.about["features"])
    prompts = [{json.dumps(prompt) for prompt in part["prompt"]} for part in data.values()]
    assert len(prompts[0] | prompts[1]) == 9
    assert not prompts[0] & prompts[1]
    (fates,) = [handoff.about["counts"][VIEWS[view].unit]]
    assert fates == {"kept": sum(ROWS[view])}


def test_standard_rows_are_the_texts(scored_version: Path, export: Export) -> None:
    dpo = export(scored_version, "dpo", "standard").dataset("test")
    assert {(row["prompt"], row["chosen"], row["rejected"]) for row in dpo} == {(f"{n} + 1?", str(n + 1), str(n)) for n in (0, 3, 6)}
    group = export(scored_version, "group", "standard").dataset("test")
    assert {row["prompt"]: (row["completions"], row["rewards"]) for row in group} == {
        f"{n} + 1?": ([str(n + 1), str(n)], [8.0, 3.0]) for n in (0, 3, 6)
    }
    assert {row["reference"] for row in export(scored_version, "prompt-only", "standard").dataset("train")} == {None, "2"}


def test_sft_takes_every_distinct_chosen_answer_once(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    pairs = [rows.pair("q", "a", "b"), rows.pair("q", "a", "c"), rows.pair("q", "b", "c"), rows.pair("other", "a", "c")]
    handoff = export(make_frozen(pairs), "sft")
    assert sorted((row["prompt"][0]["content"], row["completion"][0]["content"]) for row in handoff.dataset("train")) == [
        ("other", "a"),
        ("q", "a"),
        ("q", "b"),
    ]
    assert handoff.about["counts"] == {"pairs": {"duplicate": 1, "kept": 3}}


def test_kto_takes_each_answer_once_and_drops_those_on_both_sides(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    # b is chosen against c and rejected against a: it says nothing. a is chosen twice, c rejected twice.
    pairs = [rows.pair("q", "a", "b"), rows.pair("q", "b", "c"), rows.pair("q", "a", "c"), rows.pair("other", "c", "d")]
    handoff = export(make_frozen(pairs), "kto")
    assert sorted((row["prompt"][0]["content"], row["completion"][0]["content"], row["label"]) for row in handoff.dataset("train")) == [
        ("other", "c", True),
        ("other", "d", False),
        ("q", "a", True),
        ("q", "c", False),
    ]
    assert handoff.about["counts"] == {"sides of pairs": {"chosen_and_rejected": 2, "duplicate": 2, "kept": 4}}


def test_kto_does_not_put_the_two_sides_of_a_pair_next_to_each_other(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    data = export(make_frozen([rows.pair(f"{n}?", "yes", "no") for n in range(200)]), "kto").dataset("train")
    neighbours = sum(a == b for a, b in itertools.pairwise(data["prompt_id"][:]))
    assert neighbours <= 10  # 399 neighbours, each of the same prompt with probability 1/399: mean 1
    labels = data["label"][:]
    assert 60 < sum(a != b for a, b in itertools.pairwise(labels)) < 340


def test_the_same_prompt_in_both_splits_stays_in_train(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    # other tools make another prompt id, and the id decides the split
    pairs = [rows.pair("q", "a", "b"), rows.pair("q", "a", "b", tools=[TOOL], split="test"), rows.pair("r", "a", "b", split="test")]
    for view, (unit, dropped) in {"dpo": ("pairs", 1), "kto": ("sides of pairs", 2), "prompt-only": ("prompts", 1)}.items():
        handoff = export(make_frozen(pairs, name=view), view)
        assert handoff.about["counts"][unit]["prompt_in_train"] == dropped
        assert {row["prompt"][0]["content"] for row in handoff.dataset("test")} == {"r"}


def test_a_prompt_that_ends_in_the_assistants_turn_is_dropped(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    begun = [*rows.question("q"), *rows.answer("First,")]
    pairs = [rows.pair("q", "a", "b"), rows.pair(begun, "a", "b")]
    assert export(make_frozen(pairs), "dpo").about["counts"] == {"pairs": {"kept": 1, "prompt_ends_with_assistant": 1}}
    with pytest.raises(ViewError, match="none of the pairs becomes a row: 1 prompt_ends_with_assistant"):
        export(make_frozen(pairs[1:], version=2), "sft")


def test_a_pair_with_two_prompts_is_a_row_of_the_joint_view_alone(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    other = json.dumps(rows.question("q, in capitals"))
    joint, plain = rows.pair("q", "a", "a", rejected_prompt=other), rows.pair("r", "c", "d", rejected_prompt=None)
    frozen = make_frozen([joint, plain])
    for view, n in {"dpo": 1, "reward": 1, "kto": 2}.items():
        handoff = export(frozen, view)
        assert handoff.about["counts"][VIEWS[view].unit] == {"kept": n, "two_prompts": n}
        assert {row["prompt"][0]["content"] for row in handoff.dataset("train")} == {"r"}
    handoff = export(frozen, "joint")
    assert handoff.about["counts"] == {"pairs": {"kept": 1, "one_prompt": 1}}
    (row,) = handoff.dataset("train")
    assert (row["prompt"], row["rejected_prompt"]) == (rows.question("q"), rows.question("q, in capitals"))
    assert row["chosen"] == row["rejected"] == rows.answer("a")
    # What is chosen under its own prompt is a demonstration, whatever it is compared with.
    assert len(export(frozen, "sft").dataset("train")) == 2
    with pytest.raises(ViewError, match="1 two_prompts; view joint is for pairs with two prompts"):
        export(make_frozen([joint], version=2), "dpo")
    with pytest.raises(ViewError, match="1 one_prompt; view dpo is for pairs with one prompt"):
        export(make_frozen([rows.pair("r", "c", "d")], version=3), "joint")


@pytest.mark.parametrize(
    ("prompt", "chosen", "more", "why"),
    [
        ([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "a", {}, "its prompt is not one user turn"),
        ([{"role": "user", "content": [{"type": "text", "text": "q"}]}], "a", {}, "its prompt is not one user turn"),
        ("q", [{"role": "assistant", "content": "a", "reasoning_content": "r"}], {}, "its chosen is not one plain text turn"),
        ("q", [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}], {}, "its chosen is not one plain text turn"),
        ("q", "a", {"tools": [TOOL]}, "it offers tools"),
        ("q", "a", {"chat_template_kwargs": {"x": 1}}, "it has chat_template_kwargs"),
    ],
)
def test_standard_refuses_what_is_more_than_two_texts(
    make_frozen: MakeFrozen, rows: Any, export: Export, prompt: Any, chosen: Any, more: dict[str, Any], why: str
) -> None:
    odd = rows.pair(prompt, chosen, "b", **more)
    frozen = make_frozen([rows.pair("plain", "a", "b"), odd])
    with pytest.raises(ViewError, match=f"form standard: 1 rows do not fit; the first is {odd['pair_id']}: {why}.*Use form conversational"):
        export(frozen, "dpo", "standard")
    assert export(frozen, "dpo").splits["train"] == 2


def test_columns_of_messages_become_json_only_where_they_must(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    pairs = [rows.pair("q", "a", "b"), rows.pair("r", rows.answer("a", reasoning_content="hm"), "b", chat_template_kwargs={"k": [1, None]})]
    handoff = export(make_frozen(pairs), "dpo")
    assert {name: handoff.columns[name] for name in ("prompt", "chosen", "rejected")} == {
        "prompt": "messages",
        "chosen": "json",
        "rejected": "messages",
    }
    data = {row["prompt"][0]["content"]: row for row in handoff.dataset("train")}
    assert data["q"]["chosen"] == [{"role": "assistant", "content": "a"}]
    assert data["q"]["chat_template_kwargs"] == {}
    assert data["r"]["chosen"] == [{"role": "assistant", "content": "a", "reasoning_content": "hm"}]
    assert data["r"]["chat_template_kwargs"] == {"k": [1, None]}
    assert "tools" not in handoff.columns


@pytest.mark.parametrize(
    ("view", "table", "column"), [("dpo", "pairs", "p_chosen"), ("group", "judgments", "scores"), ("prompt-only", "prompts", "reference")]
)
def test_a_column_that_a_version_lacks_is_named(scored_version: Path, export: Export, view: str, table: str, column: str) -> None:
    path = scored_version / f"{table}.parquet"
    pl.read_parquet(path).drop(column).write_parquet(path)
    with pytest.raises(ViewError, match=rf"view {view} needs {table}\.{column}, and sums@1 does not have it .1 of its columns"):
        export(scored_version, view)
    path.unlink()
    with pytest.raises(ViewError, match=rf"view {view} needs {table}, and sums@1 has no {table}.parquet; there are generations"):
        export(scored_version, view)


def test_a_split_that_is_neither_train_nor_test_is_refused(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    with pytest.raises(ViewError, match=r"1 pairs of sums@1 have the split 'dev' .first: .*must be train or test"):
        export(make_frozen([rows.pair("q", "a", "b", split="dev")]), "dpo")


def test_a_group_keeps_text_reasoning_and_tool_calls(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    pairs = [rows.pair("q", "a", "b")]
    prompt_id = pairs[0]["prompt_id"]
    calls = '[{"function":{"arguments":{"x":1},"name":"f"},"type":"function"}]'
    answers = [("one", None, None), ("", "think", calls), (None, "", None), ("lost", None, None)]
    generations = [
        {
            "generation_id": f"g{n}",
            "prompt_id": prompt_id,
            "sample_index": 3 - n,
            "text": text,
            "reasoning": reasoning,
            "tool_calls": tools,
            "state": "ok",
        }
        for n, (text, reasoning, tools) in enumerate(answers)
    ]
    generations.append({"generation_id": "g4", "prompt_id": prompt_id, "state": "transport_error", "reason": "down"})
    judgments = [rows.judgment(prompt_id, [f"g{n}"], protocol="verifier", judge="v", scores=[float(n)]) for n in range(3)]
    judgments.append(rows.judgment(prompt_id, ["g3"], protocol="verifier", judge="v", state="parse_error", reason="?"))
    handoff = export(make_frozen(pairs, generations=generations, judgments=judgments), "group")
    (row,) = handoff.dataset("train")
    assert row["generation_ids"] == ["g2", "g1", "g0"]
    assert row["rewards"] == [2.0, 1.0, 0.0]
    assert row["completions"] == [json.loads(assistant_turn(*answers[n])) for n in (2, 1, 0)]
    assert handoff.about["counts"] == {"prompts": {"kept": 1}, "generations": {"kept": 3, "transport_error": 1, "unscored": 1}}
    assert handoff.about["notes"]["rewards"]["protocol"] == "verifier"


def test_groups_need_scores_of_one_judge(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    pairs = [rows.pair("q", "a", "b", label_source="first")]
    generations, one = rows.scored(pairs, judge="first")
    other = [{**row, "judge": "second", "judgment_id": row["judgment_id"] + "2", "scores": [1.0]} for row in one]
    (row,) = export(make_frozen(pairs, generations=generations, judgments=[*one, *other]), "group").dataset("train")
    assert row["rewards"] == [8.0, 3.0]
    unlabelled = [{**pair, "label_source": None} for pair in pairs]
    with pytest.raises(
        ViewError, match=r"2 judges scored the version .first .pointwise., second .pointwise.. and their scores share no scale"
    ):
        export(make_frozen(unlabelled, generations=generations, judgments=[*one, *other], version=2), "group")
    with pytest.raises(ViewError, match="has no judgment in state ok, so no scores"):
        export(make_frozen(pairs, generations=generations, version=3), "group")
    with pytest.raises(ViewError, match="none of the prompts becomes a row: 1 fewer_than_two_scored"):
        export(make_frozen(pairs, generations=generations, judgments=one[:1], version=4), "group")


REPLY = st.tuples(st.sampled_from(["ok", "ok", "parse_error", "gated"]), st.floats(0, 1))
ORDER = st.lists(REPLY, min_size=1, max_size=3)  # votes 0 and 1, then a re-ask of vote 0
COMPARED = st.dictionaries(st.sampled_from(list(itertools.combinations("abcd", 2))), st.tuples(ORDER, ORDER), min_size=2)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(compared=COMPARED, channel=st.sampled_from(["options", "text", "recorded"]))
def test_rewards_of_pairwise_judges_are_the_scores_that_pairs_are_built_from(
    make_frozen: MakeFrozen, rows: Any, tmp_path_factory: pytest.TempPathFactory, compared: Any, channel: str
) -> None:
    pair = rows.pair("q", "a", "b", label_source="judge")
    generations = [
        {"generation_id": g, "prompt_id": pair["prompt_id"], "sample_index": n, "text": g, "state": "ok"} for n, g in enumerate("abcd")
    ]
    judgments = [
        rows.judgment(
            pair["prompt_id"],
            names[::direction],
            protocol="pairwise",
            vote=place % 2,
            attempt=place // 2,
            state=state,
            channel=channel,
            p_first=p if state == "ok" else None,
            reason=IDENTICAL if state == "gated" else None,
        )
        for names, orders in compared.items()
        for direction, order in zip((1, -1), orders, strict=True)
        if (channel, direction) != ("recorded", -1)  # people are asked once, in one order
        for place, (state, p) in enumerate(order)
    ]
    told, written = frame(judgments, JUDGMENTS), frame(generations, GENERATIONS)
    scores = dict(group_scores(verdicts(told), written, told).drop_nulls("score").select("generation_id", "score").rows())
    root = tmp_path_factory.mktemp("group")
    frozen = make_frozen([pair], generations=generations, judgments=judgments, version=abs(hash(root)))
    if len(scores) < 2 or (told["state"] != "ok").all():
        with pytest.raises(ViewError, match=r"fewer_than_two_scored|no judgment in state ok"):
            write_handoff(frozen, root / "out", view="group")
        return
    (row,) = open_handoff(write_handoff(frozen, root / "out", view="group")).dataset("train")
    assert dict(zip(row["generation_ids"], row["rewards"], strict=True)) == pytest.approx(scores)


def test_listwise_scores_are_means_over_votes(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    pairs = [rows.pair("q", "a", "b")]
    ids = [pairs[0]["chosen_id"], pairs[0]["rejected_id"]]
    generations, _ = rows.scored(pairs)
    judgments = [
        rows.judgment(pairs[0]["prompt_id"], ids, protocol="listwise", vote=0, scores=[7.0, 2.0]),
        rows.judgment(pairs[0]["prompt_id"], ids[::-1], protocol="listwise", vote=1, scores=[4.0, 8.0]),
        rows.judgment(pairs[0]["prompt_id"], ids, protocol="listwise", vote=2, state="parse_error"),
        rows.judgment(pairs[0]["prompt_id"], ids, protocol="listwise", vote=2, attempt=1, scores=[9.0, 3.0]),
    ]
    (row,) = export(make_frozen(pairs, generations=generations, judgments=judgments), "group").dataset("train")
    assert row["rewards"] == [8.0, 3.0]


def documented(text: str, name: str) -> tuple[int, int]:
    """Where a generated table of the page begins and ends."""
    return text.index(f"<!-- {name}: begin -->\n") + len(f"<!-- {name}: begin -->\n"), text.index(f"<!-- {name}: end -->")


@pytest.mark.parametrize("name", list(TABLES))
def test_the_documented_table_is_that_of_the_code(name: str) -> None:
    text = DOCS.read_text()
    begin, end = documented(text, name)
    assert text[begin:end] == TABLES[name](), "run tests/storage/views/test_views.py as a script"


def test_the_table_of_trainers_names_views_that_exist() -> None:
    assert {view for _, _, view in TRL_STEPS} | {view for reader in OTHERS for view in reader.views} <= set(VIEWS)


if __name__ == "__main__":
    for each in TABLES:
        found = DOCS.read_text()
        start, stop = documented(found, each)
        DOCS.write_text(found[:start] + TABLES[each]() + found[stop:])
