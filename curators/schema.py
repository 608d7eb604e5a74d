"""The frames: what a row of each means, its columns, types and nulls.

Facts (`prompts`, `generations`, `judgments`, `nodes`) say what happened and are append-only; `pairs` are derived from them by a
named policy and carry their own text, so that a pair of any kind (responses, steps, revisions) is self-contained.
Structured values (messages, tools, tool calls, metadata) are JSON text with keys in the order in which
they came, since a chat template writes tools and arguments in that order; ids are taken over the sorted form.

A bad row is a row: `state` says what became of it, `reason` says why when it is not `ok`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import orjson
import polars as pl

from curators.errors import SchemaError

Schema = Mapping[str, pl.DataType]

_T = pl.String()

PROMPTS: Schema = MappingProxyType(
    {
        "prompt_id": _T,  # content id of messages, tools and chat_template_kwargs
        "messages": _T,  # JSON list of chat turns
        "tools": _T,  # JSON list, null: none
        "chat_template_kwargs": _T,  # JSON object, null: none
        "reference": _T,  # what a verifier compares with; the judge never sees it unless its rubric asks
        "meta": _T,  # JSON object of the source's other columns, null: none
        "source": _T,  # file name and row number, or the flow that made it
        "state": _T,  # ok | not_utf8 | not_json | missing | wrong_type | empty | too_long | duplicate
        "reason": _T,
    }
)

GENERATIONS: Schema = MappingProxyType(
    {
        "generation_id": _T,  # content id of prompt_id, policy, sampling, seed, sample_index, state and text
        "prompt_id": _T,
        "policy": _T,  # fingerprint of the engine that wrote it, or "source:<name>" for imported text
        "engine": _T,  # its spec
        "sample_index": pl.Int32(),
        "seed": pl.Int64(),
        "sampling": _T,  # JSON of temperature, top_p, max_tokens, stop; null: imported
        "text": _T,
        "reasoning": _T,  # null: none
        "tool_calls": _T,  # JSON list, null: none
        "token_ids": pl.List(pl.Int32()),  # as sampled, null where the engine does not say
        "logprobs": pl.List(pl.Float32()),  # natural logs of the same tokens
        "sum_logprob": pl.Float64(),
        "n_tokens": pl.Int32(),
        "finish_reason": _T,
        "state": _T,  # ok | empty | truncated | transport_error | refused | context_overflow | budget_skipped | unsupported
        "reason": _T,
    }
)

JUDGMENTS: Schema = MappingProxyType(
    {
        "judgment_id": _T,  # content id of judge, rubric digest, sampling, generation_ids as shown, vote, attempt and OUTCOME
        "prompt_id": _T,
        "protocol": _T,  # pairwise | pointwise | listwise | reward | verifier
        "judge": _T,  # fingerprint; "verifier:<name>@<code digest>"; "source:<name>" for imported judgments (people too)
        "engine": _T,  # its spec, null for verifiers and imports
        "rubric": _T,  # name, null for verifiers
        "rubric_digest": _T,
        "generation_ids": pl.List(pl.String()),  # as presented: for a pair, first then second
        "order": pl.Int8(),  # pairwise: 0 = the item's own order, 1 = swapped; else 0
        "vote": pl.Int16(),
        "attempt": pl.Int16(),
        "sampling": _T,  # JSON object of how the judge was asked; null for verifiers and imports
        "channel": _T,  # options | json | text: how a judge's verdict was read; reward | verifier | recorded
        "p_first": pl.Float64(),  # pairwise: probability that the first shown is better; null when not ok
        "label": _T,  # pairwise: first | second | tie; null when not ok
        "scores": pl.List(pl.Float64()),  # pointwise, listwise, reward, verifier: one a generation shown; null when not ok
        "attributes": _T,  # JSON object of attributes or error counts, null inside: not given; null: the rubric has none
        "label_mass": pl.Float64(),  # probability that the labels took together; null outside `options`
        "raw": _T,  # the reply's text, always kept
        # ok | truncated | parse_error | ambiguous | no_score (read, but its attributes amount to none) | gated (no call was needed, or
        # the verifier cannot tell) | verifier_error, and as in generations refused | transport_error | context_overflow | budget_skipped …
        "state": _T,
        "reason": _T,
        "prompt_tokens": pl.Int32(),
        "completion_tokens": pl.Int32(),
    }
)

OUTCOME = ("state", "raw", "label", "p_first", "scores")
"""What came of a judgment: part of its id, so that an answer never hides behind an earlier failure of the same question."""

VERDICTS: Schema = MappingProxyType(
    {
        "prompt_id": _T,
        "a_id": _T,  # generation ids, a_id < b_id
        "b_id": _T,
        "judge": _T,
        "p_a": pl.Float64(),  # P(a is preferred), position-debiased; null when unscored
        "p_se": pl.Float64(),  # its standard error over votes, null with one vote an order
        "confidence": pl.Float64(),  # probability that the preferred side is the better one, 1/2 .. 1; null when unscored or by scores
        "position_effect": pl.Float64(),  # beta in logits: > 0 means the first shown is favoured; null with one order
        "margin": pl.Float64(),  # |p_a - 1/2| * 2 for pairwise; score difference a - b otherwise is in `scores_delta`
        "scores_delta": pl.Float64(),  # score of a minus score of b; null for pairwise judges
        "verdict": _T,  # a | b | tie | inconsistent | unscored
        "reason": _T,  # why unscored
        "n_judgments": pl.Int32(),
        "n_ok": pl.Int32(),
    }
)

PAIRS: Schema = MappingProxyType(
    {
        "pair_id": _T,  # content id of kind, prompt, chosen, rejected (their text), not of scores
        "prompt_id": _T,
        "kind": _T,  # response | step | …
        "pair_policy": _T,  # best_vs_worst | best_vs_random | all_pairs | recorded
        "prompt": _T,  # JSON messages
        "chosen": _T,  # JSON messages: the assistant's turn (or turns)
        "rejected": _T,
        "tools": _T,  # JSON, null: none
        "chat_template_kwargs": _T,
        "chosen_id": _T,  # generation ids; node ids for steps
        "rejected_id": _T,
        "chosen_score": pl.Float64(),  # within the prompt's group: score or mean win probability; null for recorded pairs without scores
        "rejected_score": pl.Float64(),
        "margin": pl.Float64(),  # chosen_score - rejected_score, or the recorded margin; null when unknown
        "p_chosen": pl.Float64(),  # probability that chosen is better; null when the source gives only a label
        "label_source": _T,  # judge fingerprint, verifier or "source:<name>"
        "chosen_policy": _T,  # fingerprints
        "rejected_policy": _T,
        "on_policy": pl.Boolean(),  # both written by the policy that the dataset is for
        "split": _T,  # train | test, by hash of prompt_id
    }
)

RATIONALES: Schema = MappingProxyType(
    {
        "rationale_id": _T,  # content id of writer, rubric digest, sampling, pair_id, kind, order, attempt, state and raw
        "prompt_id": _T,
        "pair_id": _T,
        "kind": _T,  # general | detailed
        "writer": _T,  # fingerprint of the engine that wrote it, or "source:<name>"
        "engine": _T,  # its spec
        "rubric": _T,
        "rubric_digest": _T,
        "chosen_id": _T,  # generation ids of the pair's sides
        "rejected_id": _T,
        "order": pl.Int8(),  # as the writer saw the pair: 0 = chosen first, 1 = rejected first
        "attempt": pl.Int16(),
        "sampling": _T,  # JSON object of how the writer was asked
        "text": _T,  # the rationale, speaking of the chosen and the rejected answer; null when there is none
        "raw": _T,  # the reply's text, always kept
        "n_tokens": pl.Int32(),
        # ok | leaks_position | copies | quotes_nothing | misquotes | too_short | too_long | contradicts | unconfirmed (of a rationale that
        # was read, in the order checked), truncated, and as in judgments parse_error | gated | refused | transport_error …
        "state": _T,
        "reason": _T,
        "checks": _T,  # JSON object of what was measured: agreement in both orders, quotes found and missing, longest copied run …
        "prompt_tokens": pl.Int32(),
        "completion_tokens": pl.Int32(),
    }
)

NODES: Schema = MappingProxyType(
    {
        "node_id": _T,  # content id of tree_id and place
        "prompt_id": _T,
        "search_id": _T,  # content id of what was asked: prompt_id, reference, policy, judge, search and seed
        "tree_id": _T,  # content id of search_id, tree_state and everything that the tree holds
        "tree_state": _T,  # finished | ended before it was done: budget (a cap, its time) or endpoint_down (search again)
        "parent_id": _T,  # null: the prompt itself, whose text is empty
        "place": pl.List(pl.Int32()),  # the sample index of every step from the prompt to this one
        "depth": pl.Int32(),  # steps from the prompt, 0 for the prompt
        "sibling": pl.Int32(),  # sample index among the steps of one parent
        "policy": _T,  # fingerprint of the engine that wrote the steps
        "engine": _T,  # its spec
        "judge": _T,  # who graded the answers, null: nobody
        "search": _T,  # JSON of the search's parameters
        "seed": pl.Int64(),
        "text": _T,  # of this step alone, with its trailing delimiter: an answer's steps joined are the answer
        "token_ids": pl.List(pl.Int32()),  # as sampled, null where the engine does not say
        "n_tokens": pl.Int32(),
        "sum_logprob": pl.Float64(),
        "prior": pl.Float64(),  # p of PUCT; like all that follows null for a step that was no child
        "n_visits": pl.Int32(),
        "n_ended": pl.Int32(),  # simulations that ended here
        "q": pl.Float64(),
        "v": pl.Float64(),
        "r_value": pl.Float64(),  # R of the state after the step: outcome, self_eval and reward by the weights in `search`
        "outcome": pl.Float64(),  # 1 right, -1 wrong; null: unfinished, or nobody graded it
        "self_eval": pl.Float64(),  # 0..1, null: nobody was asked, or the answer could not be read (reason)
        "reward": pl.Float64(),  # of a reward model or function, null likewise
        "n_visits_at_commit": pl.Int32(),  # both as they were when one of the siblings was committed to; null: none was
        "q_at_commit": pl.Float64(),
        "w_mean": pl.Float64(),  # mean of r_value over the ends of the tree below, siblings alike
        "w_max": pl.Float64(),
        "soft_label": pl.Float64(),  # share of right answers below, null where none is graded
        "n_correct": pl.Int32(),  # right and wrong answers at or below
        "n_wrong": pl.Int32(),
        "regret": pl.Float64(),  # q of the best sibling minus its own, at the commit where there was one
        "terminal": pl.Boolean(),  # the answer ends here
        "chosen": pl.Boolean(),  # committed to
        "injected": pl.Boolean(),  # from a reference solution, not sampled
        # ok | truncated (the answer was cut off) | dead_end (ok, but no step came below: reason) and, never visited, what the driver calls
        # a sample that is no step: empty | duplicate | verifier_error | value_error | transport_error | …
        "state": _T,
        "reason": _T,  # of the prompt's own row also: why the search was ended early; of a graded answer: why it has no self_eval or reward
    }
)

STEP_PAIRS: Schema = MappingProxyType(
    {
        **PAIRS,  # chosen and rejected hold prefix and step; ids are node ids; scores are q, w_mean or w_max
        "tree_id": _T,
        "parent_id": _T,  # the node that both continue
        "depth": pl.Int32(),  # of both steps, 1 for the first
        "prefix": _T,  # the beginning of the answer that both share
        "chosen_step": _T,
        "rejected_step": _T,
        "prefix_token_ids": pl.List(pl.Int32()),  # as sampled, null where a step has none; the truth, as text may come back as other tokens
        "chosen_token_ids": pl.List(pl.Int32()),
        "rejected_token_ids": pl.List(pl.Int32()),
        "chosen_terminal": pl.Boolean(),  # only then may a trainer append an end-of-sequence token
        "rejected_terminal": pl.Boolean(),
        "chosen_q": pl.Float64(),
        "rejected_q": pl.Float64(),
        "chosen_visits": pl.Int32(),
        "rejected_visits": pl.Int32(),
        "chosen_prior": pl.Float64(),
        "rejected_prior": pl.Float64(),
        "parent_r_value": pl.Float64(),
        "chosen_r_value": pl.Float64(),
        "rejected_r_value": pl.Float64(),
        "chosen_outcome": pl.Float64(),
        "rejected_outcome": pl.Float64(),
        "chosen_w_mean": pl.Float64(),
        "rejected_w_mean": pl.Float64(),
        "chosen_regret": pl.Float64(),
        "rejected_regret": pl.Float64(),
        "alpha": pl.Float64(),  # label smoothing of this pair: the weight of the flipped label
        "alpha_mode": _T,
    }
)

STEP_LABELS: Schema = MappingProxyType(
    {
        "node_id": _T,  # the node that ends the answer
        "prompt_id": _T,
        "tree_id": _T,
        "policy": _T,
        "completions": pl.List(pl.String()),  # the answer's steps; the lists below have one entry a step
        "labels": pl.List(pl.Boolean()),  # hard: a right answer stands at or below
        "soft_labels": pl.List(pl.Float64()),
        "q": pl.List(pl.Float64()),
        "regrets": pl.List(pl.Float64()),
        "outcome": pl.Float64(),  # of the answer
        "state": _T,  # ok | truncated
    }
)

CONTRASTS: Schema = MappingProxyType(
    {
        "contrast_id": _T,  # content id of everything below but the measurements
        # content id of what was asked: method, settings, source, engines, checker and seed; null: made outside of a flow
        "synthesis_id": _T,
        "prompt_id": _T,  # of the prompt that it was made from, whatever was added to that; decides the split
        "pair_id": _T,  # of the row of `pairs` or `joint_pairs` that it becomes; null when not ok
        # rlcd | clair | ladder | step_error | single_edit | west_of_n | mapl_intra | mapl_inter | janus | context | d2o | reversed | a rule
        "method": _T,
        "parameters": _T,  # JSON object: how this one was made
        "source_ids": pl.List(pl.String()),  # generation or pair ids that it was made from
        "axis": _T,  # the property that is meant to differ
        "held_fixed": _T,  # JSON list of the properties that are meant not to
        "prompt": _T,  # JSON messages
        "rejected_prompt": _T,  # JSON messages; null: the same as `prompt`
        "chosen": _T,  # JSON messages; null where it could not be made
        "rejected": _T,
        "tools": _T,
        "chat_template_kwargs": _T,
        "chosen_id": _T,  # generation ids; null for a text that was made here
        "rejected_id": _T,
        "chosen_policy": _T,  # who wrote it, null: a program
        "rejected_policy": _T,
        "chosen_score": pl.Float64(),  # of the method's checker or scorer; null where there is none
        "rejected_score": pl.Float64(),
        "p_chosen": pl.Float64(),  # by the judge that checked it, null: none did
        "label_source": _T,  # the checker or scorer, null: by construction alone
        "degree": pl.Float64(),  # how far the rejected text was degraded, in units of the method; null: not graded
        "edit_sim": pl.Float64(),  # 1 - token Levenshtein distance / longer length (differences.py); null without two texts
        "jaccard": pl.Float64(),
        "shared_prefix_share": pl.Float64(),
        "len_ratio": pl.Float64(),
        "checks": _T,  # JSON object: the outcome of every check, of both sides
        "split": _T,  # null: by prompt_id; else the split that the method asks for
        "raw": _T,  # the engine's reply as it came, null: none
        # ok | identical_text | empty | unchanged | checker_failed | unverified | unsatisfiable …, and as in generations
        # truncated | transport_error | refused …: the first check that it failed
        "state": _T,
        "reason": _T,
    }
)

JOINT_PAIRS: Schema = MappingProxyType({**PAIRS, "rejected_prompt": _T})
"""Pairs of whole conversations: (prompt, chosen) is preferred to (rejected_prompt, rejected), where the two texts may be the same."""

FRAMES: Mapping[str, Schema] = MappingProxyType(
    {
        "prompts": PROMPTS,
        "generations": GENERATIONS,
        "judgments": JUDGMENTS,
        "verdicts": VERDICTS,
        "pairs": PAIRS,
        "rationales": RATIONALES,
        "nodes": NODES,
        "step_pairs": STEP_PAIRS,
        "step_labels": STEP_LABELS,
        "contrasts": CONTRASTS,
        "joint_pairs": JOINT_PAIRS,
    }
)


def empty(schema: Schema) -> pl.DataFrame:
    """A frame of that schema without rows."""
    return pl.DataFrame(schema=dict(schema))


def frame(rows: list[dict[str, object]], schema: Schema) -> pl.DataFrame:
    """Rows to a frame of exactly that schema; a key that a row lacks becomes null, a key that the schema lacks is refused."""
    if rows and (extra := rows[0].keys() - schema.keys()):
        raise SchemaError(f"columns {sorted(extra)} are not in the schema {sorted(schema)}")
    lists = [name for name, dtype in schema.items() if dtype == pl.List(pl.Int32())]
    if not lists:
        return pl.DataFrame(rows, schema=dict(schema))
    # polars makes a series of every list; it reads them three times as fast as JSON
    told = [row | {name: None if (ids := row.get(name)) is None else orjson.dumps(ids).decode() for name in lists} for row in rows]
    read = pl.DataFrame(told, schema={**schema, **dict.fromkeys(lists, pl.String())})
    return read.with_columns(pl.col(name).str.json_decode(schema[name]) for name in lists)


def check(data: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return the frame's columns in schema order, or say exactly what is missing or of another type.

    Raises:
        SchemaError: a column is missing or has another dtype than `FRAMES[name]`.
    """
    schema = FRAMES[name]
    if missing := [column for column in schema if column not in data.columns]:
        raise SchemaError(f"{name}: columns {missing} are missing; there are {data.columns}")
    for column, dtype in schema.items():
        if data.schema[column] != dtype:
            raise SchemaError(f"{name}.{column} is {data.schema[column]}, must be {dtype}")
    return data.select(list(schema))
