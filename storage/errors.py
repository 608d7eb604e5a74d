"""What can go wrong in storage, as types."""

from __future__ import annotations


class StorageError(Exception):
    """The root of everything that `storage` raises on purpose."""


class DatasetNotFound(StorageError):
    """No dataset, version, tag or row of that name; the message lists what is there."""


class CheckpointNotFound(StorageError):
    """No checkpoint, version or tag of that name in the registry; the message lists what is there."""


class DatasetExists(StorageError):
    """A version with that number, or a directory that must be empty, is there already with other content."""


class ManifestError(StorageError):
    """A manifest, hand-off or lake directory is missing, torn or of another format."""


class DigestMismatch(StorageError):
    """Stored bytes or rows are not what the manifest says."""


class ViewError(StorageError):
    """A view needs a column that the version does not have. Views never compute on the quiet."""


class HubError(StorageError):
    """The Hugging Face Hub refused, broke off or cannot be reached, or a repository there holds something else. Nothing was published."""
