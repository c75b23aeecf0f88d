"""How our figures look: colours, type, sizes, and how a share is written.

Colours come from the Okabe-Ito palette, which stays apart under every common colour-blindness, and no meaning rests on
colour alone. ``ROLES`` names each of them, so that a page can restate it for its own light and dark.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1b1f24", "#5b636e", "#dfe3e8", "#fefefe"
CLEAN, ATTACKED = "#0072b2", "#d55e00"
SERIES = (CLEAN, ATTACKED, "#009e73", "#cc79a7", "#b58900", "#4d9fd6", "#6e5bb8", "#7a7a7a")
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")
ROLES = {"ink": INK, "muted": MUTED, "grid": GRID, "paper": PAPER} | {f"series-{i}": colour for i, colour in enumerate(SERIES)}

WIDTH = 4.6
"""Inches: at this width the labels stay readable on a phone."""
_RC: dict[str, Any] = {
    "svg.hashsalt": "whorl",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "figure.facecolor": PAPER,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
}


def canvas(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of so many inches, laid out so that no label is cut off."""
    return Figure(figsize=(width, height), layout="constrained")


@contextmanager
def style() -> Iterator[None]:
    """Ours on top of matplotlib's own defaults: a matplotlibrc of the user's must not change the bytes."""
    defaults: dict[Any, Any] = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    with matplotlib.rc_context(defaults | _RC):
        yield


UNIT = "\N{NO-BREAK SPACE}%"


SIZES_TOLD = "m: fingerprints of a draw; T: committees a class that it is drawn from"
"""What a legend says of sizes of draws."""


def percent(share: float, digits: int = 1) -> str:
    """``0.05`` as ``5 %``: as many digits as asked for, without trailing zeros, and never 100 or 0 by rounding alone."""
    text, least = f"{100 * share:.{digits}f}", 10.0**-digits
    if share > 0 and float(text) == 0:
        return f"<\N{NO-BREAK SPACE}{least:g}{UNIT}"
    if share < 1 and float(text) == 100:
        return f">\N{NO-BREAK SPACE}{100 - least:g}{UNIT}"
    return f"{text.rstrip('0').rstrip('.') if digits else text}{UNIT}"
