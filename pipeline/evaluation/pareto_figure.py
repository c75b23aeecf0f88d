"""The picture of a search: what each trial detects, and what it costs."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from pipeline.evaluation.pareto import COST, DETECTION, OBJECTIVES
from pipeline.evaluation.plotting import ATTACKED, CLEAN, INK, MUTED, UNIT, canvas, style

TITLES = {
    "fitted": "Attacks of the fit",
    "unseen": "Attacks not in the fit",
    "after_looks": "After looks at a copy (100 % if none passes)",
}


def pareto_figure(numbers: Sequence[int], values: npt.NDArray[np.float64], best: set[int], chosen: int) -> Figure:
    """Three panels, one a kind of detection, over the inspection cost.

    Args:
        numbers: of the N trials; 0 is the params file as it stands.
        values: (N, 4) columns as in ``OBJECTIVES``.
        best: numbers on the Pareto front of all four objectives.
        chosen: the number that is proposed.
    """
    cost, on_front = values[:, OBJECTIVES.index(COST)], np.array([number in best for number in numbers])
    with style():
        figure = canvas(7.2)
        axes = figure.subplots(len(DETECTION), 1, sharex=True)
        for ax, (column, name) in zip(axes, enumerate(DETECTION), strict=True):
            share = values[:, column]
            ax.scatter(cost[~on_front], share[~on_front], s=14, color=MUTED, alpha=0.55, linewidths=0, label="beaten by another trial")
            ax.scatter(cost[on_front], share[on_front], s=26, color=CLEAN, linewidths=0, label="on the Pareto front of all four")
            for number, marker, colour, size, label in ((0, "s", INK, 60, "params.yaml now"), (chosen, "*", ATTACKED, 150, "proposed")):
                row = list(numbers).index(number)
                ax.scatter(
                    cost[row],
                    share[row],
                    s=size,
                    marker=marker,
                    facecolors="none" if number == 0 else colour,
                    edgecolors=colour,
                    label=label,
                )
            ax.set_title(TITLES[name])
            ax.margins(0.07)
            ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=UNIT))
            ax.set_ylabel("detected")
        axes[-1].set_xlabel("operations to inspect an image")
        axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure
