"""Length, refusals, language, personal data, credentials: what each marks, what it must leave alone, and what it refuses."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from curators.errors import ConfigError
from curators.filters import FILTERS, apply_filters, load_filter, marks_funnel, rows_of
from curators.filters.language import identify, language
from curators.filters.marks import first_fault, message_text
from curators.filters.private import credentials, personal_data
from curators.filters.wording import length, refusal

DATA = Path(__file__).parents[3] / "../shared/data"


def rows(*texts: str | None) -> pl.DataFrame:
    return pl.DataFrame({"row_id": [f"r{i}" for i in range(len(texts))], "text": pl.Series(texts, dtype=pl.String)})


def reasons(marks: pl.DataFrame) -> list[str | None]:
    assert (marks["keep"] == marks["reason"].is_null()).all()
    return marks["reason"].to_list()


def test_length_bounds_are_inclusive_and_the_first_broken_one_is_named() -> None:
    marks = length(rows("a b", "a b c", "a b c d", "  ", "x" * 11, None), min_words=2, max_words=3, max_chars=10)
    assert reasons(marks) == [None, None, "too_long", "too_short", "too_short", "no_text"]
    assert marks["detail"].to_list()[2:4] == ["4 words; at most 3", "0 words; at least 2"]


DECLINES = [
    "I'm sorry, but I can't assist with that request.",
    "I’m sorry, but I cannot help you with hacking.",
    "As an AI language model, I cannot have opinions.",
    "As an AI, I am not able to browse.",
    "I cannot provide instructions for that.",
    "I must respectfully decline.",
    "As an AI text-based model, I don't have feelings.",
    "It is not appropriate for me to speculate.",
    "Sorry. I won't help with this.",
    "I am unable to assist.",
]
ANSWERS = [
    "I'm sorry for your loss. He was a good dog.",
    "You cannot provide a negative number here.",
    "We are happy to help.",
    "The AI cannot see.",
    "Is it illegal to park here? It is illegal to park on a bridge.",
    "As an AI language model, I must inform you that cows do not fly.",
    "I can't believe it! Great news.",
    "Of course. " + "Here it is. " * 40 + "I cannot help with more.",
]


@pytest.mark.parametrize("text", DECLINES)
def test_refusals_are_marked(text: str) -> None:
    assert reasons(refusal(rows(text))) == ["refusal"]


@pytest.mark.parametrize("text", ANSWERS, ids=lambda text: text[:20])
def test_answers_are_no_refusals(text: str) -> None:
    assert reasons(refusal(rows(text))) == [None]


def test_language_leaves_code_formulas_and_short_texts_alone() -> None:
    given = rows(
        "Le chat dort sur le canapé toute la journée.",
        "Hallo",
        "$\\int_0^1 x dx = \\frac{1}{2}$",
        "```python\nfür = [x for x in der]\n```",
        "This is a perfectly ordinary English sentence.",
        "这是一个关于语言识别的普通句子,里面没有英文单词,只是中文。",
        None,
    )
    assert reasons(language(given)) == ["other_language", None, None, None, None, "other_language", "no_text"]
    assert reasons(language(given, allowed=("en", "fr", "zh")))[0] is None


def test_a_language_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\['klingon'\] are not known"):
        language(rows("x"), allowed=("klingon",))
    assert identify("42") == (None, 0.0)


@pytest.mark.skipif(not DATA.exists(), reason="the real rows are not here")
def test_english_questions_are_english_and_hold_nothing_private() -> None:
    with gzip.open(DATA / "gsm8k_train.jsonl.gz", "rt") as lines:
        given = rows(*(json.loads(line)["question"] for _, line in zip(range(400), lines, strict=False)))
    assert language(given)["keep"].sum() >= 399
    assert personal_data(given)["keep"].all()
    assert credentials(given)["keep"].all()


PRIVATE = {
    "write to jane.roe+x@mail.company.org.": "email",
    "call (650) 253-0000 today": "phone",
    "call +44 20 7031 3000": "phone",
    "pay GB82 WEST 1234 5698 7654 32 NOW": "iban",
    "card 4111-1111-1111-1111": "card",
    "my number is 536-90-4399": "us_ssn",
    "ssh root@8.8.8.8": "ip",
}
NOBODYS = [
    "me@example.com and you@test.example.org",
    "192.168.0.1, 127.0.0.1, 999.1.1.1 and version 1.2.3.4.5",
    "4111-1111-1111-1112",
    "000-12-3456",
    "1 + 2 = 3, 1,000,000 people, 2024-01-02, 3.14159265358979",
    "GB00 WEST 1234 5698 7654 32",
]


@pytest.mark.parametrize(("text", "kind"), PRIVATE.items())
def test_personal_data_is_named_by_kind_and_not_repeated(text: str, kind: str) -> None:
    (mark,) = personal_data(rows(text)).rows()
    assert mark[1:] == (False, "personal_data", kind)


@pytest.mark.parametrize("text", NOBODYS)
def test_what_is_nobodys_is_kept(text: str) -> None:
    assert reasons(personal_data(rows(text))) == [None]


# each in two pieces, so that no scanner takes this file for a leak
KEYS = {
    "AKIA" + "IOSFODNN7EXAMPLE": "AWS Access Key",
    "ghp_" + "a1B2" * 9: "GitHub Token",
    "-----BEGIN RSA " + "PRIVATE KEY-----": "Private Key",
    "https://user:" + "hunter2hunter2@host.org": "Basic Auth Credentials",
}


@pytest.mark.parametrize(("text", "kind"), KEYS.items())
def test_credentials_are_named_by_kind(text: str, kind: str) -> None:
    (mark,) = credentials(rows(f"use {text} here")).rows()
    assert mark[2] == "credentials"
    assert kind in mark[3]
    assert text not in mark[3]


def test_addresses_and_hashes_are_no_credentials() -> None:
    texts = [
        "127.0.0.1 and 8.8.8.8",
        "commit 2d3a254f1abfa796b073a94a6f5a3327c0c037ad",
        "the password is secret",
        "https://example.org/a:b@c",
    ]
    assert reasons(credentials(rows(*texts))) == [None] * 4


def test_unknown_kinds_and_regions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"kinds \['name'\] are not known"):
        personal_data(rows("x"), kinds=("name",))
    with pytest.raises(ConfigError, match="region 'XX'"):
        personal_data(rows("x"), region="XX")


def shout(given: pl.DataFrame, *, least: int = 3) -> pl.DataFrame:
    """A filter as a user writes one."""
    loud = given["text"].str.count_matches("!").fill_null(0) >= least
    return given.select("row_id", keep=~loud, reason=pl.when(loud).then(pl.lit("loud")), detail=pl.lit(None, dtype=pl.String))


def test_filters_in_a_row_give_the_first_reason_and_a_funnel_that_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    given = rows("Fine, thank you.", "I cannot help with that!!!", None, "Hi!!!")
    own = f"{Path(__file__).stem}:shout"
    marks = apply_filters(given, {"refusal": {}, own: {"least": 3}})
    assert reasons(marks) == [None, "refusal", "no_text", "loud"]
    assert reasons(apply_filters(given, {own: {}, "refusal": {}})) == [None, "loud", "no_text", "loud"]
    funnel = marks_funnel(marks, stage="filter", unit="pairs")
    assert (funnel.n_in, funnel.n_kept, funnel.dropped) == (4, 1, {"loud": 1, "no_text": 1, "refusal": 1})


def test_wrong_names_settings_and_marks_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot import 'nowhere'"):
        load_filter("nowhere:at_all")
    with pytest.raises(ConfigError, match="no function 'nothing'"):
        load_filter("json:nothing")
    with pytest.raises(ConfigError, match=r"'length' with settings \['words'\]"):
        apply_filters(rows("x"), {"length": {"words": 3}})
    with pytest.raises(ConfigError, match="one mark a row"):
        apply_filters(rows("x"), {"copy:copy": {}})
    with pytest.raises(ConfigError, match="at least 1"):
        refusal(rows("x"), within_chars=0)


def test_marks_of_different_rows_are_no_one_mark() -> None:
    from curators.errors import SchemaError

    with pytest.raises(SchemaError, match="same rows"):
        first_fault([length(rows("a")), length(rows("a", "b"))])
    with pytest.raises(SchemaError, match="one frame or more"):
        first_fault([])


def test_text_comes_out_of_messages() -> None:
    assert message_text(None) is None
    assert message_text('[{"role": "assistant", "content": null}]') is None
    frame = pl.DataFrame({"pair_id": ["p"], "chosen": ['[{"role": "assistant", "content": "Yes."}]']})
    assert rows_of(frame, row_id="pair_id", messages="chosen").rows() == [("p", "Yes.")]


@pytest.mark.parametrize("name", ["length", "language", "refusal", "personal_data", "credentials", "exact_duplicate", "near_duplicate"])
def test_every_filter_of_texts_takes_no_rows_at_all(name: str) -> None:
    assert FILTERS[name](rows()).height == 0
