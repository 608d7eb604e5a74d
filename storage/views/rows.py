"""From a view's SQL to its rows in one of two forms, split by prompt, with a reason for every unit that is not a row.

| form | messages | when |
|---|---|---|
| `conversational` | `List({role, content})` if all messages of the column have a role, a text and nothing else; else JSON | always |
| `standard` | the text alone: TRL joins prompt and answer as they are | one user turn, one plain answer, no tools or template arguments |

JSON is kept as text and becomes Python objects in `datasets` (feature `Json`). Structs would give every message the keys of all others
with null in them, and every tool the parameters of all others: a chat template that asks `is defined` then renders other tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import duckdb

from storage.columns import literal
from storage.errors import ViewError
from storage.views.reading import TYPES
from storage.views.view import CONTEXT, KEPT, Column, Kind, View

Form = Literal["conversational", "standard"]
FORMS: tuple[Form, ...] = ("conversational", "standard")
SPLITS = ("train", "test")

_PLAIN_MESSAGE = (
    "list_sort(json_keys(m)) = ['content', 'role'] AND json_type(m, '$.content') = 'VARCHAR' AND json_type(m, '$.role') = 'VARCHAR'"
)
_MACROS = f"""
    CREATE MACRO every(items) AS coalesce(list_bool_and(items), TRUE);
    CREATE MACRO parts(list) AS from_json(list, '["JSON"]');
    CREATE MACRO plain(messages) AS every(list_transform(parts(messages), lambda m: {_PLAIN_MESSAGE}));
    CREATE MACRO one_text(messages, who) AS
        plain(messages) AND json_array_length(messages) = 1 AND json_extract_string(messages, '$[0].role') = who;
    CREATE MACRO plain_lists(lists) AS every(list_transform(parts(lists), lambda l: plain(l)));
    CREATE MACRO one_text_lists(lists) AS every(list_transform(parts(lists), lambda l: one_text(l, 'assistant')));
"""

_STRUCTURES = {"messages": '[{"role":"VARCHAR","content":"VARCHAR"}]', "message_lists": '[[{"role":"VARCHAR","content":"VARCHAR"}]]'}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """A view's rows, ready to be read.

    `columns` maps each name to what it finally holds: messages that are not plain are `json`, in form standard they are `text`.
    `counts`: for each unit, how many were kept or dropped for which reason. `omitted`: columns left out, and why.
    """

    columns: Mapping[str, str]
    select: str
    counts: Mapping[str, Mapping[str, int]]
    omitted: Mapping[str, str]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def of_split(self, split: str) -> str:
        """The SELECT of one split, in order of row id."""
        return f"{self.select} WHERE split = '{split}' ORDER BY row_id"


def prepare(connection: duckdb.DuckDBPyConnection, name: str, view: View, form: Form) -> Rows:
    """Decide which units become rows and in which form each column comes.

    Raises:
        ViewError: the version cannot give this view or this form, or no row is left.
    """
    connection.execute(_MACROS)
    extra = view.prepare(connection)
    counts = {view.unit: _make_keys(connection, view), **extra.counts}
    if not counts[view.unit].get(KEPT):
        hints = "".join(f"; {hint}" for fate, hint in _HINTS.items() if fate in counts[view.unit])
        raise ViewError(f"view {name}: none of the {view.unit} becomes a row: {_listed(counts[view.unit])}{hints}")
    connection.execute(f"CREATE TEMP VIEW view_rows AS {view.rows}")
    own = {column: about for column, about in view.columns.items() if column not in CONTEXT}
    declared = own | dict(extra.columns) | {column: about for column, about in view.columns.items() if column in CONTEXT}
    present, omitted = _present(connection, declared)
    _refuse_rows(connection, name, form, declared)
    columns = dict(_kinds(connection, present, form))
    selected = ", ".join(f"{_expression(column, present[column].kind, kind, form)} AS {column}" for column, kind in columns.items())
    return Rows(columns=columns, select=f"SELECT {selected} FROM view_rows", counts=counts, omitted=omitted, notes=extra.notes)


_HINTS = {
    "step_pair": "views step and step-dpo are for pairs of steps",
    "two_prompts": "view joint is for pairs with two prompts",
    "one_prompt": "view dpo is for pairs with one prompt",
    "two_texts": "view joint is for pairs with two prompts and two texts",
    "no_context": "prompts get a system message or a context by `pairmill run contrast` with the method janus or context",
}


def _make_keys(connection: duckdb.DuckDBPyConnection, view: View) -> dict[str, int]:
    """The table `keys`, and how many of its rows have which fate.

    Splits are by prompt id; the same messages under two ids (other tools, say) would still stand in both, so those of test are dropped.
    """
    connection.execute(f"CREATE TEMP TABLE keys AS {view.keys}")
    connection.execute("""
        UPDATE keys SET drop = 'prompt_in_train' WHERE drop IS NULL AND split <> 'train'
        AND prompt_hash IN (SELECT prompt_hash FROM keys WHERE drop IS NULL AND split = 'train')
    """)
    found = connection.execute(f"SELECT coalesce(drop, '{KEPT}'), count(*) FROM keys GROUP BY 1 ORDER BY 1").fetchall()
    return dict(found)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {fate}" for fate, n in counts.items()) or "the version has none"


def _present(connection: duckdb.DuckDBPyConnection, columns: Mapping[str, Column]) -> tuple[dict[str, Column], dict[str, str]]:
    """The columns that are there for these rows, and why others are not."""
    optional = [name for name, column in columns.items() if column.present != "always"]
    if not optional:
        return dict(columns), {}
    row = connection.execute(f"SELECT count(*), {', '.join(f'count({name})' for name in optional)} FROM view_rows").fetchone()
    assert row is not None
    n, filled = row[0], dict(zip(optional, row[1:], strict=True))
    absent = {name for name in optional if not filled[name] or (columns[name].present == "all" and filled[name] < n)}
    omitted = {name: f"null in {n - filled[name]} of {n} rows" for name in columns if name in absent}
    return {name: column for name, column in columns.items() if name not in absent}, omitted


def _refuse_rows(connection: duckdb.DuckDBPyConnection, name: str, form: Form, columns: Mapping[str, Column]) -> None:
    """Refuse what form standard has no place for, and what the chat template code of trainers raises at, with the id of the first."""
    tests = {"it offers tools": "tools IS NOT NULL", "it has chat_template_kwargs": "chat_template_kwargs IS NOT NULL"}
    tests = tests if form == "standard" else {}
    for column, about in columns.items():
        if about.side:
            tests |= (_not_standard if form == "standard" else _not_chat)(column, about)
    why = "CASE " + " ".join(f"WHEN {test} THEN {literal(reason)}" for reason, test in tests.items()) + " END"
    query = f"SELECT source_id, why, count(*) OVER () FROM (SELECT source_id, {why} AS why FROM view_rows) WHERE why IS NOT NULL"
    if found := connection.execute(f"{query} ORDER BY source_id LIMIT 1").fetchone():
        advice = "Use form conversational" if form == "standard" else "Trainers reject such a row: publish the version without it"
        raise ViewError(f"view {name}, form {form}: {found[2]} rows do not fit; the first is {found[0]}: {found[1]}. {advice}")


def _not_standard(column: str, about: Column) -> Mapping[str, str]:
    """Form standard holds two texts: dropping the rest would train on another conversation."""
    if about.side == "prompt":
        return {f"its {column} is not one user turn": f"NOT one_text({column}, 'user')"}
    fits = f"one_text_lists({column})" if about.kind == "message_lists" else f"one_text({column}, 'assistant')"
    return {f"its {column} is not one plain text turn (reasoning, tool calls and several turns have no place)": f"NOT {fits}"}


def _not_chat(column: str, about: Column) -> Mapping[str, str]:
    """TRL takes a prompt that ends in a turn of the user or of a tool (`trl.data_utils.apply_chat_template`), and an assistant's answer."""
    if about.side == "prompt":
        ends = f"coalesce(json_extract_string({column}, '$[#-1].role'), '') IN ('user', 'tool')"
        return {f"its {column} does not end with a turn of the user or of a tool": f"NOT {ends}"}
    if about.kind == "message_lists":
        begins = f"every(list_transform(parts({column}), lambda l: coalesce(json_extract_string(l, '$[0].role'), '') = 'assistant'))"
    else:
        begins = f"coalesce(json_extract_string({column}, '$[0].role'), '') = 'assistant'"
    return {f"its {column} does not begin with a turn of the assistant": f"NOT {begins}"}


def _kinds(connection: duckdb.DuckDBPyConnection, columns: Mapping[str, Column], form: Form) -> Iterator[tuple[str, str]]:
    """What each column finally holds."""
    chats = {name: column.kind for name, column in columns.items() if column.side}
    tests = ", ".join(f"bool_and({'plain' if kind == 'messages' else 'plain_lists'}({name}))" for name, kind in chats.items())
    plain = connection.execute(f"SELECT {tests} FROM view_rows").fetchone() if form == "conversational" else None
    is_plain = dict(zip(chats, plain or (), strict=False))
    for name, column in columns.items():
        if name not in chats:
            yield name, column.kind
        elif form == "standard":
            yield name, "text" if column.kind == "messages" else "texts"
        else:
            yield name, column.kind if is_plain[name] else "json"


def _expression(name: str, stored: Kind, kind: str, form: Form) -> str:
    """SQL for one column."""
    if name == "chat_template_kwargs":
        return f"coalesce({name}, '{{}}')::JSON"
    if kind == "json":
        return f"{name}::JSON"
    if stored in _STRUCTURES and form == "conversational":
        return f"from_json({name}, '{_STRUCTURES[stored]}')"
    if stored == "messages":
        return f"json_extract_string({name}, '$[0].content')"
    if stored == "message_lists":
        return f"json_extract_string({name}, '$[*][0].content')"
    return f"{name}::{TYPES[kind]}"
