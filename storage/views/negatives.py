"""Bad answers and the policy's own answers to the same prompt, for losses over negatives alone (D2O, arXiv 2403.03419).

`self_responses` are the answers that the method d2o had written for this bad one (`synthetic`); where there are none, the prompt's other
generations in state ok, but those that are rejected in some pair themselves. Equal texts stand once.
"""

from __future__ import annotations

import duckdb

from storage.views.prompt_only import PROMPTS_NEEDED
from storage.views.view import CONTEXT, NO_PAIR, PROMPT, Column, Prepared, View

# Pairs of somebody's own making may order the keys of a turn otherwise than generations do, so texts are compared by their parts.
_MACROS = """
    CREATE TEMP MACRO parts_hash(text, reasoning, calls) AS
        md5(md5(coalesce(text, '')) || md5(coalesce(reasoning, '')) || md5(coalesce(calls, '')));
    CREATE TEMP MACRO turn_hash(turns) AS CASE WHEN json_array_length(turns) = 1 THEN parts_hash(json_extract_string(turns, '$[0].content'),
        json_extract_string(turns, '$[0].reasoning_content'), json_extract_string(turns, '$[0].tool_calls')) ELSE md5(turns) END;
"""
# One bad answer has one id, that of the smallest of its pairs; what may stand against it is known by ids until the rows are.
_NEGATIVES = f"""
    CREATE TEMP TABLE negatives AS
    SELECT pair_id, prompt_id, kind, split, md5(prompt) AS prompt_hash, turn_hash(rejected) AS text_hash, CASE {NO_PAIR} END AS no_pair,
        first_value(pair_id) OVER (PARTITION BY request_hash(prompt, tools, chat_template_kwargs), turn_hash(rejected) ORDER BY pair_id) AS
            negative_id
    FROM pairs
"""
_RESPONSES = """
    CREATE TEMP TABLE self_responses AS
    WITH written AS (
        SELECT negative_id, turn_hash(chosen) AS text_hash, min(pair_id) AS response_id, TRUE AS synthetic
        FROM negatives JOIN pairs USING (pair_id) WHERE negatives.kind = 'd2o' AND no_pair IS NULL GROUP BY ALL
    ), texts AS (
        SELECT prompt_id, generation_id, md5(messages) AS prompt_hash, parts_hash(text, reasoning, tool_calls) AS text_hash
        FROM generations JOIN prompts USING (prompt_id) WHERE generations.state = 'ok'
    ), own AS (
        SELECT prompt_id, prompt_hash, text_hash, min(generation_id) AS response_id
        FROM texts ANTI JOIN negatives USING (prompt_id, prompt_hash, text_hash) GROUP BY ALL
    )
    FROM written UNION ALL
    SELECT negative_id, own.text_hash, response_id, FALSE
    FROM negatives JOIN own USING (prompt_id, prompt_hash)
    WHERE negatives.pair_id = negative_id AND no_pair IS NULL AND negative_id NOT IN (SELECT negative_id FROM written)
"""


def collect(connection: duckdb.DuckDBPyConnection) -> Prepared:
    """Make the tables `negatives` (a row a pair) and `self_responses` (a row a bad answer and a text that may stand against it)."""
    connection.execute(_MACROS)
    connection.execute(_NEGATIVES)
    connection.execute(_RESPONSES)
    return Prepared()


NEGATIVES = View(
    row="a distinct rejected answer to a prompt, under the smallest id of its pairs",
    trainers="none of TRL: for losses over negatives alone",
    unit="pairs",
    columns={
        "prompt": PROMPT,
        "rejected": Column(kind="messages", side="answer", meaning="the bad answer"),
        "self_responses": Column(
            kind="message_lists", side="answer", meaning="K other answers to the prompt, none of them a known bad one"
        ),
        "synthetic": Column(kind="flag", meaning="true: they were written for this bad answer (d2o), nobody labelled them"),
        "prompt_id": Column(kind="text", meaning="id of the prompt"),
        "generation_id": Column(kind="text", meaning="id of the bad answer; null for pairs without one"),
    }
    | CONTEXT,
    needs={
        "prompts": PROMPTS_NEEDED,
        "generations": ("generation_id", "prompt_id", "text", "reasoning", "tool_calls", "state"),
        "pairs": (
            *("pair_id", "prompt_id", "prompt", "chosen", "rejected", "chosen_id", "rejected_id"),
            *("tools", "chat_template_kwargs", "split"),
        ),
    },
    keys="""
        SELECT pair_id AS row_id, pair_id AS source_id, split, prompt_hash,
            CASE WHEN no_pair IS NOT NULL THEN no_pair WHEN pair_id <> negative_id THEN 'duplicate'
                WHEN negative_id NOT IN (SELECT negative_id FROM self_responses) THEN 'no_self_responses' END AS drop
        FROM negatives
    """,
    rows="""
        WITH ours AS (SELECT self_responses.* FROM self_responses JOIN keys ON row_id = negative_id WHERE drop IS NULL), turns AS (
            SELECT negative_id, response_id, synthetic, chosen AS turn FROM ours JOIN pairs ON pair_id = response_id WHERE synthetic
            UNION ALL
            SELECT negative_id, response_id, synthetic, assistant_turn(text, reasoning, tool_calls)
            FROM ours JOIN generations ON generation_id = response_id WHERE NOT synthetic
        ), lists AS (
            SELECT negative_id, '[' || string_agg(turn, ',' ORDER BY response_id) || ']' AS self_responses, bool_or(synthetic) AS synthetic
            FROM turns GROUP BY negative_id
        )
        SELECT row_id, source_id, keys.split, prompt, rejected, self_responses, synthetic, prompt_id, rejected_id AS generation_id, tools,
            chat_template_kwargs
        FROM keys JOIN pairs ON pair_id = row_id JOIN lists ON negative_id = row_id WHERE drop IS NULL
    """,
    prepare=collect,
)
