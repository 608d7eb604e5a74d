"""What a set of pairs would teach besides quality: `audit_shortcuts` is the door, docs/filters.md says what it measures."""

from curators.diagnostics.audit import ShortcutAudit, audit_shortcuts

__all__ = ["ShortcutAudit", "audit_shortcuts"]
