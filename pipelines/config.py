"""Configuration: one frozen root model per flow, and the only place that reads the environment. That of flow `steps` is `steps.config`.

A flow's signature is its configuration, so that the Prefect UI draws the form, `flows.yaml` carries the values, and an unknown
key, however deep, is refused before anything runs. Paths are relative to the working directory of the run.
"""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

DATASET_NAME = r"^[a-z0-9][a-z0-9_-]*$"


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def engine_spec(value: Any) -> Any:
    """A bare string as the spec of an engine."""
    return {"engine": value} if isinstance(value, str) else value


class EngineConfig(Strict):
    """Which model answers, and how it is reached. A bare string is the spec."""

    engine: str = Field(
        description="hf:PATH, openai:MODEL@http://host:port/v1[,http://…], replay:FILE, checkpoint:NAME[@VERSION]; "
        "of a reward model rm:PATH, rm:checkpoint:NAME[@VERSION], classify:MODEL@http://host:port, score:MODEL@http://host:port"
    )
    max_concurrency: int = Field(64, ge=1, description="requests in flight (openai:) or rows in the batch (hf:)")
    timeout_s: float = Field(300, gt=0)
    api_key_env: str | None = Field(None, description="name of the environment variable that holds the key")
    prompt_usd: float | None = Field(None, ge=0, description="price of a million prompt tokens; null: unknown")
    completion_usd: float | None = Field(None, ge=0, description="price of a million completion tokens; null: unknown")
    share_requests: bool = Field(True, description="ask for all samples of a prompt in one request (n), where the server can")
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int | None = Field(None, ge=1, description="CPU threads of an hf: engine; null: torch's default")


ModelConfig = TypeVar("ModelConfig", bound=EngineConfig)


def _writes_text(value: ModelConfig) -> ModelConfig:
    if value.engine.startswith(("rm:", "classify:", "score:", "fake:reward")):
        raise ValueError(f"{value.engine} is a reward model, which scores and writes nothing; give it as `reward`")
    return value


EngineField = Annotated[EngineConfig, BeforeValidator(engine_spec), AfterValidator(_writes_text)]


class SamplingConfig(Strict):
    n: int = Field(4, ge=1, description="generations per prompt")
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(512, ge=1)
    stop: tuple[str, ...] = ()
    use_truncated: bool = Field(False, description="may an answer cut off by max_tokens become part of a pair?")


class JudgeConfig(EngineConfig):
    """A model judge. `channel` auto: the strongest of options (log-probabilities of the rubric's labels), json and text that it can do."""

    rubric: str = Field("pairwise", description="a shipped rubric's name or the path of a .md file; it names the protocol")
    channel: Literal["auto", "options", "json", "text"] = "auto"
    min_channel: Literal["options", "json", "text"] = Field("text", description="no verdict is read by a weaker channel")
    votes: int = Field(1, ge=1)
    repairs: int = Field(1, ge=0, description="re-asks of a reply that cannot be read")
    max_votes: int | None = Field(None, ge=1, description="more votes about a pair, up to so many, while they can change its verdict")
    stop_at: float = Field(0.95, gt=0.5, le=1, description="how sure its votes must be to ask no more: .95 four that agree, .9 two")
    both_orders: bool = True
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(4096, ge=1)


JudgeField = Annotated[JudgeConfig, BeforeValidator(engine_spec), AfterValidator(_writes_text)]


class RewardConfig(EngineConfig):
    """A reward model."""

    weights: dict[str, float] = Field(default_factory=dict, description="of its heads, summed to the score; needed where it has several")


RewardField = Annotated[RewardConfig, BeforeValidator(engine_spec)]


class PanelConfig(Strict):
    """Several judges, one verdict a pair."""

    judges: tuple[JudgeField, ...] = Field(min_length=2, description="judges of different models")
    method: Literal["majority", "mean_logit", "weighted", "naive_bayes", "dawid_skene"] = Field(
        "majority", description="weighted and naive_bayes are calibrated on `gold`, else on the verifier; dawid_skene needs three judges"
    )
    quorum: int | None = Field(None, ge=1, description="votes that a pair needs; null: more than half of the judges")
    exclude_own: bool = Field(True, description="a judge has no vote about a text that it wrote itself")
    min_agree: int | None = Field(None, ge=1, description="keep pairs on which so many judges decide alike, each in both orders; null: all")
    min_confidence: float = Field(0.5, ge=0.5, le=1, description="and with this confidence in the mean")


class RationaleConfig(EngineConfig):
    """Who says why the chosen answer is better, and how that is checked (docs/judging.md)."""

    kind: Literal["general", "detailed", "both"] = "general"
    rubric: str | None = Field(None, description="path of a .md file of that kind; null: the shipped one")
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(1024, ge=1)
    repairs: int = Field(1, ge=0, description="re-asks of a reply that cannot be used")
    check_agreement: bool = Field(True, description="is the rationale read back, without the label, in both orders?")
    judge: EngineField | None = Field(None, description="who reads it back; null: who wrote it")
    min_words: int = Field(20, ge=1)
    max_words: int = Field(400, ge=1)

    @model_validator(mode="after")
    def _one_rubric_one_kind(self) -> RationaleConfig:
        if self.rubric is not None and self.kind == "both":
            raise ValueError("`rubric` is of one kind and `kind` is both; name the rubric's kind, or leave `rubric` out")
        return self


RationaleField = Annotated[RationaleConfig, BeforeValidator(engine_spec), AfterValidator(_writes_text)]


class PairsConfig(Strict):
    policy: Literal["best_vs_worst", "best_vs_random", "all_pairs"] = "best_vs_worst"
    min_margin: float = Field(0.0, ge=0, description="smallest score difference of a pair")
    max_per_prompt: int | None = Field(None, ge=1)
    test_share: float = Field(0.1, ge=0, lt=1, description="share of prompts, by hash of their id")


class GatesConfig(Strict):
    """Bounds that a candidate must meet to be published; null switches a gate off."""

    min_pairs: int | None = 1
    max_duplicate_share: float | None = Field(0.05, ge=0, le=1)
    max_longer_chosen_share: float | None = Field(None, ge=0, le=1)
    max_ending_deviation: float | None = Field(
        None, ge=0, le=0.5, description="|share of chosen among the sides that alone end the answer - 1/2|"
    )
    max_unfinished_share: float | None = Field(None, ge=0, le=1, description="of searched trees")
    min_on_policy_share: float | None = Field(None, ge=0, le=1)
    max_unscored_share: float | None = Field(0.5, ge=0, le=1)
    min_judge_agreement: float | None = Field(None, ge=0, le=1, description="with the gold verifier, on decidable pairs")
    min_gold_agreement: float | None = Field(None, ge=0, le=1, description="with `gold`, before anything is sampled")
    max_judge_inconsistent_share: float | None = Field(0.5, ge=0, le=1)
    max_judge_first_deviation: float | None = Field(None, ge=0, le=0.5, description="|share of verdicts for the first shown - 1/2|")
    min_rationale_share: float | None = Field(None, ge=0, le=1, description="of pairs with a rationale that passed every check")
    max_shortcut_accuracy: float | None = Field(
        None, ge=0.5, le=1, description="of labels that a trivial rule, or words without the prompt, predict; .65 is a leak"
    )


class CapsConfig(Strict):
    """Where a run ends with what there is. Replies from the ledger are free."""

    calls: int | None = Field(None, ge=1)
    tokens: int | None = Field(None, ge=1)
    usd: float | None = Field(None, gt=0)
    seconds: float | None = Field(None, gt=0)


class GoldConfig(Strict):
    """Labelled pairs that a judge is tried on. A bare string is the source."""

    source: str = Field(description="a file of labelled pairs, or NAME@VERSION of the lake")
    columns: dict[str, str] = Field(default_factory=dict, description="target = source; see docs/import.md")
    rows: int | None = Field(100_000, ge=1, description="read the first rows of the file only; null: all")
    limit: int | None = Field(200, ge=1, description="pairs at most, drawn by a hash of their ids; null: all")


def _gold_source(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


GoldField = Annotated[GoldConfig, BeforeValidator(_gold_source)]


class JudgeBounds(Strict):
    """What a judge must meet on its own; null switches a gate off. The names are those of `GatesConfig`."""

    min_judge_agreement: float | None = Field(None, ge=0, le=1)
    max_judge_inconsistent_share: float | None = Field(None, ge=0, le=1)
    max_judge_first_deviation: float | None = Field(None, ge=0, le=0.5)
    max_unscored_share: float | None = Field(0.5, ge=0, le=1, description="a judge that answers less than half shows nothing")


class TrialConfig(Strict):
    """A judge and the labelled pairs that it is tried on."""

    judge: JudgeField
    gold: GoldField
    lake: str
    seed: int = 0
    caps: CapsConfig = CapsConfig()


class CheckConfig(TrialConfig):
    """A judge tried on gold pairs."""

    bounds: JudgeBounds = JudgeBounds()


class AttackConfig(TrialConfig):
    """A judge under attack."""

    attacks: tuple[str, ...] = Field((), description="names or kinds of attacks; empty: all")


class RunConfig(Strict):
    dataset: str = Field(pattern=DATASET_NAME, description="name of the dataset to publish")
    lake: str | None = Field(None, description="directory of the lake; null: PAIRMILL_LAKE, else ./lake")
    tag: str | None = Field(None, description="tag to move to the published version, such as prod")
    author: str | None = Field(None, description="null: the user's login name")
    gates: GatesConfig = GatesConfig()

    @property
    def lake_root(self) -> Path:
        return Path(self.lake or default_lake())


class ShardedConfig(RunConfig):
    """A run that asks engines about prompts, shard by shard."""

    seed: int | Literal["scheduled-date"] = 0
    shard_prompts: int = Field(256, ge=1, description="prompts of one task")
    concurrent_shards: int = Field(4, ge=1)
    caps: CapsConfig = CapsConfig()


class PromptsConfig(ShardedConfig):
    """A run that asks a policy about the prompts of a file."""

    prompts: str = Field(description="a .jsonl[.gz], .parquet or .csv file with `prompt` or `messages`, and `reference` where there is one")
    limit: int | None = Field(None, ge=1, description="take the first rows only")
    policy: EngineField


class CurateConfig(PromptsConfig):
    """prompts → generations → judgments → verdicts → pairs → gates → a published version."""

    sampling: SamplingConfig = SamplingConfig()
    judge: JudgeField | None = Field(None, description="a model judge; null: the panel, the reward model or the verifier labels")
    panel: PanelConfig | None = Field(None, description="several judges in place of one")
    gold: GoldField | None = Field(None, description="labelled pairs that the judges are tried on before anything is sampled")
    reward: RewardField | None = Field(None, description="a reward model; it labels where there is no judge, and is kept beside one")
    verifier: str | None = Field(
        None, description="a shipped check or module:function; it labels where no model does, else it is that model's gold"
    )
    annotate: Literal["judge", "rationale", "judge+rationale"] = Field(
        "judge", description="what models write: judge labels, rationale reasons for labels that no judge makes, or both"
    )
    rationale: RationaleField | None = Field(None, description="who explains the labels, where `annotate` asks for rationales")
    pairs: PairsConfig = PairsConfig()

    @property
    def judges(self) -> dict[str, JudgeConfig]:
        """The model judges by role."""
        if self.panel is not None:
            return {f"judge-{number}": judge for number, judge in enumerate(self.panel.judges, 1)}
        return {"judge": self.judge} if self.judge else {}

    @model_validator(mode="after")
    def _someone_labels(self) -> CurateConfig:
        if self.judge is not None and self.panel is not None:
            raise ValueError("give `judge` or `panel`, not both: the panel's judges stand in panel.judges")
        if self.gold is not None and not self.judges:
            raise ValueError("`gold` tries judges, and there are none: give `judge` or `panel`")
        if not (self.judges or self.reward or self.verifier):
            raise ValueError(
                "nobody labels: give `judge`, `panel` or `reward` (engine specs), `verifier` (a check or module:function), or several"
            )
        return self

    @model_validator(mode="after")
    def _rationales_as_annotated(self) -> CurateConfig:
        wanted = self.annotate != "judge"
        if wanted != (self.rationale is not None):
            what = "needs `rationale` (an engine spec)" if wanted else "asks for no rationales: leave `rationale` out"
            raise ValueError(f"annotate: {self.annotate} {what}, or name another of judge, rationale and judge+rationale")
        if wanted and bool(self.judges) != (self.annotate == "judge+rationale"):
            who = "takes its labels from somebody else; leave `judge` out" if self.judges else "needs a `judge`"
            raise ValueError(f"annotate: {self.annotate} {who}, or use {'judge+rationale' if self.judges else 'rationale'}")
        return self


class ImportConfig(RunConfig):
    """existing preference data → facts → verdicts → pairs → gates → a published version."""

    files: tuple[str, ...] = Field(min_length=1)
    columns: dict[str, str] = Field(default_factory=dict, description="target = source; see docs/import.md")
    source: str | None = Field(None, description="who wrote and judged the rows; null: the dataset's name")
    limit: int | None = Field(None, ge=1)
    pairs: PairsConfig = PairsConfig()


class EvaluationConfig(Strict):
    prompts: str
    verifier: str
    n_prompts: int = Field(400, ge=2)
    n: int = Field(4, ge=1)
    temperature: float = Field(1.0, ge=0)
    max_tokens: int = Field(512, ge=1)
    seed: int = 1


class TrainConfig(Strict):
    """a published version → hand-off → trainer → evaluation before and after → a registered checkpoint."""

    dataset: str = Field(description="NAME, NAME@VERSION or NAME@TAG")
    lake: str | None = None
    policy: EngineField | None = Field(None, description="the model to train; null: the policy that the version was sampled from")
    view: str | None = Field(None, description="a training format, see docs/views.md; null: step for a version of flow steps, else dpo")
    form: Literal["conversational", "standard"] = "conversational"
    handoff_format: Literal["duckdb", "parquet", "jsonl"] = "duckdb"
    command: str | None = Field(
        None, description="a trainer of your own, with {handoff}, {policy}, {out} and {params}; null: the built-in DPO job"
    )
    params: dict[str, Any] = Field(default_factory=dict, description="passed to the trainer as JSON")
    timeout_s: float = Field(86_400, gt=0)
    checkpoint: str | None = Field(None, pattern=DATASET_NAME, description="name in the checkpoint registry; null: the dataset's name")
    evaluation: EvaluationConfig | None = None

    @property
    def lake_root(self) -> Path:
        return Path(self.lake or default_lake())


def default_lake() -> str:
    """Where the lake is: PAIRMILL_LAKE, else ./lake."""
    return os.environ.get("PAIRMILL_LAKE") or "lake"


def login_name() -> str:
    """Who publishes: PAIRMILL_AUTHOR, else the login name."""
    return os.environ.get("PAIRMILL_AUTHOR") or getpass.getuser()


def api_key(engine: EngineConfig) -> str | None:
    """The secret that an engine's `api_key_env` names; null where none is configured."""
    return os.environ.get(engine.api_key_env) if engine.api_key_env else None
