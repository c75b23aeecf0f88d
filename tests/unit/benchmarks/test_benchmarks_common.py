"""The statistics of the benchmarks against SciPy, closed forms and simulation; who runs when; what the rows look like."""

import argparse
import json
from pathlib import Path

import common
import numpy as np
import pytest
from common import Entry, Spread, alternate, as_json, figure, mcnemar, mean_ratio, means, median_spread, row, share_ratio, speed_ratio
from scipy import stats


def flags(both: int, ours: int, peer: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Two bool arrays with those counts."""
    mine = [True] * (both + ours) + [False] * (peer + neither)
    theirs = [True] * both + [False] * ours + [True] * peer + [False] * neither
    return np.array(mine), np.array(theirs)


@pytest.mark.parametrize(
    ("count", "place"), [(1, 1), (5, 1), (6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (15, 4), (20, 6), (25, 8), (50, 18)]
)
def test_the_median_s_interval_lies_between_the_tabled_order_statistics(count: int, place: int) -> None:
    """The ranks of Conover's tables for 95 %; below 6 the extremes."""
    values = np.random.default_rng(count).permutation(np.arange(1.0, count + 1))
    spread = median_spread(values)
    assert (spread.value, spread.low, spread.high) == ((count + 1) / 2, place, count + 1 - place)


@pytest.mark.parametrize("count", range(6, 40))
def test_the_median_s_interval_covers_and_none_shorter_would(count: int) -> None:
    spread = median_spread(np.arange(1.0, count + 1))
    assert spread.low is not None
    missed = [2 * stats.binom.cdf(k - 1, count, 0.5) for k in (int(spread.low), int(spread.low) + 1)]
    assert missed[0] <= 0.05 < missed[1]


def test_a_speed_ratio_pairs_within_rounds() -> None:
    """A round in which everything is ten times as slow tells nothing."""
    ours, peer = [1.0, 10.0, 1.1, 0.9, 1.0], [2.0, 20.0, 2.2, 1.8, 2.5]
    assert speed_ratio(ours, peer) == Spread(2.0, pytest.approx(2.0), 2.5)


def test_a_peer_that_ran_once_has_a_ratio_without_interval() -> None:
    assert speed_ratio([1.0, 2.0, 3.0], [30.0]) == Spread(15.0, None, None)


@pytest.mark.parametrize(("successes", "count"), [(0, 20), (1, 20), (10, 20), (20, 20), (137, 500)])
def test_wilson_is_scipy_s(successes: int, count: int) -> None:
    expected = stats.binomtest(successes, count).proportion_ci(0.95, method="wilson")
    assert common.wilson(successes, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("ours", "peer"), [(0, 0), (3, 3), (0, 5), (0, 6), (12, 2), (2, 12), (30, 17)])
def test_mcnemar_is_scipy_s_test_of_a_fair_coin(ours: int, peer: int) -> None:
    expected = stats.binomtest(ours, ours + peer, 0.5).pvalue if ours + peer else 1.0
    assert mcnemar(*flags(40, ours, peer, 7)) == pytest.approx(expected)


def test_a_ratio_of_shares_of_independent_halves_has_the_textbook_interval() -> None:
    """Far from 0 and 1 the posterior's interval is the delta method's for log ratios of paired shares."""
    ours, peer = flags(1500, 500, 700, 1300)
    spread = share_ratio(ours, peer)
    a, b = ours.sum(), peer.sum()
    half = 1.959964 * np.sqrt((500 + 700) / (a * b))  # Agresti and Min 2005: var(log a/b) = (n12 + n21) / (n1+ n+1)
    assert spread.value == pytest.approx(2000 / 2200)
    assert (spread.low, spread.high) == pytest.approx((a / b * np.exp(-half), a / b * np.exp(half)), rel=0.01)


def test_a_ratio_of_shares_never_claims_more_than_the_images_can_tell() -> None:
    """Where nothing differs, or nothing is left, the interval is still wide, and narrows with the images."""
    for counts in [(0, 0, 0, 50), (20, 0, 0, 30)]:
        spread = share_ratio(*flags(*counts))
        more = share_ratio(*flags(*(20 * count for count in counts)))
        assert spread.value == 1.0 and spread.low is not None and spread.high is not None
        assert spread.low < 0.95 and spread.high > 1.05
        if counts[0]:
            assert more.low is not None and more.high is not None
            assert spread.low < more.low < 1 < more.high < spread.high
    assert share_ratio(*flags(0, 4, 0, 46)).value is None
    assert share_ratio(*flags(0, 0, 4, 46)).value == 0.0


def test_a_ratio_of_shares_turns_over_with_its_sides() -> None:
    ours, peer = flags(30, 9, 4, 57)
    there, back = share_ratio(ours, peer), share_ratio(peer, ours)
    assert there.low is not None and back.high is not None
    assert there.value == pytest.approx(39 / 34) and back.value == pytest.approx(34 / 39)
    assert there.low == pytest.approx(1 / back.high, rel=0.03)


def test_a_ratio_of_shares_covers_what_it_should() -> None:
    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        cell = rng.choice(4, 150, p=[0.2, 0.1, 0.05, 0.65])
        spread = share_ratio(cell <= 1, (cell == 0) | (cell == 2))
        assert spread.low is not None and spread.high is not None
        hits += spread.low <= 0.3 / 0.25 <= spread.high
    assert 180 <= hits <= 199  # 190 expected, with a standard deviation of 3


def test_a_ratio_of_means_has_the_delta_method_s_interval() -> None:
    rng = np.random.default_rng(3)
    peer = rng.gamma(9, 0.1, 4000)
    ours = 0.9 * peer + rng.normal(0, 0.05, 4000)
    spread, ratio = mean_ratio(ours, peer), ours.mean() / peer.mean()
    half = 1.96 * (ours - ratio * peer).std() / peer.mean() / np.sqrt(4000)
    assert spread.value == pytest.approx(ratio)
    assert (spread.low, spread.high) == pytest.approx((ratio - half, ratio + half), abs=half / 5)


def test_means_over_few_images_have_no_interval_and_over_none_no_ratio() -> None:
    nothing = np.empty(0)
    assert mean_ratio(np.arange(1.0, 10), np.arange(2.0, 11)) == Spread(5 / 6, None, None)
    assert mean_ratio(nothing, nothing) == Spread(None, None, None) and means(nothing, nothing) == (None, None)
    assert means(np.array([1.0, 2.0]), np.array([2.0, 4.0])) == (1.5, 3.0)


def run_on_a_false_clock(monkeypatch: pytest.MonkeyPatch, costs: dict[str, float], rounds: int, **options: float) -> tuple[list[str], dict]:
    """Who ran, in order, and the timings, where a run costs what it says."""
    clock, ran = [0.0], []
    monkeypatch.setattr(common.time, "perf_counter", lambda: clock[0])

    def contestant(name: str) -> str:
        ran.append(name)
        clock[0] += costs[name]
        return name.upper()

    timed = alternate({name: lambda name=name: contestant(name) for name in costs}, rounds, **options)
    return ran, timed


def test_contestants_alternate_and_each_is_timed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ran, timed = run_on_a_false_clock(monkeypatch, {"a": 1.0, "b": 2.0, "c": 4.0}, 4)
    assert ["".join(ran[first : first + 3]) for first in range(0, 15, 3)] == ["abc", "abc", "acb", "cab", "cba"]
    assert {name: (run.seconds, run.result) for name, run in timed.items()} == {
        "a": ([1.0] * 4, "A"),
        "b": ([2.0] * 4, "B"),
        "c": ([4.0] * 4, "C"),
    }


def test_who_is_far_slower_than_the_first_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran, timed = run_on_a_false_clock(monkeypatch, {"a": 1.0, "b": 8.0, "c": 2.0}, 3, patience=5)
    assert ran.count("b") == 1 and timed["b"].seconds == [8.0] and timed["b"].result == "B"
    assert len(timed["a"].seconds) == len(timed["c"].seconds) == 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0.000"),
        (0.25, "0.250"),
        (0.003456, "0.00346"),
        (1.2345, "1.234"),
        (9.9, "9.900"),
        (14.83, "14.8"),
        (1234.5, "1234"),
    ],
)
def test_figures_have_three_significant_digits(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_rows_have_exactly_the_keys_that_were_promised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    common.add_output_options(parser)
    options = parser.parse_args(["--json", str(tmp_path / "rows.json"), "--out", str(tmp_path / "results")])
    entries = [
        Entry(row("q", "a: peer 1", (2.0, 1.0), "images/s", Spread(2.0000001, 1.5, 2.5)), "first"),
        Entry(row("q", "b: peer 1", (0.1, 0.0), "robust accuracy", Spread(None, None, None)), "second"),
    ]
    common.publish("attacks", "What was measured.", entries, options)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [list(found) for found in rows] == [["question", "case", "ours", "peer", "unit", "ratio", "ratio_low", "ratio_high"]] * 2
    assert rows[0]["ratio"] == 2.0 and rows[1]["ratio"] is None and as_json(entry.row for entry in entries).count("NaN") == 0
    assert (tmp_path / "results/attacks.json").read_text() == (tmp_path / "rows.json").read_text()
    table = (tmp_path / "results/attacks.md").read_text()
    printed = capsys.readouterr().out
    assert printed.strip() in table and "What was measured." in printed
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1 and len({len(line) for line in lines}) == 1
