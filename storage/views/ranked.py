"""Answers of a prompt in order of their scores, for listwise methods (LiPO, arXiv 2402.01878; PRO, arXiv 2306.17492), and two by two with
their scores for losses that know no preference (CoPG, arXiv 2406.19185). Scores are those of `storage.views.scores`.

Ranks begin at 1, and equal scores share one (1, 1, 3). Lambda weights are not here: they need the ranks that the model itself gives.
"""

from __future__ import annotations

from functools import partial

from storage.views.prompt_only import PROMPTS_NEEDED, prompt_keys
from storage.views.scores import SCORES_NEEDED, score_generations
from storage.views.view import CONTEXT, PROMPT, Column, View

_NEEDS = {"prompts": PROMPTS_NEEDED, "pairs": ("prompt_id", "split", "label_source")} | SCORES_NEEDED
_ORDER = "ORDER BY score DESC, generation_id"

RANKED = View(
    row="a prompt with two scored generations or more, not all of them equal",
    trainers="none of TRL: for listwise losses",
    unit="prompts",
    columns={
        "prompt": PROMPT,
        "completions": Column(kind="message_lists", side="answer", meaning="the K answers, the best one first"),
        "ranks": Column(kind="integers", meaning="their K ranks from 1; equal scores share one"),
        "scores": Column(kind="numbers", meaning="their K scores"),
        "generation_ids": Column(kind="texts", meaning="their K ids"),
        "prompt_id": Column(kind="text", meaning="id of the prompt"),
    }
    | CONTEXT,
    needs=_NEEDS,
    keys=prompt_keys(
        joins="""LEFT JOIN (SELECT prompt_id, count(score) AS n_scored, count(DISTINCT score) AS n_different FROM group_scores
            GROUP BY prompt_id) USING (prompt_id)""",
        drops="WHEN coalesce(n_scored, 0) < 2 THEN 'fewer_than_two_scored' WHEN n_different < 2 THEN 'all_tied'",
    ),
    rows=f"""
        WITH turns AS (
            SELECT prompt_id, generation_id, score, assistant_turn(text, reasoning, tool_calls) AS turn,
                rank() OVER (PARTITION BY prompt_id ORDER BY score DESC) AS place
            FROM keys JOIN group_scores ON prompt_id = row_id JOIN generations USING (prompt_id, generation_id)
            WHERE drop IS NULL AND score IS NOT NULL
        ), lists AS (
            SELECT prompt_id, '[' || string_agg(turn, ',' {_ORDER}) || ']' AS completions, list(place {_ORDER}) AS ranks,
                list(score {_ORDER}) AS scores, list(generation_id {_ORDER}) AS generation_ids
            FROM turns GROUP BY prompt_id
        )
        SELECT row_id, source_id, keys.split, messages AS prompt, completions, ranks, scores, generation_ids, prompt_id, tools,
            chat_template_kwargs
        FROM keys JOIN prompts ON prompt_id = row_id JOIN lists USING (prompt_id) WHERE drop IS NULL
    """,
    prepare=partial(score_generations, view="ranked"),
)

_TURN = "assistant_turn({0}.text, {0}.reasoning, {0}.tool_calls)"

SCORED_PAIR = View(
    row="two scored answers to a prompt, every two of them once; a hash of their ids says which is `y`",
    trainers="none of TRL: for losses over two rewards",
    unit="pairs of scored answers",
    columns={
        "prompt": PROMPT,
        "y": Column(kind="messages", side="answer", meaning="one answer"),
        "y_prime": Column(kind="messages", side="answer", meaning="the other one"),
        "reward_y": Column(kind="number", meaning="score of `y`"),
        "reward_y_prime": Column(kind="number", meaning="score of `y_prime`"),
        "y_id": Column(kind="text", meaning="id of the generation"),
        "y_prime_id": Column(kind="text", meaning="likewise"),
        "prompt_id": Column(kind="text", meaning="id of the prompt"),
    }
    | CONTEXT,
    needs=_NEEDS,
    keys=f"""
        WITH scored AS (SELECT prompt_id, generation_id, score, md5(generation_id) AS place FROM group_scores WHERE score IS NOT NULL)
        SELECT md5(one.generation_id || other.generation_id) AS row_id, one.prompt_id AS source_id, prompt.split, prompt.prompt_hash,
            prompt.drop AS drop, one.generation_id AS y_id, other.generation_id AS y_prime_id, one.score AS reward_y,
            other.score AS reward_y_prime
        FROM scored AS one JOIN scored AS other ON one.prompt_id = other.prompt_id AND one.place < other.place
            JOIN ({prompt_keys()}) AS prompt ON prompt.row_id = one.prompt_id
    """,
    rows=f"""
        SELECT row_id, source_id, keys.split, messages AS prompt, {_TURN.format("one")} AS y, {_TURN.format("other")} AS y_prime, reward_y,
            reward_y_prime, y_id, y_prime_id, prompts.prompt_id, tools, chat_template_kwargs
        FROM keys JOIN prompts ON prompts.prompt_id = source_id
            JOIN generations AS one ON one.generation_id = y_id AND one.prompt_id = source_id
            JOIN generations AS other ON other.generation_id = y_prime_id AND other.prompt_id = source_id
        WHERE drop IS NULL
    """,
    prepare=partial(score_generations, view="scored-pair"),
)
