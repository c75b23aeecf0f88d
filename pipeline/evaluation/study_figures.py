"""Pictures of unseen attacks and of the redrawn promise."""

from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pipeline.evaluation.metrics import percent as level
from pipeline.evaluation.plotting import ATTACKED, MARKERS, MUTED, SERIES, UNIT, canvas, percent, style
from pipeline.evaluation.studies import PromiseStudy, TransferStudy, corruption_rows
from pipeline.evaluation.transfer import unseen
from pipeline.evaluation.verdict import rate


def transfer_heatmap(study: TransferStudy, alpha: float) -> Figure:
    """Fitted on (rows) against tested on (columns): AUROC and detection; what a fit never met is framed."""
    fits, attacks = list(study.fits), list(study.families)
    with style():
        figure = canvas(2.3 + 0.54 * len(fits), width=5.6)
        panels = figure.subplots(2, 1, sharex=True)
        measures = {
            "area under the ROC curve": "auroc",
            f"detected at {percent(alpha)} false alarms (in\N{NO-BREAK SPACE}%)": f"tpr_at_{level(alpha)}",
        }
        for ax, (title, measure) in zip(panels, measures.items(), strict=True):
            ax.set_title(title)
            _cells(ax, study, measure)
            ax.set_yticks(np.arange(len(fits)) + 0.5, [fit.replace("_", " ", 1) for fit in fits])
            ax.set_ylabel("fitted on")
        slant: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if sum(map(len, attacks)) > 28 else {}
        panels[1].set_xticks(np.arange(len(attacks)) + 0.5, attacks, **slant)
        panels[1].set_xlabel("tested on (framed: the fit knew no attack of this family)")
    return figure


def _cells(ax: Axes, study: TransferStudy, measure: str) -> None:
    fits, attacks = list(study.fits), list(study.families)
    values = np.array([[study.metrics.get(f"{fit}.{attack}.{measure}") for attack in attacks] for fit in fits], np.float64)
    ax.pcolormesh(np.ma.masked_invalid(values), cmap="cividis", vmin=0, vmax=1)
    for row, column in product(range(len(fits)), range(len(attacks))):
        value = values[row, column]
        ink = MUTED if np.isnan(value) else "#ffffff" if value < 0.55 else "#000000"
        text = "–" if np.isnan(value) else f"{value:.3f}" if measure == "auroc" else percent(value, 0).removesuffix(UNIT)
        ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=min(8.5, 72 / len(attacks)), color=ink)
        if unseen(attacks[column], study.fits[fits[row]], study.families):
            ax.add_patch(Rectangle((column + 0.04, row + 0.06), 0.92, 0.88, fill=False, edgecolor=ATTACKED, linewidth=1.8))
    ax.set(xlim=(0, len(attacks)), ylim=(len(fits), 0))
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def promise_figure(study: PromiseStudy, alpha: float) -> Figure:
    """False alarms of every redraw, beside the promise; and those under mild corruptions."""
    with style():
        figure = canvas(5.2, width=5.6)
        redraws, corruptions = figure.subplots(2, 1, height_ratios=(3, 2))
        _redraws(redraws, study)
        _corruptions(corruptions, study, alpha)
    return figure


def _redraws(ax: Axes, study: PromiseStudy) -> None:
    ax.set_title("clean images flagged, redraw by redraw")
    for i, (alpha, rates) in enumerate(sorted(study.rates.items(), reverse=True)):
        places, colour = np.arange(1, len(rates) + 1), SERIES[i % len(SERIES)]
        ax.hlines(alpha, 0.3, len(rates) + 0.7, color=colour, linewidth=1, linestyle="--")
        ax.plot(
            places, rates, color=colour, marker=MARKERS[i], markersize=4.5, linestyle="none", label=f"promised: at most {percent(alpha)}"
        )
        mean = rate(study.metrics, f"redrawn.all.fpr_at_{level(alpha)}")
        if mean is not None:
            low, high = mean.low if mean.low is not None else mean.value, mean.high if mean.high is not None else mean.value
            at, spread = len(rates) + 1.5, [[mean.value - low], [high - mean.value]]
            ax.errorbar([at], [mean.value], yerr=spread, color=colour, marker=MARKERS[i], markersize=7, capsize=3, elinewidth=1.8)
            ax.text(at + 0.5, mean.value, f"mean\n{percent(mean.value)}", va="center", fontsize=8.5, color=MUTED)
    most = max((len(rates) for rates in study.rates.values()), default=1)
    highest = max((value for alpha, rates in study.rates.items() for value in (alpha, *rates)), default=1.0)
    ax.set(xlim=(0.3, most + 3.6), ylim=(-0.03 * highest, 1.3 * highest), xlabel="redraw of the splits")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=UNIT))
    ax.set_xticks([tick for tick in MaxNLocator(integer=True).tick_values(1, most) if 1 <= tick <= most])
    ax.legend(loc="upper left", ncols=2, bbox_to_anchor=(0, 1), borderaxespad=0.2)


def _corruptions(ax: Axes, study: PromiseStudy, alpha: float) -> None:
    rows = corruption_rows(study, [alpha])
    found = [(row["name"], row["cells"][0][1], row["accuracy"]) for row in rows]
    ax.set_title(f"clean images flagged at {percent(alpha)}, changed a little")
    for place, (_, value, accuracy) in enumerate(found):
        if value is None:
            continue
        low, high = value.low if value.low is not None else value.value, value.high if value.high is not None else value.value
        ax.barh(place, value.value, color=SERIES[0] if place == 0 else SERIES[4], height=0.62)
        spread = [[max(value.value - low, 0.0)], [max(high - value.value, 0.0)]]
        ax.errorbar(value.value, place, xerr=spread, color="#1b1f24", elinewidth=1.2, capsize=2.5)
        said = f"  {value.text} flagged" + (f", {accuracy.text} right" if accuracy else "")
        ax.text(high, place, said, va="center", fontsize=8.5, color=MUTED)
    most = max((value.high if value.high is not None else value.value for _, value, _ in found if value is not None), default=alpha)
    ax.axvline(alpha, color=MUTED, linewidth=1, linestyle="--")
    ax.set_yticks(range(len(found)), [name if name != "none" else "unchanged" for name, _, _ in found])
    ax.set_xticks(MaxNLocator(5).tick_values(0, most))  # none beyond what there is, though the labels need room there
    ax.set(xlim=(0, max(1.9 * most, 2 * alpha)), ylim=(len(found) - 0.4, -0.6), xlabel="clean images flagged")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=UNIT))
    ax.grid(visible=False, axis="y")
