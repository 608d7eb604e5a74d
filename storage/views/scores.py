"""What the answers of a prompt are worth by one judge, the one that labelled the pairs where there are several: scores, and comparisons.

* pointwise, listwise, verifier: a score is the mean over a generation's judgments in state ok, the last readable attempt of each;
* pairwise: the mean over the generation's pairs of the probability of winning. The two presentation orders of a pair are averaged in
  logits (clipped to [0.001, 0.999]) where the judge states probabilities, plainly where it states labels. A pair with an order that was
  asked and never answered counts for neither side; two equal texts are 1/2.

A generation without a score is left out and counted: nothing is made up.
"""

from __future__ import annotations

import duckdb

from storage.errors import ViewError
from storage.views.view import KEPT, Prepared

SCORES_NEEDED = {
    "generations": ("generation_id", "prompt_id", "sample_index", "text", "reasoning", "tool_calls", "state"),
    "judgments": (
        *("judgment_id", "prompt_id", "protocol", "judge", "rubric_digest", "generation_ids"),
        *("vote", "attempt", "channel", "p_first", "scores", "state", "reason"),
    ),
}
"""The columns that scores are made of."""

_FINAL = """
    CREATE TEMP TABLE final AS
    SELECT * FROM judgments
    WHERE judge = $judge AND protocol = $protocol AND rubric_digest IS NOT DISTINCT FROM $rubric_digest
    QUALIFY row_number() OVER (PARTITION BY prompt_id, generation_ids, vote ORDER BY state = 'ok' DESC, attempt DESC, judgment_id) = 1
"""
# A call that failed in a capped run and was answered in the next is there twice: the answer counts.
_SCORED = """
    SELECT prompt_id, unnest(generation_ids) AS generation_id, unnest(scores) AS score FROM final WHERE state = 'ok'
"""
# Aggregates of floats are ordered, so that their last bit does not depend on which thread came first.
_VERDICTS = """
    CREATE TEMP TABLE verdicts AS
    WITH shown AS (
        SELECT prompt_id, least(generation_ids[1], generation_ids[2]) AS a, greatest(generation_ids[1], generation_ids[2]) AS b,
            generation_ids[1] < generation_ids[2] AS a_first, state <> 'ok' OR channel = 'options' AS soft,
            channel = 'recorded' AS recorded, state = 'gated' AND reason = 'identical text' AS identical,
            CASE WHEN state = 'ok' THEN CASE WHEN a_first THEN p_first ELSE 1 - p_first END END AS p
        FROM final
    ), orders AS (
        SELECT prompt_id, a, b, avg(p ORDER BY p) FILTER (a_first) AS ab, avg(p ORDER BY p) FILTER (NOT a_first) AS ba,
            bool_and(soft) AS soft, bool_or(identical) AS identical, bool_and(recorded) OR count(DISTINCT a_first) = 1 AS one_order
        FROM shown GROUP BY ALL
    ), clipped AS (
        SELECT *, greatest(least(ab, 0.999), 0.001) AS x, greatest(least(ba, 0.999), 0.001) AS y FROM orders
    )
    SELECT prompt_id, a, b, CASE WHEN identical THEN 0.5
        WHEN ab IS NOT NULL AND ba IS NOT NULL
        THEN CASE WHEN soft THEN 1 / (1 + exp(-(ln(x / (1 - x)) + ln(y / (1 - y))) / 2)) ELSE (ab + ba) / 2 END
        WHEN one_order THEN coalesce(ab, ba) END AS p
    FROM clipped
"""
_COMPARED = "SELECT prompt_id, a AS generation_id, p AS score FROM verdicts UNION ALL SELECT prompt_id, b, 1 - p FROM verdicts"
_SCORES = """
    CREATE TEMP TABLE group_scores AS
    SELECT prompt_id, generation_id, score, generations.state
    FROM generations LEFT JOIN (
        SELECT prompt_id, generation_id, avg(score ORDER BY score) AS score FROM ({scores}) GROUP BY ALL
    ) USING (prompt_id, generation_id)
"""


def _choose_judge(connection: duckdb.DuckDBPyConnection, view: str, only: str | None = None) -> dict[str, str | None]:
    """The one source of scores: judge, protocol and rubric digest. `only`: of that protocol."""
    names = ("judge", "protocol", "rubric_digest")
    found = connection.sql(f"SELECT DISTINCT {', '.join(names)} FROM judgments WHERE state = 'ok' ORDER BY ALL").fetchall()
    if not found:
        raise ViewError(
            f"view {view}: the version has no judgment in state ok, so no scores; publish it with judgments, or export view dpo"
        )
    if only and not any(row[1] == only for row in found):
        there = ", ".join(sorted({str(row[1]) for row in found}))
        raise ViewError(
            f"view {view}: the version has no {only} judgment, only {there}; label it with a {only} rubric, or export view ranked or group"
        )
    found = [row for row in found if only in (None, row[1])]
    labelled = {row[0] for row in connection.sql("SELECT DISTINCT label_source FROM pairs").fetchall()}
    chosen = found if len(found) == 1 else [row for row in found if row[0] in labelled]
    if len(chosen) != 1:
        listed = ", ".join(f"{judge} ({protocol})" for judge, protocol, _ in found)
        raise ViewError(
            f"view {view}: {len(found)} judges scored the version ({listed}) and their scores share no scale; {len(chosen)} of "
            "them are the "
            f"label_source of the pairs {sorted(map(str, labelled))}, must be exactly one; publish a version with one judge's judgments"
        )
    return dict(zip(names, chosen[0], strict=True))


def score_generations(connection: duckdb.DuckDBPyConnection, *, view: str) -> Prepared:
    """Make the table `group_scores`: every generation with its score, or null."""
    source = _choose_judge(connection, view)
    connection.execute(_FINAL, source)
    pairwise = source["protocol"] == "pairwise"
    if pairwise:
        connection.execute(_VERDICTS)
    connection.execute(_SCORES.format(scores=_COMPARED if pairwise else _SCORED))
    fate = f"CASE WHEN score IS NOT NULL THEN '{KEPT}' WHEN state <> 'ok' THEN state ELSE 'unscored' END"
    counts = dict(connection.sql(f"SELECT {fate}, count(*) FROM group_scores GROUP BY 1 ORDER BY 1").fetchall())
    meaning = "mean probability of winning" if pairwise else "mean score"
    return Prepared(notes={"rewards": {**source, "meaning": meaning}}, counts={"generations": counts})


def compare_generations(connection: duckdb.DuckDBPyConnection, *, view: str) -> Prepared:
    """Make the tables `final` (the readable answer to each question) and `verdicts`: (a, b, p), p the probability that a is better."""
    source = _choose_judge(connection, view, only="pairwise")
    connection.execute(_FINAL, source)
    connection.execute(_VERDICTS)
    counts = connection.sql(f"SELECT CASE WHEN p IS NULL THEN 'unscored' ELSE '{KEPT}' END, count(*) FROM verdicts GROUP BY 1 ORDER BY 1")
    return Prepared(notes={"probabilities": source}, counts={"comparisons": dict(counts.fetchall())})
