"""Unseen attacks, the redrawn promise and hardening in the report: which fits, what is said first, and that nothing bad is left out."""

import re
from dataclasses import replace

import fake_report_run as fake
import pytest

from pipeline.evaluation.figures import to_png, to_svg
from pipeline.evaluation.hardening_figure import hardening_figure
from pipeline.evaluation.hardening_study import hardening_rounds, hardening_sentence
from pipeline.evaluation.report import render_report
from pipeline.evaluation.studies import changed_sentence, corruption_rows, promise_rows, promise_sentence, transfer_rows, transfer_sentence
from pipeline.evaluation.study_figures import promise_figure, transfer_heatmap
from pipeline.evaluation.transfer import fit_sets, left_out, unseen

TABLE = fake.score_table(images=100)


def _page(**changes: object) -> str:
    few = {"scores": TABLE, "calibration": {"likelihood_ratio": {"pooled": 100}}, "gallery": []}
    return re.sub(r"\s+", " ", render_report(fake.report_inputs(**few | changes)))


def test_a_family_is_left_out_whole_and_stands_alone_whole() -> None:
    fits = fit_sets(["fgsm", "pgd_targeted", "pgd"], fake.FAMILIES)
    assert fits == {
        "all": ["fgsm", "pgd_targeted", "pgd"],
        "without_fgsm": ["pgd_targeted", "pgd"],
        "without_pgd": ["fgsm"],
        "only_fgsm": ["fgsm"],
        "only_pgd": ["pgd_targeted", "pgd"],
    }
    assert fit_sets(["pgd", "pgd_targeted"], fake.FAMILIES) == {"all": ["pgd", "pgd_targeted"]}
    for name, fitted in fits.items():
        for attack, family in fake.FAMILIES.items():
            known = name == "all" or name == f"only_{family}" or (name.startswith("without_") and name != f"without_{family}")
            assert unseen(attack, fitted, fake.FAMILIES) == (family == "confidence_ifgsm" or not known)


def test_the_weakest_unseen_attack_is_said_first() -> None:
    study = fake.transfer_study()
    assert transfer_sentence(study, 0.05).startswith("Of images attacked by fgsm, the detector likelihood_ratio flags 31")
    assert "fitted on all attacks: 93" in transfer_sentence(study, 0.05)
    worse = {**study.metrics, "without_pgd.pgd.tpr_at_5": 0.02, "without_pgd.pgd.tpr_at_5_low": 0.0}
    assert transfer_sentence(replace(study, metrics=worse), 0.05).startswith("Of images attacked by pgd,")
    fits = fit_sets(["pgd", "pgd_targeted"], fake.FAMILIES)
    assert [left_out(name, fits, fake.FAMILIES) for name in fake.FAMILIES] == ["all", None, None, "all"]
    assert [left_out(name, study.fits, fake.FAMILIES) for name in fake.FAMILIES][:3] == ["without_fgsm", "without_pgd", "without_pgd"]
    never = transfer_sentence(replace(study, fits=fits), 0.05)
    assert "attacked by fgsm" in never and "no attack of that family was in the fit:" in never
    alone = replace(study, metrics={})
    assert "is not known" in transfer_sentence(alone, 0.05)


def test_every_fit_and_attack_has_a_cell_and_what_could_not_be_made_is_empty() -> None:
    rows = transfer_rows(fake.transfer_study(), 0.05)
    assert [row["fit"] for row in rows] == [name.replace("_", " ", 1) for name in fake.transfer_study().fits]
    for row in rows:
        assert [cell["attack"] for cell in row["cells"]] == list(fake.FAMILIES)
        assert all((cell["found"] is None) == (row["fit"] == "only confidence_ifgsm") for cell in row["cells"])


@pytest.mark.parametrize(("at_five", "said", "kept"), [(0.047, "in keeping with", 1.0), (0.09, "more than", 0.0)])
def test_a_kept_and_a_broken_promise_are_told_apart(at_five: float, said: str, kept: float) -> None:
    study = fake.promise_study(at_five)
    assert said in promise_sentence(study, 0.05) and "20 redraws" in promise_sentence(study, 0.05)
    rows = promise_rows(study, [0.01, 0.05], fake.CLASSES)
    assert [row["name"] for row in rows] == ["all clean images", "cat", "pooled"]
    assert {row["cells"][1][2] for row in rows} == {kept}
    page = _page(redrawn=study)
    assert said in page and ("<strong>no</strong>" in page) == (kept == 0)


def test_what_becomes_of_changed_clean_images_is_said_worst_first_and_at_the_top() -> None:
    study = fake.promise_study()
    said = changed_sentence(study, 0.05)
    rates = {row["name"]: row["cells"][0][1].value for row in corruption_rows(study, [0.05]) if row["name"] != "none"}
    order = sorted(rates, key=lambda name: -rates[name])
    assert [said.index(name) for name in order] == sorted(said.index(name) for name in order)
    page = _page(redrawn=study)
    assert page.index(f"Changed a little, the detector {study.detector} flags them") < page.index('id="run"')
    assert changed_sentence(replace(study, metrics={}), 0.05) == ""


def test_the_report_holds_every_section_or_none() -> None:
    page, without = _page(), _page(transfer=None, hardened=None, ablated=None, redrawn=None)
    for section in ("transfer", "hardening", "ablation", "promise"):
        assert f'<section id="{section}">' in page and f'href="#{section}"' in page
        assert f'<section id="{section}">' not in without and f'href="#{section}"' not in without
    for words in ("its weakest point against an attack that it never met", "gaussian blur 0.5", "25 committees a class", "without pgd"):
        assert words in page


def test_figures_repeat_and_frame_what_was_never_met() -> None:
    for figure in (
        lambda: transfer_heatmap(fake.transfer_study(), 0.05),
        lambda: promise_figure(fake.promise_study(), 0.05),
        lambda: hardening_figure(fake.hardening_study()),
    ):
        assert to_png(figure()) == to_png(figure()) and to_svg(figure()) == to_svg(figure())
    study = fake.transfer_study()
    framed = sum(unseen(attack, fitted, study.families) for fitted in study.fits.values() for attack in study.families)
    assert [len(panel.patches) for panel in transfer_heatmap(study, 0.05).axes] == [framed, framed]


def test_axes_have_no_share_above_all_and_no_redraw_beyond_the_last() -> None:
    study = fake.promise_study()
    first = f"corrupted.{next(iter(study.corruptions))}.fpr_at_5"
    flagged = {**study.metrics, first: 0.98, f"{first}_low": 0.97, f"{first}_high": 0.99}
    redraws, changed = promise_figure(replace(study, metrics=flagged), 0.05).axes
    assert changed.get_xlim()[1] > 1 and changed.get_xticks().max() == 1 and len(changed.get_xticks()) > 3
    assert redraws.get_xticks().min() >= 1 and redraws.get_xticks().max() <= max(map(len, study.rates.values())) < redraws.get_xlim()[1]


@pytest.mark.parametrize(
    ("step", "said", "moved"),
    [
        (-0.04, "helped against 4 of 4 attacks: ", "fell for fgsm"),
        (0.04, "did harm against 4 of 4 attacks: ", "rose for fgsm"),
        (0.0, "made no difference", "changed for no attack"),
    ],
)
def test_whether_hardening_helped_is_said_from_the_intervals(step: float, said: str, moved: str) -> None:
    study = fake.hardening_study(step)
    sentence = hardening_sentence(study)
    assert said in sentence and f"end accepted {moved}" in sentence and "2 rounds" in sentence and "8 looks" in sentence
    assert "false alarms went from 4.7" in sentence and "+0.80 points, +0.50 to +1.10" in sentence
    assert said in _page(hardened=study)
    assert "whose luck" in sentence and "whose luck" not in hardening_sentence(replace(study, reselect=False))


def test_hardening_that_cuts_both_ways_says_so_and_a_single_round_is_the_last() -> None:
    study, other = fake.hardening_study(-0.04), fake.hardening_study(0.04)
    mixed = {**study.metrics, **{key: value for key, value in other.metrics.items() if ".pgd." in key}}
    sentence = hardening_sentence(replace(study, metrics=mixed))
    assert "helped against 3 and did harm against 1 of 4 attacks" in sentence and "rose for pgd, from 15" in sentence
    assert "one round" in hardening_sentence(fake.hardening_study(rounds=1))
    assert "is not known" in hardening_sentence(fake.hardening_study(rounds=0))
    assert "is not known" in hardening_sentence(replace(study, metrics={}))


def test_a_round_has_a_table_with_a_row_an_attack() -> None:
    study = fake.hardening_study()
    rounds = hardening_rounds(study)
    assert [row["attack"] for row in rounds[1]["rows"]] == list(fake.SHIFTS) and len(rounds) == 3
    assert rounds[0]["rows"][0]["survivors"] is None and rounds[2]["rows"][0]["survivors"] == 40
    # 120 images, of which 0.1 % are accepted where 5 % are detected: a share of what is sent would be of 0.13 images.
    few = replace(study, metrics={**study.metrics, "round1.pgd.accepted": 0.001})
    shown = {row["attack"]: row["detected_after_looks"] for row in hardening_rounds(few)[1]["rows"]}
    assert shown["pgd"] is None and all(value is not None for attack, value in shown.items() if attack != "pgd")
    nothing = {"round1.pgd.accepted": 0.0, "round1.pgd.detected_after_looks": 1.0}  # rounded: next to nothing is sent
    shown = {
        row["attack"]: row["detected_after_looks"]
        for row in hardening_rounds(replace(study, metrics={**study.metrics, **nothing}))[1]["rows"]
    }
    assert shown["pgd"] is None
    # What is no change in the figures that are shown is not told as one.
    traces = {f"round2.pgd.accepted_evenly_change{end}": value for end, value in (("", 3e-5), ("_low", 1e-5), ("_high", 4e-5))}
    assert "3 of 4 attacks" in hardening_sentence(replace(study, metrics={**study.metrics, **traces}))
    # A round that could not be made is left out, with its survivors.
    missing = {key: value for key, value in study.metrics.items() if not key.startswith("round1.clean")}
    assert replace(study, metrics=missing).rounds == [0, 2]
