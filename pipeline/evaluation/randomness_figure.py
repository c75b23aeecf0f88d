"""What randomness is worth as a picture: how far a defender's draws disagree, beside what it detects."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from pipeline.evaluation.game_headline import Size
from pipeline.evaluation.plotting import SERIES, SIZES_TOLD, UNIT, canvas, style
from pipeline.evaluation.randomness import Randomness
from pipeline.evaluation.strokes import marker


def randomness_figure(found: Sequence[Randomness], own: Size, looks: int) -> Figure:
    """Disagreement of two draws against detection, an attack a point and a size of fresh draws a colour: as sent, and after looks.

    Args:
        found: of every attack and size.
        own: the size of the guard's own detector.
        looks: at a copy of the guard, before an image is sent.
    """
    with style():
        figure = canvas(4.6, width=7.2)
        plain, looked = figure.subplots(1, 2)
        plain.set_title("no look")
        looked.set_title(f"{looks} looks at a copy first")
        plain.set_ylabel("detected, of what is sent")
        looked.set_ylabel("accepted, of the images tried")
        for place, size in enumerate(sorted({one.size for one in found}, key=lambda size: (size != own, size.disjoint, size))):
            mine = [one for one in found if one.size == size]
            m, t, bank, disjoint = size
            kinds = [disjoint.replace("_", " "), "" if bank == own.bank else f"bank of {bank}"]
            label = ", ".join([f"m = {m}, T = {t}", *filter(None, kinds)]) + (" (the guard's)" if size == own else "")
            _points(plain, [(one.disagreement, one.detected) for one in mine], place, label)
            _points(looked, [(one.disagreement, one.accepted) for one in mine], place, label)
        for ax in (plain, looked):
            ax.set_xlabel("pairs of draws that disagree")
            ax.set_xlim(left=0)
            ax.set_ylim(bottom=0)
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}{UNIT}"))
        figure.legend(*plain.get_legend_handles_labels(), loc="outside lower center", ncols=2, title=f"a point is an attack; {SIZES_TOLD}")
    return figure


def _points(ax: Axes, pairs: Sequence[tuple[float | None, float | None]], place: int, label: str) -> None:
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    ax.plot(
        [x for x, _ in known],
        [y for _, y in known],
        color=SERIES[place % len(SERIES)],
        marker=marker(place),
        linestyle="none",
        markersize=5.5,
        alpha=0.85,
        zorder=3 - place / 100,  # the guard's own on top
        label=label,
        clip_on=False,
    )
