"""Views that read more than pairs: lists, matrices, attributes, objectives, users, tokens, negatives, contexts, revisions."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curators.contrast.variants import profile_prompts
from curators.schema import PROMPTS, frame
from storage.errors import ViewError
from storage.handoff import Handoff, open_handoff, write_handoff
from storage.views import VIEWS

MakeFrozen = Callable[..., Path]
Export = Callable[..., Handoff]
Facts = dict[str, list[dict[str, Any]]]
LETTERS = "abc"
SCORES = {"a": {"helpfulness": 4, "verbosity": 3}, "b": {"helpfulness": 2, "verbosity": 3}, "c": {"helpfulness": 1, "verbosity": None}}


@pytest.fixture
def export(tmp_path: Path) -> Export:
    def run(frozen: Path, view: str, form: str = "conversational") -> Handoff:
        return open_handoff(write_handoff(frozen, tmp_path / f"out-{frozen.name}-{view}-{form}", view=view, form=form))

    return run


def told(handoff: Handoff) -> dict[str, int]:
    """What became of the units of a view."""
    return dict(handoff.about["counts"][VIEWS[handoff.view].unit])


def all_rows(handoff: Handoff) -> list[dict[str, Any]]:
    return [row for part in handoff.dataset_dict().values() for row in part]


def asked(rows: Any, prompt_id: str, names: dict[str, str], first: str, second: str, p: float | None, **more: Any) -> dict[str, Any]:
    """A pairwise judgment; without `p` one that could not be read."""
    label = None if p is None else "tie" if p == 0.5 else "first" if p > 0.5 else "second"
    shown = [names[first], names[second]]
    state = {"state": "ok" if label else "parse_error", "label": label, "p_first": p, "protocol": "pairwise", "channel": "text"}
    return dict(rows.judgment(prompt_id, shown, **(state | {"rubric_digest": "r"} | more)))


def facts_of(rows: Any, n: int = 9) -> Facts:
    """Per question three sampled answers, a beats b beats c in both orders by `judge`, other tastes by `other`, and attributes by `judge`.

    One pair a question, a over c. Every third question is of test.
    """
    found: Facts = {"pairs": [], "generations": [], "judgments": []}
    for number in range(n):
        texts = {letter: f"{letter}{number}" for letter in LETTERS}
        pair = rows.pair(
            f"question {number}?", texts["a"], texts["c"], split="test" if number % 3 == 0 else "train", margin=1.0, p_chosen=0.9
        )
        ids = {letter: f"g{number}{letter}" for letter in LETTERS}
        pair |= {"chosen_id": ids["a"], "rejected_id": ids["c"], "label_source": "judge", "chosen_policy": "p", "rejected_policy": "p"}
        found["pairs"].append(pair)
        for index, letter in enumerate(LETTERS):
            logprobs = [-0.5 * (index + 1), -0.25]
            sampled = {"token_ids": [number, index], "logprobs": logprobs, "sum_logprob": sum(logprobs), "policy": "p"}
            generation = {"generation_id": ids[letter], "prompt_id": pair["prompt_id"], "sample_index": index, "text": texts[letter]}
            found["generations"].append({**generation, "state": "ok", **sampled})
            given = json.dumps(SCORES[letter])
            found["judgments"].append(
                rows.judgment(pair["prompt_id"], [ids[letter]], judge="heads", protocol="pointwise", scores=[1.0], attributes=given)
            )
        for one, two in itertools.combinations(LETTERS, 2):
            found["judgments"] += [
                asked(rows, pair["prompt_id"], ids, one, two, 0.8, order=0),
                asked(rows, pair["prompt_id"], ids, two, one, 0.4, order=1),
                asked(rows, pair["prompt_id"], ids, one, two, 0.1 if number % 2 else 0.9, order=0, judge="other"),
            ]
    return found


@pytest.fixture
def facts(rows: Any) -> Facts:
    return facts_of(rows)


def only(facts: Facts, *judges: str) -> Facts:
    return {**facts, "judgments": [row for row in facts["judgments"] if row["judge"] in judges]}


EXPECTED = {
    "ranked": {"prompt": "messages", "completions": "message_lists", "ranks": "integers", "scores": "numbers"},
    "matrix": {"prompt": "messages", "completions": "message_lists", "probabilities": "number_lists", "wins": "number_lists"},
    "scored-pair": {"prompt": "messages", "y": "messages", "y_prime": "messages", "reward_y": "number", "reward_y_prime": "number"},
    "attributes": {"prompt": "messages", "response": "messages", "attr_helpfulness": "number", "attr_verbosity": "number"},
    "objectives": {"prompt": "messages", "chosen": "messages", "rejected": "messages", "objective": "text", "margin_helpfulness": "number"},
    "user": {"prompt": "messages", "chosen": "messages", "rejected": "messages", "user_id": "text", "agrees": "flag", "role": "text"},
    "tokens": {"prompt": "messages", "chosen": "messages", "chosen_token_ids": "integers", "chosen_token_logps": "numbers"},
    "negatives": {"prompt": "messages", "rejected": "messages", "self_responses": "message_lists", "synthetic": "flag"},
    "revision": {"revise_prompt": "messages", "revise_target": "messages", "margin": "number", "pair_id": "text"},
    "prompt-contrast": {"prompt_chosen": "messages", "prompt_rejected": "messages", "response": "messages", "pair_id": "text"},
    "context": {"system": "text", "prompt": "messages", "chosen": "messages", "rejected": "messages", "pair_id": "text"},
}
STANDARD = tuple(view for view in EXPECTED if view != "revision")


@pytest.fixture
def versions(make_frozen: MakeFrozen, rows: Any, facts: Facts) -> Callable[[str], Path]:
    """The version that a view is tried on."""

    def make(view: str) -> Path:
        if view == "prompt-contrast":
            joint = [
                rows.pair(
                    f"q{n}", "a", "a", rejected_prompt=json.dumps(rows.question(f"not q{n}")), split="test" if n % 3 == 0 else "train"
                )
                for n in range(9)
            ]
            return make_frozen(joint)
        if view == "context":
            told = [[{"role": "system", "content": "Be brief."}, *rows.question(f"q{n}")] for n in range(9)]
            return make_frozen([rows.pair(turns, "a", "b", split="test" if n % 3 == 0 else "train") for n, turns in enumerate(told)])
        judges = ("judge",) if view in ("ranked", "scored-pair", "matrix") else ("judge", "other", "heads")
        return make_frozen(**only(facts, *judges))

    return make


@pytest.mark.parametrize("view", list(EXPECTED))
def test_a_view_reloads_as_declared_and_no_prompt_is_in_both_splits(versions: Callable[[str], Path], export: Export, view: str) -> None:
    from datasets import Features

    frozen = versions(view)
    for form in ("conversational", "standard") if view in STANDARD else ("conversational",):
        handoff = export(frozen, view, form)
        texts = {"messages": "text", "message_lists": "texts"} if form == "standard" else {}
        assert handoff.columns.items() >= {name: texts.get(kind, kind) for name, kind in EXPECTED[view].items()}.items()
        declared = [name for name, column in VIEWS[view].columns.items() if column.present == "always"]
        assert set(declared) <= set(handoff.columns)
        data = handoff.dataset_dict()
        assert all(part.features == Features.from_dict(handoff.about["features"]) for part in data.values())
        assert min(part.num_rows for part in data.values()) > 0
        for column in (name for name, about in VIEWS[view].columns.items() if about.side == "prompt"):
            train, test = ({json.dumps(prompt) for prompt in part[column]} for part in data.values())
            assert train
            assert not train & test
        assert told(handoff)["kept"] == sum(handoff.splits.values())


def test_a_ranked_list_is_in_order_of_scores_and_two_answers_are_the_pair(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    pairs = [rows.pair("q", "a", "b", label_source="judge"), rows.pair("r", "a", "b", label_source="judge")]
    generations, judgments = rows.scored(pairs)
    extra = {"generation_id": "x", "prompt_id": pairs[0]["prompt_id"], "sample_index": 2, "text": "c", "state": "ok"}
    judgments.append(rows.judgment(pairs[0]["prompt_id"], ["x"], protocol="pointwise", scores=[8.0]))
    frozen = make_frozen(pairs, generations=[*generations, extra], judgments=judgments)
    found = {row["prompt"][0]["content"]: row for row in all_rows(export(frozen, "ranked"))}
    assert (found["q"]["ranks"], found["q"]["scores"]) == ([1, 1, 3], [8.0, 8.0, 3.0])
    assert (found["r"]["ranks"], [turns[0]["content"] for turns in found["r"]["completions"]]) == ([1, 2], ["a", "b"])
    dpo = {row["prompt"][0]["content"]: row for row in all_rows(export(frozen, "dpo"))}
    assert found["r"]["completions"] == [dpo["r"]["chosen"], dpo["r"]["rejected"]]
    scored = all_rows(export(frozen, "scored-pair"))
    assert len(scored) == 4  # three of q, one of r
    for row in scored:
        score = {
            generation_id: score
            for each in found.values()
            for generation_id, score in zip(each["generation_ids"], each["scores"], strict=True)
        }
        assert (row["reward_y"], row["reward_y_prime"]) == (score[row["y_id"]], score[row["y_prime_id"]])
    tied = [{**row, "scores": [5.0]} for row in judgments if row["prompt_id"] == pairs[0]["prompt_id"]]
    rest = [row for row in judgments if row["prompt_id"] == pairs[1]["prompt_id"]]
    handoff = export(make_frozen(pairs, generations=generations, judgments=[*tied, *rest], version=2), "ranked")
    assert told(handoff) == {"all_tied": 1, "kept": 1}


def test_a_matrix_holds_both_orders_and_what_was_never_compared_is_null(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    pair = rows.pair("q", "a", "c", label_source="judge")
    names = dict(zip(LETTERS, ("g1", "g2", "g3"), strict=True))
    generations = [
        {"generation_id": names[x], "prompt_id": pair["prompt_id"], "sample_index": n, "text": x, "state": "ok"}
        for n, x in enumerate(LETTERS)
    ]
    judgments = [
        asked(rows, pair["prompt_id"], names, "a", "b", 1.0, order=0),
        asked(rows, pair["prompt_id"], names, "b", "a", 0.5, order=1),  # a tie: 1/2
        asked(rows, pair["prompt_id"], names, "b", "c", 1.0, order=0),
        asked(rows, pair["prompt_id"], names, "c", "b", 0.0, order=1),
    ]
    (row,) = all_rows(export(make_frozen([pair], generations=generations, judgments=judgments), "matrix"))
    assert row["generation_ids"] == ["g1", "g2", "g3"]
    assert row["probabilities"] == [[None, 0.75, None], [0.25, None, 1.0], [None, 0.0, None]]
    assert row["wins"] == [[0, 1, 0], [0, 0, 2], [0, 0, 0]]
    assert row["ties"] == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    generations, scored = rows.scored([pair])
    with pytest.raises(ViewError, match="has no pairwise judgment, only pointwise; label it with a pairwise rubric, or export view ranked"):
        export(make_frozen([pair], generations=generations, judgments=scored, version=2), "matrix")


def test_attributes_are_means_over_votes_and_one_that_was_not_given_is_null(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    pair = rows.pair("q", "a", "b")
    generations, judgments = rows.scored([pair])
    one, two = generations
    given = [
        (one, 0, '{"good": 4, "long": null}', "ok"),
        (one, 1, '{"good": 1, "long": 2}', "no_score"),
        (two, 0, '{"good": null}', "no_score"),
        (two, 1, '{"good": 3}', "parse_error"),
    ]
    judgments += [
        rows.judgment(pair["prompt_id"], [each["generation_id"]], judge="j", vote=vote, protocol="pointwise", attributes=text, state=state)
        for each, vote, text, state in given
    ]
    handoff = export(make_frozen([pair], generations=generations, judgments=judgments), "attributes")
    (row,) = all_rows(handoff)
    assert (row["attr_good"], row["attr_long"], row["annotator_id"]) == (2.5, 2.0, "j")
    assert told(handoff) == {"kept": 1, "no_attributes": 1}
    with pytest.raises(ViewError, match="no judgment of the version has attributes; label it with a rubric that names some"):
        export(make_frozen([pair], generations=generations, judgments=rows.scored([pair])[1], version=2), "attributes")


def test_objectives_turn_a_pair_where_they_disagree_with_it(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    pairs = [rows.pair("q", "a", "b"), rows.pair("r", "a", "b")]
    generations, _ = rows.scored(pairs)
    values = {
        pairs[0]["chosen_id"]: (4, 1),
        pairs[0]["rejected_id"]: (1, 3),
        pairs[1]["chosen_id"]: (2, 2),
        pairs[1]["rejected_id"]: (2, None),
    }
    judgments = [
        rows.judgment(
            each["prompt_id"],
            [each["generation_id"]],
            attributes=json.dumps(dict(zip(("help", "brief"), values[each["generation_id"]], strict=True))),
        )
        for each in generations
    ]
    handoff = export(make_frozen(pairs, generations=generations, judgments=judgments), "objectives")
    found = {row["objective"]: row for row in all_rows(handoff)}
    assert told(handoff) == {"equal": 1, "kept": 2, "no_attributes": 1}
    shown = ("margin", "turned", "margin_help", "margin_brief")
    assert [found["help"][name] for name in shown] == [3.0, False, 3.0, -2.0]
    assert [found["brief"][name] for name in shown] == [2.0, True, -3.0, 2.0]
    assert found["help"]["chosen"] == found["brief"]["rejected"] == rows.answer("a")
    assert found["help"]["pair_id"] == found["brief"]["pair_id"] == pairs[0]["pair_id"]
    second = [{**row, "judge": "other", "judgment_id": row["judgment_id"] + "o"} for row in judgments]
    with pytest.raises(ViewError, match=r"2 judges or rubrics gave attributes .judge, other.*must be exactly one"):
        export(make_frozen(pairs, generations=generations, judgments=[*judgments, *second], version=2), "objectives")


def test_a_users_own_label_decides_and_most_users_are_known(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    pair, alone = rows.pair("q", "a", "b"), rows.pair("r", "a", "b")
    names = {"a": pair["chosen_id"], "b": pair["rejected_id"]}
    generations, _ = rows.scored([pair, alone])
    judgments = [
        asked(rows, pair["prompt_id"], names, "a", "b", 1.0, judge="ann"),
        asked(rows, pair["prompt_id"], names, "a", "b", 0.9, judge="bob"),
        asked(rows, pair["prompt_id"], names, "b", "a", 0.7, judge="bob"),
        asked(rows, pair["prompt_id"], names, "b", "a", 1.0, judge="cleo"),
        asked(rows, pair["prompt_id"], names, "a", "b", 0.5, judge="dan"),
        asked(rows, pair["prompt_id"], names, "a", "b", 1.0, judge="eve"),
        asked(rows, pair["prompt_id"], names, "b", "a", None, judge="eve"),
        rows.judgment(pair["prompt_id"], [names["a"], names["b"]], judge="fay", protocol="listwise", scores=[1.0, 2.0]),
    ]
    handoff = export(make_frozen([pair, alone], generations=generations, judgments=judgments), "user")
    assert told(handoff) == {"kept": 4, "not_judged": 1, "tie": 1, "unreadable": 1}
    found = {row["user_id"]: row for row in all_rows(handoff)}
    assert {user: row["chosen"][0]["content"] for user, row in found.items()} == {"ann": "a", "bob": "a", "cleo": "b", "fay": "b"}
    assert found["bob"]["p_chosen"] == pytest.approx(0.6)
    assert [found[user]["agrees"] for user in ("ann", "fay")] == [None, None]  # two against two
    assert {row["role"] for row in found.values()} <= {"support", "query"}
    odd = export(make_frozen([pair], generations=generations, judgments=judgments[:4], version=2), "user")
    assert {row["user_id"]: row["agrees"] for row in all_rows(odd)} == {"ann": True, "bob": True, "cleo": False}
    with pytest.raises(ViewError, match="the pairs were judged by ann, and it takes two users"):
        export(make_frozen([pair], generations=generations, judgments=judgments[:1], version=3), "user")


def test_roles_are_half_support_and_half_query(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    facts = facts_of(rows, 60)
    roles = [row["role"] for row in all_rows(export(make_frozen(**facts), "user"))]
    assert len(roles) == 120
    assert 40 < roles.count("support") < 80


def test_tokens_are_those_sampled_and_what_does_not_add_up_is_dropped(make_frozen: MakeFrozen, facts: Facts, export: Export) -> None:
    by_id = {row["generation_id"]: row for row in facts["generations"]}
    by_id["g1a"] |= {"logprobs": None}
    by_id["g2a"] |= {"token_ids": [1, 2, 3]}
    by_id["g4c"] |= {"sum_logprob": -9.0}
    by_id["g5c"] |= {"policy": "another"}
    handoff = export(make_frozen(**facts), "tokens")
    assert told(handoff) == {"kept": 5, "lengths_differ": 1, "no_token_logprobs": 1, "sum_differs": 1, "two_policies": 1}
    for row in all_rows(handoff):
        number = int(row["chosen"][0]["content"][1:])
        assert (row["chosen_token_ids"], row["rejected_token_ids"]) == ([number, 0], [number, 2])
        assert math.isclose(sum(row["rejected_token_logps"]), by_id[f"g{number}c"]["sum_logprob"], abs_tol=1e-4)
        assert row["policy"] == "p"
    for letter in "ac":
        by_id[f"g7{letter}"] |= {"policy": "another"}
    with pytest.raises(ViewError, match=r"the pairs are by 2 policies .another, p., whose tokenizers need not be the same"):
        export(make_frozen(**facts, version=2), "tokens")
    for row in facts["generations"]:
        row |= {"token_ids": None}
    with pytest.raises(
        ViewError, match=r"no pair has token ids and log-probabilities of both sides .9 no_token_logprobs.*sample with an engine"
    ):
        export(make_frozen(**facts, version=3), "tokens")


def test_negatives_stand_against_other_answers_or_those_written_for_them(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    pairs = [rows.pair("q", "a", "bad"), rows.pair("q", "b", "bad"), rows.pair("q", "a", "worse"), rows.pair("s", "a", "bad")]
    anchors = [{**rows.pair("r", text, "awful"), "kind": "d2o", "chosen_id": None} for text in ("fine", "good")]
    texts = {"q": ("a", "b", "bad", "a"), "r": ("awful", "other"), "s": ("bad",)}
    ids = {row["prompt"]: row["prompt_id"] for row in [*pairs, *anchors]}
    generations = [
        {"generation_id": f"{name}{n}", "prompt_id": ids[rows.text_of(rows.question(name))], "text": text, "state": "ok"}
        for name, written in texts.items()
        for n, text in enumerate(written)
    ]
    lost = {"generation_id": "lost", "prompt_id": pairs[0]["prompt_id"], "text": "cut", "state": "truncated"}
    handoff = export(make_frozen([*pairs, *anchors], generations=[*generations, lost]), "negatives")
    assert told(handoff) == {"duplicate": 2, "kept": 3, "no_self_responses": 1}
    found = {row["rejected"][0]["content"]: row for row in all_rows(handoff)}
    said = {text: sorted(turns[0]["content"] for turns in row["self_responses"]) for text, row in found.items()}
    assert said == {"bad": ["a", "b"], "worse": ["a", "b"], "awful": ["fine", "good"]}
    assert {text: row["synthetic"] for text, row in found.items()} == {"bad": False, "worse": False, "awful": True}


def test_a_revision_prompt_holds_the_rejected_answer_once(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    again = [*rows.question("q"), *rows.answer("bad"), *rows.question("Once more.")]
    pairs = [rows.pair("q", "good", 'b"ad\n'), rows.pair(again, "good", "bad")]
    handoff = export(make_frozen(pairs), "revision")
    (row,) = all_rows(handoff)
    assert told(handoff) == {"kept": 1, "rejected_in_prompt": 1}
    assert row["revise_prompt"][:2] == [*rows.question("q"), *rows.answer('b"ad\n')]
    assert [turn["role"] for turn in row["revise_prompt"]] == ["user", "assistant", "user"]
    assert row["revise_target"] == rows.answer("good")


def test_prompt_contrast_takes_joint_pairs_with_one_text(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    other = json.dumps(rows.question("other"))
    pairs = [rows.pair("q", "a", "a", rejected_prompt=other), rows.pair("r", "a", "b", rejected_prompt=other), rows.pair("s", "a", "b")]
    handoff = export(make_frozen([{"rejected_prompt": None, **pair} for pair in pairs]), "prompt-contrast")
    assert told(handoff) == {"kept": 1, "one_prompt": 1, "two_texts": 1}
    (row,) = all_rows(handoff)
    assert (row["prompt_chosen"], row["prompt_rejected"], row["response"]) == (rows.question("q"), rows.question("other"), rows.answer("a"))
    with pytest.raises(ViewError, match="1 two_texts; view joint is for pairs with two prompts and two texts"):
        export(make_frozen(pairs[1:2], version=2), "prompt-contrast")


@pytest.mark.parametrize("place", ["system", "context"])
def test_a_profile_is_taken_out_of_the_prompt_again(make_frozen: MakeFrozen, rows: Any, export: Export, place: Any) -> None:
    asked_of = {"prompt_id": "base", "messages": rows.text_of(rows.question("What now?")), "state": "ok"}
    prompts = profile_prompts(frame([asked_of], PROMPTS), ['Be "brief".', "Be long."], place=place).to_dicts()
    profiles = [json.loads(prompt["meta"])["profile"] for prompt in prompts]
    pairs, contrasts = [], []
    for prompt, own, other in zip(prompts, profiles, profiles[::-1], strict=True):
        pair = rows.pair(json.loads(prompt["messages"]), own[:7], other[:7]) | {"prompt_id": "base"}
        about = {"parameters": json.dumps({"place": place, "profile": own, "rejected_profile": other}), "state": "ok"}
        contrasts.append({"contrast_id": pair["pair_id"], "pair_id": pair["pair_id"], "prompt_id": "base", **about})
        contrasts[-1]["method"] = "context" if place == "context" else "janus"
        pairs.append(pair)
    plain = rows.pair("no profile", "a", "b")
    handoff = export(make_frozen([*pairs, plain], contrasts=contrasts), "context")
    assert told(handoff) == {"kept": 2, "no_context": 1}
    found = all_rows(handoff)
    assert {row[place] for row in found} == set(profiles)
    assert ({"system", "context"} & set(handoff.columns)) == {place}
    assert all(row["prompt"] == rows.question("What now?") for row in found)
    assert found[0]["profile_id"] == found[1]["rejected_profile_id"] != found[0]["rejected_profile_id"]
    with pytest.raises(ViewError, match="1 no_context; prompts get a system message or a context by `pairmill run contrast`"):
        export(make_frozen([plain], version=2), "context")


@pytest.mark.parametrize(
    ("prompt", "chosen", "why"),
    [
        ([{"role": "system", "content": "s"}], "a", "its prompt does not end with a turn of the user or of a tool"),
        ([], "a", "its prompt does not end with a turn of the user or of a tool"),
        ("q", [{"role": "user", "content": "a"}], "its chosen does not begin with a turn of the assistant"),
        ("q", [], "its chosen does not begin with a turn of the assistant"),
    ],
)
def test_a_row_that_a_trainer_would_reject_is_refused_with_its_id(
    make_frozen: MakeFrozen, rows: Any, export: Export, prompt: Any, chosen: Any, why: str
) -> None:
    bad = rows.pair(prompt, chosen, "b")
    with pytest.raises(ViewError, match=f"view dpo, form conversational: 1 rows do not fit; the first is {bad['pair_id']}: {why}"):
        export(make_frozen([rows.pair("plain", "a", "b"), bad], prompts=[]), "dpo")


def test_what_pairs_know_of_their_evidence_stands_beside_them(make_frozen: MakeFrozen, rows: Any, export: Export) -> None:
    known = {"p_chosen": 0.75, "chosen_policy": "p", "rejected_policy": None, "chosen_score": 0.5, "rejected_score": 0.25}
    frozen = make_frozen([rows.pair("q", "a", "b", **known), rows.pair("r", "a", "b")])
    dpo = {row["prompt"][0]["content"]: row for row in all_rows(export(frozen, "dpo"))}
    assert (dpo["q"]["strength"], dpo["q"]["chosen_policy"], dpo["r"]["strength"]) == (0.5, "p", None)
    assert "rejected_policy" not in dpo["q"]
    assert {row["quality_score"] for row in all_rows(export(frozen, "sft"))} == {0.5, None}
    prompts = rows.prompts_of([rows.pair("q", "a", "b"), rows.pair("r", "a", "b")])
    prompts[0]["meta"] = '{"domain":"sums"}'
    asked = all_rows(export(make_frozen([rows.pair("q", "a", "b"), rows.pair("r", "a", "b")], prompts=prompts, version=2), "prompt-only"))
    assert {row["prompt"][0]["content"]: row["meta"] for row in asked} == {"q": {"domain": "sums"}, "r": None}
    kto = {(row["prompt"][0]["content"], row["label"]): row["reward"] for row in all_rows(export(frozen, "kto"))}
    assert kto == {("q", True): 0.5, ("q", False): 0.25, ("r", True): None, ("r", False): None}
