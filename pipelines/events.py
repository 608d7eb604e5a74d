"""The event that a publish emits. The automation in flows.yaml listens for it and starts the training deployment."""

from __future__ import annotations

from prefect.events import emit_event

from storage import Release

PUBLISHED = "pairmill.dataset.published"


def emit_published(release: Release) -> None:
    """Say that the version is there. Resource id `pairmill.dataset.<name>`; the payload is what a trigger's template may use."""
    emit_event(
        event=PUBLISHED,
        resource={"prefect.resource.id": f"pairmill.dataset.{release.name}", "prefect.resource.name": release.ref},
        payload={
            "name": release.name,
            "version": release.version,
            "dataset": release.ref,
            "digest": release.digest,
            "n_pairs": release.n_pairs,
        },
    )
