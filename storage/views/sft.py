"""Chosen answers as demonstrations: every distinct one, not only the best of its prompt.

With `best_vs_worst` pairs these are the best answers; with `all_pairs` they are every answer that beat another one, so that filtering by
margin, or publishing with another pair policy, is the way to fewer and better ones.
"""

from __future__ import annotations

from storage.views.view import CONTEXT, PROMPT, Column, View

SFT = View(
    row="a distinct chosen answer to a prompt, under the smallest id of its pairs",
    trainers="SFTTrainer",
    unit="pairs",
    columns={
        "prompt": PROMPT,
        "completion": Column(kind="messages", side="answer", meaning="the answer"),
        "prompt_id": Column(kind="text", meaning="id of the prompt"),
        "generation_id": Column(kind="text", meaning="id of the generation; null for pairs without one"),
        "quality_score": Column(kind="number", present="any", meaning="the score of the answer that its pair has; null when unknown"),
    }
    | CONTEXT,
    needs={"pairs": ("pair_id", "prompt_id", "prompt", "chosen", "chosen_id", "tools", "chat_template_kwargs", "split")},
    keys="""
        SELECT pair_id AS row_id, pair_id AS source_id, split, md5(prompt) AS prompt_hash,
            CASE WHEN kind = 'step' THEN 'step_pair' WHEN open_turn(prompt) THEN 'prompt_ends_with_assistant'
                WHEN row_number() OVER (PARTITION BY request_hash(prompt, tools, chat_template_kwargs), md5(chosen) ORDER BY pair_id) > 1
                THEN 'duplicate' END AS drop
        FROM pairs
    """,
    rows="""
        SELECT row_id, source_id, keys.split, prompt, chosen AS completion, prompt_id, chosen_id AS generation_id,
            chosen_score AS quality_score, tools, chat_template_kwargs
        FROM keys JOIN pairs ON pair_id = row_id WHERE drop IS NULL
    """,
)
