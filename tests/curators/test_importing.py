"""Known rows to known facts; the real files' numbers were counted by hand from the raw JSON; rows in = kept + dropped, whatever comes."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curators.errors import SchemaError
from curators.importing import LAYOUTS, TARGETS, Imported, import_facts, parse_columns
from curators.importing.conversations import transcript
from curators.judging.verdicts import group_scores, verdicts
from curators.pairs import PairConfig, build_pairs
from curators.schema import check

ROOT = Path(__file__).parents[2]
DATA = ROOT / "../shared/data"


class Row(NamedTuple):
    number: int
    row: dict[str, Any] | None
    state: str = "ok"
    reason: str | None = None


def facts(rows: Sequence[dict[str, Any] | Row], **options: Any) -> Imported:
    numbered = [row if isinstance(row, Row) else Row(i, row) for i, row in enumerate(rows, 1)]
    out = import_facts({"f.jsonl": numbered}, name="mine", **options)
    for name in ("prompts", "generations", "judgments"):
        frame = check(getattr(out, name), name)
        assert not frame[f"{name[:-1]}_id"].is_duplicated().any()
    assert out.prompts.filter(pl.col("state") != "ok").height == out.funnel.n_dropped
    assert out.funnel.n_in == len(rows)
    return out


def texts(out: Imported) -> dict[str, str]:
    return dict(out.generations.select("generation_id", "text").rows())


def recorded(out: Imported) -> list[tuple[Any, ...]]:
    """Judgments as (texts shown, label, scores, state), in a fixed order."""
    known = texts(out)
    rows = [
        (tuple(known[i] for i in j["generation_ids"]), j["label"], j["scores"], j["state"]) for j in out.judgments.iter_rows(named=True)
    ]
    return sorted(rows, key=repr)


def messages(out: Imported) -> list[list[dict[str, Any]]]:
    return [orjson.loads(text) for text in out.prompts.filter(pl.col("state") == "ok")["messages"]]


def test_a_recorded_pair() -> None:
    out = facts([{"prompt": "2+2?", "chosen": "4", "rejected": "5", "who": "ana"}])
    assert out.layouts["f.jsonl"].layout == "trl_preference"
    row = out.judgments.row(0, named=True)
    assert recorded(out) == [(("4", "5"), "first", None, "ok")]
    assert (row["protocol"], row["judge"], row["channel"], row["p_first"]) == ("pairwise", "source:mine", "recorded", 1.0)
    assert row["order"] == int(row["generation_ids"][0] > row["generation_ids"][1])
    assert orjson.loads(row["raw"]) == {"who": "ana"}
    assert orjson.loads(out.prompts["meta"][0]) == {"who": "ana"}
    assert out.prompts["source"].to_list() == ["f.jsonl:1"]
    assert set(out.generations["policy"]) == {"source:mine"}


def test_scores_make_ties_and_contradictions() -> None:
    """Equal scores: a tie, no pair. Chosen below rejected: the source contradicts itself, so there is no label and no score."""
    rows = [
        {"prompt": f"p{i}", "chosen": "x", "rejected": "y", "score_chosen": a, "score_rejected": b}
        for i, (a, b) in enumerate([(8.0, 1.0), (5, 5), (3, "4.5"), (None, 1), ("many", 1), (True, 1)])
    ]
    out = facts(rows)
    assert out.layouts["f.jsonl"].layout == "ultrafeedback_binarized"
    assert out.funnel.dropped == {"missing": 1, "wrong_type": 2}
    assert out.notes == {"tie": 1, "ambiguous": 1}
    assert recorded(out) == sorted(
        [(("x", "y"), None, [8.0, 1.0], "ok"), (("x", "y"), None, [5.0, 5.0], "ok"), (("x", "y"), None, None, "ambiguous")], key=repr
    )
    assert sorted(verdicts(out.judgments)["verdict"].replace({"b": "a"})) == ["a", "tie", "unscored"]


def test_conversations_keep_every_turn_tool_call_and_reasoning() -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"x": {"type": "number"}}}}}]
    call = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"x": 2}'}}]
    turns = [
        {"role": "system", "content": "Be exact."},
        {"role": "user", "content": "Add 2 and 2."},
        {"role": "assistant", "content": None, "tool_calls": call, "reasoning_content": "I need a tool."},
        {"role": "tool", "tool_call_id": "c1", "name": "add", "content": "4"},
        {"role": "user", "content": "And twice that? "},
    ]
    chosen = {"role": "assistant", "content": "", "reasoning_content": "Double it.", "tool_calls": call}
    row = {"prompt": turns, "chosen": [chosen], "rejected": [{"role": "assistant", "content": "9"}], "tools": tools,
           "chat_template_kwargs": {"enable_thinking": True}}  # fmt: skip
    whole = {"chosen": [*turns, chosen], "rejected": [*turns, {"role": "assistant", "content": "9"}],
             "tools": json.dumps(tools), "chat_template_kwargs": '{"enable_thinking": true}'}  # fmt: skip
    for given_row, layout in ((row, "trl_preference"), (whole, "shared_prefix"), ({**row, "chosen": [*turns, chosen]}, "trl_preference")):
        out = facts([given_row])
        assert out.layouts["f.jsonl"].layout == layout
        prompt = out.prompts.row(0, named=True)
        assert orjson.loads(prompt["messages"]) == turns
        assert orjson.loads(prompt["tools"]) == tools
        assert orjson.loads(prompt["chat_template_kwargs"]) == {"enable_thinking": True}
        answers = {g["text"]: g for g in out.generations.iter_rows(named=True)}
        assert answers[""]["reasoning"] == "Double it."
        assert orjson.loads(answers[""]["tool_calls"]) == call
        assert answers[""]["state"] == answers["9"]["state"] == "ok"
        assert recorded(out) == [(("", "9"), "first", None, "ok")]


def test_hh_transcripts() -> None:
    shared = "\n\nHuman: hi\n\nAssistant: Hello.\n\nHuman: more\n\nAssistant:"
    rows = [
        {"chosen": shared + " yes", "rejected": shared + " no"},
        {"chosen": shared, "rejected": shared + " no"},
        {"chosen": shared + " a\n\nAssistant: b", "rejected": shared + " no"},
        {"chosen": shared + " yes ", "rejected": shared + " yes"},
        {"chosen": "\n\nHuman: other\n\nAssistant: x", "rejected": shared + " no"},
        {"chosen": shared + " yes", "rejected": None},
        {"chosen": shared + " yes", "rejected": 3},
    ]
    out = facts(rows)
    assert messages(out) == [
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "more"}]
    ]
    assert recorded(out) == [(("yes", "no"), "first", None, "ok")]
    assert out.funnel.dropped == {"empty": 1, "not_comparable": 2, "identical": 1, "missing": 1, "wrong_type": 1}
    assert transcript("Human: a Human: b") == [{"role": "user", "content": "a Human: b"}]


@pytest.mark.parametrize("before", ["", " ", "\n", "\n\n", "\n\n\n", " \n\n "])
def test_blanks_before_a_transcript_lose_no_turn(before: str) -> None:
    assert [turn["content"] for turn in transcript(f"{before}Human: q1\n\nAssistant: a1\n\nHuman: q2")] == ["q1", "a1", "q2"]
    out = facts([{"chosen": f"{before}Human: q1\n\nAssistant: yes", "rejected": f"{before}Human: q1\n\nAssistant: no"}])
    assert messages(out) == [[{"role": "user", "content": "q1"}]]


def test_labelled_pairs_and_their_label_words() -> None:
    rows = [{"q": f"p{i}", "x": "one", "y": "two", "l": label} for i, label in enumerate([1, 2, 0, "1", 7, None, [1]])]
    columns = parse_columns(["prompt=q", "output_a=x", "output_b=y", "label=l", "label.1=a", "label.2=b", "label.0=tie"])
    out = facts(rows, columns=columns)
    assert sorted(out.judgments["label"]) == ["first", "first", "second", "tie"]
    assert out.funnel.dropped == {"wrong_type": 2, "missing": 1}
    assert out.notes["tie"] == 1
    assert "label is '7'; known are ['0', '1', '2'] (map others with label.VALUE=a|b|tie)" in out.prompts["reason"].to_list()
    words = facts([{"question": "q", "response_A": "1", "response_B": "2", "label": "B>A", "response_model": "m"}])
    assert recorded(words) == [(("1", "2"), "second", None, "ok")]
    assert set(words.generations["policy"]) == {"source:m"}


def test_a_list_of_scored_answers() -> None:
    row = {
        "instruction": "Say hi.",
        "generator": "org/model",
        "sampling": "top_p=0.9;temp=1.0",
        "ref_output": "Hi",
        "responses": [
            {"k": 0, "output": "hi", "gpt4turbo_preference_vs_ref": 1.5},
            {"k": 1, "output": "hi", "gpt4turbo_preference_vs_ref": 1.0},
            {"k": 2, "output": " ", "gpt4turbo_preference_vs_ref": 1.2},
            {"k": 5, "output": "hello"},
        ],
    }
    out = facts([row])
    assert out.layouts["f.jsonl"].layout == "best_of_n"
    assert out.generations.sort("sample_index").select("sample_index", "text", "state", "policy").rows() == [
        (0, "hi", "ok", "source:org/model"), (1, "hi", "ok", "source:org/model"), (2, " ", "empty", "source:org/model"),
        (5, "hello", "ok", "source:org/model"),
    ]  # fmt: skip
    assert recorded(out) == [(("hi",), None, [1.0], "ok"), (("hi",), None, [1.5], "ok")]
    assert (out.notes["no_score"], out.notes["empty_answer"]) == (1, 1)
    assert orjson.loads(out.prompts["meta"][0]) == {"ref_output": "Hi", "sampling": {"temperature": 1.0, "top_p": 0.9}}
    scores = group_scores(verdicts(out.judgments), out.generations, out.judgments)
    assert sorted(scores["score"].to_list(), key=str) == [1.0, 1.5, None, None]


def test_parallel_lists_nested_paths_and_several_answers_a_side() -> None:
    columns = parse_columns(["prompt=d.q", "response_text=texts[]", "response_score=d.scores[]", "reference=d.gold", "id=d.id"])
    out = facts([{"d": {"q": "p", "scores": [1, 2], "gold": 4, "id": "r1"}, "texts": ["a", "b"]}], columns=columns)
    assert recorded(out) == [(("a",), None, [1.0], "ok"), (("b",), None, [2.0], "ok")]
    assert (out.prompts["reference"][0], orjson.loads(out.prompts["meta"][0])) == ("4", {"id": "r1"})
    short = facts([{"d": {"q": "p", "scores": [1]}, "texts": ["a", "b"]}, {"d": {"q": "p", "scores": [1]}, "texts": ["a"]}],
                  columns=parse_columns(["prompt=d.q", "response_text=texts[]", "response_score=d.scores[]"]))  # fmt: skip
    assert short.funnel.dropped == {"wrong_type": 1}
    many = facts([{"prompt": "p", "chosen": ["a", "b"], "rejected": ["c"]}, {"prompt": "q", "chosen": ["a"], "rejected": ["a"]}])
    assert recorded(many) == [(("a", "c"), "first", None, "ok"), (("b", "c"), "first", None, "ok")]
    assert many.funnel.dropped == {"identical": 1}


def test_several_answers_a_side_keep_their_writers_and_scores() -> None:
    row = {"prompt": "p", "chosen": ["a", "b"], "rejected": ["c", "d", "e"], "who": "m", "cw": ["m1", None], "rw": "r"}
    plain = ["prompt=prompt", "chosen=chosen", "rejected=rejected"]
    out = facts([row], columns=parse_columns([*plain, "policy=who", "chosen_policy=cw", "rejected_policy=rw"]))
    wrote = dict(out.generations.select("text", "policy").rows())
    assert wrote == {"a": "source:m1", "b": "source:m", "c": "source:r", "d": "source:r", "e": "source:r"}
    assert recorded(out) == sorted(((one, other), "first", None, "ok") for one in "ab" for other in "cde")

    scored = [*plain, "chosen_score=s", "rejected_score=t"]
    found = facts([{"prompt": "p", "chosen": ["a", "b"], "rejected": ["c"], "s": [3, 1], "t": 2}], columns=parse_columns(scored))
    assert recorded(found) == [(("a", "c"), None, [3.0, 2.0], "ok"), (("b", "c"), None, None, "ambiguous")]
    short = facts([{"prompt": "p", "chosen": ["a", "b"], "rejected": ["c"], "s": 3, "t": 2}], columns=parse_columns(scored))
    assert short.funnel.dropped == {"wrong_type": 1}
    assert "chosen_score (s) has 1 entries for 2 answers" in short.prompts["reason"].to_list()


def test_bad_lists_of_answers_cost_their_row_only() -> None:
    lists = [(["a"], ["b", " ", "c"]), (["a"], ["b", "c", "a"]), (["a", "b"], ["c"] * 5), (["a"], "b"), (["a"], ["\ud800"])]
    out = facts([{"prompt": f"p{i}", "chosen": one, "rejected": other} for i, (one, other) in enumerate(lists)])
    assert out.funnel.dropped == {"empty": 1, "identical": 1, "wrong_type": 1}
    assert recorded(out) == [((one, other), "first", None, "ok") for one, other in ("ab", "ac", "bc")]


def test_unpaired_feedback() -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    out = facts([{"messages": turns, "label": True}, {"messages": turns[:1], "label": True}, {"messages": turns, "label": "maybe"}])
    assert recorded(out) == [(("hello",), None, [1.0], "ok")]
    assert out.funnel.dropped == {"missing": 1, "wrong_type": 1}
    plain = facts([{"prompt": "hi", "completion": "no", "label": "False"}])
    assert recorded(plain) == [(("no",), None, [0.0], "ok")]


def test_sharegpt_tools() -> None:
    row = {
        "conversations": [
            {"from": "system", "value": "s"}, {"from": "human", "value": "h"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'}, {"from": "observation", "value": "42"},
        ],
        "chosen": {"from": "gpt", "value": "42"}, "rejected": {"from": "gpt", "value": "43"},
        "tools": '[{"type": "function", "function": {"name": "f"}}]',
    }  # fmt: skip
    out = facts([row, {**row, "conversations": [{"from": "function_call", "value": "nope"}]}])
    assert out.layouts["f.jsonl"].layout == "llamafactory"
    assert [turn["role"] for turn in messages(out)[0]] == ["system", "user", "assistant", "tool"]
    assert messages(out)[0][2]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]
    assert out.funnel.dropped == {"wrong_type": 1}


def test_the_same_prompt_again_is_one_prompt_with_more_answers() -> None:
    """Three rows of one prompt: a shared text is one generation, a repeated row is dropped, the opposite label is a second fact."""
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    out = facts([{**row, "id": 2}, {**row, "id": 1}, {**row, "rejected": "c"}, {"prompt": "p", "chosen": "b", "rejected": "a"}])
    assert (out.funnel.n_kept, out.funnel.dropped, out.notes) == (3, {"duplicate": 1}, {"duplicate_prompt": 2})
    assert sorted(texts(out).values()) == ["a", "b", "c"]
    assert len(messages(out)) == 1
    assert recorded(out) == [(shown, "first", None, "ok") for shown in (("a", "b"), ("a", "c"), ("b", "a"))]
    assert sorted(verdicts(out.judgments)["verdict"].replace({"b": "a"})) == ["a", "inconsistent"]
    votes = facts([{"q": "p", "x": "a", "y": "b", "l": w} for w in ("a", "b", "a")],
                  columns=parse_columns(["prompt=q", "output_a=x", "output_b=y", "label=l"]))  # fmt: skip
    assert sorted(votes.judgments.select("label", "vote").rows(), key=lambda r: r[1])[0][1] == 0
    assert sorted(votes.judgments["vote"]) == [0, 1]


def test_bad_rows_keep_their_state_and_the_run_goes_on() -> None:
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    rows = [
        good, Row(2, None, "not_utf8", "byte 3"), Row(3, None, "not_json", "x"), {**good, "prompt": "y" * 2_000_000},
        {**good, "prompt": " "},
        {**good, "prompt": None}, {**good, "chosen": ["x", 1]}, {"chosen": "a", "rejected": "b"}, {**good, "rejected": "a"},
        {**good, "chosen": "\ud800"}, {**good, "chosen": "z" * 1_000_001}, {**good, "prompt": [{"role": "robot", "content": "x"}]},
    ]  # fmt: skip
    out = facts(rows)
    assert out.funnel.n_kept == 1
    assert out.funnel.dropped == {
        "not_utf8": 1, "not_json": 1, "too_long": 2, "empty": 1, "missing": 2, "wrong_type": 3, "identical": 1
    }  # fmt: skip
    bad = out.prompts.filter(pl.col("state") != "ok")
    assert bad["reason"].null_count() == 0
    assert bad.filter(pl.col("state") == "not_json")["source"].to_list() == ["f.jsonl:3"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["prompt"], r"map 'prompt': must be target=source"),
        (["prompt=a", "prompt=b"], "prompt is mapped twice"),
        (["promt=a", "chosen=b", "rejected=c"], r"unknown targets \['promt'\]; allowed are \['chat_template_kwargs'"),
        (["prompt=a", "chosen=b"], r"must hold exactly one of: chosen \+ rejected \| output_a"),
        (["prompt=a", "chosen=b", "rejected=c", "completion=d", "label=e"], "must hold exactly one of"),
        (["output_a=x", "output_b=y", "label=l"], "prompt .or messages. is missing"),
        (["prompt=a", "messages=b", "chosen=c", "rejected=d"], "both prompt and messages"),
        (["prompt=question", "chosen=good_", "rejected=bad", "chosen_score=s"], "chosen_score is given without the other side's score"),
        (["prompt=q", "output_a=x", "output_b=y", "label=l", "label.1=first"], r"label values \{'1': 'first'\}"),
        (
            ["prompt=question", "chosen=good", "rejected=bad"],
            r"f\.jsonl: chosen=good: there is no such column; the columns are \['bad', 'good_'",
        ),
    ],
)
def test_wrong_maps_are_refused(columns: list[str], message: str) -> None:
    rows = [{"question": "q", "good_": "a", "bad": "b"}]
    with pytest.raises(SchemaError, match=message):
        facts(rows, columns=parse_columns(columns))


def test_unknown_columns_name_what_is_there_and_the_way_out() -> None:
    with pytest.raises(SchemaError, match=r"no known layout has the columns \['q', 'x'\]; say what they are, such as --map prompt=COLUMN"):
        facts([{"q": 1, "x": 2}])
    with pytest.raises(SchemaError, match=r"none of the first 2 rows can be read \(not_json: bad\)"):
        facts([Row(1, None, "not_json", "bad"), Row(2, None, "not_json", "bad")])


def test_the_docs_list_every_target_and_layout() -> None:
    page = (ROOT / "docs/import.md").read_text()
    assert [name for name in (*TARGETS, *(layout.layout for layout in LAYOUTS)) if f"`{name}`" not in page] == []


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
turn = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool", "x"]), "content": st.text(max_size=3) | st.none()})
values = st.recursive(scalars | turn, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2))
few = st.sampled_from(["a", "b", "\n\nHuman: x\n\nAssistant: y", [{"role": "user", "content": "u"}]])


def rows_of(*columns: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(st.dictionaries(st.sampled_from(columns), few | values), min_size=1, max_size=12)


MAPS = {
    "pairs": ["prompt=p", "chosen=x", "rejected=y", "chosen_score=s", "rejected_score=t", "tools=u"],
    "implicit": ["chosen=x", "rejected=y"],
    "labelled": ["messages=p", "output_a=x", "output_b=y", "label=s", "system=t"],
    "responses": ["prompt=p", "response_text=x[]", "response_score=y[]", "policy=t", "response_index=u[]"],
    "unpaired": ["messages=p", "label=s"],
}


@pytest.mark.parametrize("kind", MAPS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_whatever_comes_rows_in_are_rows_kept_and_dropped_in_any_order(kind: str, data: st.DataObject) -> None:
    full = {option.partition("=")[2].removesuffix("[]"): "a" for option in MAPS[kind]}  # so that every column is there
    rows = [full, *data.draw(rows_of("p", "x", "y", "s", "t", "u"))]
    columns = parse_columns(MAPS[kind])
    out = facts(rows, columns=columns)
    shuffled = data.draw(st.permutations(rows))
    again = facts(shuffled, columns=columns)
    assert again.funnel == out.funnel
    assert again.notes == out.notes
    assert again.generations.equals(out.generations)
    assert again.judgments.equals(out.judgments)
    good = [frame.filter(pl.col("state") == "ok").drop("source") for frame in (again.prompts, out.prompts)]
    assert good[0].equals(good[1])


def load(name: str) -> list[Row]:
    path = DATA / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [Row(number, json.loads(line)) for number, line in enumerate(file, 1)]


# Counted from the raw JSON with plain dicts and sets, without this package:
# name: layout, rows, dropped, notes, prompts, generations, judgments
REAL = {
    "nc/bon16_tulu2_dpo_13b": ("best_of_n", 389, {}, {"no_score": 1945}, 389, 6224, 4279),
    "ultrafeedback_binarized_sample": ("ultrafeedback_binarized", 583, {"empty": 2, "identical": 1}, {"tie": 53}, 580, 1160, 580),
    "hh_rlhf_harmless_base_test": ("shared_prefix", 1162, {"empty": 1, "not_comparable": 2}, {"duplicate_prompt": 2}, 1157, 2318, 1159),
    "llmbar_gold": ("llmbar", 434, {"identical": 1}, {"duplicate_prompt": 68}, 365, 802, 433),
    "llamafactory_dpo_en_demo": ("llamafactory", 131, {"duplicate": 3}, {}, 128, 256, 128),
    "llamafactory_kto_en_demo": ("kto_messages", 166, {}, {"duplicate_prompt": 3}, 163, 166, 166),
    "dove_hh_helpful_val_pref": ("dove", 185, {}, {}, 185, 370, 185),
    "rm_bench": ("trl_preference", 376, {}, {}, 376, 2223, 3287),
    "judgebench": ("judgebench", 300, {"identical": 1}, {"duplicate_prompt": 42}, 257, 598, 299),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files(name: str) -> None:
    layout, n_rows, dropped, notes, n_prompts, n_generations, n_judgments = REAL[name]
    out = facts(load(name))
    assert out.layouts["f.jsonl"].layout == layout
    assert (out.funnel.n_in, out.funnel.dropped) == (n_rows, dropped)
    assert {key: n for key, n in out.notes.items() if n} == notes
    assert (len(messages(out)), out.generations.height, out.judgments.height) == (n_prompts, n_generations, n_judgments)


@pytest.mark.parametrize(
    ("name", "policy", "n_pairs", "dropped"),
    [
        ("nc/bon16_tulu2_dpo_13b", "best_vs_worst", 386, {"identical_text": 3}),
        ("ultrafeedback_binarized_sample", "recorded", 527, {"tie": 53}),
        ("hh_rlhf_harmless_base_test", "recorded", 1159, {}),
        ("llmbar_gold", "recorded", 433, {}),
    ],
)
def test_real_files_give_the_pairs_counted_by_hand(name: str, policy: Any, n_pairs: int, dropped: dict[str, int]) -> None:
    out = facts(load(name))
    decided = verdicts(out.judgments)
    scores = group_scores(decided, out.generations, out.judgments)
    pairs, funnels = build_pairs(
        out.prompts, out.generations, scores, verdicts=decided, config=PairConfig(pair_policy=policy, policy="none")
    )
    assert pairs.height == n_pairs
    assert dict(funnels[-1].dropped) == dropped


def test_real_pairs_keep_who_won() -> None:
    """Every kept row's winner, straight from the file, is the chosen text of a pair of the same two texts."""
    rows = [row.row for row in load("llmbar_gold")]
    random.Random(0).shuffle(rows)
    out = facts(rows)
    decided = verdicts(out.judgments)
    scores = group_scores(decided, out.generations, out.judgments)
    pairs, _ = build_pairs(out.prompts, out.generations, scores, verdicts=decided, config=PairConfig(pair_policy="recorded", policy="none"))
    known = texts(out)
    built = Counter((known[a], known[b]) for a, b in pairs.select("chosen_id", "rejected_id").iter_rows())
    gold = Counter((r["output_1"], r["output_2"])[:: 1 if r["label"] == 1 else -1] for r in rows if r["output_1"] != r["output_2"])
    assert built == gold
