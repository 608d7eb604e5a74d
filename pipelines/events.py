"""The events of a publish and of a tag that moves. Automations in flows.yaml listen for them: one trains, one exports to the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event

from storage import Release

PUBLISHED = "pairmill.dataset.published"
TAGGED = "pairmill.dataset.tagged"


def emit_published(release: Release) -> None:
    """Say that the version is there. Resource id `pairmill.dataset.<name>`; the payload is what a trigger's template may use."""
    _emit(PUBLISHED, release, {}, {"n_pairs": release.n_pairs})


def emit_tagged(release: Release, tag: str) -> None:
    """Say that the tag is now at that version. The same resource, with the label `pairmill.tag` for a trigger to match."""
    _emit(TAGGED, release, {"pairmill.tag": tag}, {"tag": tag})


def _emit(event: str, release: Release, labels: Mapping[str, str], more: Mapping[str, Any]) -> None:
    resource = {"prefect.resource.id": f"pairmill.dataset.{release.name}", "prefect.resource.name": release.ref, **labels}
    payload = {"name": release.name, "version": release.version, "dataset": release.ref, "digest": release.digest, **more}
    emit_event(event=event, resource=resource, payload=payload)
