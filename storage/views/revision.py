"""Revisions: the rejected answer, a request to improve it, and the chosen answer (SRPO, arXiv 2406.01660).

`revise_prompt` is the prompt, the rejected answer as the assistant's turn, and one turn more of the user. The paper states the task in one
text; turns keep tool calls and reasoning, and hold the rejected answer once.
"""

from __future__ import annotations

from storage.views.view import CONTEXT, NO_PAIR, Column, View

REQUEST = "Improve your last answer. Reply with the improved answer alone."

REVISION = View(
    row="a pair",
    trainers="SFTTrainer, once its columns are called `prompt` and `completion`",
    unit="pairs",
    columns={
        "revise_prompt": Column(
            kind="messages", side="prompt", meaning=f"the prompt, the rejected answer, and a turn of the user: “{REQUEST}”"
        ),
        "revise_target": Column(kind="messages", side="answer", meaning="the preferred answer"),
        "margin": Column(kind="number", meaning="score of chosen minus score of rejected; null when unknown"),
        "p_chosen": Column(kind="number", meaning="probability that chosen is better; null when the source gives only a label"),
        "pair_id": Column(kind="text", meaning="id of the pair"),
    }
    | CONTEXT,
    needs={
        "pairs": (
            *("pair_id", "prompt_id", "prompt", "chosen", "rejected", "margin", "p_chosen"),
            *("tools", "chat_template_kwargs", "split"),
        )
    },
    keys=f"""
        SELECT pair_id AS row_id, pair_id AS source_id, split, md5(prompt) AS prompt_hash,
            CASE {NO_PAIR} WHEN json_extract_string(rejected, '$[#-1].role') <> 'assistant' THEN 'answer_goes_on'
                WHEN list_contains(json_extract_string(prompt, '$[*].content'), json_extract_string(rejected, '$[#-1].content'))
                THEN 'rejected_in_prompt' END AS drop
        FROM pairs
    """,
    rows=f"""
        SELECT row_id, source_id, keys.split,
            left(prompt, len(prompt) - 1) || ',' || substr(rejected, 2, len(rejected) - 2) || ',{{"role":"user","content":"{REQUEST}"}}]'
                AS revise_prompt,
            chosen AS revise_target, margin, p_chosen, pair_id, tools, chat_template_kwargs
        FROM keys JOIN pairs ON pair_id = row_id WHERE drop IS NULL
    """,
)
