"""Who labels a run's generations: judges, reward model and verifier, resolved once a run, and one prompt's samples labelled by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from curators.engines.base import Engine, Sampling
from curators.errors import ConfigError
from curators.judging.channels import shown_capabilities
from curators.judging.protocol import JudgeConfig, judge_group
from curators.judging.rubric import Rubric, load_rubric
from curators.sampling import Row, gather_all, sample_prompt
from curators.scoring import prove_scorer, score_group
from curators.verifiers import Verifier, load_verifier, verify_group
from pipelines.judging.config import CurateConfig
from pipelines.judging.config import JudgeConfig as JudgeSettings
from pipelines.runs import Run


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A model judge: its engine, its rubric and how it is asked."""

    engine: Engine
    rubric: Rubric
    config: JudgeConfig


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A reward model and the weights of its heads."""

    engine: Engine
    weights: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """Everything that one prompt of flow `curate` needs."""

    policy: Engine
    n: int
    sampling: Sampling
    judges: Sequence[Judge]
    reward: Scorer | None
    verifier: Verifier | None
    use_truncated: bool

    async def __call__(self, prompt: Mapping[str, Any]) -> tuple[list[Row], list[Row]]:
        """The prompt's `generations` and `judgments`."""
        generations = await sample_prompt(prompt, self.policy, n=self.n, sampling=self.sampling)
        judged = await gather_all(judge_group(prompt, generations, j.engine, rubric=j.rubric, config=j.config) for j in self.judges)
        judgments = [row for rows in judged for row in rows]
        if self.reward is not None:
            judgments += await score_group(
                prompt, generations, self.reward.engine, weights=self.reward.weights, use_truncated=self.use_truncated
            )
        if self.verifier is not None:
            judgments += await verify_group(prompt, generations, self.verifier, use_truncated=self.use_truncated)
        return generations, judgments


async def annotator(run: Run) -> Annotator:
    """Who samples and labels in this run; every judge has shown by which channel it can be asked."""
    config = run.config
    assert isinstance(config, CurateConfig)
    chosen = config.sampling
    sampling = Sampling(temperature=chosen.temperature, top_p=chosen.top_p, max_tokens=chosen.max_tokens, stop=chosen.stop, seed=run.seed)
    return Annotator(
        policy=run.engines["policy"],
        n=chosen.n,
        sampling=sampling,
        judges=await judges_of(run),
        reward=await scorer_of(run),
        verifier=load_verifier(config.verifier) if config.verifier else None,
        use_truncated=chosen.use_truncated,
    )


async def scorer_of(run: Run) -> Scorer | None:
    """The reward model of a run's configuration, once it has scored something.

    Raises:
        ConfigError: its engine writes text, or the weights do not fit its heads.
    """
    config = run.config
    assert isinstance(config, CurateConfig)
    if config.reward is None:
        return None
    await prove_scorer(run.engines["reward"], config.reward.weights)
    return Scorer(engine=run.engines["reward"], weights=config.reward.weights)


async def judges_of(run: Run) -> list[Judge]:
    """The judges of a run's configuration, in its order.

    Raises:
        ConfigError: as `open_judge`, or the policy sits on a panel that gives nobody a vote about texts of its own.
    """
    config = run.config
    assert isinstance(config, CurateConfig)
    if config.panel is not None and config.panel.exclude_own:
        for role in config.judges:
            if run.fingerprints[role] == run.fingerprints["policy"]:
                own = f"panel: {run.engines[role].spec} is the policy: it wrote every text and so has no vote"
                raise ConfigError(f"{own}; leave it out, or set exclude_own: false")
    shared: dict[str, Any] = {"seed": run.seed, "secret": run.lake.secret, "use_truncated": config.sampling.use_truncated}
    return await gather_all(open_judge(run.engines[role], judge, asking(judge, **shared)) for role, judge in config.judges.items())


async def open_judge(engine: Engine, settings: JudgeSettings, config: JudgeConfig) -> Judge:
    """The judge behind an engine, once it has shown what it can do.

    Raises:
        ConfigError: rubric, engine and channel do not fit together.
    """
    rubric = load_rubric(settings.rubric)
    able = await shown_capabilities(rubric, engine, channel=settings.channel)
    return Judge(engine=engine, rubric=rubric, config=replace(config, capabilities=able))


def asking(judge: JudgeSettings, *, seed: int, secret: bytes, use_truncated: bool = False) -> JudgeConfig:
    """How a configured judge is asked."""
    return JudgeConfig(
        channel=judge.channel,
        min_channel=judge.min_channel,
        votes=judge.votes,
        max_votes=judge.max_votes,
        stop_at=judge.stop_at,
        repairs=judge.repairs,
        both_orders=judge.both_orders,
        max_tokens=judge.max_tokens,
        temperature=judge.temperature,
        seed=seed,
        use_truncated=use_truncated,
        secret=secret,
    )
