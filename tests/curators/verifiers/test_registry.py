"""Names, settings and digests of checks; what is none."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from curators.errors import ConfigError
from curators.verifiers import CHECKS, load_verifier

USER_CODE = """
def good(*, prompt, response, reference):
    return response.endswith(f"{reference}.")

def strict(prompt, response, reference=None, *, at_least=0.5):
    return at_least

def positional(text, /):
    return True

not_callable = 3
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"checks_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(USER_CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_every_shipped_check_loads_under_its_name() -> None:
    for name, check in CHECKS.items():
        verifier = load_verifier(name)
        assert (verifier.name, verifier.check, verifier.module) == (name, check, None)
        assert verifier.judge.partition("@")[0] == f"verifier:{name}"
    assert load_verifier("unit_tests").own_limit_s == 10
    assert load_verifier("unit_tests(timeout_s=3)").own_limit_s == 3


def test_the_judge_is_named_by_code_and_settings(user_module: str, tmp_path: Path) -> None:
    before = load_verifier(f"{user_module}:good")
    assert before.judge.startswith(f"verifier:{user_module}:good@")
    assert (before.module, before.in_process_chars) == (user_module, 0)
    tight, same = load_verifier(f"{user_module}:strict( at_least = 0.75 )"), load_verifier(f"{user_module}:strict(at_least=.75)")
    assert tight.name == same.name == f"{user_module}:strict(at_least=0.75)"
    assert tight.check("", "", None) == 0.75
    assert len({load_verifier(spec).judge for spec in ("numeric", "numeric(rel_tol=0.1)", "numeric(rel_tol=0.2)", "boxed")}) == 4
    sys.modules.pop(user_module)
    (tmp_path / f"{user_module}.py").write_text(USER_CODE + "\n# another version of the code\n")
    assert load_verifier(f"{user_module}:good").judge != before.judge


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("exactly", "verifier: 'exactly' is not shipped; there are"),
        ("", "verifier: '' is none"),
        ("no_such_module:check", "cannot import 'no_such_module'"),
        ("USER:missing", "has no function 'missing'"),
        ("USER:not_callable", "has no function 'not_callable'"),
        ("USER:positional", "must take prompt, response and reference by name"),
        ("USER:good(x=1)", "must take prompt, response and reference by name: got an unexpected keyword argument 'x'"),
        ("USER:strict(at_least='much')", "at_least is 'much', must be of type float, as 0.5 is"),
        ("numeric(tolerance=1)", "unexpected keyword argument 'tolerance'"),
        ("numeric(rel_tol='1')", "rel_tol is '1', must be of type float"),
        ("numeric(0.1)", "the settings cannot be read: each needs a name"),
        ("numeric(rel_tol=1)(rel_tol=2)", "the settings cannot be read: each needs a name"),
        ("numeric(rel_tol=tight)", "the settings cannot be read"),
        ("numeric(rel_tol=", "is none; give a name"),
        ("numeric(rel_tol=)", "the settings cannot be read"),
    ],
)
def test_what_is_no_check_is_refused(user_module: str, spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_verifier(spec.replace("USER", user_module))


def test_a_whole_number_is_a_float() -> None:
    assert load_verifier("numeric(rel_tol=1)").check(prompt="", response="1", reference="2") is True


def test_the_example_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[3] / "docs/verifiers.md").read_text(), re.DOTALL)
    (tmp_path / "documented.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    check = load_verifier("documented:ends_politely(word='cheers')").check
    assert [
        check(prompt="", response=text, reference=given) for text, given in (("Cheers!", "x"), ("Thanks.", "x"), ("Cheers!", None))
    ] == [
        True,
        (False, "does not end with cheers"),
        None,
    ]
