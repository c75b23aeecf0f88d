"""Values as cells of Markdown tables."""

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.evaluation.verdict import Rate

NONE = "–"
"""Stands where there was nothing to measure."""


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; None is a dash, and what would end a cell is escaped."""
    lines = [list(header), ["---"] * len(header), *([escape(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escape(value: Any) -> str:
    """Text that neither ends a cell nor is taken for HTML."""
    text = NONE if value is None else str(value)
    return " ".join(text.replace("|", "\\|").replace("<\N{NO-BREAK SPACE}", "under ").replace("<", "&lt;").split("\n"))


def share(rate: Rate | None) -> str:
    """A share with its interval."""
    return NONE if rate is None else f"{rate.text} ({rate.interval})"


def area(rate: Rate | None) -> str:
    """An area under a curve with its interval."""
    return NONE if rate is None else f"{rate.area} ({rate.area_interval})"


def number(value: float | None, form: str = ",.0f") -> str:
    """A plain number in a format of Python's."""
    return NONE if value is None else format(value, form)
