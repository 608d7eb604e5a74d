"""Pairs as each judge sees them, where several did: people who differ, or judges of a panel (PAL, arXiv 2406.08469; MaxMin-RLHF, arXiv
2402.08925).

A user is a judge. Chosen is what this user prefers, by the mean of both presentation orders or by the scores that the user gave; `agrees`
says whether most users of the pair do so too. `role` parts a user's pairs into those to know the user by and those to predict, by a hash.
Groups of users are not stored and therefore not here.
"""

from __future__ import annotations

import duckdb

from storage.errors import ViewError
from storage.views.view import CONTEXT, NO_PAIR, PROMPT, Column, Prepared, View

_LABELS = """
    CREATE TEMP TABLE user_labels AS
    WITH final AS (
        SELECT * FROM judgments
        QUALIFY row_number() OVER (
            PARTITION BY judge, protocol, rubric_digest, prompt_id, generation_ids, vote ORDER BY state = 'ok' DESC, attempt DESC,
                judgment_id) = 1
    ), shown AS (
        SELECT judge, generation_ids[1] AS one, generation_ids[2] AS other, TRUE AS as_is, p_first AS p FROM final WHERE protocol =
            'pairwise'
        UNION ALL
        SELECT judge, generation_ids[2], generation_ids[1], FALSE, 1 - p_first FROM final WHERE protocol = 'pairwise'
    ), orders AS (
        SELECT judge, one, other, as_is, avg(p ORDER BY p) AS p FROM shown GROUP BY ALL
    ), compared AS (
        SELECT judge, one, other, CASE WHEN count(p) = count(*) THEN avg(p ORDER BY p) END AS p FROM orders GROUP BY ALL
    ), each AS (
        SELECT judge, unnest(generation_ids) AS generation_id, unnest(scores) AS score FROM final WHERE state = 'ok' AND protocol <>
            'pairwise'
    ), scored AS (
        SELECT judge, generation_id, avg(score ORDER BY score) AS score FROM each GROUP BY ALL
    ), favoured AS MATERIALIZED (  -- or every two scores of a judge would be joined first
        SELECT pair_id, rejected_id, judge, score FROM pairs JOIN scored ON generation_id = chosen_id
    ), said AS (
        SELECT pair_id, judge, p FROM pairs JOIN compared ON one = chosen_id AND other = rejected_id
        UNION ALL
        SELECT pair_id, c.judge, CASE WHEN c.score > r.score THEN 1 WHEN c.score < r.score THEN 0 ELSE 0.5 END
        FROM favoured AS c JOIN scored AS r ON r.generation_id = c.rejected_id AND r.judge = c.judge
    ), once AS (
        SELECT pair_id, judge, avg(p ORDER BY p) AS p FROM said GROUP BY ALL
    )
    SELECT pair_id, judge AS user_id, p, sum(CASE WHEN p > 0.5 THEN 1 WHEN p < 0.5 THEN -1 ELSE 0 END) OVER (PARTITION BY pair_id) AS
        balance
    FROM once
"""


def label_by_user(connection: duckdb.DuckDBPyConnection) -> Prepared:
    """Make the table `user_labels`: by pair and judge the probability that chosen is better, null where it could not be read.

    Raises:
        ViewError: fewer than two judges.
    """
    connection.execute(_LABELS)
    users = [row[0] for row in connection.sql("SELECT DISTINCT user_id FROM user_labels ORDER BY 1").fetchall()]
    if len(users) < 2:
        told = ", ".join(map(str, users)) or "nobody"
        raise ViewError(
            f"view user: the pairs were judged by {told}, and it takes two users; publish a version whose judgments name "
            "annotators, or label it by a panel"
        )
    return Prepared(notes={"users": len(users)})


USER = View(
    row="a pair and a judge that prefers one of its sides",
    trainers="DPOTrainer and RewardTrainer, with the rows of a user or of all",
    unit="pairs and judges",
    columns={
        "prompt": PROMPT,
        "chosen": Column(kind="messages", side="answer", meaning="the answer that this user prefers"),
        "rejected": Column(kind="messages", side="answer", meaning="the other answer"),
        "user_id": Column(kind="text", meaning="the judge"),
        "p_chosen": Column(kind="number", meaning="probability by this user's judgments that chosen is better; 1 where they are scores"),
        "agrees": Column(kind="flag", meaning="most users of the pair prefer the same side; null where as many prefer the other"),
        "role": Column(kind="text", meaning="support or query, half each, by a hash of user and pair"),
        "pair_id": Column(kind="text", meaning="id of the pair, the same for all users"),
    }
    | CONTEXT,
    needs={
        "pairs": (
            *("pair_id", "prompt_id", "prompt", "chosen", "rejected", "chosen_id", "rejected_id"),
            *("tools", "chat_template_kwargs", "split"),
        ),
        "judgments": (
            *("judgment_id", "prompt_id", "protocol", "judge", "rubric_digest", "generation_ids"),
            *("vote", "attempt", "p_first", "scores", "state"),
        ),
    },
    keys=f"""
        SELECT pair_id || coalesce('/' || md5(user_id), '') AS row_id, pair_id AS source_id, split, md5(prompt) AS prompt_hash, user_id, p,
            balance,
            CASE {NO_PAIR} WHEN user_id IS NULL THEN 'not_judged' WHEN p IS NULL THEN 'unreadable' WHEN p = 0.5 THEN 'tie' END AS drop
        FROM pairs LEFT JOIN user_labels USING (pair_id)
    """,
    rows="""
        SELECT row_id, source_id, keys.split, prompt, CASE WHEN p > 0.5 THEN chosen ELSE rejected END AS chosen,
            CASE WHEN p > 0.5 THEN rejected ELSE chosen END AS rejected, user_id, greatest(p, 1 - p) AS p_chosen,
            CASE WHEN balance <> 0 THEN (p > 0.5) = (balance > 0) END AS agrees,
            CASE WHEN substr(md5('role/' || user_id || '/' || pair_id), 1, 1) < '8' THEN 'support' ELSE 'query' END AS role, pair_id, tools,
            chat_template_kwargs
        FROM keys JOIN pairs ON pair_id = source_id WHERE drop IS NULL
    """,
    prepare=label_by_user,
)
