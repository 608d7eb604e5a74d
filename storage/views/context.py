"""Pairs whose prompt has a system message or a context, with that apart from the rest (Janus, arXiv 2405.17977; context-aware reward
models, arXiv 2407.14916).

A context is what the contrastive method `context` put above the last turn of the user. Pairs of `janus` and `context` also say which
profile each side was written for; all pairs of one instruction share `prompt_id`, so that the same two answers turned round by another
profile are found by it.
"""

from __future__ import annotations

from storage.views.view import CONTEXT, NO_PAIR, PROMPT, Column, View

_ABOVE = "'Context:' || chr(10) || profile || chr(10) || chr(10)"  # as `curators.contrast.variants` writes it

CONTEXT_PAIR = View(
    row="a pair whose prompt has a system message or a context",
    trainers="none of TRL in these columns; DPOTrainer reads the same pairs whole in `dpo`",
    unit="pairs",
    columns={
        "system": Column(kind="text", present="any", meaning="text of the system message, as the first turn; null: none"),
        "context": Column(kind="text", present="any", meaning="text that stood above the last turn of the user; null: none"),
        "prompt": PROMPT,
        "chosen": Column(kind="messages", side="answer", meaning="the preferred answer"),
        "rejected": Column(kind="messages", side="answer", meaning="the other answer"),
        "profile_id": Column(kind="text", present="any", meaning="MD5 of the profile that chosen was written for; null: no profile"),
        "rejected_profile_id": Column(kind="text", present="any", meaning="the same of rejected"),
        "prompt_id": Column(kind="text", meaning="id of the instruction, without any profile"),
        "pair_id": Column(kind="text", meaning="id of the pair"),
    }
    | CONTEXT,
    needs={
        "pairs": ("pair_id", "prompt_id", "prompt", "chosen", "rejected", "tools", "chat_template_kwargs", "split"),
        "contrasts": ("pair_id", "method", "parameters", "state"),
    },
    keys=f"""
        WITH profiles AS (
            SELECT pair_id, any_value(parameters->>'profile') AS profile, any_value(parameters->>'rejected_profile') AS other,
                any_value(method) AS method
            FROM contrasts WHERE state = 'ok' AND method IN ('janus', 'context') GROUP BY pair_id
        ), told AS (
            SELECT pairs.pair_id, split, prompt, kind, rejected_prompt, profile, other,
                json_extract_string(prompt, '$[0].role') = 'system' AS has_system,
                json_type(prompt, '$[0].content') = 'VARCHAR' AS is_text,
                coalesce(method = 'context' AND starts_with(json_extract_string(prompt, '$[#-1].content'), {_ABOVE}), FALSE) AS has_context
            FROM pairs LEFT JOIN profiles USING (pair_id)
        )
        SELECT pair_id AS row_id, pair_id AS source_id, split, md5(prompt) AS prompt_hash, has_system, has_context, profile, other,
            CASE {NO_PAIR} WHEN NOT has_system AND NOT has_context THEN 'no_context' WHEN has_system AND NOT is_text THEN 'system_not_text'
                WHEN has_system AND json_array_length(prompt) = 1 THEN 'nothing_but_system' END AS drop
        FROM told
    """,
    rows=f"""
        WITH split_up AS (
            SELECT row_id, parts(prompt) AS turns, json_extract_string(prompt, '$[#-1].content') AS last_text FROM keys JOIN pairs ON
                pair_id = row_id
            WHERE drop IS NULL
        ), rest AS (
            SELECT row_id, CASE WHEN has_context THEN list_append(turns[:-2], json_merge_patch(turns[-1],
                    json_object('content', substr(last_text, len({_ABOVE}) + 1)))) ELSE turns END AS turns
            FROM split_up JOIN keys USING (row_id)
        )
        SELECT row_id, source_id, keys.split, CASE WHEN has_system THEN json_extract_string(pairs.prompt, '$[0].content') END AS system,
            CASE WHEN has_context THEN profile END AS context, to_json(CASE WHEN has_system THEN turns[2:] ELSE turns END)::VARCHAR AS
                prompt,
            chosen, rejected, md5(profile) AS profile_id, md5(other) AS rejected_profile_id, prompt_id, pair_id, tools, chat_template_kwargs
        FROM keys JOIN rest USING (row_id) JOIN pairs ON pair_id = row_id WHERE drop IS NULL
    """,
)
