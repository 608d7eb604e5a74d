"""The configuration of whoever labels, and of flow `curate`. What its parameters mean is said where they are used: `curators.judging`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipelines.config import (
    CapsConfig,
    EngineConfig,
    EngineField,
    PairsConfig,
    PromptsConfig,
    SamplingConfig,
    Strict,
    engine_spec,
    writes_text,
)


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


JudgeField = Annotated[JudgeConfig, BeforeValidator(engine_spec), AfterValidator(writes_text)]


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


RationaleField = Annotated[RationaleConfig, BeforeValidator(engine_spec), AfterValidator(writes_text)]


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
