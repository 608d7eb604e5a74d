"""Filters mark rows with a reason and drop nothing: `apply_filters` is the door, docs/filters.md says which there are."""

from curators.filters.marks import marks_funnel, rows_of
from curators.filters.registry import FILTERS, apply_filters, filter_named, load_filter

__all__ = ["FILTERS", "apply_filters", "filter_named", "load_filter", "marks_funnel", "rows_of"]
