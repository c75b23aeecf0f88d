"""How lines and points of one picture are told apart."""

from typing import Any

from pipeline.evaluation.plotting import DASHES, MARKERS, SERIES


def dash(place: int) -> Any:
    """The stroke of a line by its place: with the colours, which come round first, no two of the first 32 lines look the same."""
    return DASHES[(place + place // len(SERIES)) % len(DASHES)]


def marker(place: int) -> str:
    """The marker of a point by its place: with the colours, which come round first, no two of the first 64 points look the same."""
    return MARKERS[(place + place // len(SERIES)) % len(MARKERS)]
