"""Disjoint committees of a made world: parts that share nothing, their committees, and the chances of each."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from game_support import (
    ALPHA,
    PARAMS,
    POOL,
    SHIPPED,
    features,
    marked,
    pictures,
)

from pipeline.artifacts.games import Arena
from pipeline.artifacts.store import ShardStore
from pipeline.classifiers.model import Classifier
from pipeline.detectors.building import build_detector
from pipeline.detectors.committee import CommitteeDetector
from pipeline.fingerprints.features import CLEAN, Features
from pipeline.game.defenders import (
    every_score,
    only,
)
from pipeline.game.disjoint import disjoint, divided, shortage
from pipeline.params.game import DisjointParams
from pipeline.random import generator


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_every_fingerprint_is_dealt_to_one_part_and_every_layer_to_all(parts: int) -> None:
    bank = marked({"0": 30, "2": 13, "pooled": 9})
    found = divided(bank, DisjointParams(draw=1, parts=parts), 3)
    assert len(found) == parts
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(52))
    for group in bank.names:
        dealt = [only(bank, rows).groups[group] for rows in found]
        for counts in ([len(part) for part in dealt], *(np.array([np.bincount(part.layer, minlength=2) for part in dealt]).T)):
            assert max(counts) - min(counts) <= 1
    same, other = (divided(bank, DisjointParams(draw=1, parts=parts), seed) for seed in (3, 4))
    assert all(map(np.array_equal, found, same)) and not all(map(np.array_equal, found, other))


def test_parts_of_layers_have_those_layers_whole() -> None:
    bank = marked({"0": 30, "2": 13, "pooled": 9})
    few, many = divided(bank, DisjointParams(draw=1, parts=(("few",), ("many",))), 0)
    np.testing.assert_array_equal(few, np.flatnonzero(bank.fingerprints.layer == 0))
    np.testing.assert_array_equal(many, np.flatnonzero(bank.fingerprints.layer == 1))


@pytest.mark.parametrize(
    ("parts", "draw", "committees", "said"),
    [
        (2, 3, 16, None),
        (2, 4, 16, "part 1 has 4 fingerprints of group pooled, where more than draw, 4, were expected."),
        (3, 1, 2, "there are 3 parts, where at most as many as committees, 2, were expected."),
        ((("few",), ("many",)), 2, 16, None),
        ((("few",), ("many",)), 3, 16, "part ['few'] has 3 fingerprints of group pooled, where more than draw, 3, were expected."),
        (
            (("many",), ("few", "absent")),
            1,
            16,
            "its parts name ['absent'], where some of the layers that are kept, ['few', 'many'], were expected.",
        ),
    ],
)
def test_parts_that_are_too_small_are_said(parts: int | tuple[tuple[str, ...], ...], draw: int, committees: int, said: str | None) -> None:
    bank = marked({"0": 30, "2": 13, "pooled": 9})
    assert shortage(bank, DisjointParams(draw=draw, parts=parts), committees, 0) == said


@pytest.mark.parametrize("committees", [17, 15])
def test_committees_of_disjoint_parts_are_those_that_each_part_makes_alone(
    committees: int, detector: CommitteeDetector, fit: dict[str, Features]
) -> None:
    """As many of every part, part after part, of seeds of their own."""

    def stream(sources: Sequence[str]) -> Iterator[tuple[str, Features]]:
        return ((source, fit[source]) for source in sources)

    given, params = DisjointParams(draw=5, parts=3), PARAMS.model_copy(update={"committees": committees})
    bank, images = detector.bank, fit["sign"]
    found = disjoint(stream, bank, params, ["sign"], given, 7)
    assert found.bank is bank and found.committees.members.shape == (15 * len(bank.names), 5)
    scores, chosen = every_score(found, images.neurons, images.predicted), []
    for number, rows in enumerate(divided(bank, given, 7)):
        alone, mine = only(bank, rows), slice(5 * number, 5 * number + 5)
        members = np.stack([found.committees.members[start:][mine] for start in found.committees.starts[:-1]])
        assert np.isin(members, rows).all() and len({tuple(sorted(committee)) for committee in members[0].tolist()}) > 1
        chosen.append(np.searchsorted(rows, members))
        own = int(generator(params.seed, "game/disjoint", str(number)).integers(2**62))
        recipe = params.model_copy(update={"draw": 5, "committees": 5, "seed": own})
        made = build_detector(stream, alone, recipe, ["sign"])
        assert isinstance(made, CommitteeDetector)
        np.testing.assert_allclose(scores[:, mine], every_score(made, images.neurons, images.predicted), rtol=1e-4, atol=1e-4)
    assert not np.array_equal(chosen[0], chosen[1])
    other = disjoint(stream, bank, params.model_copy(update={"seed": 1}), ["sign"], given, 7)
    assert not np.array_equal(other.committees.members, found.committees.members)


def test_the_chances_of_parts_are_those_of_their_committees(
    detector: CommitteeDetector, classifier: Classifier, fit: dict[str, Features], tmp_path: Path
) -> None:
    """Each against calls whose draw is among the part's committees; their mean is the chance of all."""

    def stream(sources: Sequence[str]) -> Iterator[tuple[str, Features]]:
        return ((source, fit[source]) for source in sources)

    given = DisjointParams(draw=5, parts=2)
    made = disjoint(stream, detector.bank, PARAMS, ["sign"], given, 7)
    arena = Arena(tmp_path, SHIPPED.game.model_copy(update={"disjoint": {"two": given}}), ALPHA, {}, ShardStore(tmp_path))
    clean = features(classifier, pictures(400, 2), pictures(400, 2))
    shown = fit["sign"].where(np.arange(900) < 80)
    stored = SimpleNamespace(pool=POOL, class_names=("a", "b", "c"), read_split=lambda source, split: shown)
    vars(arena).update(features=stored, _calibrate=(clean, fit[CLEAN].predicted), _detectors={"disjoint-two": made})
    table = arena.chances("disjoint-two", "sign", 0)
    assert table.column_names == ["id", "success", "fresh", "part0", "part1"]
    limits = arena.defender("disjoint-two", "fresh").limits()[0][shown.predicted]
    for number in (0, 1):
        flagged = np.zeros(len(shown))
        for committee in range(8 * number, 8 * number + 8):
            which = torch.from_numpy(made.committees.starts[made.bank.class_group[shown.predicted]] + committee)
            flagged += made.module(torch.from_numpy(shown.neurons), which).numpy() > limits
        np.testing.assert_allclose(table[f"part{number}"].to_numpy(), flagged / 8)
    np.testing.assert_allclose(table["fresh"].to_numpy(), (table["part0"].to_numpy() + table["part1"].to_numpy()) / 2)
    assert not np.array_equal(table["part0"].to_numpy(), table["part1"].to_numpy())
