"""Pairs with the reason for their label: what trainers of preference and rationale learn from, and the same rows without the reason.

"Data-Centric Human Preference with Rationales" (arXiv 2407.14477) adds to the pair loss the log-likelihood of the rationale after
`rationale_prompt`: the prompt, a question, the chosen answer as the response above and the rejected one as the response below. Chosen
first, always, is the paper's template and a position shortcut; `rationale-random-order` draws the order by a hash of the pair's id.
`rationale-permuted` gives each pair the rationale of another, the control that shows whether their content matters, and `rationale-twin`
has the same rows without one. Only rationales in state ok become rows; a pair with two kinds becomes two.
"""

from __future__ import annotations

import duckdb

from storage.views.view import CONTEXT, NO_PAIR, PROMPT, Column, Prepared, View, nothing

# As `curators.judging.prompts` writes a conversation and an answer for a judge.
_MACROS = """
    CREATE TEMP MACRO spoken(turn) AS array_to_string(list_concat(
        CASE json_type(turn, '$.content') WHEN 'VARCHAR' THEN list_filter([json_extract_string(turn, '$.content')], lambda t: t <> '')
            WHEN 'ARRAY' THEN list_filter(json_extract_string(turn, '$.content[*].text'), lambda t: t <> '') ELSE [] END,
        list_transform(json_extract(turn, '$.tool_calls[*]'), lambda call: 'calls ' || json_extract_string(call, '$.function.name')
            || '(' || coalesce(json_extract_string(call, '$.function.arguments'), '') || ')')), chr(10));
    CREATE TEMP MACRO told(messages) AS array_to_string(list_transform(from_json(messages, '["JSON"]'),
        lambda turn: '[' || json_extract_string(turn, '$.role') || ']' || chr(10) || spoken(turn)), chr(10) || chr(10));
    CREATE TEMP MACRO asked(messages) AS CASE WHEN json_array_length(messages) = 1 AND json_type(messages, '$[0].content') = 'VARCHAR'
        THEN json_extract_string(messages, '$[0].content') ELSE told(messages) END;
    CREATE TEMP MACRO replied(messages) AS CASE WHEN json_array_length(messages) = 1
        THEN spoken(json_extract(messages, '$[0]')) ELSE told(messages) END;
    CREATE TEMP MACRO turn(who, text) AS '[{"role":"' || who || '","content":' || to_json(text) || '}]';
    CREATE TEMP MACRO rationale_question(prompt, above, below) AS turn('user', prompt || chr(10) || chr(10)
        || 'Which of these two responses is preferable and follows the prompt better, and why?' || chr(10) || chr(10)
        || 'The response above:' || chr(10) || above || chr(10) || chr(10) || 'or' || chr(10) || chr(10)
        || 'the response below:' || chr(10) || below);
"""
_KEYS = f"""
    WITH final AS (
        SELECT pair_id, kind AS rationale_kind, rationale_id, state FROM rationales
        QUALIFY row_number() OVER (PARTITION BY pair_id, kind ORDER BY state = 'ok' DESC, attempt DESC, rationale_id) = 1
    )
    SELECT pair_id || coalesce('/' || rationale_kind, '') AS row_id, pair_id AS source_id, split, md5(prompt) AS prompt_hash, rationale_id,
        CASE {NO_PAIR}
            WHEN rationale_id IS NULL THEN 'no_rationale' WHEN state <> 'ok' THEN state END AS drop
    FROM pairs LEFT JOIN final USING (pair_id)
"""
_TEXTS = """
    WITH texts AS (
        SELECT row_id, source_id, keys.split, rationale_id, rationales.kind AS rationale_kind, {text} AS rationale
        FROM keys JOIN rationales USING (rationale_id) WHERE drop IS NULL
    )
"""
_OTHERS = """coalesce(lead(text) OVER line, first_value(text) OVER line)"""
_LINE = " WINDOW line AS (PARTITION BY keys.split, rationales.kind ORDER BY md5(row_id))"
_ROWS = """
    {texts}
    SELECT row_id, source_id, texts.split, prompt, chosen, rejected, {more} rationale_kind, margin, p_chosen, rationale_id, pair_id, tools,
        chat_template_kwargs
    FROM texts JOIN pairs ON pair_id = source_id
"""
_ABOVE = "substr(md5('order/' || pair_id), 1, 1) < '8'"


def _rows(*, first: str = "TRUE", permuted: bool = False, with_rationale: bool = True) -> str:
    """`first`: SQL that says whether chosen is the response above."""
    question = f"""rationale_question(asked(prompt), replied(CASE WHEN {first} THEN chosen ELSE rejected END),
        replied(CASE WHEN {first} THEN rejected ELSE chosen END)) AS rationale_prompt, turn('assistant', rationale) AS rationale,"""
    texts = _TEXTS.format(text=_OTHERS if permuted else "text").rstrip().removesuffix(")") + (_LINE if permuted else "") + ")"
    return _ROWS.format(texts=texts, more=question if with_rationale else "")


def _macros(connection: duckdb.DuckDBPyConnection) -> Prepared:
    connection.execute(_MACROS)
    return Prepared()


_PAIR = {
    "prompt": PROMPT,
    "chosen": Column(kind="messages", side="answer", meaning="the preferred answer"),
    "rejected": Column(kind="messages", side="answer", meaning="the other answer"),
}
_TAIL = {
    "rationale_kind": Column(kind="text", meaning="general or detailed"),
    "margin": Column(kind="number", meaning="score of chosen minus score of rejected; null when unknown"),
    "p_chosen": Column(kind="number", meaning="probability that chosen is better; null when the source gives only a label"),
    "rationale_id": Column(kind="text", meaning="id of the rationale"),
    "pair_id": Column(kind="text", meaning="id of the pair"),
} | CONTEXT


def _view(row: str, trainers: str, rows: str, *, with_rationale: bool = True) -> View:
    asked = {
        "rationale_prompt": Column(
            kind="messages", side="prompt", meaning="one turn: the prompt, the question which response is preferable, and both answers"
        ),
        "rationale": Column(kind="messages", side="answer", meaning="why the chosen answer is better"),
    }
    return View(
        row=row,
        trainers=trainers,
        unit="pairs and kinds",
        columns=_PAIR | (asked if with_rationale else {}) | _TAIL,
        needs={
            "pairs": ("pair_id", "prompt", "chosen", "rejected", "margin", "p_chosen", "tools", "chat_template_kwargs", "split"),
            "rationales": ("rationale_id", "pair_id", "kind", "text", "state", "attempt"),
        },
        keys=_KEYS,
        rows=rows,
        prepare=_macros if with_rationale else nothing,
    )


RATIONALE = _view("a pair with a rationale that passed every check", "`pipelines.training.dpo`", _rows())
RANDOM_ORDER = _view(
    "the same, where a hash of the pair decides which answer is the response above", "`pipelines.training.dpo`", _rows(first=_ABOVE)
)
PERMUTED = _view("the same, with the rationale of another pair of its split and kind", "`pipelines.training.dpo`", _rows(permuted=True))
TWIN = _view("the same pairs without their rationale", "DPOTrainer", _rows(with_rationale=False), with_rationale=False)
