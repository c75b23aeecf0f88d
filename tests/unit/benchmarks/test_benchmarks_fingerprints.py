"""What the fingerprints' benchmark makes: classes, committees and guards that the product takes as its own."""

import numpy as np
import pytest
import torch
from bank_scale import ATTACKS, IMAGES, LAYOUT, Measured, Scale, class_features, peak, random_committees, selection
from common import Spread
from fingerprints import CAPTIONS, PARTS
from inspection import ATTACKS as ATTACKS_HERE
from inspection import BANK, CLASSES, COMMITTEES, DEFAULT, DRAWN, PRESET, SIZES, added_said, committees, detectors, images_said, made

from pipeline.fingerprints.bank import Bank, Fingerprints
from pipeline.fingerprints.candidates import group_rows
from pipeline.fingerprints.draws import FreshDraws
from pipeline.params.detectors import CommitteeDetectorParams, FingerprintDetectorParams
from pipeline.params.root import load_params


def _bank(sizes: list[int], neurons: int) -> Bank:
    total = np.arange(neurons, dtype=np.int32)
    groups = {}
    for label, size in enumerate(sizes):
        indices = np.stack([np.roll(total, row)[:3] for row in range(size)])
        ones = np.ones(size, np.float32)
        groups[str(label)] = Fingerprints(indices, np.zeros(size, np.int16), ones, ones, ones, ones, ones)
    return Bank.build(LAYOUT, groups, {label: str(label) for label in range(len(sizes))}, {})


def test_a_made_class_counts_for_itself_alone() -> None:
    found = dict(class_features(3))
    assert list(found) == ["clean", *ATTACKS]
    for source, features in found.items():
        assert features.neurons.shape == (IMAGES, LAYOUT.size) and features.neurons.dtype == np.float32
        assert group_rows(source, features, 3).all() and not group_rows(source, features, 4).any()
    again = dict(class_features(3))
    assert all(np.array_equal(found[source].neurons, again[source].neurons) for source in found)
    assert not np.array_equal(found["clean"].neurons, dict(class_features(4))["clean"].neurons)


def test_the_larger_bank_keeps_as_many_as_it_holds() -> None:
    params = selection(Scale(2, 7))
    assert (params.bank_size, params.effect_size, params.prefer, params.cross_fit) == (7, 0.0, "largest_effect", None)


def test_random_committees_stay_in_their_groups() -> None:
    bank = _bank([70, 90], 100)
    found = random_committees(bank)
    assert np.array_equal(found.starts, [0, 200, 400])
    for group in range(2):
        members = found.members[found.starts[group] : found.starts[group + 1]]
        assert bank.starts[group] <= members.min() and members.max() < bank.starts[group + 1]


def test_a_made_guard_inspects_with_every_statistic() -> None:
    parts = made()
    with torch.inference_mode():
        predicted = parts.classifier(parts.images).argmax(1)
    assert len(predicted.unique()) == CLASSES
    every = detectors(parts.bank)
    assert len(every) == len(SIZES) + 3
    for detector in every.values():
        found = parts.guard(detector).inspect(parts.images[:8])
        assert [one.label for one in found] == predicted[:8].tolist()
        assert all(0 < one.p_value <= 1 for one in found)


@pytest.mark.parametrize("size", SIZES[:3])
def test_made_committees_have_different_members_of_one_class(size: object) -> None:
    bank = made().bank
    found = committees(bank, size, count=4).committees  # type: ignore[arg-type]
    assert found.factored.weights.shape[-2:] == (size.directions, size.m)  # type: ignore[attr-defined]
    assert all(len(set(row)) == len(row) for row in found.members.tolist())
    assert np.array_equal(found.members // BANK, np.repeat(np.arange(CLASSES), 4)[:, None].repeat(found.members.shape[1], 1))
    choice = committees(bank, size, count=4).choose(np.arange(CLASSES), FreshDraws(CLASSES))  # type: ignore[arg-type]
    assert np.array_equal(choice // 4, np.arange(CLASSES))


def test_the_default_is_the_presets() -> None:
    params = load_params(PRESET)
    committee, alone = params.detectors["joint"], params.detectors["likelihood_ratio"]
    assert isinstance(committee, CommitteeDetectorParams) and isinstance(alone, FingerprintDetectorParams)
    assert (committee.draw, committee.directions, committee.committees) == (DEFAULT.m, DEFAULT.directions, COMMITTEES)
    assert (alone.draw, params.selection.bank_size) == (DRAWN, BANK)
    assert len(params.fingerprints.fit_attacks) == ATTACKS_HERE and DEFAULT in SIZES and committee.mistakes


def test_a_peak_holds_what_was_held() -> None:
    found = Measured(Scale(1, 1))
    with peak(found, "little"):
        pass
    with peak(found, "much"):
        np.ones(64 * 2**17)  # 64 MiB, gone at once
    assert 50 < found.values["much", "MiB"] - found.values["little", "MiB"] < 100


def test_captions_and_notes() -> None:
    assert list(CAPTIONS) == list(PARTS)
    assert added_said(Spread(1.5, 1.0, 2.0)) == "1.500 ms (1.000 to 2.000)"
    assert [images_said(count) for count in (1, 128)] == ["1 image", "batch of 128"]
