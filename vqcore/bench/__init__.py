"""Measuring beside others: calls that take turns, ratios with their spread, a table that leaves nothing out."""

from vqcore.bench.machine import NotInstalled, in_child, machine, optional
from vqcore.bench.measuring import OURS, Report, Row, take_turns
from vqcore.bench.table import as_markdown, as_text, write

__all__ = ["OURS", "NotInstalled", "Report", "Row", "as_markdown", "as_text", "in_child", "machine", "optional",
           "take_turns", "write"]  # fmt: skip
