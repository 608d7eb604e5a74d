"""What a run is judged by, in one place for the manifest, the UI and the last line of the command."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from curators.embeddings import Embedded
from curators.funnel import Funnel, to_frame
from curators.gates import GateResult, refusal
from curators.judging.health import health_rows, share_rows
from curators.rationales.health import MEASURES as RATIONALE_MEASURES
from curators.stepsearch.health import MEASURES, remarks


@dataclass(kw_only=True)
class Figures:
    """What a run is judged by: its funnels in order of stage, the health of its judge or its searches, gate results, and counts."""

    funnels: list[Funnel] = field(default_factory=list)
    health: dict[str, Any] | None = None
    search: dict[str, Any] | None = None
    rationales: dict[str, Any] | None = None
    contrast: dict[str, Any] | None = None  # the methods of flow `contrast`: settings, and attempts by state
    trial: dict[str, Any] | None = None  # the health of the judge, or panel, on gold pairs, before anything was sampled
    audit: dict[str, Any] | None = None  # how far trivial rules predict the labels
    selection: dict[str, Any] | None = None  # what flow `select` was asked, and what came of it
    embedded: Counter[str] = field(default_factory=Counter)  # texts that this process took up, by where their vectors came from
    trees: Counter[str] = field(default_factory=Counter)  # how many were `searched` by this process, and how many were `known` before
    gates: list[GateResult] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    on_policy_share: float | None = None
    source: dict[str, Any] | None = None  # an import's: which layout each file was read by, and what its rows lacked

    def took_up(self, texts: Embedded) -> None:
        """Count texts that were embedded, or found in the cache."""
        self.embedded.update({name.removeprefix("n_"): n for name, n in asdict(texts).items()})

    @property
    def funnel_rows(self) -> list[dict[str, Any]]:
        return to_frame(self.funnels).to_dicts()

    @property
    def health_rows(self) -> list[dict[str, Any]]:
        """The health of the judge on gold pairs and on this run, or of the searches, and of the rationales."""
        explained = share_rows(self.rationales, RATIONALE_MEASURES) if self.rationales else []
        if self.search:
            return share_rows(self.search, MEASURES) + explained
        tried = [row | {"measure": f"on gold: {row['measure']}"} for row in health_rows(self.trial)] if self.trial else []
        return tried + (health_rows(self.health) if self.health else []) + explained

    @property
    def refusal(self) -> str | None:
        """Which gates failed, and what else was the matter with the searches; null when all passed."""
        told = refusal(self.gates)
        return told and "; ".join([told, *(remarks(self.search) if self.search else [])])
