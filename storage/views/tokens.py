"""Pairs with the tokens that were sampled and their log-probabilities under the policy that sampled them, for losses over tokens
(SparsePO, arXiv 2410.05102; AlignDistil, arXiv 2503.02832). Values of prefixes are in the view `nodes`.

Token ids mean nothing without their tokenizer, and a fingerprint of the policy is all that is known of it: sides by two policies are no
row, and a version whose rows would be by several is refused.
"""

from __future__ import annotations

import duckdb

from storage.errors import ViewError
from storage.views.view import CONTEXT, KEPT, NO_PAIR, PROMPT, Column, Prepared, View

TOLERANCE = 1e-4  # of the sum of log-probabilities, which are stored as float32; relative beyond 1
_SIDE = f"""(SELECT generation_id, policy, token_ids, logprobs, CASE WHEN token_ids IS NULL OR logprobs IS NULL THEN 'no_token_logprobs'
    WHEN len(token_ids) <> len(logprobs) THEN 'lengths_differ'
    WHEN abs(list_sum(logprobs::DOUBLE[]) - sum_logprob) > {TOLERANCE} * greatest(1, abs(sum_logprob)) THEN 'sum_differs' END AS problem
    FROM generations)"""
_FATES = f"""
    CREATE TEMP TABLE token_pairs AS
    SELECT pair_id, c.policy AS policy, CASE {NO_PAIR} WHEN c.generation_id IS NULL OR r.generation_id IS NULL THEN 'no_generation'
        WHEN c.problem IS NOT NULL THEN c.problem WHEN r.problem IS NOT NULL THEN r.problem
        WHEN c.policy IS DISTINCT FROM r.policy THEN 'two_policies' END AS fate
    FROM pairs LEFT JOIN {_SIDE} AS c ON c.generation_id = chosen_id LEFT JOIN {_SIDE} AS r ON r.generation_id = rejected_id
"""


def match_tokens(connection: duckdb.DuckDBPyConnection) -> Prepared:
    """Make the table `token_pairs`: what becomes of each pair.

    Raises:
        ViewError: no side has log-probabilities, or the rows would be of several policies.
    """
    connection.execute(_FATES)
    fates = dict(connection.sql(f"SELECT coalesce(fate, '{KEPT}'), count(*) FROM token_pairs GROUP BY 1 ORDER BY 1").fetchall())
    policies = [row[0] for row in connection.sql("SELECT DISTINCT policy FROM token_pairs WHERE fate IS NULL ORDER BY 1").fetchall()]
    if not policies:
        told = ", ".join(f"{n} {fate}" for fate, n in fates.items())
        raise ViewError(
            f"view tokens: no pair has token ids and log-probabilities of both sides ({told}); sample with an engine that gives "
            "them: hf:, or "
            "openai: in front of vLLM"
        )
    if len(policies) > 1:
        raise ViewError(
            f"view tokens: the pairs are by {len(policies)} policies ({', '.join(map(str, policies))}), whose tokenizers need not "
            "be the same; "
            "publish a version of one policy's pairs"
        )
    return Prepared(notes={"policy": policies[0]})


_IDS = "as sampled: text that is tokenized again may come back as other tokens"

TOKENS = View(
    row="a pair whose two answers one policy sampled with log-probabilities",
    trainers="none of TRL: for losses over tokens",
    unit="pairs",
    columns={
        "prompt": PROMPT,
        "chosen": Column(kind="messages", side="answer", meaning="the preferred answer"),
        "rejected": Column(kind="messages", side="answer", meaning="the other answer"),
        "chosen_token_ids": Column(kind="integers", meaning=_IDS),
        "chosen_token_logps": Column(kind="numbers", meaning="natural logarithm of each token's probability under `policy`"),
        "rejected_token_ids": Column(kind="integers", meaning="likewise"),
        "rejected_token_logps": Column(kind="numbers", meaning="likewise"),
        "policy": Column(kind="text", meaning="fingerprint of the model that sampled both, with its tokenizer"),
        "margin": Column(kind="number", meaning="score of chosen minus score of rejected; null when unknown"),
        "pair_id": Column(kind="text", meaning="id of the pair"),
    }
    | CONTEXT,
    needs={
        "pairs": (
            *("pair_id", "prompt_id", "prompt", "chosen", "rejected", "chosen_id", "rejected_id", "margin"),
            *("tools", "chat_template_kwargs", "split"),
        ),
        "generations": ("generation_id", "policy", "token_ids", "logprobs", "sum_logprob"),
    },
    keys="""
        SELECT pair_id AS row_id, pair_id AS source_id, split, md5(prompt) AS prompt_hash, fate AS drop FROM pairs JOIN token_pairs USING
            (pair_id)
    """,
    rows="""
        SELECT row_id, source_id, keys.split, prompt, chosen, rejected, c.token_ids AS chosen_token_ids, c.logprobs AS chosen_token_logps,
            r.token_ids AS rejected_token_ids, r.logprobs AS rejected_token_logps, c.policy, margin, pair_id, tools, chat_template_kwargs
        FROM keys JOIN pairs ON pair_id = row_id JOIN generations AS c ON c.generation_id = chosen_id
            JOIN generations AS r ON r.generation_id = rejected_id
        WHERE drop IS NULL
    """,
    prepare=match_tokens,
)
