"""Existing preference data → facts, through column maps: `import_facts` is the door."""

from curators.importing.columns import LAYOUTS, TARGETS, ColumnMap, column_map, parse_columns
from curators.importing.facts import Imported, SourceRow, import_facts

__all__ = ["LAYOUTS", "TARGETS", "ColumnMap", "Imported", "SourceRow", "column_map", "import_facts", "parse_columns"]
