"""A picture of the rounds of hardening."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pipeline.evaluation.hardening_study import HardeningStudy
from pipeline.evaluation.plotting import SERIES, UNIT, canvas, style
from pipeline.evaluation.strokes import dash, marker


def hardening_figure(study: HardeningStudy) -> Figure:
    """Round by round: what an attacker who looks first gets accepted, and what is detected of attacks sent as they are."""
    with style():
        figure = canvas(5.6, width=5.6)
        accepted, detected = figure.subplots(2, 1, sharex=True)
        accepted.set_title(f"accepted after {study.looks} looks, at even false alarms")
        detected.set_title("detected when sent as they are, at even false alarms")
        for place, attack in enumerate(study.attacks):
            _line(accepted, study, attack, "accepted_evenly", place)
            _line(detected, study, attack, "detected_evenly", place)
        accepted.set_ylim(bottom=0)
        for ax in (accepted, detected):
            ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=UNIT))
        detected.set_xlabel("round (0: the detector as the chain fits it)")
        detected.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(*accepted.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _line(ax: Axes, study: HardeningStudy, name: str, measure: str, place: int) -> None:
    """One source over the rounds, moved a little aside so that intervals do not cover one another."""
    found = [(number, value) for number in study.rounds if (value := study.of(number, name, measure)) is not None]
    shift = 0.03 * (place - (len(study.attacks) - 1) / 2)
    values = np.array([value.value for _, value in found])
    bounds = [(value.low, value.high) if value.low is not None and value.high is not None else (value.value,) * 2 for _, value in found]
    low, high = np.array(bounds).reshape(-1, 2).T
    ax.errorbar(
        np.array([number for number, _ in found]) + shift,
        values,
        yerr=np.maximum([values - low, high - values], 0.0),
        color=SERIES[place % len(SERIES)],
        marker=marker(place),
        linestyle=dash(place),
        capsize=2.5,
        elinewidth=1.1,
        label=name,
    )
