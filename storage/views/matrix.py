"""Who beats whom among the answers of a prompt: what methods for preferences without a scale learn from (GPM, arXiv 2410.02197; SPO, arXiv
2401.04056; DNO, arXiv 2404.03715; INPO, arXiv 2407.00617), cycles included.

`probabilities[i][j]` is the probability that answer i is better than answer j, from both presentation orders as `storage.views.scores`
says; null where the two were never compared, and on the diagonal. `wins[i][j]` counts the readable judgments that prefer i to j,
`ties[i][j]` those that prefer neither.
"""

from __future__ import annotations

from functools import partial

from storage.views.prompt_only import PROMPTS_NEEDED, prompt_keys
from storage.views.scores import SCORES_NEEDED, compare_generations
from storage.views.view import CONTEXT, PROMPT, Column, View

_DECIDED = (
    "SELECT prompt_id, a AS generation_id FROM verdicts WHERE p IS NOT NULL UNION SELECT prompt_id, b FROM verdicts WHERE p IS NOT NULL"
)
_ACROSS, _DOWN = "ORDER BY y_index, y_id", "ORDER BY x_index, x_id"

MATRIX = View(
    row="a prompt with at least two generations that were compared",
    trainers="none of TRL: for losses over general preferences",
    unit="prompts",
    columns={
        "prompt": PROMPT,
        "completions": Column(kind="message_lists", side="answer", meaning="the K answers, in order of sample index"),
        "probabilities": Column(
            kind="number_lists", meaning="K lists of K: probability that the answer of the row beats that of the column"
        ),
        "wins": Column(kind="number_lists", meaning="K lists of K: readable judgments that prefer the answer of the row"),
        "ties": Column(kind="number_lists", meaning="K lists of K: readable judgments that prefer neither"),
        "generation_ids": Column(kind="texts", meaning="their K ids"),
        "prompt_id": Column(kind="text", meaning="id of the prompt"),
    }
    | CONTEXT,
    needs={
        "prompts": PROMPTS_NEEDED,
        "pairs": ("prompt_id", "split", "label_source"),
        "generations": SCORES_NEEDED["generations"],
        "judgments": (*SCORES_NEEDED["judgments"], "label"),
    },
    keys=prompt_keys(
        joins=f"LEFT JOIN (SELECT prompt_id, count(*) AS n_compared FROM ({_DECIDED}) GROUP BY prompt_id) USING (prompt_id)",
        drops="WHEN n_compared IS NULL THEN 'nothing_compared'",
    ),
    rows=f"""
        WITH members AS (
            SELECT prompt_id, generation_id, sample_index, assistant_turn(text, reasoning, tool_calls) AS turn
            FROM keys JOIN ({_DECIDED}) ON prompt_id = row_id JOIN generations USING (prompt_id, generation_id) WHERE drop IS NULL
        ), decided AS (
            SELECT prompt_id, a AS x_id, b AS y_id, p FROM verdicts UNION ALL SELECT prompt_id, b, a, 1 - p FROM verdicts
        ), told AS (
            SELECT prompt_id, generation_ids[1] AS x_id, generation_ids[2] AS y_id, label = 'first' AS won, label = 'tie' AS tied
            FROM final WHERE state = 'ok'
            UNION ALL
            SELECT prompt_id, generation_ids[2], generation_ids[1], label = 'second', label = 'tie' FROM final WHERE state = 'ok'
        ), counted AS (
            SELECT prompt_id, x_id, y_id, count_if(won) AS n_won, count_if(tied) AS n_tied FROM told GROUP BY ALL
        ), cells AS (
            SELECT x.prompt_id, x.generation_id AS x_id, x.sample_index AS x_index, y.generation_id AS y_id, y.sample_index AS y_index, p,
                coalesce(n_won, 0) AS won, coalesce(n_tied, 0) AS tied
            FROM members AS x JOIN members AS y USING (prompt_id)
                LEFT JOIN decided ON decided.x_id = x.generation_id AND decided.y_id = y.generation_id AND decided.prompt_id = x.prompt_id
                LEFT JOIN counted ON counted.x_id = x.generation_id AND counted.y_id = y.generation_id AND counted.prompt_id = x.prompt_id
        ), lines AS (
            SELECT prompt_id, x_id, x_index, list(p {_ACROSS}) AS p, list(won {_ACROSS}) AS won, list(tied {_ACROSS}) AS tied
            FROM cells GROUP BY ALL
        ), squares AS (
            SELECT prompt_id, list(p {_DOWN}) AS probabilities, list(won {_DOWN}) AS wins, list(tied {_DOWN}) AS ties,
                list(x_id {_DOWN}) AS generation_ids
            FROM lines GROUP BY prompt_id
        ), texts AS (
            SELECT prompt_id, '[' || string_agg(turn, ',' ORDER BY sample_index, generation_id) || ']' AS completions
            FROM members GROUP BY prompt_id
        )
        SELECT row_id, source_id, keys.split, messages AS prompt, completions, probabilities, wins, ties, generation_ids, prompt_id, tools,
            chat_template_kwargs
        FROM keys JOIN prompts ON prompt_id = row_id JOIN squares USING (prompt_id) JOIN texts USING (prompt_id) WHERE drop IS NULL
    """,
    prepare=partial(compare_generations, view="matrix"),
)
