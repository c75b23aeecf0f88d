"""The pictures of a run: each function takes plain values and returns a matplotlib Figure that no global state touches."""

import io
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from pipeline.errors import WhorlError
from pipeline.evaluation.metrics import percent as level
from pipeline.evaluation.plotting import ATTACKED, CLEAN, GRID, INK, MARKERS, MUTED, PAPER, SERIES, UNIT, canvas, percent, style
from pipeline.evaluation.strokes import dash

_POINTS = 400
"""A curve is drawn through at most about this many points, however many images stand behind it."""
Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


def to_svg(figure: Figure) -> str:
    """The figure as an SVG document whose bytes depend on the figure alone (fixed hash salt, no date)."""
    buffer = io.StringIO()
    with style():
        FigureCanvasSVG(figure).print_figure(buffer, format="svg", dpi=72, facecolor=PAPER, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def to_png(figure: Figure, dots_per_inch: int = 160) -> bytes:
    """The figure as a PNG whose bytes depend on the figure alone (no software tag)."""
    buffer = io.BytesIO()
    with style():
        FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=dots_per_inch, facecolor=PAPER, metadata={"Software": None})
    return buffer.getvalue()


def attack_names(scores: pa.Table) -> list[str]:
    """The attacks of a score table in the order of their first row, ``clean`` excepted."""
    return [name for name in pc.unique(scores["attack"]).to_pylist() if name != "clean"]


def _by_seed(scores: pa.Table, detector: str, attack: str, column: str = "score") -> list[Floats]:
    """A detector's values on clean images, or on an attack's successes, one array a seed (none where there is no row)."""
    chosen = pc.and_(pc.equal(scores["detector"], detector), pc.equal(scores["attack"], attack))
    if attack != "clean":
        chosen = pc.and_(chosen, scores["success"])
    rows = scores.filter(chosen)
    seeds, values = rows["seed"].to_numpy(), rows[column].to_numpy().astype(np.float64)
    return [values[seeds == seed] for seed in np.unique(seeds)]


def roc_heights(clean: Floats, attacked: Floats) -> Floats:
    """Detection after each further false alarm.

    Args:
        clean: (n,) scores of clean images, higher is more suspicious.
        attacked: (m,) scores of attacked images.

    Returns:
        (n,) non-decreasing shares: entry j is the share of attacked images detected while j of the n clean ones are
        flagged; tied scores count half, so the mean of the heights is the AUROC (Mann-Whitney U / (n m)).
    """
    ordered, thresholds = np.sort(attacked), np.sort(clean)[::-1]
    missed = np.searchsorted(ordered, thresholds, "left") + np.searchsorted(ordered, thresholds, "right")
    return np.asarray(1 - missed / (2 * max(len(ordered), 1)), np.float64)


def _mean_heights(clean: list[Floats], attacked: list[Floats]) -> Floats:
    """The seeds' curves averaged at equal false alarms; empty where there is nothing on either side."""
    curves = [roc_heights(c, a) for c, a in zip(clean, attacked, strict=True) if len(c) and len(a)] if len(clean) == len(attacked) else []
    if not curves:
        return np.empty(0)
    n = max(map(len, curves))
    return np.asarray(np.mean([curve[np.arange(n) * len(curve) // n] for curve in curves], axis=0), np.float64)


def _say(ax: Axes, text: str) -> None:
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, color=MUTED, wrap=True)


def roc_figure(scores: pa.Table, detector: str, alphas: Sequence[float]) -> Figure:
    """Detection against false alarms on a logarithmic axis, one curve an attack, the mean over seeds.

    Args:
        scores: a row per (detector, attack, image, seed); columns detector, attack, success, score and seed are read.
        detector: whose scores.
        alphas: false-alarm rates in (0, 1) to mark.
    """
    attacks, clean = attack_names(scores), _by_seed(scores, detector, "clean")
    with style():
        figure = canvas(4.1 + 0.19 * ((len(attacks) + 2) // 2))
        ax = figure.subplots()
        if not clean or not attacks:
            _say(ax, "No attacked image to compare with clean ones.")
            return figure
        left = min(0.5 / max(map(len, clean)), *(alpha / 2 for alpha in alphas))
        for i, attack in enumerate(attacks):
            heights = _mean_heights(clean, _by_seed(scores, detector, attack))
            label = f"{attack}  {heights.mean():.3f}" if len(heights) else f"{attack}  no success"
            x, y = _steps(heights, left)
            ax.plot(x, y, drawstyle="steps-post", label=label, **_stroke(i))
        chance = np.geomspace(left, 1, 60)
        ax.plot(chance, chance, color=MUTED, linewidth=1, linestyle=":", label="chance  0.500")
        for alpha in alphas:
            ax.axvline(alpha, color=MUTED, linewidth=0.8)
            ax.text(alpha, 1.01, percent(alpha), transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=8.5, color=MUTED)
        _roc_axes(ax, left)
        figure.legend(loc="outside lower center", ncols=2, title="attack, area under the curve", title_fontsize=8.5)
    return figure


def _stroke(i: int) -> dict[str, Any]:
    return {"color": SERIES[i % len(SERIES)], "linestyle": dash(i)}


def _steps(heights: Floats, left: float) -> tuple[Floats, Floats]:
    """The curve's corners, thinned to even spacing on the logarithmic axis; the first false alarm is kept exactly."""
    n = len(heights)
    if n == 0:
        return np.empty(0), np.empty(0)
    kept = np.unique(np.append(0, np.geomspace(1, n, _POINTS).astype(np.intp) - 1)) if n > _POINTS else np.arange(n)
    return np.append(np.maximum(kept / n, left), 1.0), np.append(heights[kept], 1.0)


def _roc_axes(ax: Axes, left: float) -> None:
    ax.set_xscale("log")
    ax.set(xlim=(left, 1), ylim=(0, 1.02), xlabel="false alarms among clean images (log scale)", ylabel="attacked images detected")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}{UNIT}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=UNIT))


def score_histograms(scores: pa.Table, detector: str, alpha: float) -> Figure:
    """How a detector's scores fall on clean images and on each attack's successes, one panel an attack, all seeds together.

    The axis covers the clean scores and as much of the attacked ones as leaves the clean ones readable; what lies
    beyond it stands in the outermost bin and is said in the panel.

    Args:
        scores: as for ``roc_figure``; p_value is read too.
        detector: whose scores.
        alpha: an image is flagged when its p-value is at most this.
    """
    attacks, clean = attack_names(scores), _joined(_by_seed(scores, detector, "clean"))
    with style():
        figure = canvas(0.9 + 1.3 * max(len(attacks), 1))
        panels = figure.subplots(max(len(attacks), 1), 1, sharex=True, squeeze=False)[:, 0]
        if not len(clean) or not attacks:
            _say(panels[0], "No attacked image to compare with clean ones.")
            return figure
        hits = [_joined(_by_seed(scores, detector, attack)) for attack in attacks]
        edges = np.linspace(*_score_range(clean, _joined(hits)), 51)
        for ax, attack, attacked in zip(panels, attacks, hits, strict=True):
            flagged = _joined(_by_seed(scores, detector, attack, "p_value")) <= alpha
            said = f"{percent(float(flagged.mean()))} flagged at {percent(alpha)}" if len(attacked) else "no attacked image succeeded"
            _histogram(ax, clean, attacked, edges)
            ax.set_title(attack)
            ax.set_title(said, loc="right", fontsize=8.5, fontweight="normal", color=MUTED)
        panels[-1].set_xlabel("score (higher is more suspicious)")
        figure.legend(handles=[_swatch(*side) for side in _SIDES], loc="outside lower center", ncols=2)
    return figure


def _joined(parts: list[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.empty(0)


def _score_range(clean: Floats, attacked: Floats) -> tuple[float, float]:
    """Both sides' central 99 %, cut at four clean spans beyond the clean ones."""
    low, high = np.quantile(clean, [0.005, 0.995])
    span = max(float(high - low), 1e-9)
    if len(attacked):
        least, most = np.quantile(attacked, [0.005, 0.995])
        low, high = min(low, max(least, low - 4 * span)), max(high, min(most, high + 4 * span))
    return float(low) - 0.02 * span, float(high) + 0.02 * span


_SIDES = (("clean", CLEAN, ""), ("attacked, successful", ATTACKED, "////"))


def _swatch(label: str, colour: str, hatch: str) -> Patch:
    return Patch(label=label, facecolor=(colour, 0.28), edgecolor=colour, hatch=hatch, linewidth=1.4)


def _histogram(ax: Axes, clean: Floats, attacked: Floats, edges: Floats) -> None:
    for values, (_, colour, hatch) in zip((clean, attacked), _SIDES, strict=True):
        if len(values):
            shares = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values)
            ax.stairs(shares, edges, fill=True, facecolor=colour, alpha=0.28)
            ax.stairs(shares, edges, edgecolor=colour, linewidth=1.4, hatch=hatch)
    for side, beyond, at in (("left", attacked < edges[0], 0.035), ("right", attacked > edges[-1], 0.965)):
        if len(attacked) and beyond.mean() >= 0.005:
            text = f"{percent(float(beyond.mean()), 0)} further {side}"
            ax.text(at, 0.93, text, transform=ax.transAxes, ha="left" if side == "left" else "right", va="top", fontsize=8, color=MUTED)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=UNIT))
    ax.yaxis.set_major_locator(MaxNLocator(3))
    ax.set_xlim(edges[0], edges[-1])


def magnified_difference(clean: Pixels, attacked: Pixels) -> tuple[Pixels, float]:
    """The change between two images, around mid-grey and magnified until its largest part just fills the range.

    Args:
        clean: (C, H, W) uint8.
        attacked: of the same shape.

    Returns:
        (C, H, W) uint8, where 128 is no change, and the factor (1 for equal images).
    """
    change = attacked.astype(np.float64) - clean
    largest = float(np.abs(change).max(initial=0))
    factor = 127 / largest if largest else 1.0
    return np.round(128 + change * factor).astype(np.uint8), factor


def gallery_figure(clean: Pixels, attacked: Pixels, titles: Sequence[str], verdicts: Sequence[str]) -> Figure:
    """One row an image: clean, attacked, the difference magnified (by how much is said), and the verdict.

    Args:
        clean: (N, C, H, W) uint8, C 1 or 3.
        attacked: of the same shape.
        titles: N lines for the attacked images (such as attack and classes).
        verdicts: N lines for what the guard said.

    Raises:
        WhorlError: the four do not agree on N, or the images on their shape.
    """
    if clean.shape != attacked.shape or not len(clean) == len(titles) == len(verdicts):
        raise WhorlError(
            f"gallery: {clean.shape} clean and {attacked.shape} attacked images with {len(titles)} titles and {len(verdicts)} verdicts "
            "were given, where as many of each and images of one shape were expected."
        )
    with style():
        rows = max(len(clean), 1)
        figure = canvas(0.1 + 1.95 * rows)
        axes = figure.subplots(rows, 3, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        if not len(clean):
            _say(axes[0, 1], "No image to show.")
        for row, before, after, title, verdict in zip(axes, clean, attacked, titles, verdicts, strict=False):
            difference, factor = magnified_difference(before, after)
            for ax, image, said in zip(row, (before, after, difference), ("clean", "attacked", f"difference ×{factor:.3g}"), strict=True):
                ax.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                ax.text(0.5, -0.03, said, transform=ax.transAxes, ha="center", va="top", fontsize=8.5, color=MUTED)
            row[0].set_title(f"{title}\n{verdict}", fontsize=9, fontweight="normal")
    return figure


def training_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and accuracy by epoch, on the images trained on and on ``tune``; the epoch whose weights are kept is marked.

    Args:
        history: a mapping an epoch with epoch, train_loss, tune_loss, train_accuracy and tune_accuracy (in [0, 1]).
    """
    with style():
        figure = canvas(4.2)
        panels = figure.subplots(2, 1, sharex=True)
        if not history:
            for ax in panels:
                _say(ax, "No epoch was recorded.")
            return figure
        epochs = [row["epoch"] for row in history]
        best = min(history, key=lambda row: row["tune_loss"])["epoch"]
        for ax, quantity in zip(panels, ("loss", "accuracy"), strict=True):
            for i, (split, name) in enumerate((("train", "training images"), ("tune", "held-out images (tune)"))):
                values = [row[f"{split}_{quantity}"] for row in history]
                ax.plot(epochs, values, label=name, marker=MARKERS[i], markersize=3.5, **_stroke(i))
            ax.axvline(best, color=MUTED, linewidth=0.9, linestyle=":", label=f"weights kept: epoch {best}")
            ax.set_ylabel(quantity)
        panels[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=UNIT))
        panels[1].xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[1].set_xlabel("epoch")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def fingerprint_heatmap(kept: Mapping[str, Mapping[str, int]]) -> Figure:
    """How many fingerprints each class keeps in each layer; figures stand in the cells where there is room for them.

    Args:
        kept: class (or ``pooled``) to layer to count; a layer that a class does not name counts 0.
    """
    layers = list(dict.fromkeys(layer for counts in kept.values() for layer in counts))
    counts = np.array([[row.get(layer, 0) for layer in layers] for row in kept.values()], np.int64).reshape(len(kept), len(layers))
    with style():
        roomy = len(kept) <= 40 and len(layers) <= 8
        figure = canvas(min(1.4 + 0.27 * max(len(kept), 3), 11))
        ax = figure.subplots()
        if not counts.size:
            _say(ax, "No fingerprint was kept.")
            return figure
        top = max(int(counts.max()), 1)
        mesh = ax.pcolormesh(counts, cmap="cividis", vmin=0, vmax=top, edgecolor="face", linewidth=0.3)
        mesh.set_rasterized(counts.size > 2000)
        if roomy:
            for row, column in product(range(len(kept)), range(len(layers))):
                value = int(counts[row, column])
                ink = "#ffffff" if value < 0.55 * top else "#000000"
                ax.text(column + 0.5, row + 0.5, f"{value:,}", ha="center", va="center", fontsize=8.5, color=ink)
        every = 1 if roomy else -(-len(kept) // 40)
        ax.set_yticks(np.arange(0, len(kept), every) + 0.5, [_shorten(name) for name in list(kept)[::every]])
        slant: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if sum(map(len, layers)) > 40 else {}
        ax.set_xticks(np.arange(len(layers)) + 0.5, [_shorten(name) for name in layers], **slant)
        ax.invert_yaxis()
        ax.grid(visible=False)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set(xlabel="layer", ylabel="predicted class")
    return figure


def _shorten(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"


def detection_overview(
    metrics: Mapping[str, float | None], detectors: Sequence[str], attacks: Sequence[str], alpha: float, width: float = 7.2
) -> Figure:
    """One picture of a run: detection at one false-alarm rate for each attack and detector, with intervals.

    The first row is the share of clean images that were flagged, beside the rate aimed at.

    Args:
        metrics: flat values as ``pipeline.evaluation.metrics`` names them, in [0, 1]; None where undefined.
        detectors: in the order of drawing.
        attacks: a row each, from the top.
        alpha: the false-alarm rate.
        width: of the figure, in inches.
    """
    rows = [("clean", f"fpr_at_{level(alpha)}"), *((attack, f"tpr_at_{level(alpha)}") for attack in attacks)]
    names = ["no attack\n(false alarms)", *attacks]
    with style():
        figure = canvas(1.5 + len(rows) * max(0.42, 0.2 * len(detectors)), width=width)
        ax = figure.subplots()
        offsets = (np.arange(len(detectors)) - (len(detectors) - 1) / 2) * (0.7 / max(len(detectors), 1))
        for i, detector in enumerate(detectors):
            found = [(row, _estimate(metrics, f"{detector}.{attack}.{key}")) for row, (attack, key) in enumerate(rows)]
            _whiskers(ax, [(row + offsets[i], estimate) for row, estimate in found if estimate is not None], i, detector)
        ax.axvline(alpha, color=MUTED, linewidth=0.9, linestyle=":", label=f"aim: at most {percent(alpha)}")
        ax.axhline(0.5, color=MUTED, linewidth=0.8)
        for row in range(1, len(rows) - 1):
            ax.axhline(row + 0.5, color=GRID, linewidth=0.7)
        ax.set_yticks(range(len(rows)), names, color=INK, fontsize=9.5)
        ax.set(xlim=(-0.01, 1.01), ylim=(len(rows) - 0.5, -0.5), xlabel=f"images flagged at a false-alarm rate of {percent(alpha)}")
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=UNIT))
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False, axis="y")
        figure.legend(loc="outside lower center", ncols=4 if width > 6 else 2)
    return figure


def _estimate(metrics: Mapping[str, float | None], key: str) -> tuple[float, float, float] | None:
    value, low, high = (metrics.get(key + part) for part in ("", "_low", "_high"))
    if value is None:
        return None
    return value, value if low is None else min(low, value), value if high is None else max(high, value)


def _whiskers(ax: Axes, found: list[tuple[float, tuple[float, float, float]]], i: int, label: str) -> None:
    y = [row for row, _ in found]
    values = np.array([estimate for _, estimate in found], np.float64).reshape(-1, 3)
    spread = np.stack([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]])
    look: dict[str, Any] = {"color": SERIES[i % len(SERIES)], "marker": MARKERS[i % len(MARKERS)], "markersize": 5.5, "linestyle": "none"}
    ax.errorbar(values[:, 0], y, xerr=spread, elinewidth=1.6, capsize=2.5, label=label, **look)
