"""Configuration: one frozen root model per flow, and the only place that reads the environment. Here is what several flows share, and those
of `import`, `train` and `export`; others are in `judging.config` (flow `curate`), `steps.config`, `selecting.config`, `contrasting.config`.

A flow's signature is its configuration, so that the Prefect UI draws the form, `flows.yaml` carries the values, and an unknown
key, however deep, is refused before anything runs. Paths are relative to the working directory of the run.
"""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from curators.errors import ConfigError

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


def writes_text(value: ModelConfig) -> ModelConfig:
    if value.engine.startswith(("rm:", "classify:", "score:", "fake:reward")):
        raise ValueError(f"{value.engine} is a reward model, which scores and writes nothing; give it as `reward`")
    return value


EngineField = Annotated[EngineConfig, BeforeValidator(engine_spec), AfterValidator(writes_text)]


class SamplingConfig(Strict):
    n: int = Field(4, ge=1, description="generations per prompt")
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(512, ge=1)
    stop: tuple[str, ...] = ()
    use_truncated: bool = Field(False, description="may an answer cut off by max_tokens become part of a pair?")


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


class DerivedConfig(RunConfig):
    """A run that starts from a published version."""

    source: str = Field(description="the version that it starts from: NAME, NAME@VERSION or NAME@TAG of the same lake")

    @model_validator(mode="after")
    def _source_is_no_own_result(self) -> DerivedConfig:
        name, _, which = self.source.partition("@")
        if name == self.dataset and which in ("", self.tag):
            raise ValueError(
                f"source {self.source!r} would be this run's own result the next time; name a version of it ({name}@1), or another dataset"
            )
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
    on_stale: Literal["flag", "refuse"] = Field("flag", description="of a version that another policy than the one to train has sampled")

    @property
    def lake_root(self) -> Path:
        return Path(self.lake or default_lake())


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _repository(value: str) -> str:
    from storage.hub import PREFIX, repository_of  # here: it brings the Hub's client, which help does without

    return PREFIX + repository_of(value)


def _no_token(value: str | None) -> str | None:
    if value is not None and value.startswith("hf_"):
        raise ConfigError("token_block: is the name of a Prefect Secret block, and came as a token; put the token into a block")
    return value


Licence = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
Language = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z-]*$")]


class ExportConfig(Strict):
    """a published version → Parquet shards and a card → one commit and a tag on the Hugging Face Hub."""

    dataset: str = Field(description="NAME, NAME@VERSION or NAME@TAG")
    to: Annotated[str, AfterValidator(_repository)] = Field(description="hf://OWNER/NAME; made where it is not there")
    lake: str | None = None
    views: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        (), description="training formats, see docs/views.md; none: those of docs/hub.md that the version has rows for"
    )
    form: Literal["conversational", "standard"] = "conversational"
    license: Annotated[tuple[Licence, ...], BeforeValidator(_listed)] = Field(
        (), description="the Hub's name of the data's licence, such as cc-by-4.0; none: the card says that none was stated"
    )
    language: Annotated[tuple[Language, ...], BeforeValidator(_listed)] = Field((), description="such as en")
    private: bool | None = Field(None, description="of a repository that is made now; null: as the owner's settings say")
    token_block: Annotated[str | None, AfterValidator(_no_token)] = Field(
        None, description="name of a Prefect Secret block that holds the token; null: HF_TOKEN, or that of `hf auth login`"
    )

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
