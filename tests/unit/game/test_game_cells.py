"""Who plays whom: every cell once, each defender with its own chances, each attacker with the copy that they know."""

from dataclasses import asdict
from itertools import permutations, product

import numpy as np
import pyarrow as pa
import pytest
from game_support import SHIPPED
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from pipeline.artifacts.games import OWN, PLAYS, play_table, surrogates
from pipeline.evaluation.game import Play, filtered, plain, resubmitted
from pipeline.evaluation.game_headline import Size, size_of
from pipeline.game.cells import Cell, Looked, crafted, spread, without_the_classifier
from pipeline.params.game import DisjointParams
from stages.whitebox import best_static, cached, live, plan_detectors, variants

N = 50
RNG = np.random.default_rng(0)
SUCCESS = RNG.random(N) < 0.7
FRESH, KEYED, COPY, ANOTHER = (RNG.random(N) for _ in range(4))
STATIC = (RNG.random(N) < 0.5).astype(float)
GAME = SHIPPED.game
PARTS = {"thirds": DisjointParams(draw=12, parts=3)}
CELL = Cell("fresh", 60, 200, 1000, "", "nothing", "plain", "pgd", 0)
CHANCES = {"fresh": FRESH, "keyed": KEYED, "static": STATIC}
KNOWN, COPIES = Looked("bank", "filter", FRESH[None], spread=False, drawn=False), np.stack([COPY, ANOTHER])
LOOKED = [KNOWN, *(Looked("algorithm", who, COPIES, spread=who == "filter_banks", drawn=True) for who in ("filter", "filter_banks"))]


def played(**changes: object) -> dict[tuple, Play]:
    values = {"looked": LOOKED, "chances": CHANCES, "own": True, "clean": False} | changes
    found = list(without_the_classifier(CELL, SUCCESS, values["looked"], values["chances"], GAME, own=values["own"], clean=values["clean"]))  # type: ignore[arg-type]
    cells = {tuple(asdict(cell).values()): play for cell, play, _ in found}
    assert len(cells) == len(found)
    return cells


def test_the_guard_s_own_detector_meets_everybody() -> None:
    cells = played()
    assert len(cells) == 3 * (1 + 3 * len(GAME.looks) + 1 + 1)
    for defender, chance in CHANCES.items():
        for looks in GAME.looks:
            known, fitted, several = (
                cells[defender, 60, 200, 1000, "", who.knowledge, who.attacker, "pgd", looks].accepted for who in LOOKED
            )
            np.testing.assert_array_equal(known, filtered(SUCCESS, FRESH, chance, looks).accepted)
            each = [filtered(SUCCESS, copy, chance, looks).accepted for copy in (COPY, ANOTHER)]
            np.testing.assert_allclose(fitted, np.mean(each, axis=0))
            np.testing.assert_array_equal(several, spread(SUCCESS, COPIES, chance, looks).accepted)
        again = cells[defender, 60, 200, 1000, "", "nothing", "resubmit", "pgd", GAME.tries]
        np.testing.assert_array_equal(again.queries, resubmitted(SUCCESS, chance, GAME.tries, afresh=defender == "fresh").queries)
        foreseen = cells[defender, 60, 200, 1000, "", "draws", "filter", "pgd", 1]
        np.testing.assert_array_equal(foreseen.accepted, foreseen.sent)


def test_what_was_drawn_is_left_out_once_each() -> None:
    chances = {"fresh": FRESH}
    found = list(without_the_classifier(CELL, SUCCESS, LOOKED, chances, GAME, own=True, clean=False))
    assert sum(cell.knowledge == "algorithm" for cell, *_ in found) == 2 * len(GAME.looks)
    for cell, _, without in found:
        if cell.knowledge != "algorithm":
            assert not without
            continue
        wanted = [filtered(SUCCESS, copy, FRESH, cell.budget) for copy in (ANOTHER, COPY)]
        for play, other in zip(without, wanted, strict=True):
            for name, values in vars(other).items():
                np.testing.assert_allclose(getattr(play, name), values)
    three = Looked("algorithm", "filter_banks", np.stack([COPY, ANOTHER, FRESH]), spread=True, drawn=True)
    for number, one in enumerate(three.without()):
        wanted_play = spread(SUCCESS, np.delete(three.copies, number, axis=0), KEYED, 8)
        np.testing.assert_array_equal(one.play(SUCCESS, KEYED, 8).sent, wanted_play.sent)
    assert not Looked("algorithm", "filter", COPY[None], spread=False, drawn=True).without()


def test_other_detectors_meet_the_filter_and_clean_images_nobody() -> None:
    others = played(looked=[KNOWN], chances={"fresh": FRESH}, own=False)
    assert {key[6] for key in others} == {"plain", "filter"} and len(others) == 1 + len(GAME.looks)
    assert {key[6] for key in played(clean=True)} == {"plain"}


def test_who_descended_pays_for_it_before_anything_is_sent() -> None:
    found = {(cell.defender, cell.attacker): play for cell, play in crafted(CELL, SUCCESS, COPY, CHANCES, 8, 120)}
    assert set(found) == {(way, attacker) for way in CHANCES for attacker in ("descend", "descend_filter")}
    for way, chance in CHANCES.items():
        np.testing.assert_array_equal(found[way, "descend"].local, 120)
        np.testing.assert_array_equal(found[way, "descend_filter"].local, 120 + filtered(SUCCESS, COPY, chance, 8).local)


def test_plays_image_by_image_come_back_from_their_shards() -> None:
    plays = [plain(SUCCESS, FRESH), filtered(SUCCESS, COPY, FRESH, 8)]
    l2, ids = np.arange(N) / N, [f"{row:032x}" for row in range(N)]
    other = Cell("keyed", 60, 200, 1000, "", "bank", "descend", "selective", 15)
    tables = [
        play_table(cell, ids[half], Play(*(values[half] for values in vars(play).values())), l2[half], l2[half] / 2)
        for half in (slice(0, 20), slice(20, N))
        for cell, play in ((CELL, plays[0]), (other, plays[1]))
    ]
    found = list(live(tables))
    assert [cell for cell, *_ in found] == [CELL, other] and all(table.schema == PLAYS for table in tables)
    for (_, play, size, largest), wanted in zip(found, plays, strict=True):
        np.testing.assert_array_equal(size, l2)
        np.testing.assert_array_equal(largest, l2 / 2)
        for name, values in vars(wanted).items():
            np.testing.assert_array_equal(getattr(play, name), values)


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
@pytest.mark.parametrize("looks", [1, 2, 3, 5, 8])
def test_looks_are_spread_over_the_parts_evenly(parts: int, looks: int) -> None:
    """Against all orders in which the parts can be looked at, round after round."""
    each, chance = np.random.default_rng(parts).random((parts, N)), FRESH
    found, sent, local = spread(SUCCESS, each, chance, looks), np.zeros(N), np.zeros(N)
    rounds = list(product(permutations(range(parts)), repeat=-(-looks // parts)))
    for order in rounds:
        passing = np.ones(N)
        for part in sum(order, ())[:looks]:
            local += passing
            passing = passing * (1 - each[part])
        sent += passing
    np.testing.assert_allclose(found.sent, SUCCESS * sent / len(rounds), rtol=1e-9)
    np.testing.assert_allclose(found.local, SUCCESS * local / len(rounds), rtol=1e-9)
    np.testing.assert_array_equal(found.accepted, found.sent * (1 - chance))
    np.testing.assert_array_equal(found.queries, found.sent)


@given(st.integers(1, 6), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_who_spreads_the_looks_lets_no_more_through_than_who_looks_at_random(parts: int, looks: int, seed: int) -> None:
    """And exactly as much where the parts flag alike, or where there is but one look."""
    each = np.random.default_rng(seed).random((parts, N))
    blind = filtered(SUCCESS, each.mean(0), FRESH, looks)
    assert (spread(SUCCESS, each, FRESH, looks).sent <= blind.sent + 1e-12).all()
    for same, count in ((each.mean(0)[None].repeat(parts, 0), looks), (each, 1)):
        found, wanted = spread(SUCCESS, same, FRESH, count), filtered(SUCCESS, same.mean(0), FRESH, count)
        for name, values in vars(wanted).items():
            np.testing.assert_allclose(getattr(found, name), values, rtol=1e-9, atol=1e-12)


def test_detectors_vary_in_one_thing_at_a_time() -> None:
    own = SHIPPED.detectors["joint"]
    m, t = own.draw, own.committees  # type: ignore[union-attr]
    game = GAME.model_copy(update={"draws": (20, m, 30), "committees": (35, t), "banks": (250, 100, 300, 301, m, 7), "disjoint": PARTS})
    assert variants(game, own, 300) == {  # type: ignore[arg-type]
        "own": Size(m, t, 300),
        f"m20-t{t}-b300": Size(20, t, 300),
        f"m30-t{t}-b300": Size(30, t, 300),
        f"m{m}-t35-b300": Size(m, 35, 300),
        f"m{m}-t{t}-b250": Size(m, t, 250),
        f"m{m}-t{t}-b100": Size(m, t, 100),
        "disjoint-thirds": Size(12, 48, 300, "thirds"),
    }


def test_each_detector_s_cells_have_its_size_and_its_chances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.whitebox.attack_norms", lambda attack, ids: (np.ones(len(ids)), np.ones(len(ids))))
    game, rng = (
        GAME.model_copy(update={"draws": (20,), "committees": (35,), "banks": (100, 61), "disjoint": PARTS, "surrogates": 2}),
        np.random.default_rng(1),
    )
    sizes, known = variants(game, SHIPPED.detectors["joint"], 300), {}  # type: ignore[arg-type]
    for name in (*sizes, *surrogates(game)):
        for source in ("clean", "pgd"):
            drawn = {way: rng.random(N) for way in ("fresh", "keyed", "static")}
            parts = {f"part{number}": rng.random(N) for number in range(3)} if name == "disjoint-thirds" else {}
            known[name, source] = pa.table({"id": [f"{row:032x}" for row in range(N)], "success": SUCCESS, **drawn, **parts})
    found = {cell: play for cell, play, *_ in cached(known, ["pgd"], sizes, game)}
    assert {size_of(vars(cell)) for cell in found} == set(sizes.values()) and len(sizes) == 6
    for name, size in sizes.items():
        mine = {cell for cell in found if size_of(vars(cell)) == size}
        assert {cell.defender for cell in mine} == ({"fresh", "keyed", "static"} if name == OWN else {"fresh"})
        assert {cell.knowledge for cell in mine} == {"nothing", "bank"} | ({"algorithm", "draws"} if name == OWN else set())
        chance = known[name, "pgd"]["fresh"].to_numpy()
        looked = found[Cell("fresh", *size, "bank", "filter", "pgd", 8)]
        if name == "disjoint-thirds":
            each = np.stack([known[name, "pgd"][f"part{number}"].to_numpy() for number in range(3)])
            np.testing.assert_array_equal(looked.accepted, spread(SUCCESS, each, chance, 8).accepted)
        else:
            np.testing.assert_allclose(looked.accepted, SUCCESS * (1 - chance) ** 9)
        np.testing.assert_array_equal(
            found[Cell("fresh", *size, "nothing", "plain", "clean", 0)].accepted, 1 - known[name, "clean"]["fresh"].to_numpy()
        )
    theirs = np.stack([known[name, "pgd"]["fresh"].to_numpy() for name in surrogates(game)])
    chance = known[OWN, "pgd"]["fresh"].to_numpy()
    by_one, by_several = (found[Cell("fresh", *sizes[OWN], "algorithm", who, "pgd", 8)].accepted for who in ("filter", "filter_banks"))
    np.testing.assert_allclose(by_one, np.mean(SUCCESS * (1 - theirs) ** 8 * (1 - chance), axis=0))
    np.testing.assert_array_equal(by_several, spread(SUCCESS, theirs, chance, 8).accepted)
    alone = {cell.attacker for cell, *_ in cached(known, ["pgd"], sizes, game.model_copy(update={"surrogates": 1}))}
    assert "filter_banks" not in alone and "filter" in alone


def test_a_detector_from_another_seed_or_of_other_parts_is_another_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stored:
        def inputs(self, sources: list[str], splits: list[str]) -> dict[str, str]:
            return {f"{source}.{split}": "hash" for source in sources for split in splits}

    monkeypatch.setattr("stages.whitebox.FeatureSet.open", lambda folder: Stored())
    params = SHIPPED

    def planned(seed: int, parts: int = 3) -> dict[str, str]:
        game = GAME.model_copy(
            update={"seed": seed, "surrogates": 2, "disjoint": {"thirds": PARTS["thirds"].model_copy(update={"parts": parts})}}
        )
        sizes = {"own": Size(60, 200, 1000), "disjoint-thirds": Size(12, 200, 1000, "thirds")}
        tasks = plan_detectors(sizes, params.detectors["joint"], params.fingerprints, params.selection, game, {})  # type: ignore[arg-type]
        return {task.name: task.signature for task in tasks}

    made, another = planned(0), planned(0, 2)
    assert list(made) == ["disjoint-thirds", "surrogate-0", "surrogate-1"] and made == planned(0)
    assert all(made[name] != signed for name, signed in planned(1).items())
    assert made["surrogate-0"] == another["surrogate-0"] != made["surrogate-1"] and made["disjoint-thirds"] != another["disjoint-thirds"]


@pytest.mark.parametrize("best", [0, 2])
def test_the_fixed_draw_is_chosen_on_tune_alone(best: int) -> None:
    rng = np.random.default_rng(best)
    shift = {f"static{number}": 2.0 if number == best else 0.5 for number in range(3)}
    clean = pa.table({"success": [False] * 40, **{name: rng.normal(size=40) for name in shift}})
    failed = {name: np.full(40, 9.0 * (number == 1)) for number, name in enumerate(shift)}  # what fooled nobody counts for nothing
    won = {name: size + rng.normal(size=40) for name, size in shift.items()}
    attacked = pa.table({"success": [True] * 40 + [False] * 40, **{name: np.concatenate([won[name], failed[name]]) for name in shift}})
    tuned = {"clean": clean, "pgd": attacked, "fgsm": attacked, "none": attacked.slice(40)}
    areas = [roc_auc_score([0] * 40 + [1] * 40, np.concatenate([clean[name], won[name]])) for name in shift]
    assert best_static(tuned, ["pgd", "fgsm", "none"], 3) == np.argmax(areas) == best
    assert best_static(tuned, ["none"], 3) == best_static({**tuned, "clean": clean.slice(40)}, ["pgd"], 3) == 0
