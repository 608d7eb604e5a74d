"""Transcripts of other people's judges: known rows to known figures, and the real files as far as they are here."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from curators.engines.replay import ReplayEngine
from curators.errors import SchemaError
from curators.judging.recordings import recording_report, recordings, replay_lines, replayed
from curators.judging.transcripts import layout_of, read_item, text_id

DATA = Path(__file__).parents[3] / "../shared/data"
A, B = "Therefore, Output (a) is better.", "Therefore, Output (b) is better."


async def reports(rows: list[dict[str, Any]], texts: list[dict[str, Any]], tmp_path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Every judge and strategy of the rows, by the ordinary path."""
    layout = layout_of(rows, file="f")
    known = {str(text_id(row)): row for row in texts}
    found = {}
    for number, recording in enumerate(recordings(item for row in rows for item in read_item(row, layout, known))):
        path = tmp_path / f"{number}.jsonl"
        path.write_text("\n".join(json.dumps(line) for line in replay_lines(recording)))
        judgments = await replayed(recording, ReplayEngine(path))
        found[recording.judge, recording.strategy] = recording_report(recording, judgments)
    return found


def shares(report: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(report[name] and (report[name]["hits"], report[name]["n"]) for name in names)


def llmbar(key: str, label: int, replies: tuple[Any, Any], winners: tuple[Any, Any], strategy: str = "CoT") -> dict[str, Any]:
    orders = zip(("swap = False", "swap = True"), replies, winners, strict=True)
    result = {swap: {"completion": reply if isinstance(reply, list) else [reply, "stop"], "winner": won} for swap, reply, won in orders}
    return {"id": key, "subset": "s", "evaluator": "J", "strategy": strategy, "label": label, "results": [["metrics", "stop"], result]}


def text(key: str, label: int) -> dict[str, Any]:
    return {"id": key, "input": f"What is {key}?", "output_1": f"one {key}", "output_2": f"two {key}", "label": label}


async def test_every_reply_of_both_orders_is_counted_once(tmp_path: Path) -> None:
    rows = [
        llmbar("k1", 1, (A, B), ("1", "1")),  # consistent and right
        llmbar("k2", 2, (A, B), ("1", "1")),  # consistent and wrong
        llmbar("k3", 1, (A, A), ("1", "2")),  # flips
        llmbar("k4", 1, (A, "Both are good."), ("1", None)),  # one order cannot be read, and the file reads it neither
        llmbar("k5", 1, (["", "content management policy"], ["Therefore, Outp", "length"]), (None, None)),
        llmbar("k6", 1, (f"{B} Or rather: {A}\n{A}", A), ("2", "2")),  # contradicts itself; the file takes the first
        llmbar("k7", 2, (B, B), ("1", "1")),  # the file has the first reply wrong
    ]
    texts = [text(row["id"], row["label"]) for row in rows]
    texts[1] |= {"input": "What is k1?"}  # two pairs of one prompt
    (report,) = (await reports(rows, texts, tmp_path)).values()
    assert report["states"] == {"ambiguous": 1, "ok": 10, "parse_error": 1, "refused": 1, "truncated": 1}
    assert report["replies"] == 14
    # right as shown: k1 both, k2 none, k3 its first, k4 its first, k6 not, k7 its first (label 2 is (b) unswapped)
    assert shares(report, "read", "accuracy", "flip", "kept", "accuracy_kept") == ((10, 14), (5, 10), (2, 4), (2, 7), (1, 2))
    assert report["file"] == {"same": 9, "neither": 3, "only_file": 1, "differs": 1}
    assert [(one["shown"], one["ours"], one["file"]) for one in report["differing"]] == [(["k7/1", "k7/2"], "second", "first")]
    assert sorted(row["state"] for row in report["unread"]) == ["ambiguous", "parse_error", "refused", "truncated"]


async def test_a_second_round_is_a_recording_of_its_own(tmp_path: Path) -> None:
    row = llmbar("k", 1, (A, A), ("1", "2"), strategy="Swap")
    row["results"].append(llmbar("k", 1, (A, B), ("1", "1"))["results"][1])
    found = await reports([row], [text("k", 1)], tmp_path)
    assert shares(found["J", "Swap"], "accuracy", "kept") == ((2, 2), (1, 1))
    assert shares(found["J", "Swap (round 1, overruled)"], "flip") == ((1, 1),)


async def test_ratings_are_compared_pair_by_pair(tmp_path: Path) -> None:
    def rating(key: str, scores: tuple[str, str], winners: tuple[str | None, str | None]) -> dict[str, Any]:
        swaps = {"swap = False": {"winner": winners[0]}, "swap = True": {"winner": winners[1]}}
        result = {"score_1": [scores[0], "stop"], "score_2": [scores[1], "stop"], **swaps}
        return {"id": key, "evaluator": "J", "strategy": "Rating", "label": 1, "results": [result]}

    rows = [
        rating("k1", ("8", "3"), ("1", "1")),
        rating("k2", ("9", "9"), ("2", "1")),
        rating("k3", ("10", "2"), ("1", "1")),
        rating("k4", ("4.5", "5"), (None, None)),
    ]
    (report,) = (await reports(rows, [], tmp_path)).values()
    assert report["states"] == {"ok": 6, "parse_error": 2}  # the scale ends at 9, and 4.5 is not on it
    assert report["file"] == {"same": 2, "only_file": 1}
    assert shares(report, "kept", "accuracy_kept") == ((1, 4), (1, 1))


async def test_a_swapped_decision_is_read_as_the_judge_saw_it(tmp_path: Path) -> None:
    def judged(*replies: tuple[str | None, str | None]) -> list[dict[str, Any] | None]:
        return [{"judgment": {"judge_model": "m", "response": reply}, "decision": decision} for reply, decision in replies]

    rows = [
        {"pair_id": "1", "judge": "arena_hard:m", "label": "A>B", "judgments": judged(("[[A>B]]", "A>B"), ("[[B>>A]]", "B>A"))},
        {"pair_id": "2", "judge": "arena_hard:m", "label": "B>A", "judgments": judged(("[[A=B]]", "A=B"), (None, None))},
        {"pair_id": "3", "judge": "arena_hard:m", "label": "B>A", "judgments": [*judged(("Final: [[A>B]]", "A>B")), None]},
    ]
    (report,) = (await reports(rows, [], tmp_path)).values()
    assert report["states"] == {"ok": 4, "transport_error": 2}
    assert shares(report, "accuracy", "kept") == ((2, 4), (1, 3))
    assert report["file"] == {"same": 4, "neither": 2}


async def test_judgebenchs_other_prompts_have_their_own_forms(tmp_path: Path) -> None:
    forms = {
        "vanilla": ("Output (a)", "Output (b)"),
        "skywork_critic": ("[[A]]", "[[B]]"),
        "prometheus_2": ("x [RESULT] A", "x [RESULT] B"),
    }
    rows = [
        {
            "pair_id": "1",
            "judge": f"{kind}:m",
            "label": "A>B",
            "judgments": [{"judgment": {"response": said}, "decision": None} for said in pair],
        }
        for kind, pair in forms.items()
    ]
    found = await reports(rows, [], tmp_path)
    assert {strategy: shares(report, "read", "accuracy", "kept") for (_, strategy), report in found.items()} == dict.fromkeys(
        forms, ((2, 2), (2, 2), (1, 1))
    )


async def test_a_reward_models_scores_go_through_the_same_path(tmp_path: Path) -> None:
    rows = [
        {
            "pair_id": str(i),
            "judge": "reward_model:r",
            "label": "A>B",
            "judgments": [{"judgment": {"scores": [a, b]}, "decision": "A>B" if a > b else "B>A"}],
        }
        for i, (a, b) in enumerate([(1.5, -2.0), (0.0, 3.0)])
    ]
    (report,) = (await reports(rows, [], tmp_path)).values()
    assert (report["form"], report["file"]) == ("reward", {"same": 2})
    assert shares(report, "accuracy", "kept") == ((1, 2), (2, 2))


async def test_log_probabilities_give_the_preference_that_the_file_stored(tmp_path: Path) -> None:
    # specification, oracle 3: m -0.010449888 and M -4.6069846 give p(m) = .9900140; whichever answer stood first, the file has the model's
    def annotated(row: int, preference: float, top: dict[str, float]) -> dict[str, Any]:
        content = [{"top_logprobs": [{"token": token, "logprob": value} for token, value in top.items()]}]
        raw = {"logprobs": {"content": content}, "text": "m"}
        return {"row": row, "generator": "g", "annotator": "a", "preference": preference, "raw_completion": raw}

    both = {"m": -0.010449888, "The": -9.0, "M": -4.6069846}
    rows = [annotated(1, 1.9900140, both), annotated(2, 1.0099860, both), annotated(3, 1.5, both), annotated(4, 1.0, {"M": -1e-6})]
    rows.append(annotated(5, 2.0, {"M": 0.0, "m": -800.0}))  # a probability of 0 is one
    (report,) = (await reports(rows, [], tmp_path)).values()
    assert report["states"] == {"ok": 4, "parse_error": 1}
    assert report["file"] == {"same": 3, "differs": 1, "only_file": 1}
    assert [one["ours"] for one in report["differing"]] == [pytest.approx(0.9900140, abs=1e-7)]


async def test_votes_on_one_answer_are_compared_with_each_other(tmp_path: Path) -> None:
    def graded(idx: int, scores: list[int]) -> dict[str, Any]:
        instruction = f"###Response to evaluate:\nanswer {idx}\n\n###Reference Answer (Score 5):\nright\n\n###Score Rubrics:\n[x]"
        return {
            "bench": "b",
            "idx": idx,
            "response_source": "s",
            "instruction": instruction,
            "gpt4_score": scores,
            "gpt4_feedback": ["It is.\n\nGood."] * 3,
        }

    (report,) = (await reports([graded(1, [3, 3, 3]), graded(2, [5, 4, 5]), graded(3, [1, 1, 1])], [], tmp_path)).values()
    assert report["file"] == {"same": 9}
    assert (report["votes"]["alike"]["hits"], report["votes"]["alike"]["n"], report["kept"]) == (2, 3, None)
    assert 0.8 < report["votes"]["alpha"]["value"] < 1


def test_a_row_or_file_of_no_known_layout_is_refused() -> None:
    with pytest.raises(SchemaError, match="those of no transcript that is known"):
        layout_of([{"prompt": 1, "chosen": 2}], file="f")
    with pytest.raises(SchemaError, match="not a row of llmbar: KeyError 'winner'"):
        read_item({"id": 1, "evaluator": "J", "strategy": "s", "results": [{"swap = False": {}}]}, "llmbar", {})


async def test_the_same_item_twice_counts_once(tmp_path: Path) -> None:
    (report,) = (await reports([llmbar("k", 1, (A, B), ("1", "1"))] * 2, [], tmp_path)).values()
    assert (report["items"], report["left_out"], report["replies"]) == (1, 1, 2)


def load(name: str) -> list[dict[str, Any]]:
    if not (DATA / name).exists():
        pytest.skip("the shared data are not here")
    with gzip.open(DATA / name, "rt") as file:
        return [json.loads(line) for line in file]


def explained(one: dict[str, Any]) -> bool:
    """The reply concludes what we read. LLMBar's patterns are tried in order: a line that begins with "Output (a)", or somebody's opinion
    that is reported ("Output (a) is better"), decides before a verdict for (b).
    """
    letter = {"first": "a", "second": "b"}[one["ours"]]
    return f"Output ({letter}) is better" in one["raw"]


PALM2 = {  # read, accuracy, flip, kept, accuracy of kept as counted from the file's own winners, of 213 pairs
    "Vanilla": (424, 0.7193, 0.2500, 0.7465, 0.7925),
    "CoT": (425, 0.6824, 0.2972, 0.6995, 0.7584),
}


async def test_palm2_on_llmbar(tmp_path: Path) -> None:
    rows = [row for row in load("llmbar_judge_transcripts.jsonl.gz") if row["evaluator"] == "PaLM2" and row["strategy"] in PALM2]
    found = await reports(rows, load("llmbar_gold.jsonl.gz"), tmp_path)
    for strategy, expected in PALM2.items():
        report = found["PaLM2", strategy]
        figures = [report[name]["share"] for name in ("accuracy", "flip", "kept", "accuracy_kept")]
        assert [report["read"]["hits"], *figures] == [expected[0], *(pytest.approx(x, abs=1e-4) for x in expected[1:])]
    assert found["PaLM2", "Vanilla"]["file"] == {"same": 424, "neither": 2}
    assert found["PaLM2", "CoT"]["file"] == {"same": 349, "differs": 76, "neither": 1}
    assert all(explained(one) for one in found["PaLM2", "CoT"]["differing"])


@pytest.mark.slow
async def test_judgebench_and_alpaca_eval(tmp_path: Path) -> None:
    found = await reports(load("judgebench_judge_transcripts.jsonl.gz"), load("judgebench.jsonl.gz"), tmp_path)
    counts = sum((Counter(report["file"]) for report in found.values()), Counter())
    assert counts == {"same": 332 + 261 + 3 * 166, "neither": 4, "only_ours": 1, "gated": 1}
    found = await reports(load("nc/alpaca_eval_judge_raw.jsonl.gz"), [], tmp_path)
    counts = sum((Counter(report["file"]) for report in found.values()), Counter())
    assert counts == {"same": 775, "only_file": 1}  # one reply lacks m among its top log-probabilities; the file takes it as certain


async def test_prometheus(tmp_path: Path) -> None:
    found = await reports(load("prometheus_rubric_scores.jsonl.gz"), [], tmp_path)
    assert {name: report["file"] for (_, name), report in found.items()} == {"mt_bench_eval": {"same": 432}, "vicuna_eval": {"same": 456}}


@pytest.mark.slow
async def test_all_of_llmbar(tmp_path: Path) -> None:
    found = await reports(load("llmbar_judge_transcripts.jsonl.gz"), load("llmbar_gold.jsonl.gz"), tmp_path)
    counts = sum((Counter(report["file"]) for report in found.values()), Counter())
    assert counts == {"same": 31_575, "differs": 133, "only_ours": 3, "only_file": 43, "neither": 119, "gated": 8}
    assert all(explained(one) for report in found.values() for one in report["differing"])
    assert all(report["read"]["share"] > 0.95 for report in found.values())
