"""The event that a publish emits. The automation in flows.yaml listens for it and starts the training deployment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event

PUBLISHED = "pairmill.dataset.published"


def emit_published(*, name: str, version: int, digest: str, counts: Mapping[str, Any]) -> None:
    """Say that `name@version` is there. Resource id `pairmill.dataset.<name>`; the payload is what a trigger's template may use."""
    emit_event(
        event=PUBLISHED,
        resource={"prefect.resource.id": f"pairmill.dataset.{name}", "prefect.resource.name": f"{name}@{version}"},
        payload={"name": name, "version": version, "dataset": f"{name}@{version}", "digest": digest, **counts},
    )
