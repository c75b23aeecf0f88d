"""The figures of the pages, small enough to be kept in git."""

import io

from matplotlib.figure import Figure
from PIL import Image

from pipeline.errors import WhorlError
from pipeline.evaluation.figures import to_png

RESOLUTIONS = (110, 96, 84, 72, 60, 48)
"""Dots per inch, of which the first is taken that keeps a file small."""
MOST_BYTES = 200_000


def small_png(figure: Figure, most: int = MOST_BYTES) -> bytes:
    """The figure as a PNG of fewer than ``most`` bytes; raises WhorlError where the lowest resolution has more."""
    for resolution in RESOLUTIONS:
        content = _with_a_palette(to_png(figure, resolution))
        if len(content) < most:
            return content
    raise WhorlError(f"A figure has {len(content):,} bytes at {resolution} dots per inch, where fewer than {most:,} were expected.")


def _with_a_palette(content: bytes) -> bytes:
    """A PNG in at most 256 colours, a third of the bytes: plots have few, and edges between them that nobody tells apart."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
