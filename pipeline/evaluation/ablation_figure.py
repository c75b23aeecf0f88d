"""A picture of the detector with one thing changed at a time."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from pipeline.evaluation.ablation_study import AblationStudy, ablation_rows
from pipeline.evaluation.plotting import MARKERS, MUTED, SERIES, canvas, style
from pipeline.evaluation.verdict import Rate

SMALL = 1.0
"""Points up to which the scale is linear, logarithmic beyond: what matters most should not hide what matters a little."""


def ablation_figure(study: AblationStudy) -> Figure:
    """How far each change moves detection of attacks that were fitted, and of attacks that were not, in points with intervals."""
    rows = [row for row in ablation_rows(study) if row["fitted_change"] is not None]
    with style():
        figure = canvas(1.4 + 0.34 * max(len(rows), 1), width=5.6)
        ax = figure.subplots()
        for place, (measure, label) in enumerate(
            {"fitted": "attacks of the fit", "unseen": f"attacks not in the fit ({study.held_out} left out of it)"}.items()
        ):
            _points(ax, [row[f"{measure}_change"] for row in rows], place, label)
        ax.set_xscale("symlog", linthresh=SMALL)
        ax.axvline(0, color=MUTED, linewidth=1, linestyle="--")
        ax.set_yticks(range(len(rows)), [row["name"] for row in rows])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set_xlabel(f"change of detection, in points (log scale beyond {SMALL:g})")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0"))
        ax.grid(visible=False, axis="y")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def _points(ax: Axes, changes: list[Rate | None], place: int, label: str) -> None:
    """One measure's changes, a row each; those of two measures stand beside one another."""
    known = [(row, found) for row, found in enumerate(changes) if found is not None]
    value = np.array([found.value for _, found in known])
    low, high = (
        np.array([found.value if (end := getattr(found, name)) is None else end for _, found in known]) for name in ("low", "high")
    )
    ax.errorbar(
        100 * value,
        [row + 0.24 * place - 0.12 for row, _ in known],
        xerr=100 * np.maximum([value - low, high - value], 0.0),
        color=SERIES[place],
        marker=MARKERS[place],
        markersize=4.5,
        linestyle="none",
        elinewidth=1.2,
        capsize=2.5,
        label=label,
    )
