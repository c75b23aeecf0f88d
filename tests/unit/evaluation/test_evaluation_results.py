"""The pages of results against the metrics that they are of, and the ablation against planted truths."""

from dataclasses import replace
from typing import Any

import fake_report_run as fake
import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from pipeline.errors import WhorlError
from pipeline.evaluation.game import filtered, plain, summarise
from pipeline.evaluation.plotting import canvas
from pipeline.evaluation.report_inputs import ReportInputs
from pipeline.evaluation.results.ablation import AblationInputs, ablation_section
from pipeline.evaluation.results.effects import FEW, HARMED, HELPED, OPEN, TrialRow, effect, layer_effects, value_effects
from pipeline.evaluation.results.facts import RunFacts, without_paths
from pipeline.evaluation.results.images import small_png
from pipeline.evaluation.results.markdown import table
from pipeline.evaluation.results.measures import largest_group, mean_over_attacks
from pipeline.evaluation.results.pages import MARK, render_pages
from pipeline.evaluation.results.studies import randomness_rows
from pipeline.params.evaluation import EvaluationParams

TABLE = fake.score_table(images=60)
METRICS = fake.metric_values(TABLE)
SETTINGS = EvaluationParams(alphas=(0.01, 0.05), seeds=(0, 1, 2), confidence=0.95, bootstrap=60, bootstrap_seed=0)
RUN = RunFacts(
    name="made",
    about="Of images that were made.",
    commands=["whorl preset digits", "make repro"],
    params_digest="ab" * 32,
    commit="4f2a9c1d7be0",
    dirty=True,
    processor="Some CPU",
    cores=2,
    gpu=None,
    date="2026-11-25",
    stages={"prepare": 3.2, "attack@pgd": None},
)


def _inputs(**changes: Any) -> ReportInputs:
    params = {**fake.params(), "evaluation": SETTINGS.model_dump(mode="json"), "splits": {"split_seed": 41}}
    return fake.report_inputs(**{"scores": TABLE, "metrics": METRICS, "params": params} | changes)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return render_pages(_inputs(), RUN, None)


def _rows(text: str) -> list[list[str]]:
    """The cells of every line of a table."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")]


def _leading(cell: str) -> float:
    return float(cell.replace("\N{NO-BREAK SPACE}", " ").split()[0])


def test_each_figure_of_detection_is_that_of_the_metrics(pages: dict[str, str]) -> None:
    sections = {part.splitlines()[0].split()[0]: part for part in pages["detection.md"].split("\n## ")[1:]}
    for detector in fake.DETECTORS:
        rows = {row[0]: row for row in _rows(sections[detector])}
        for attack in fake.SHIFTS:
            _, images, auroc, correct, at_1, at_5 = rows[attack]
            assert int(images) == METRICS[f"{detector}.{attack}.images"]
            for cell, measure, scale in (
                (auroc, "auroc", 1),
                (correct, "auroc_correct_only", 1),
                (at_1, "tpr_at_1", 100),
                (at_5, "tpr_at_5", 100),
            ):
                value, low, high = (METRICS[f"{detector}.{attack}.{measure}{end}"] for end in ("", "_low", "_high"))
                assert value is not None and low is not None and high is not None
                ends = cell.replace("\N{NO-BREAK SPACE}%", "").split("(")[1].strip(")").split(" to ")
                found = [_leading(cell), *map(float, ends)]
                assert found == pytest.approx([scale * value, scale * low, scale * high], abs=0.051 if scale == 100 else 0.00051)
        for row, ending in (("all clean images", ""), ("classified correctly", "_correct_only")):
            known = METRICS[f"{detector}.clean.fpr_at_5{ending}"]
            assert known is not None and _leading(rows[row][2]) == pytest.approx(100 * known, abs=0.051)


def test_what_the_attacks_did_is_told_with_their_settings(pages: dict[str, str]) -> None:
    rows = {row[0]: row for row in _rows(pages["detection.md"].split("\n## ")[1])}
    assert rows["pgd"][1:4] == ["pgd", "epsilon 8/255", "372"] and rows["pgd"][6:] == ["0.0314", "1.310"]
    assert _leading(rows["pgd"][4]) == pytest.approx(100 * 290 / 372, abs=0.051)
    low, high = stats.binomtest(290, 372).proportion_ci(0.95, method="wilson")
    assert f"({100 * low:.1f} to {100 * high:.1f}" in rows["pgd"][4] and rows["fgsm"][5] == "–" != rows["pgd_targeted"][5]


def test_a_mean_over_attacks_is_the_mean_of_their_figures() -> None:
    means = mean_over_attacks(TABLE, SETTINGS)
    for detector in fake.DETECTORS:
        for measure in ("auroc", "auroc_correct_only", "tpr_at_1", "tpr_at_5"):
            values = [METRICS[f"{detector}.{attack}.{measure}"] for attack in fake.SHIFTS]
            name = f"{detector}.mean.{measure}"
            value, low, high = (means[f"{name}{end}"] for end in ("", "_low", "_high"))
            assert value == pytest.approx(np.mean(np.array(values, float)))
            assert low is not None and high is not None and value is not None and low <= value <= high


def test_the_mean_over_one_attack_is_that_attack_interval_and_all() -> None:
    few = fake.score_table(images=60, attacks={"fgsm": 1.6})
    own, means = fake.metric_values(few), mean_over_attacks(few, SETTINGS)
    assert means and all(value == pytest.approx(own[name.replace(".mean.", ".fgsm.")]) for name, value in means.items())


def test_an_attack_that_never_succeeded_is_left_out_of_the_mean() -> None:
    failed = TABLE.set_column(
        TABLE.schema.get_field_index("success"),
        "success",
        pa.array([hit and name != "pgd" for hit, name in zip(TABLE["success"].to_pylist(), TABLE["attack"].to_pylist(), strict=True)]),
    )
    values = [METRICS[f"vote.{attack}.auroc"] for attack in fake.SHIFTS if attack != "pgd"]
    assert mean_over_attacks(failed, SETTINGS)["vote.mean.auroc"] == pytest.approx(np.mean(np.array(values, float)))
    assert mean_over_attacks(TABLE.slice(0, 0), SETTINGS) == {}


def test_the_group_with_most_false_alarms_is_found_by_counting() -> None:
    names = np.array(["3", "7", "pooled"])[[int(key, 16) % 3 for key in TABLE["id"].to_pylist()]]
    grouped = TABLE.set_column(TABLE.schema.get_field_index("group"), "group", pa.array(names.tolist()))
    rows = [row for row in grouped.to_pylist() if row["detector"] == "vote" and row["attack"] == "clean"]
    shares = {name: np.mean([row["p_value"] <= 0.05 for row in rows if row["group"] == name]) for name in ("3", "7", "pooled")}
    found = largest_group(grouped, "vote", 0.05, SETTINGS)
    assert found is not None and found.rate is not None and found.rate.low is not None and found.rate.high is not None
    assert found.rate.value == pytest.approx(max(shares.values())) and shares[found.group] == max(shares.values())
    assert (found.groups, found.images) == (3, 20) and found.rate.low <= found.rate.value <= found.rate.high
    assert largest_group(grouped.slice(0, 0), "vote", 0.05, SETTINGS) is None


def test_the_front_page_says_what_was_run(pages: dict[str, str]) -> None:
    facts = dict(row[:2] for row in _rows(pages["README.md"]))
    assert facts["commands"] == "`whorl preset digits`, then `make repro`" and facts["date"] == "2026-11-25"
    assert facts["hardware"] == "Some CPU; cores: 2; GPU: none" and facts["commit"].endswith("not committed")
    assert "`splits.split_seed` 41" in facts["seeds"] and "`evaluation.seeds` [0, 1, 2]" in facts["seeds"]
    assert facts["splits"] == "train 2,000, fit 1,200, tune 200, calibrate 500, test 400"
    assert "# made\n\nOf images that were made.\n" in pages["README.md"]
    assert facts["prepare"] == "3.2 s" and facts["attack@pgd"] == "restored from the cache"
    assert "The parts are two banks: every layer dealt to 2 at random." in pages["game.md"]
    assert "for attackers" not in pages["README.md"] and "detection.png" in pages["README.md"] and "frontier.png" in pages["README.md"]
    assert all(text.startswith(MARK) and "{{" not in text for text in pages.values())


def test_disagreement_is_that_of_the_draws() -> None:
    """Against every pair of draws of images whose shares of flagging draws are known."""
    rng = np.random.default_rng(5)
    flags = rng.random((40, 30)) < rng.random((40, 1))  # 30 draws on 40 images
    chance, everyone, norms = flags.mean(1), np.ones(40, bool), (np.full(40, 1.0), np.full(40, 0.1))
    settings, cells = SETTINGS.model_copy(update={"alphas": (0.05,)}), []
    for bank, known in ((100, 1 - chance), (2000, chance)):  # another bank of the same m and T, whose draws flag what the first's do not
        own = {"defender": "fresh", "draw": 64, "committees": 30, "bank": bank, "disjoint": "", "attack": "pgd"}
        plays = {("nothing", "plain", 0): plain(everyone, known)}
        plays |= {("bank", "filter", looks): filtered(everyone, known, known, looks) for looks in (1, 8)}
        alarms = summarise(plain(everyone, np.full(40, bank / 40_000)), *norms, settings)
        cells.append({**own, "attack": "clean", "knowledge": "nothing", "attacker": "plain", "budget": 0, **alarms})
        cells += [
            {**own, "knowledge": knowledge, "attacker": attacker, "budget": budget, **summarise(play, *norms, settings)}
            for (knowledge, attacker, budget), play in plays.items()
        ]
    rows = randomness_rows(fake.game_inputs(cells=cells, headline={}), ["pgd"])
    assert [row[:4] for row in rows] == [("pgd", "64", "30", "2000"), ("pgd", "64", "30", "100")]
    for found, each in zip(rows, (flags, ~flags), strict=True):
        missed, pairs = 1 - each.mean(1), (each[:, :, None] != each[:, None, :]).mean()
        after, accepted = 1 - (missed**9).mean() / (missed**8).mean(), (missed**9).mean()
        assert [_leading(cell) for cell in found[5:]] == pytest.approx(
            [int(found[3]) / 400, 100 * each.mean(), 100 * pairs, 100 * after, 100 * accepted], abs=0.051
        )


def test_the_studies_cells_are_those_of_their_metrics(pages: dict[str, str]) -> None:
    rows = {row[0]: row for row in _rows(pages["transfer.md"].split("## Detected")[1])}
    study = fake.transfer_study()
    for place, attack in enumerate(study.families, start=1):
        known = study.metrics[f"without_fgsm.{attack}.tpr_at_5"]
        assert known is not None and _leading(rows["without fgsm"][place]) == pytest.approx(100 * known, abs=0.051)
        assert ("†" in rows["without fgsm"][place]) == (attack == "fgsm")
    assert rows["only confidence_ifgsm"][1].startswith("–")
    promise = {row[0]: row for row in _rows(pages["promise.md"])}
    assert promise["all clean images"][3].startswith("4.7") and promise["all clean images"][3].endswith("kept")
    assert "gaussian noise 0.02" in promise


def test_without_studies_the_pages_say_so() -> None:
    bare = render_pages(_inputs(transfer=None, redrawn=None), RUN, None)
    assert "not studied" in bare["transfer.md"] and "not studied" in bare["promise.md"] and "whorl tune fingerprints" in bare["ablation.md"]


def test_a_void_promise_stands_first() -> None:
    void = render_pages(_inputs(promise="The classifier may have seen the calibration images."), RUN, None)
    for page in ("README.md", "promise.md"):
        assert "may have seen the calibration images" in void[page].split("\n## ")[0]


def test_no_place_on_a_machine_is_told() -> None:
    params = {**_inputs().params, "data": {"source": {"kind": "folder", "roots": {"a": "/mnt/disk7/pictures", "b": "data/mine"}}}}
    told = render_pages(_inputs(params=params, notes=["Left out: /mnt/disk7/pictures/x.png | <b>bold</b>."]), RUN, None)["README.md"]
    assert "disk7" not in told and "`pictures`" in told and "`data/mine`" in told and "x.png \\| &lt;b>" in told


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("at /home/someone/x/weights.pt, and", "at weights.pt, and"),
        ("~/keys/bank.key is", "bank.key is"),
        ("artifacts/tune/x and 4/255 and and/or", "artifacts/tune/x and 4/255 and and/or"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
    ],
)
def test_absolute_paths_lose_their_folders(said: str, left: str) -> None:
    assert without_paths(said) == left


def test_a_cell_cannot_end_a_table() -> None:
    assert table(["a|b", "c"], [["x|y\nz", None]]).splitlines()[2] == "| x\\|y z | – |"


def _trials(count: int = 40) -> list[TrialRow]:
    rng = np.random.default_rng(1)
    rows = []
    for number in range(count):
        layers = {name: int(rng.choice([2, 4, 8])) for name in ("good", "bad", "idle") if rng.random() < 0.6}
        settings = {"draw": 30, "pooling": float(rng.choice([0.0, 0.5, 1.0])), "prefer": str(rng.choice(["random", "largest_effect"]))}
        fitted = 0.5 + 0.2 * ("good" in layers) - 0.2 * ("bad" in layers) + 0.02 * rng.random()
        cost = 100.0 + 50 * ("idle" in layers) + rng.random()
        rows.append(TrialRow(number, layers, settings, {"fitted": fitted, "unseen": rng.random(), "after_looks": 0.1, "cost": cost}))
    return rows


def _ablation(rows: list[TrialRow]) -> AblationInputs:
    layers = ("good", "bad", "idle", "never")
    importance = {"fitted": {"k.good": 0.7, "draw": 0.3}, "cost": {"k.good": 0.001, "draw": 0.999}}
    return AblationInputs("made", 0, rows, 2, layers, {3, 5}, 5, importance, "pgd", 8, 0.05, None)


def test_effects_are_the_means_on_either_side_and_planted_ones_are_found() -> None:
    rows = _trials()
    good, bad, idle, never = layer_effects(rows, ("good", "bad", "idle", "never"))
    assert (good.words["fitted"], bad.words["fitted"], never.words["fitted"]) == (HELPED, HARMED, FEW)
    assert idle.words["cost"] == HARMED and good.words["after_looks"] == OPEN and (never.made, never.left) == (0, 40)
    made = [row.objectives["fitted"] for row in rows if "idle" in row.layers]
    left = [row.objectives["fitted"] for row in rows if "idle" not in row.layers]
    assert idle.means["fitted"] == pytest.approx((np.mean(made), np.mean(left)))
    p_value = stats.ttest_ind(made, left, equal_var=False).pvalue
    assert (idle.words["fitted"] == OPEN) == (p_value > 0.05)


def test_of_two_values_one_is_held_against_the_other_of_more_each_against_the_rest() -> None:
    names = [each.choice for each in value_effects(_trials(), ("good",))]
    assert names == [
        *(f"good: k = {k}" for k in (2, 4, 8)),
        *(f"pooling = {value}" for value in ("0", "0.5", "1")),
        "prefer = random, not largest_effect",
    ]


@pytest.mark.parametrize(("made", "words"), [(2, FEW), (3, HELPED), (0, FEW)])
def test_nothing_is_said_of_choices_that_hardly_any_trial_made(made: int, words: str) -> None:
    still = {"unseen": 0.0, "after_looks": 0.0, "cost": 1.0}
    rows = [TrialRow(n, {}, {}, {"fitted": 0.9 - 0.5 * (n >= made) + 0.001 * n, **still}) for n in range(9)]
    assert effect("it", rows, [n < made for n in range(9)]).words["fitted"] == words


def test_the_page_lists_the_best_and_the_worst_and_names_what_did_not_help() -> None:
    rows = _trials()
    section = ablation_section(_ablation(rows))
    ranked = sorted(rows, key=lambda row: -row.objectives["fitted"])
    listed = [int(row[0].split(",")[0]) for part in ("best", "between", "worst") for row in section[part]]
    told = [row.number for row in (*ranked[:15], *(row for row in ranked[15:-5] if row.number in (0, 5)), *ranked[-5:])]
    assert listed == told and {0, 5} <= set(listed)
    page = render_pages(_inputs(), RUN, _ablation(rows))["ablation.md"]
    said = next(line for line in page.splitlines() if line.startswith("- **fitted**"))
    assert said.index("`good in`") < said.index("helped;") < said.index("`bad in`") < said.index("did harm")
    assert "and 2 that could not" in page and "`tune.seed` 0" in page and "5, proposed, front" in page and "0, now" in page
    matters = {row[0]: row for row in _rows(page)}
    assert matters["k.good"][1].startswith("70") and matters["k.good"][2] == "–" and matters["k.good"][4].startswith("under 1")
    short = ablation_section(replace(_ablation(rows), rows=rows[:20]))
    assert len(short["best"]) == 20 and not short["worst"]


def test_a_figure_is_drawn_small_enough_or_refused() -> None:
    figure = canvas(3)
    figure.subplots().imshow(np.random.default_rng(0).random((200, 200)))
    large = small_png(figure)
    assert large.startswith(b"\x89PNG") and len(small_png(figure, len(large) - 1)) < len(large)
    with pytest.raises(WhorlError, match="fewer than 10 were expected"):
        small_png(figure, 10)
