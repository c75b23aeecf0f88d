"""Figures: the curves are what they claim (against scikit-learn), the bytes repeat, and odd input is drawn, not raised."""

import io
import re
from collections.abc import Callable

import fake_report_run as fake
import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve

from pipeline.errors import WhorlError
from pipeline.evaluation import figures
from pipeline.evaluation.metrics import percent as level
from pipeline.evaluation.plotting import UNIT, percent

TABLE = fake.score_table(images=120)
METRICS = fake.metric_values(TABLE)
SCORES = hnp.arrays(np.float64, st.integers(1, 40), elements=st.integers(-5, 5).map(float))


def _pair(count: int, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    pairs = [fake.image_pair(rng, channels, 16) for _ in range(count)]
    return np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs])


def _gallery(count: int = 2, channels: int = 3) -> Figure:
    clean, attacked = _pair(count, channels)
    return figures.gallery_figure(clean, attacked, [f"title {i}" for i in range(count)], [f"verdict {i}" for i in range(count)])


FIGURES: dict[str, Callable[[], Figure]] = {
    "roc": lambda: figures.roc_figure(TABLE, "vote", [0.01, 0.05]),
    "histograms": lambda: figures.score_histograms(TABLE, "vote", 0.05),
    "gallery": _gallery,
    "grey gallery": lambda: _gallery(channels=1),
    "training": lambda: figures.training_curves(fake.training_history()),
    "heatmap": lambda: figures.fingerprint_heatmap(fake.kept_counts()),
    "overview": lambda: figures.detection_overview(METRICS, list(fake.DETECTORS), list(fake.SHIFTS), 0.05),
}


@pytest.mark.parametrize("name", FIGURES)
def test_bytes_repeat_whatever_the_users_matplotlib_settings(name: str) -> None:
    import matplotlib

    first = FIGURES[name]()
    expected = figures.to_svg(first), figures.to_png(first)
    with matplotlib.rc_context({"font.size": 23, "axes.grid": False, "svg.hashsalt": "other", "savefig.facecolor": "red"}):
        second = FIGURES[name]()
        assert (figures.to_svg(second), figures.to_png(second)) == expected
    assert "<dc:date>" not in expected[0]


@pytest.mark.parametrize("name", FIGURES)
def test_png_is_a_picture_of_the_figures_size(name: str) -> None:
    figure = FIGURES[name]()
    picture = Image.open(io.BytesIO(figures.to_png(figure, 100)))
    assert picture.size == tuple(round(side - 0.01) for side in figure.get_size_inches() * 100)
    assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    assert not {"Software", "Creation Time"} & set(picture.info)


@given(clean=SCORES, attacked=SCORES)
def test_mean_roc_height_is_the_auroc(clean: np.ndarray, attacked: np.ndarray) -> None:
    heights = figures.roc_heights(clean, attacked)
    expected = roc_auc_score([0] * len(clean) + [1] * len(attacked), [*clean, *attacked])
    assert heights.mean() == pytest.approx(expected, abs=1e-12)
    assert (np.diff(heights) >= 0).all() and heights.min() >= 0 and heights.max() <= 1


def test_roc_heights_without_ties_are_scikit_learns_curve() -> None:
    rng = np.random.default_rng(1)
    clean, attacked = rng.normal(size=50), rng.normal(1, 1, 70)
    rates, detected, _ = roc_curve([0] * 50 + [1] * 70, [*clean, *attacked], drop_intermediate=False)
    for flagged, height in enumerate(figures.roc_heights(clean, attacked)):
        assert height == pytest.approx(detected[np.isclose(rates, flagged / 50)].max())


def test_roc_curve_counts_only_successes_and_averages_seeds() -> None:
    axes = figures.roc_figure(TABLE, "vote", [0.01, 0.05]).axes[0]
    rows = {name: np.asarray(TABLE[name]) for name in TABLE.column_names}
    mine = rows["detector"] == "vote"
    aucs = []
    for seed in (0, 1, 2):
        clean = rows["score"][mine & (rows["seed"] == seed) & (rows["attack"] == "clean")]
        hits = rows["score"][mine & (rows["seed"] == seed) & (rows["attack"] == "fgsm") & rows["success"]]
        aucs.append(roc_auc_score([0] * len(clean) + [1] * len(hits), [*clean, *hits]))
    labels = [line.get_label() for line in axes.get_lines()]
    assert labels[0] == f"fgsm  {np.mean(aucs):.3f}"
    assert labels[:5] == [*labels[:4], "chance  0.500"] and [label.split()[0] for label in labels[:4]] == list(fake.SHIFTS)
    curve = axes.get_lines()[0]
    x, y = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
    x[0] = 0
    assert (np.diff(x) * y[:-1]).sum() == pytest.approx(np.mean(aucs), abs=1e-9)


def test_roc_curve_of_many_images_is_thinned_but_keeps_its_ends() -> None:
    table = fake.score_table(images=3000, seeds=(0,), attacks={"fgsm": 2.0})
    curve = figures.roc_figure(table, "vote", [0.01]).axes[0].get_lines()[0]
    x, y = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
    assert 100 < len(x) <= 402 and x[1] == pytest.approx(1 / 3000) and (x[-1], y[-1]) == (1, 1) and (np.diff(y) >= 0).all()


def test_histogram_panels_hold_all_images_and_say_what_was_flagged() -> None:
    figure = figures.score_histograms(TABLE, "likelihood_ratio", 0.05)
    assert [axes.get_title("left") for axes in figure.axes] == list(fake.SHIFTS)
    for axes, attack in zip(figure.axes, fake.SHIFTS, strict=True):
        for patch in axes.patches:
            assert np.sum(patch.get_data().values) == pytest.approx(1)
        hits = TABLE.filter(
            pc.and_(pc.and_(pc.equal(TABLE["detector"], "likelihood_ratio"), pc.equal(TABLE["attack"], attack)), TABLE["success"])
        )
        share = float((np.asarray(hits["p_value"]) <= 0.05).mean())
        assert axes.get_title("right") == f"{percent(share)} flagged at 5{UNIT}"


def test_scores_far_beyond_the_clean_ones_are_said_and_do_not_squeeze_them() -> None:
    table = fake.score_table(images=100, seeds=(0,), attacks={"huge": 1e5})
    axes = figures.score_histograms(table, "likelihood_ratio", 0.05).axes[0]
    low, high = axes.get_xlim()
    assert high - low < 2000
    assert f"100{UNIT} further right" in [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("mask", ["no success", "no clean", "nothing", "other detector"])
def test_nothing_to_draw_is_said(mask: str) -> None:
    clean = pc.equal(TABLE["attack"], "clean")
    chosen = {
        "no success": pc.or_(clean, pc.invert(TABLE["success"])),
        "no clean": pc.invert(clean),
        "nothing": pc.equal(TABLE["seed"], 99),
    }
    table = TABLE.filter(chosen[mask]) if mask in chosen else TABLE
    detector = "unheard_of" if mask == "other detector" else "vote"
    roc, histograms = figures.roc_figure(table, detector, [0.05]), figures.score_histograms(table, detector, 0.05)
    texts = figures.to_svg(roc) + figures.to_svg(histograms)
    expected = ("pgd  no success", "no attacked image succeeded") if mask == "no success" else ("No attacked image to compare",)
    assert all(text in texts for text in expected)


@pytest.mark.parametrize(
    ("change", "factor"), [(0, 1.0), (1, 127.0), (-8, 15.875), (127, 1.0), (-254, 0.5)], ids=["none", "one", "minus eight", "half", "all"]
)
def test_magnified_difference_fills_the_range_around_mid_grey(change: int, factor: float) -> None:
    clean = np.full((1, 2, 2), 255 if change < 0 else 0, np.uint8)
    attacked = clean.copy()
    attacked[0, 0, 0] = int(clean[0, 0, 0]) + change
    shown, said = figures.magnified_difference(clean, attacked)
    assert said == pytest.approx(factor)
    assert shown.dtype == np.uint8 and (shown.ravel()[1:] == 128).all()
    assert shown[0, 0, 0] == 128 + 127 * np.sign(change)


@given(hnp.arrays(np.uint8, (2, 3, 4, 4)))
def test_magnified_difference_keeps_every_direction(pair: np.ndarray) -> None:
    shown, factor = figures.magnified_difference(pair[0], pair[1])
    change = pair[1].astype(int) - pair[0]
    assert np.abs((shown.astype(float) - 128) - change * factor).max() <= 0.5 + 1e-9  # a half, as floats have it
    assert factor > 0


@pytest.mark.parametrize("titles", [1, 3])
def test_gallery_refuses_lists_that_do_not_match(titles: int) -> None:
    clean, attacked = _pair(2)
    with pytest.raises(WhorlError, match=rf"gallery: .* {titles} titles and 2 verdicts"):
        figures.gallery_figure(clean, attacked, ["t"] * titles, ["v"] * 2)


def test_gallery_shows_the_images_as_they_are() -> None:
    clean, attacked = _pair(2)
    axes = figures.gallery_figure(clean, attacked, ["a", "b"], ["flagged", "not flagged"]).axes
    assert len(axes) == 6
    np.testing.assert_array_equal(axes[3].get_images()[0].get_array(), clean[1].transpose(1, 2, 0))
    np.testing.assert_array_equal(axes[4].get_images()[0].get_array(), attacked[1].transpose(1, 2, 0))
    assert axes[3].get_title("left") == "b\nnot flagged"


def test_training_curves_mark_the_epoch_of_least_loss_on_tune() -> None:
    history = fake.training_history()
    best = min(range(len(history)), key=lambda i: history[i]["tune_loss"])
    figure = figures.training_curves(history)
    assert f"weights kept: epoch {best}" in figures.to_svg(figure)
    np.testing.assert_allclose(figure.axes[1].get_lines()[1].get_ydata(), [row["tune_accuracy"] for row in history])


def test_heatmap_holds_every_count_and_reads_a_missing_layer_as_none_kept() -> None:
    axes = figures.fingerprint_heatmap({"cat": {"layer1": 3, "layer2": 1200}, "dog": {"layer2": 7}}).axes[0]
    assert [text.get_text() for text in axes.texts] == ["3", "1,200", "0", "7"]
    np.testing.assert_array_equal(axes.collections[0].get_array(), [[3, 1200], [0, 7]])


def test_heatmap_of_a_thousand_classes_stays_a_page() -> None:
    figure = figures.fingerprint_heatmap({f"class {i}": {"layer1": i, "layer2": 3} for i in range(1000)})
    assert figure.get_size_inches()[1] <= 11
    assert len(figure.axes[0].get_yticks()) <= 40
    assert len(figures.to_svg(figure)) < 500_000


@pytest.mark.parametrize(
    "figure",
    [
        lambda: figures.fingerprint_heatmap({}),
        lambda: figures.fingerprint_heatmap({"cat": {}}),
        lambda: figures.training_curves([]),
        lambda: figures.gallery_figure(np.empty((0, 1, 8, 8), np.uint8), np.empty((0, 1, 8, 8), np.uint8), [], []),
    ],
    ids=["no class", "no layer", "no epoch", "no image"],
)
def test_empty_input_is_said(figure: Callable[[], Figure]) -> None:
    assert re.search(r"No (fingerprint|epoch|image)\b", figures.to_svg(figure()))


def test_overview_draws_value_and_interval_of_each_cell_and_skips_the_undefined() -> None:
    at = level(0.005)
    metrics: dict[str, float | None] = {
        f"vote.clean.fpr_at_{at}{end}": value for end, value in (("", 0.04), ("_low", 0.02), ("_high", 0.07))
    }
    metrics |= {f"vote.fgsm.tpr_at_{at}{end}": value for end, value in (("", 0.6), ("_low", 0.5), ("_high", 0.75))}
    metrics[f"vote.pgd.tpr_at_{at}"] = None
    axes = figures.detection_overview(metrics, ["vote"], ["fgsm", "pgd"], 0.005).axes[0]
    bars = axes.containers[0]
    np.testing.assert_allclose(bars.lines[0].get_xdata(), [0.04, 0.6])
    np.testing.assert_allclose([segment[:, 0] for segment in bars.lines[2][0].get_segments()], [[0.02, 0.07], [0.5, 0.75]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["no attack\n(false alarms)", "fgsm", "pgd"]


def test_names_are_text_and_never_markup_or_formulas() -> None:
    svg = figures.to_svg(figures.fingerprint_heatmap({"<script>x</script>": {"$x^2$": 1}}))
    assert "<script" not in svg and "$x^2$" in svg


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (0.05, 1, "5 %"), (0.5, 0, "50 %"), (0.1, 0, "10 %"), (1.0, 0, "100 %"), (1.0, 1, "100 %"), (0.0, 1, "0 %"), (0.123, 1, "12.3 %"),
        (0.9999, 1, "> 99.9 %"), (0.0001, 1, "< 0.1 %"), (0.005, 2, "0.5 %"), (0.999, 0, "> 99 %"), (0.0125, 2, "1.25 %"),
    ],
)  # fmt: skip
def test_percent_never_rounds_to_none_or_all(share: float, digits: int, text: str) -> None:
    assert percent(share, digits) == text.replace(" ", "\N{NO-BREAK SPACE}")
