"""Prompts alone, for trainers that sample by themselves (GRPO, RLOO and other online methods)."""

from __future__ import annotations

from storage.views.view import CONTEXT, PROMPT, Column, View


def prompt_keys(*, joins: str = "", drops: str = "") -> str:
    """The prompts of a version as keys. The split is that of their pairs, so a prompt without a pair has none.

    `joins` and `drops` add a view's own tables and `WHEN … THEN reason` clauses.
    """
    return f"""
        SELECT prompt_id AS row_id, prompt_id AS source_id, side.split, md5(messages) AS prompt_hash,
            CASE WHEN prompts.state <> 'ok' THEN prompts.state
                WHEN side.split IS NULL THEN 'no_pair'
                WHEN open_turn(messages) THEN 'prompt_ends_with_assistant'
                WHEN row_number() OVER (same ORDER BY prompt_id) > 1 THEN 'duplicate' {drops} END AS drop
        FROM prompts LEFT JOIN (SELECT prompt_id, min(split) AS split FROM pairs GROUP BY prompt_id) AS side USING (prompt_id) {joins}
        WINDOW same AS (PARTITION BY request_hash(messages, tools, chat_template_kwargs), prompts.state)
    """


PROMPTS_NEEDED = ("prompt_id", "messages", "tools", "chat_template_kwargs", "state")

PROMPT_ONLY = View(
    row="a prompt that has a pair",
    trainers="GRPOTrainer, RLOOTrainer, and of `trl.experimental` OnlineDPOTrainer",
    unit="prompts",
    columns={
        "prompt": PROMPT,
        "reference": Column(kind="text", present="any", meaning="what a verifier compares with; reward functions receive it"),
        "meta": Column(kind="json", present="any", meaning="the source's other columns (domain, difficulty …); null where it has none"),
        "prompt_id": Column(kind="text", meaning="id of the prompt"),
    }
    | CONTEXT,
    needs={"prompts": (*PROMPTS_NEEDED, "reference", "meta"), "pairs": ("prompt_id", "split")},
    keys=prompt_keys(),
    rows="""
        SELECT row_id, source_id, keys.split, messages AS prompt, reference, meta, prompt_id, tools, chat_template_kwargs
        FROM keys JOIN prompts ON prompt_id = row_id WHERE drop IS NULL
    """,
)
