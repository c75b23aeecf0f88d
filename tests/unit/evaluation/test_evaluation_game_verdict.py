"""What the report and the card say of the game: the numbers of the cells, and the picture's lines."""

import fake_report_run as fake
import numpy as np
import pytest

from pipeline.evaluation.card import render_card
from pipeline.evaluation.figures import to_png, to_svg
from pipeline.evaluation.game_figures import frontier, lines
from pipeline.evaluation.game_headline import Size, headline, size_of
from pipeline.evaluation.game_verdict import bound_text, paragraph, summary
from pipeline.evaluation.plotting import SERIES, percent
from pipeline.evaluation.randomness import Randomness, randomness
from pipeline.evaluation.randomness_figure import randomness_figure
from pipeline.evaluation.report import render_report
from pipeline.evaluation.report_rows import game_rows, game_says, sent_figures
from pipeline.evaluation.strokes import dash, marker

CELLS = fake.game_cells()
ATTACKS = list(fake.SHIFTS)
GAME = fake.game_inputs(cells=CELLS)
FILTERS = {"bank": ("bank", "filter"), "secret": ("algorithm", "filter"), "secret_banks": ("algorithm", "filter_banks")}


def row(**wanted: object) -> dict:
    (found,) = [cell for cell in CELLS if all(cell[name] == value for name, value in wanted.items())]
    return found


def said(figures: dict[str, float | None] | None = None, **changes: object) -> str:
    values = {
        "alpha": 0.05,
        "looks": 8,
        "bound": "L∞ 8/255",
        "tries": 16,
        "queries": 60,
        "keyed": False,
        "played": "joint",
        "guarding": "joint",
    }
    return paragraph(GAME.headline if figures is None else figures, ATTACKS, **values | changes)  # type: ignore[arg-type]


def test_the_headline_takes_its_figures_from_the_guard_s_own_cells() -> None:
    flat = headline(CELLS, ATTACKS, fake.OWN, 8)
    for attack in ATTACKS:
        for who, (knowledge, attacker) in FILTERS.items():
            cell = row(defender="fresh", draw=60, bank=1000, knowledge=knowledge, attacker=attacker, attack=attack, budget=8)
            assert (flat[f"{attack}.{who}"], flat[f"{attack}.{who}_low"]) == (cell["detected"], cell["detected_low"])
        assert flat[f"{attack}.static"] == row(defender="static", attacker="plain", attack=attack)["detected"]
        assert flat[f"{attack}.draws"] == 0
    assert flat["clean.fresh"] == pytest.approx(0.04, abs=1e-5)
    again = row(defender="keyed", attacker="resubmit", attack=ATTACKS[0])
    assert flat[f"resubmit.{ATTACKS[0]}.keyed.queries"] == again["queries"]


def test_the_paragraph_says_the_least_and_the_most_of_each_kind() -> None:
    text = said()
    for who in ("fresh", "static", *FILTERS):
        shares = [GAME.headline[f"{attack}.{who}"] for attack in ATTACKS]
        assert f"{percent(min(shares))} to {percent(max(shares))}" in text, who  # type: ignore[type-var, arg-type]
    ends = [GAME.headline[f"{attack}.{who}.accepted"] for attack in ATTACKS for who in FILTERS]
    plain = [GAME.headline[f"{attack}.fresh.accepted"] for attack in ATTACKS]
    low, high, least, most = (percent(end(each)) for each in (ends, plain) for end in (min, max))  # type: ignore[type-var, arg-type]
    for who in FILTERS:  # whoever gets most
        told = said({**GAME.headline, f"{ATTACKS[0]}.{who}.accepted": 0.987})
        assert f" to {percent(0.987)} of the images tried then end as an accepted wrong label" in told
    assert f"; {low} to {high} of the images tried then end as an accepted wrong label, {least} to {most} without any look" in text
    strongest = GAME.headline["descend.traded_0.5.bank.fresh.accepted"]
    assert f"; {percent(strongest)} (" in text and "by descending within L∞ 8/255 on the guard's own score" in text  # type: ignore[arg-type]
    assert "8 looks" in text and "At 5\N{NO-BREAK SPACE}% false alarms" in text


def test_a_keyed_guard_s_paragraph_has_the_figures_against_keyed_draws() -> None:
    text, fresh = said(keyed=True), said()
    for knowledge, attacker, budget in (("nothing", "plain", 0), *((*who, 8) for who in FILTERS.values())):
        cells = [
            row(defender="keyed", knowledge=knowledge, attacker=attacker, attack=attack, budget=budget)["detected"] for attack in ATTACKS
        ]
        assert (words := f"{percent(min(cells))} to {percent(max(cells))}") in text and words not in fresh
    descended = row(defender="keyed", knowledge="bank", attacker="descend", attack="traded_0.5")["accepted"]
    assert f"{percent(descended)} (" in text
    for page, defender, ending in ((text, "keyed", "up to 16 times, to the same draw each time"), (fresh, "fresh", "up to 16 times")):
        (found,) = [part for part in page.split("; ") if ending in part]
        most = max(row(defender=defender, attacker="resubmit", attack=attack)["accepted"] for attack in ATTACKS)
        assert f"{percent(most)} (" in found
        changed = row(defender=defender, attacker="resubmit_changed")["accepted"]
        assert f"; {percent(changed)} (" in page and "up to 16 slightly changed copies" in page
        alarms = row(defender=defender, attack="clean")["detected"]
        assert f"and so flags {percent(alarms)} (" in page
    assert "to the same draw" not in fresh


@pytest.mark.parametrize(
    ("norm", "epsilon", "words"),
    [
        ("linf", 8 / 255, "L∞ 8/255"),
        ("linf", 0.5 / 255, "L∞ 0.001961"),
        ("linf", 0.2, "L∞ 0.2"),
        ("linf", 1.0, "L∞ 1"),
        ("l2", 0.5, "L2 0.5"),
        ("l2", 8 / 255, "L2 0.03137"),
    ],
)
def test_a_bound_is_in_grey_levels_where_it_is_a_number_of_them(norm: str, epsilon: float, words: str) -> None:
    assert bound_text(norm, epsilon) == words


def test_the_figures_of_another_detector_are_called_that() -> None:
    assert "joint" not in said()
    other = said(guarding="vote")
    assert other.startswith("The game was played with the detector joint, where this guard uses vote: nothing here was measured on vote")
    assert other.endswith(said())
    inputs = fake.report_inputs(game=fake.game_inputs(cells=CELLS, detector="joint"))
    assert "detector joint, where this guard uses likelihood_ratio" in game_says(inputs)
    inputs.params["publish"]["draws"] = "keyed"  # type: ignore[index]
    assert "the guard, with keyed draws, stops" in game_says(inputs)


def test_without_a_success_the_paragraph_claims_nothing() -> None:
    nothing = paragraph(
        {}, ATTACKS, alpha=0.05, looks=8, bound="L∞ 0.1", tries=16, queries=60, keyed=False, played="joint", guarding="joint"
    )
    assert nothing.startswith("The game against attackers who know the guard could not")


def test_a_column_that_no_attack_has_a_figure_for_is_left_out() -> None:
    """One bank of the attacker's own leaves nobody to spread the looks over several."""
    single = [cell for cell in CELLS if cell["attacker"] != "filter_banks"]
    headings = [game_rows(fake.report_inputs(game=fake.game_inputs(cells=cells)), ATTACKS)["columns"] for cells in (CELLS, single)]
    assert [heading for heading in headings[0] if heading not in headings[1]] == ["fresh, secret bank, 8 looks at several others"]
    for count, words in ((3, "all that 3 such attackers send"), (1, "whose luck is in no interval")):
        inputs = fake.report_inputs(game=fake.game_inputs(cells=CELLS if count > 1 else single))
        inputs.params["game"] = {**inputs.params["game"], "surrogates": count}  # type: ignore[index]
        assert words in render_report(inputs)


def test_report_and_card_say_the_same() -> None:
    inputs = fake.report_inputs(game=GAME)
    text = game_says(inputs)
    page = render_report(inputs)
    assert text in page.replace("&#39;", "'").replace("&lt;", "<").replace("&gt;", ">")
    inputs.params["detectors"] = {inputs.guard_detector: {"draw": 60}}  # type: ignore[index]
    inputs.params["activations"] = {"layers": {"stem": 1}}  # type: ignore[index]
    config = {"architecture": "cifar_resnet20", "factory": None, "factory_version": None}
    assert text in render_card(inputs, config, "guard")


def test_the_attackers_fitted_to_the_guard_stand_in_the_order_of_what_they_get() -> None:
    found = summary(GAME.headline)
    shares = [accepted.value for _, accepted, _, _ in found]
    assert shares == sorted(shares, reverse=True)
    names = [name for name, *_ in found]
    assert "descends on the score, traded_0.5, knows the bank, against fresh draws" in names
    assert "sends it again, pgd, against keyed draws" in names
    assert len(found) == 2 * len(ATTACKS) + 7


def test_the_picture_has_a_line_a_defender_and_a_point_a_number_of_looks() -> None:
    drawn = dict(lines(CELLS, "fgsm", fake.OWN))
    assert list(drawn) == [
        "one fixed draw, known to the attacker",
        "fresh draws, bank known, m = 60, T = 200 (the guard's)",
        "fresh draws, bank known, m = 20, T = 200",
        "fresh draws, bank of 100 known",
        "fresh draws, bank secret, m = 60, T = 200",
        "fresh draws, bank secret, looks at several others",
    ]
    assert [looks for looks, _ in drawn["one fixed draw, known to the attacker"]] == [0, 1]
    figure = frontier(CELLS, ATTACKS, fake.OWN, 0.05)
    for number, (who, label) in {
        1: ("bank", "fresh draws, bank known, m = 60, T = 200 (the guard's)"),
        4: ("secret", "secret, m = 60"),
        5: ("secret_banks", "secret, looks at several others"),
    }.items():
        knowledge, attacker = FILTERS[who]
        looked = [
            row(defender="fresh", draw=60, bank=1000, knowledge=knowledge, attacker=attacker, attack="fgsm", budget=looks)
            for looks in (1, 8, 64)
        ]
        wanted = [cell["detected"] for cell in looked if cell["sent"] >= 1]
        assert len(wanted) >= 2
        drawn_line = figure.axes[ATTACKS.index("fgsm")].lines[number]
        assert label in drawn_line.get_label()
        np.testing.assert_allclose(drawn_line.get_ydata()[1:], wanted)


def test_a_line_is_of_one_size_and_only_the_smallest_bank_has_one_beside_the_guard_s() -> None:
    drawn = dict(lines(CELLS, "fgsm", fake.OWN))
    assert sum("bank of" in label for label in drawn) == 1
    for words, size in {"(the guard's)": fake.OWN, "bank of 100": Size(60, 200, 100), "m = 20": Size(20, 200, 1000)}.items():
        (points,) = [dict(points) for label, points in drawn.items() if words in label]
        known = {"defender": "fresh", **size._asdict(), "attack": "fgsm"}
        for looks, cell in points.items():
            assert cell == row(**known, budget=looks, attacker="filter" if looks else "plain", knowledge="bank" if looks else "nothing")
    figure = frontier(CELLS, ATTACKS, fake.OWN, 0.05)
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in figure.axes[0].lines]
    assert len(set(looks)) == len(looks) == 7


def test_the_headline_is_that_of_the_size_it_is_asked_for() -> None:
    for own in (fake.OWN, *fake.OTHERS):
        flat = headline(CELLS, ATTACKS, own, 8)
        cell = row(defender="fresh", **own._asdict(), knowledge="bank", attacker="filter", attack="pgd", budget=8)
        assert flat["pgd.bank"] == cell["detected"]
    shares = [headline(CELLS, ATTACKS, own, 8)["pgd.bank"] for own in (fake.OWN, *fake.OTHERS)]
    assert len(set(shares)) == len(shares)
    with pytest.raises(KeyError, match="pgd.bank"):
        headline(CELLS, ATTACKS, Size(60, 200, 999), 8)["pgd.bank"]


def test_the_picture_is_the_same_again_and_stands_without_cells() -> None:
    assert to_svg(frontier(CELLS, ATTACKS, fake.OWN, 0.05)) == to_svg(frontier(CELLS, ATTACKS, fake.OWN, 0.05))
    assert to_png(frontier([], [], fake.OWN, 0.05))[:4] == b"\x89PNG"


def with_few_sent(attack: str, *budgets: int) -> list[dict]:
    """The cells, but of the attack less than one image is sent where the bank is known and after so many looks."""
    few = {"attack": attack, "attacker": "filter", "knowledge": "bank", "defender": "fresh"}
    return [
        {**cell, "sent": 0.3} if all(cell[key] == value for key, value in few.items()) and cell["budget"] in budgets else cell
        for cell in CELLS
    ]


def test_a_share_of_less_than_one_image_sent_is_not_told() -> None:
    told = sent_figures(GAME)
    for attack in ATTACKS:
        for who, (knowledge, attacker) in FILTERS.items():
            cell = row(defender="fresh", draw=60, bank=1000, knowledge=knowledge, attacker=attacker, attack=attack, budget=8)
            assert (f"{attack}.{who}" in told) == (cell["sent"] >= 1)
    game = fake.game_inputs(cells=with_few_sent("fgsm", 8))
    gone = {f"fgsm.bank{end}" for end in ("", "_low", "_high")}
    assert set(told) - set(sent_figures(game)) == gone and "fgsm.bank.accepted" in sent_figures(game)
    before, after = (game_says(fake.report_inputs(game=each)) for each in (GAME, game))
    assert percent(told["fgsm.bank"] or 0.0) in before and percent(told["fgsm.bank"] or 0.0) not in after


def test_only_the_fixed_draw_s_line_goes_on_beyond_its_last_point() -> None:
    figure = frontier(with_few_sent("fgsm", 8, 64), ATTACKS, fake.OWN, 0.05)
    fixed, own = figure.axes[ATTACKS.index("fgsm")].lines[:2]
    assert len(fixed.get_xdata()) == 3 and fixed.get_ydata()[-1] == fixed.get_ydata()[-2]
    assert len(own.get_xdata()) == 2


def test_disagreement_of_draws_is_a_picture_with_a_point_an_attack_and_a_colour_a_size() -> None:
    found = randomness(CELLS, ATTACKS, 8)
    sizes = {one.size for one in found}
    figure = randomness_figure(found, fake.OWN, 8)
    plain, looked = figure.axes
    for ax, measure in ((plain, "detected"), (looked, "accepted")):
        points = {(x, y) for line in ax.lines for x, y in zip(*line.get_data(), strict=True)}
        assert points == {(one.disagreement, getattr(one, measure)) for one in found} and len(ax.lines) == len(sizes)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0].endswith("(the guard's)") and len(labels) == len(sizes)
    assert labels[-1] == "m = 30, T = 200, two banks"


def test_no_two_sizes_share_colour_and_marker() -> None:
    sizes = [fake.OWN, *(Size(60, 200, bank) for bank in range(100, 120))]
    figure = randomness_figure([Randomness("pgd", size, 0.5, 0.1, 0.2, 0.1, 0.05) for size in sizes], fake.OWN, 8)
    looks = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(looks) == len(figure.axes[0].lines) == len(sizes)
    assert to_png(randomness_figure([], fake.OWN, 8))[:4] == b"\x89PNG"


def test_a_panel_says_from_which_look_on_nothing_is_sent() -> None:
    cells, wanted = with_few_sent("fgsm", 8, 64), []
    figure = frontier(cells, ATTACKS, fake.OWN, 0.05)
    shown = max(looks for attack in ATTACKS for _, points in lines(cells, attack, fake.OWN) for looks, _ in points)
    for attack in ATTACKS:
        mine = [cell for cell in cells if cell["attack"] == attack and size_of(cell) == fake.OWN and cell["defender"] == "fresh"]
        few = sorted(cell["budget"] for cell in mine if (cell["attacker"], cell["knowledge"]) == ("filter", "bank") and cell["sent"] < 1)
        few = [looks for looks in few if looks <= shown]
        wanted.append([f"less than one image passes\n{few[0]} looks at the guard"] if few else [])
    panels = figure.axes[: len(ATTACKS)]
    assert [[text.get_text() for text in ax.texts] for ax in panels] == wanted and wanted[ATTACKS.index("fgsm")] and [] in wanted
    assert len({tuple(ax.get_xticks()) for ax in panels}) == 1


def test_no_two_of_many_lines_look_the_same() -> None:
    assert len({(SERIES[place % len(SERIES)], dash(place)) for place in range(32)}) == 32
    assert len({(SERIES[place % len(SERIES)], marker(place)) for place in range(64)}) == 64
