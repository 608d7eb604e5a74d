"""All scored answers of a prompt with their scores: what group-relative and listwise methods learn from.

`rewards` are the scores of one judge (`storage.views.scores`). A generation without a score is left out and counted, and a prompt with
fewer than two scored generations is dropped: nothing is made up.
"""

from __future__ import annotations

from functools import partial

from storage.views.prompt_only import PROMPTS_NEEDED, prompt_keys
from storage.views.scores import SCORES_NEEDED, score_generations
from storage.views.view import CONTEXT, PROMPT, Column, View

_KEYS = prompt_keys(
    joins="LEFT JOIN (SELECT prompt_id, count(score) AS n_scored FROM group_scores GROUP BY prompt_id) USING (prompt_id)",
    drops="WHEN coalesce(n_scored, 0) < 2 THEN 'fewer_than_two_scored'",
)

GROUP = View(
    row="a prompt with at least two scored generations",
    trainers="none directly: TRL's group trainers sample by themselves (see below); for offline group and listwise losses",
    unit="prompts",
    columns={
        "prompt": PROMPT,
        "completions": Column(kind="message_lists", side="answer", meaning="the K answers, in order of sample index"),
        "rewards": Column(kind="numbers", meaning="their K scores"),
        "generation_ids": Column(kind="texts", meaning="their K ids"),
        "reference": Column(kind="text", present="any", meaning="what a verifier compares with"),
        "prompt_id": Column(kind="text", meaning="id of the prompt"),
    }
    | CONTEXT,
    needs={
        "prompts": (*PROMPTS_NEEDED, "reference"),
        "pairs": ("prompt_id", "split", "label_source"),
    }
    | SCORES_NEEDED,
    keys=_KEYS,
    rows="""
        WITH turns AS (
            SELECT prompt_id, generation_id, sample_index, score, assistant_turn(text, reasoning, tool_calls) AS turn
            FROM keys JOIN group_scores ON prompt_id = row_id JOIN generations USING (prompt_id, generation_id)
            WHERE drop IS NULL AND score IS NOT NULL
        ), groups AS (
            SELECT prompt_id, '[' || string_agg(turn, ',' ORDER BY sample_index, generation_id) || ']' AS completions,
                list(score ORDER BY sample_index, generation_id) AS rewards,
                list(generation_id ORDER BY sample_index, generation_id) AS generation_ids
            FROM turns GROUP BY prompt_id
        )
        SELECT row_id, source_id, keys.split, messages AS prompt, completions, rewards, generation_ids, reference, prompt_id, tools,
            chat_template_kwargs
        FROM keys JOIN prompts ON prompt_id = row_id JOIN groups USING (prompt_id) WHERE drop IS NULL
    """,
    prepare=partial(score_generations, view="group"),
)
