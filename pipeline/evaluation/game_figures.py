"""The frontier of the game as a picture: what randomness and secrecy leave of detection, against what the attacker spends."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pipeline.evaluation.game_headline import Size, size_of
from pipeline.evaluation.plotting import MARKERS, MUTED, SERIES, SIZES_TOLD, UNIT, canvas, percent, style
from pipeline.evaluation.strokes import dash

Row = Mapping[str, Any]
Line = tuple[str, list[tuple[int, Row]]]
"""A label, and cells by the number of looks before sending; 0 looks is the attacker who knows nothing."""


def frontier(rows: Iterable[Row], attacks: Sequence[str], own: Size, alpha: float, width: float = 7.2) -> Figure:
    """Share detected of what is sent against looks at a local copy, one panel an attack and one line a defender.

    Args:
        rows: the cells of the game.
        attacks: that know nothing of the guard.
        own: the size of the guard's own detector.
        alpha: the promised false-alarm rate, at which an attacked image fares as a clean one does.
        width: of the figure, in inches.
    """
    cells = list(rows)
    with style():
        columns = 2 if width > 6 and len(attacks) > 1 else 1
        deep = -(-max(len(attacks), 1) // columns)
        figure = canvas(1.2 + 2.1 * deep, width=width)
        panels = list(figure.subplots(deep, columns, sharey=True, squeeze=False).flat)
        for ax in panels[len(attacks) :]:
            ax.set_axis_off()
        drawn = {attack: lines(cells, attack, own) for attack in attacks}
        ticks = sorted({looks for found in drawn.values() for _, points in found for looks, _ in points})
        for ax, (attack, found) in zip(panels, drawn.items(), strict=False):
            _panel(ax, attack, found, alpha, ticks)
        for place, ax in enumerate(panels[: len(attacks)]):
            if place + columns >= len(attacks):
                ax.set_xlabel("looks at a local copy before sending")
            if place % columns == 0:
                ax.set_ylabel("detected, of what is sent")
        handles, labels = panels[0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=2, title=SIZES_TOLD)
    return figure


def lines(rows: Sequence[Row], attack: str, own: Size) -> list[Line]:
    """The lines of one panel, those that detect least first; of smaller banks only the smallest has one, of disjoint parts none, so
    that it stays readable.
    """
    mine = [row for row in rows if row["attack"] == attack]
    found: list[Line] = [("one fixed draw, known to the attacker", _line(mine, "static", own, "draws"))]
    sizes = {size for size in map(size_of, (row for row in mine if row["defender"] == "fresh")) if not size.disjoint}
    banks = {own.bank, min((size.bank for size in sizes), default=own.bank)}
    for size in sorted((size for size in sizes if size.bank in banks), key=lambda size: (size != own, size)):
        m, t, bank, told = *size[:3], " (the guard's)" if size == own else ""
        # Short, for the legend must fit: a smaller bank is tried with the guard's own m and T alone.
        label = f"bank known, m = {m}, T = {t}{told}" if bank == own.bank else f"bank of {bank} known"
        found.append((f"fresh draws, {label}", _line(mine, "fresh", size, "bank")))
    found.append((f"fresh draws, bank secret, m = {own.draw}, T = {own.committees}", _line(mine, "fresh", own, "algorithm")))
    if any(row["attacker"] == "filter_banks" for row in rows):
        found.append(("fresh draws, bank secret, looks at several others", _line(mine, "fresh", own, "algorithm", "filter_banks")))
    return found


def _line(rows: Sequence[Row], defender: str, size: Size, knowledge: str, attacker: str = "filter") -> list[tuple[int, Row]]:
    """Cells in which at least one image is sent: a share of fewer would be that of whichever image happens to be left."""
    mine = [row for row in rows if row["defender"] == defender and size_of(row) == size and row["sent"] >= 1]
    met = {row["budget"]: row for row in mine if row["attacker"] == "plain" or (row["attacker"], row["knowledge"]) == (attacker, knowledge)}
    return sorted(met.items())


def _panel(ax: Axes, attack: str, drawn: Sequence[Line], alpha: float, ticks: Sequence[int]) -> None:
    for number, (label, points) in enumerate(drawn):
        x = np.array([_place(looks) for looks, _ in points])
        y = [row["detected"] for _, row in points]
        if not number and len(x) == 2 and points[1][0] == 1 and ticks:  # what one look at the very draw let through no further one stops
            x, y = np.append(x, _place(ticks[-1])), [*y, y[1]]
        look: dict[str, Any] = {"color": SERIES[number % len(SERIES)], "linestyle": dash(number)}
        ax.plot(x, y, marker=MARKERS[number % len(MARKERS)], markersize=4, label=label, clip_on=False, **look)
        low, high = ([row[f"detected_{end}"] for _, row in points] for end in ("low", "high"))
        if len(x) == len(low) and None not in (*low, *high):
            ax.fill_between(x, low, high, color=look["color"], alpha=0.10, linewidth=0)
    ax.axhline(alpha, color=MUTED, linewidth=0.9, linestyle=":", label=f"no better than for clean images: {percent(alpha)}")
    ax.set_title(attack)
    guards = drawn[1][1] if len(drawn) > 1 else []  # the guard's own size is the first of the fresh draws
    if guards and guards[-1][0] < ticks[-1]:
        most = next(looks for looks in ticks if looks > guards[-1][0])
        said = f"less than one image passes\n{most} look{'s' * (most > 1)} at the guard"
        ax.text(0.97, 0.5, said, transform=ax.transAxes, ha="right", va="center", fontsize=8.5, color=MUTED)
    ax.set_xticks([_place(looks) for looks in ticks], ["none", *map(str, ticks[1:])] if ticks and not ticks[0] else map(str, ticks))
    ax.set_ylim(0, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=UNIT))


def _place(looks: int) -> float:
    """Logarithmic, with a place for no look at all."""
    return float(np.log2(looks)) + 1.3 if looks else 0.0
