"""The figures of the pages, small enough to be kept in git."""

from matplotlib.figure import Figure

from pipeline.errors import WhorlError
from pipeline.evaluation.figures import to_png

RESOLUTIONS = (110, 96, 84, 72, 60, 48)
"""Dots per inch, of which the first is taken that keeps a file small."""
MOST_BYTES = 200_000


def small_png(figure: Figure, most: int = MOST_BYTES) -> bytes:
    """The figure as a PNG of fewer than ``most`` bytes; raises WhorlError where the lowest resolution has more."""
    for resolution in RESOLUTIONS:
        content = to_png(figure, resolution)
        if len(content) < most:
            return content
    raise WhorlError(f"A figure has {len(content):,} bytes at {resolution} dots per inch, where fewer than {most:,} were expected.")
