"""Figures of a table of scores, against scikit-learn, SciPy and plain loops."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from scores_support import PARAMS, score_rows, score_table
from sklearn.metrics import roc_auc_score

from pipeline.evaluation.metrics import auroc, evaluate_table, wilson

ROWS = score_rows()
FIGURES = evaluate_table(score_table(ROWS), PARAMS)


def rows_of(detector: str, attack: str, seed: int, *, only: str = "") -> list[dict[str, Any]]:
    rows = [row for row in ROWS if (row["detector"], row["attack"], row["seed"]) == (detector, attack, seed)]
    return [row for row in rows if (not only or row[only])]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_auroc_is_the_share_of_pairs_in_order(negatives: list[int], positives: list[int]) -> None:
    value = auroc(np.array(negatives, float), np.array(positives, float))
    assert value == np.mean([(p > n) + 0.5 * (p == n) for p in positives for n in negatives])
    assert value == pytest.approx(roc_auc_score([0] * len(negatives) + [1] * len(positives), negatives + positives))


@pytest.mark.parametrize(("negatives", "positives"), [([], [1.0]), ([1.0], []), ([], [])])
def test_auroc_of_nothing_is_undefined(negatives: list[float], positives: list[float]) -> None:
    assert auroc(np.array(negatives), np.array(positives)) is None


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (37, 5000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_is_its_formula(successes: int, n: int, confidence: float) -> None:
    z, p = norm.ppf((1 + confidence) / 2), successes / n
    middle, half = (p + z**2 / 2 / n) / (1 + z**2 / n), z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
    estimate = wilson(successes, n, confidence)
    assert estimate.value == p
    assert (estimate.low, estimate.high) == (pytest.approx(middle - half, abs=1e-12), pytest.approx(middle + half, abs=1e-12))


def test_wilson_of_nothing_is_undefined() -> None:
    assert wilson(0, 0, 0.95).value is None


@pytest.mark.parametrize("detector", ["vote", "ratio"])
@pytest.mark.parametrize("attack", ["pgd", "fgsm"])
def test_auroc_is_the_mean_over_seeds_against_all_and_against_correct_clean_images(detector: str, attack: str) -> None:
    for key, keep in (("auroc", lambda row: True), ("auroc_correct_only", lambda row: row["clean_predicted"] == row["label"])):
        values = []
        for seed in (0, 1):
            clean = [row["score"] for row in rows_of(detector, "clean", seed) if keep(row)]
            hit = [row["score"] for row in rows_of(detector, attack, seed, only="success")]
            values.append(roc_auc_score([0] * len(clean) + [1] * len(hit), clean + hit))
        assert FIGURES[f"{detector}.{attack}.{key}"] == pytest.approx(np.mean(values), abs=1e-12)
    assert FIGURES[f"{detector}.{attack}.auroc"] != FIGURES[f"{detector}.{attack}.auroc_correct_only"]


@pytest.mark.parametrize("detector", ["vote", "ratio"])
@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_rates_are_the_shares_of_flagged_images(detector: str, alpha: float) -> None:
    def share(rows: list[dict[str, Any]]) -> float:
        return float(np.mean([row["p_value"] <= alpha for row in rows]))

    for attack in ("pgd", "fgsm"):
        expected = np.mean([share(rows_of(detector, attack, seed, only="success")) for seed in (0, 1)])
        assert FIGURES[f"{detector}.{attack}.tpr_at_{alpha * 100:g}"] == pytest.approx(expected)
    clean = [rows_of(detector, "clean", seed) for seed in (0, 1)]
    right = [[row for row in rows if row["predicted"] == row["label"]] for rows in clean]
    assert FIGURES[f"{detector}.clean.fpr_at_{alpha * 100:g}"] == pytest.approx(np.mean([share(rows) for rows in clean]))
    assert FIGURES[f"{detector}.clean.fpr_at_{alpha * 100:g}_correct_only"] == pytest.approx(np.mean([share(rows) for rows in right]))


def test_counts_are_of_images_not_of_rows() -> None:
    assert FIGURES["vote.clean.images"] == 60
    assert FIGURES["vote.clean.images_correct_only"] == sum(row["label"] == row["predicted"] for row in rows_of("vote", "clean", 0))
    assert FIGURES["vote.pgd.images"] == len(rows_of("vote", "pgd", 0, only="success"))


def test_an_attack_that_never_succeeded_is_undefined_not_an_error() -> None:
    assert FIGURES["ratio.never.images"] == 0
    for measure in ("auroc", "auroc_correct_only", "tpr_at_1", "tpr_at_5"):
        assert [FIGURES[f"ratio.never.{measure}{end}"] for end in ("", "_low", "_high")] == [None, None, None]


def test_every_figure_stands_inside_its_interval() -> None:
    defined = [key for key, value in FIGURES.items() if value is not None and f"{key}_low" in FIGURES]
    assert len(defined) == 2 * (2 * (1 + 1 + 2) + 4)
    for key in defined:
        low, value, high = (FIGURES[key + end] for end in ("_low", "", "_high"))
        assert low is not None and value is not None and high is not None
        assert 0 <= low <= value <= high <= 1 and low < high, key


def test_failed_attacks_change_nothing() -> None:
    """The authors' package counts them."""
    changed = [row | {"score": 99.0, "p_value": 0.001} if row["attack"] != "clean" and not row["success"] else row for row in ROWS]
    assert changed != ROWS
    assert evaluate_table(score_table(changed), PARAMS) == FIGURES


def test_figures_do_not_depend_on_the_order_of_rows() -> None:
    assert evaluate_table(score_table(ROWS[::-1]), PARAMS) == FIGURES


def test_a_share_without_exception_still_has_an_interval() -> None:
    """Every resample of a perfect score is perfect; that is no certainty."""
    rows = [row | {"p_value": 0.01 if row["success"] else 1.0} for row in ROWS]
    figures = evaluate_table(score_table(rows), PARAMS)
    n, clean = int(figures["vote.pgd.images"] or 0), int(figures["vote.clean.images"] or 0)
    assert figures["vote.pgd.tpr_at_1"] == 1.0
    assert (figures["vote.pgd.tpr_at_1_low"], figures["vote.pgd.tpr_at_1_high"]) == (wilson(n, n, 0.95).low, 1.0)
    assert (figures["vote.clean.fpr_at_5"], figures["vote.clean.fpr_at_5_high"]) == (0.0, wilson(0, clean, 0.95).high)


def test_an_empty_table_has_no_figures() -> None:
    assert evaluate_table(score_table(ROWS).slice(0, 0), PARAMS) == {}


def test_a_table_of_failures_alone_is_undefined() -> None:
    figures = evaluate_table(score_table([row for row in ROWS if row["attack"] == "never"]), PARAMS)
    assert figures["vote.clean.images"] == 0
    assert {value for key, value in figures.items() if "images" not in key} == {None}


def test_names_of_rates_are_their_percentages() -> None:
    figures = evaluate_table(score_table(ROWS), PARAMS.model_copy(update={"alphas": (0.001, 0.1)}))
    assert {"vote.pgd.tpr_at_0.1", "vote.pgd.tpr_at_10", "vote.clean.fpr_at_0.1_high"} <= set(figures)
