"""Several scores an answer, and pairs an objective: what judges said of attributes (helpfulness, verbosity …), one column each.

`attributes` has one row an answer and judge, for attribute regression (HelpSteer2, arXiv 2406.08673; SteerLM). `objectives` turns every
pair once for every attribute, so that chosen is the better side by that one, for multi-objective losses (MODPO, arXiv 2310.03708; DPA,
arXiv 2402.18571): all sets share the ids of the pairs, and `margin_<k>` of all attributes stand beside each. A value is the mean over a
judge's votes. What a judge did not give is null, never 0. Weights are the trainer's own.
"""

from __future__ import annotations

import re

import duckdb

from storage.columns import identifier, literal
from storage.errors import ViewError
from storage.views.prompt_only import PROMPTS_NEEDED, prompt_keys
from storage.views.view import CONTEXT, NO_PAIR, PROMPT, Column, Prepared, View

_GIVEN = """
    CREATE TEMP TABLE given AS
    SELECT judge, rubric_digest, generation_ids[1] AS generation_id, attributes FROM judgments
    WHERE attributes IS NOT NULL AND len(generation_ids) = 1 AND state IN ('ok', 'no_score')
    QUALIFY row_number() OVER (
        PARTITION BY judge, rubric_digest, generation_ids, vote ORDER BY state = 'ok' DESC, attempt DESC, judgment_id) = 1
"""
_JUDGMENTS = ("judgment_id", "generation_ids", "judge", "rubric_digest", "vote", "attempt", "attributes", "state")


def _rate(connection: duckdb.DuckDBPyConnection, view: str) -> list[str]:
    """Make the table `rated`: by generation, judge and rubric one column an attribute, under its plain name; returns the names."""
    connection.execute(_GIVEN)
    names = [row[0] for row in connection.sql("SELECT DISTINCT unnest(json_keys(attributes)) AS name FROM given ORDER BY name").fetchall()]
    if not names:
        raise ViewError(
            f"view {view}: no judgment of the version has attributes; label it with a rubric that names some (helpsteer, or your "
            "own), or by a "
            "reward model with several heads"
        )
    plain = {name: re.sub(r"\W+", "_", name.lower()) for name in names}
    if len(set(plain.values())) < len(names):
        raise ViewError(f"view {view}: attributes {names} have the same name as columns; name them apart in the rubric")
    paths = {name: literal('$."' + name.replace('"', '\\"') + '"') for name in names}
    values = {name: f"TRY_CAST(json_extract_string(attributes, {path}) AS DOUBLE)" for name, path in paths.items()}
    means = ", ".join(f"avg({value} ORDER BY {value}) AS {identifier(plain[name])}" for name, value in values.items())
    connection.execute(f"CREATE TEMP TABLE rated AS SELECT judge, rubric_digest, generation_id, {means} FROM given GROUP BY ALL")
    return list(plain.values())


def rate_attributes(connection: duckdb.DuckDBPyConnection) -> Prepared:
    """Make the table `attribute_scores`: generation, judge, and `attr_<k>`."""
    names = _rate(connection, "attributes")
    shown = ", ".join(f"{identifier(name)} AS {identifier(f'attr_{name}')}" for name in names)
    some = " OR ".join(f"{identifier(name)} IS NOT NULL" for name in names)
    connection.execute(f"""
        CREATE TEMP TABLE attribute_scores AS
        SELECT generation_id || '/' || md5(judge || coalesce(rubric_digest, '')) AS score_id, generation_id, judge AS annotator_id,
            {some} AS any_given, {shown} FROM rated
    """)
    columns = {f"attr_{name}": Column(kind="number", present="any", meaning=f"its {name}") for name in names}
    return Prepared(notes={"attributes": names}, columns=columns)


ATTRIBUTES = View(
    row="an answer and a judge that gave it attributes",
    trainers="none of TRL: for regression on several attributes",
    unit="answers and judges",
    columns={
        "prompt": PROMPT,
        "response": Column(kind="messages", side="answer", meaning="the answer"),
        "annotator_id": Column(kind="text", meaning="the judge"),
        "generation_id": Column(kind="text", meaning="id of the generation"),
        "prompt_id": Column(kind="text", meaning="id of the prompt"),
    }
    | CONTEXT,
    more="`attr_<k>`, a float64 for every attribute k that some judge gave; null where this one did not",
    needs={
        "prompts": PROMPTS_NEEDED,
        "pairs": ("prompt_id", "split"),
        "generations": ("generation_id", "prompt_id", "text", "reasoning", "tool_calls", "state"),
        "judgments": _JUDGMENTS,
    },
    keys=f"""
        SELECT coalesce(score_id, generations.generation_id) AS row_id, generations.generation_id AS source_id, prompt.split,
            prompt.prompt_hash, score_id,
            CASE WHEN prompt.drop IS NOT NULL THEN prompt.drop WHEN generations.state <> 'ok' THEN generations.state
                WHEN score_id IS NULL OR NOT any_given THEN 'no_attributes' END AS drop
        FROM generations JOIN ({prompt_keys()}) AS prompt ON prompt.row_id = generations.prompt_id
            LEFT JOIN attribute_scores USING (generation_id)
    """,
    rows="""
        SELECT row_id, source_id, keys.split, messages AS prompt, assistant_turn(text, reasoning, tool_calls) AS response,
            annotator_id, generation_id, prompt_id, tools, chat_template_kwargs, COLUMNS('^attr_')
        FROM keys JOIN attribute_scores USING (score_id) JOIN generations USING (generation_id) JOIN prompts USING (prompt_id)
        WHERE drop IS NULL
    """,
    prepare=rate_attributes,
)


def compare_objectives(connection: duckdb.DuckDBPyConnection) -> Prepared:
    """Make the tables `objective_margins` (a row a pair, `margin_<k>`) and `objectives` (a row a pair and objective).

    Raises:
        ViewError: fewer than two attributes, or several judges or rubrics gave them and none of them labelled the pairs.
    """
    names = _rate(connection, "objectives")
    sources = connection.sql("SELECT DISTINCT judge, rubric_digest FROM rated ORDER BY ALL").fetchall()
    labelled = {row[0] for row in connection.sql("SELECT DISTINCT label_source FROM pairs").fetchall()}
    chosen = sources if len(sources) == 1 else [source for source in sources if source[0] in labelled]
    if len(chosen) != 1:
        told = ", ".join(sorted({str(judge) for judge, _ in sources}))
        raise ViewError(
            f"view objectives: {len(sources)} judges or rubrics gave attributes ({told}) and their scales need not be the same; "
            f"{len(chosen)} of them labelled the pairs, must be exactly one; publish a version with the attributes of one"
        )
    margins = ", ".join(f"c.{identifier(name)} - r.{identifier(name)} AS {identifier(f'margin_{name}')}" for name in names)
    connection.execute(
        f"""
        CREATE TEMP TABLE objective_margins AS
        WITH ours AS (SELECT * FROM rated WHERE judge = $judge AND rubric_digest IS NOT DISTINCT FROM $rubric)
        SELECT pair_id, {margins} FROM pairs LEFT JOIN ours AS c ON c.generation_id = chosen_id
            LEFT JOIN ours AS r ON r.generation_id = rejected_id
        """,
        {"judge": chosen[0][0], "rubric": chosen[0][1]},
    )
    connection.execute("CREATE TEMP TABLE objectives AS " + " UNION ALL ".join(_of_objective(name) for name in names))
    columns = {f"margin_{name}": Column(kind="number", present="any", meaning=f"{name} of chosen minus of rejected") for name in names}
    return Prepared(notes={"objectives": {"names": names, "judge": chosen[0][0]}}, columns=columns)


def _of_objective(name: str) -> str:
    return f"SELECT pair_id, {literal(name)} AS objective, {identifier(f'margin_{name}')} AS difference FROM objective_margins"


OBJECTIVES = View(
    row="a pair and an objective by which its sides differ; chosen is the better side by that objective",
    trainers="DPOTrainer, with the rows of one objective",
    unit="pairs and objectives",
    columns={
        "prompt": PROMPT,
        "chosen": Column(kind="messages", side="answer", meaning="the better answer by the objective"),
        "rejected": Column(kind="messages", side="answer", meaning="the other answer"),
        "objective": Column(kind="text", meaning="name of the attribute"),
        "margin": Column(kind="number", meaning="the objective's value of chosen minus that of rejected, above 0"),
        "turned": Column(kind="flag", meaning="true: the pair itself has the two sides the other way round"),
        "pair_id": Column(kind="text", meaning="id of the pair, the same for all objectives"),
    }
    | CONTEXT,
    more="`margin_<k>`, a float64 for every objective k: its value of chosen minus that of rejected; null where one has none",
    needs={
        "pairs": (
            *("pair_id", "prompt_id", "prompt", "chosen", "rejected", "chosen_id", "rejected_id", "label_source"),
            *("tools", "chat_template_kwargs", "split"),
        ),
        "judgments": _JUDGMENTS,
    },
    keys=f"""
        SELECT pair_id || '/' || objective AS row_id, pair_id AS source_id, split, md5(prompt) AS prompt_hash, objective, difference,
            CASE {NO_PAIR} WHEN difference IS NULL THEN 'no_attributes' WHEN difference = 0 THEN 'equal' END AS drop
        FROM pairs JOIN objectives USING (pair_id)
    """,
    rows="""
        SELECT row_id, source_id, keys.split, prompt, CASE WHEN difference > 0 THEN chosen ELSE rejected END AS chosen,
            CASE WHEN difference > 0 THEN rejected ELSE chosen END AS rejected, objective, abs(difference) AS margin,
            difference < 0 AS turned, pair_id, tools, chat_template_kwargs, sign(difference) * COLUMNS('^margin_')
        FROM keys JOIN pairs ON pair_id = source_id JOIN objective_margins USING (pair_id) WHERE drop IS NULL
    """,
    prepare=compare_objectives,
)
