"""Pairs of whole conversations: (prompt, chosen) is preferred to (rejected_prompt, rejected), where both texts may be the same.

What a policy is worth under a prompt is known to DPO up to a term of the prompt alone (log Z), which cancels within one prompt and does
not between two: a DPO loss over these rows is an approximation (docs/contrast.md). No trainer of TRL reads them. `prompt-contrast` has
those with one text: the same response, wanted under one prompt and not under the other (MAPL, arXiv 2505.12845).
"""

from __future__ import annotations

from storage.views.view import CONTEXT, PROMPT, Column, View

JOINT = View(
    row="a pair with two prompts",
    trainers="none of TRL, which know one prompt a pair: for losses over whole conversations",
    unit="pairs",
    columns={
        "prompt": PROMPT,
        "chosen": Column(kind="messages", side="answer", meaning="the answer under `prompt`"),
        "rejected_prompt": Column(kind="messages", side="prompt", meaning="the turns before the other answer"),
        "rejected": Column(kind="messages", side="answer", meaning="the answer under `rejected_prompt`; often the same text"),
        "pair_id": Column(kind="text", meaning="id of the pair"),
    }
    | CONTEXT,
    needs={"pairs": ("pair_id", "prompt_id", "prompt", "chosen", "rejected", "tools", "chat_template_kwargs", "split")},
    keys="""
        SELECT pair_id AS row_id, pair_id AS source_id, split, md5(prompt) AS prompt_hash,
            CASE WHEN kind = 'step' THEN 'step_pair' WHEN rejected_prompt IS NULL THEN 'one_prompt'
                WHEN open_turn(prompt) OR open_turn(rejected_prompt) THEN 'prompt_ends_with_assistant' END AS drop
        FROM pairs
    """,
    rows="""
        SELECT row_id, source_id, keys.split, prompt, chosen, rejected_prompt, rejected, pair_id, tools, chat_template_kwargs
        FROM keys JOIN pairs ON pair_id = row_id WHERE drop IS NULL
    """,
)

PROMPT_CONTRAST = View(
    row="a pair with two prompts and the same answer to both",
    trainers="none of TRL: for losses that compare prompts under one response",
    unit="pairs",
    columns={
        "prompt_chosen": Column(kind="messages", side="prompt", meaning="the prompt that the response fits"),
        "prompt_rejected": Column(kind="messages", side="prompt", meaning="the prompt that it does not fit"),
        "response": Column(kind="messages", side="answer", meaning="the answer"),
        "pair_id": Column(kind="text", meaning="id of the pair"),
    }
    | CONTEXT,
    needs={"pairs": ("pair_id", "prompt_id", "prompt", "chosen", "rejected", "tools", "chat_template_kwargs", "split")},
    keys="""
        SELECT pair_id AS row_id, pair_id AS source_id, split, md5(prompt) AS prompt_hash,
            CASE WHEN kind = 'step' THEN 'step_pair' WHEN rejected_prompt IS NULL THEN 'one_prompt' WHEN chosen <> rejected THEN 'two_texts'
                WHEN open_turn(prompt) OR open_turn(rejected_prompt) THEN 'prompt_ends_with_assistant' END AS drop
        FROM pairs
    """,
    rows="""
        SELECT row_id, source_id, keys.split, prompt AS prompt_chosen, rejected_prompt AS prompt_rejected, chosen AS response, pair_id,
            tools,
            chat_template_kwargs
        FROM keys JOIN pairs ON pair_id = row_id WHERE drop IS NULL
    """,
)
