"""Answers with a thumb up or down, for KTO (Ethayarajh et al. 2024, arXiv:2402.01306) and BCO.

Each distinct answer of a prompt stands once: chosen is true, rejected is false, and one that is chosen in a pair and rejected in another
says nothing and is dropped (both sides, reason `chosen_and_rejected`).

Rows come in the order of a hash of pair and side, not of the pair: KTOTrainer reads them in sequence and estimates its KL term with
the completion of the row before, which must belong to another prompt. Two sides of one pair next to each other would bias it.
"""

from __future__ import annotations

from storage.views.view import CONTEXT, NO_PAIR, PROMPT, Column, View

KTO = View(
    row="a distinct answer to a prompt",
    trainers="KTOTrainer",
    unit="sides of pairs",
    columns={
        "prompt": PROMPT,
        "completion": Column(kind="messages", side="answer", meaning="the answer"),
        "label": Column(kind="flag", meaning="true: chosen, false: rejected"),
        "prompt_id": Column(kind="text", meaning="id of the prompt"),
        "generation_id": Column(kind="text", meaning="id of the generation; null for pairs without one"),
        "reward": Column(kind="number", present="any", meaning="the score of the answer that its pair has; null when unknown"),
    }
    | CONTEXT,
    needs={
        "pairs": (
            "pair_id",
            "prompt_id",
            "prompt",
            "chosen",
            "rejected",
            "chosen_id",
            "rejected_id",
            "tools",
            "chat_template_kwargs",
            "split",
        )
    },
    keys=f"""
        WITH sides AS (
            SELECT pair_id, label, split, md5(prompt) AS prompt_hash, CASE {NO_PAIR} END AS no_pair,
                md5(request_hash(prompt, tools, chat_template_kwargs) || md5(CASE WHEN label THEN chosen ELSE rejected END)) AS answer_hash
            FROM pairs, (VALUES (TRUE), (FALSE)) AS side(label)
        )
        SELECT md5(pair_id || CASE WHEN label THEN '+' ELSE '-' END) AS row_id, pair_id AS source_id, label, split, prompt_hash,
            CASE WHEN no_pair IS NOT NULL THEN no_pair
                WHEN bool_or(label) OVER answer AND bool_or(NOT label) OVER answer THEN 'chosen_and_rejected'
                WHEN row_number() OVER (PARTITION BY answer_hash ORDER BY pair_id) > 1 THEN 'duplicate' END AS drop
        FROM sides WINDOW answer AS (PARTITION BY answer_hash)
    """,
    rows="""
        SELECT row_id, source_id, keys.split, prompt, CASE WHEN label THEN chosen ELSE rejected END AS completion, label, prompt_id,
            CASE WHEN label THEN chosen_id ELSE rejected_id END AS generation_id,
            CASE WHEN label THEN chosen_score ELSE rejected_score END AS reward, tools, chat_template_kwargs
        FROM keys JOIN pairs ON pair_id = source_id WHERE drop IS NULL
    """,
)
