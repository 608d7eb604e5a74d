"""Pairs for DPO and its relatives, and for reward models: the same rows, with what each trainer reads beside them."""

from __future__ import annotations

from storage.views.view import CONTEXT, NO_PAIR, PROMPT, Column, View

_PAIR = {
    "prompt": PROMPT,
    "chosen": Column(kind="messages", side="answer", meaning="the preferred answer"),
    "rejected": Column(kind="messages", side="answer", meaning="the other answer"),
}
_ID = Column(kind="text", meaning="id of the pair")
_KEYS = f"""
    SELECT pair_id AS row_id, pair_id AS source_id, split, md5(prompt) AS prompt_hash, CASE {NO_PAIR} END AS drop FROM pairs
"""
_ROWS = """
    SELECT row_id, source_id, keys.split, prompt, chosen, rejected, {scores}, pair_id, tools, chat_template_kwargs
    FROM keys JOIN pairs ON pair_id = row_id WHERE drop IS NULL
"""
_NEEDED = ("pair_id", "prompt_id", "prompt", "chosen", "rejected", "tools", "chat_template_kwargs", "split", "margin")

DPO = View(
    row="a pair",
    trainers="DPOTrainer, and of `trl.experimental` CPOTrainer and ORPOTrainer",
    unit="pairs",
    columns=_PAIR
    | {
        "margin": Column(kind="number", meaning="score of chosen minus score of rejected; null when unknown"),
        "p_chosen": Column(kind="number", meaning="probability that chosen is better; null when the source gives only a label"),
        "strength": Column(kind="number", present="any", meaning="2 · p_chosen - 1, from 0 (either may be better) to 1"),
        "chosen_policy": Column(kind="text", present="any", meaning="fingerprint of who wrote chosen; null: a program, or unknown"),
        "rejected_policy": Column(kind="text", present="any", meaning="likewise"),
        "pair_id": _ID,
    }
    | CONTEXT,
    needs={"pairs": (*_NEEDED, "p_chosen")},
    keys=_KEYS,
    rows=_ROWS.format(scores="margin, p_chosen, 2 * p_chosen - 1 AS strength, chosen_policy, rejected_policy"),
)
"""`DPOTrainer` reads prompt, chosen, rejected, tools and chat_template_kwargs, and drops every other column."""

REFERENCE = View(
    row="a pair that flow `score` has scored",
    trainers="losses that read the reference's log-probabilities; TRL 1.16 computes its own and takes the view `dpo`",
    unit="pairs",
    columns=_PAIR
    | {
        "ref_chosen_logps": Column(kind="number", meaning="log-probability of chosen under the reference, the sum over its tokens"),
        "ref_rejected_logps": Column(kind="number", meaning="the same of rejected"),
        "pair_id": _ID,
    }
    | CONTEXT,
    needs={"pairs": (*_NEEDED, "ref_chosen_logps", "ref_rejected_logps")},
    keys=_KEYS,
    rows=_ROWS.format(scores="ref_chosen_logps, ref_rejected_logps"),
)

REWARD = View(
    row="a pair",
    trainers="RewardTrainer",
    unit="pairs",
    columns=_PAIR
    | {
        "margin": Column(
            kind="number", present="all", meaning="score of chosen minus score of rejected; RewardTrainer demands it as a gap"
        ),
        "pair_id": _ID,
    }
    | CONTEXT,
    needs={"pairs": _NEEDED},
    keys=_KEYS,
    rows=_ROWS.format(scores="margin"),
)
"""`RewardTrainer` subtracts `margin` inside its loss, and a null there fails: the column is left out unless every pair has one."""
