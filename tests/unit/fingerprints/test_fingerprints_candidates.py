"""Which images count for which side of a fingerprint's fit, and what is made of them."""

from dataclasses import replace

import numpy as np
import pytest
from fingerprints_support import LAYOUT, clean_features, image_ids

from pipeline.errors import WhorlError
from pipeline.fingerprints.candidates import CandidateBlock, block_moments, concatenate, group_rows, in_second_half
from pipeline.fingerprints.features import Features
from pipeline.fingerprints.sampling import sample_index_sets

# label, predicted when clean, predicted now, success, skipped
ATTACKED = [
    (0, 0, 1, True, False),  # attacked to 1
    (2, 2, 1, True, False),  # attacked to 1
    (0, 0, 0, False, False),  # failed, still 0
    (1, 1, 1, False, False),  # failed, still 1
    (1, 0, 0, False, True),  # wrong all along, never attacked
    (0, 1, 1, False, True),  # wrong all along
    (1, 1, 0, True, False),  # attacked to 0
]


def attacked_features(rng: np.random.Generator, repeat: int = 1) -> Features:
    columns = list(zip(*(ATTACKED * repeat), strict=True))
    neurons = rng.normal(3, 1, size=(len(columns[0]), LAYOUT.size)).astype(np.float32)
    return Features(image_ids(len(columns[0])), *(np.array(column) for column in columns), neurons)


def some_clean(rng: np.random.Generator, count: int = 40) -> Features:
    labels, wrong = rng.integers(0, 3, count), rng.random(count) < 0.3
    predicted = np.where(wrong, (labels + 1) % 3, labels)
    return clean_features(labels.tolist(), predicted.tolist(), rng.normal(size=(count, LAYOUT.size)).astype(np.float32))


def candidates(count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    return sample_index_sets(np.random.default_rng(0), LAYOUT, 4, count, {"early": 1.0, "late": 1.0})


@pytest.mark.parametrize(("group", "expected"), [(0, [6]), (1, [0, 1]), (2, []), (None, [0, 1, 6])])
def test_only_successes_predicted_as_the_class_are_attacked(group: int | None, expected: list[int]) -> None:
    features = attacked_features(np.random.default_rng(0))
    assert np.flatnonzero(group_rows("pgd", features, group)).tolist() == expected


@pytest.mark.parametrize(("group", "expected"), [(0, [0]), (1, [1, 4]), (2, []), (None, [0, 1, 4])])
def test_only_correctly_classified_images_are_clean(group: int | None, expected: list[int]) -> None:
    features = clean_features([0, 1, 2, 0, 1], [0, 1, 0, 1, 1], np.zeros((5, 3), np.float32))
    assert np.flatnonzero(group_rows("clean", features, group)).tolist() == expected


@pytest.mark.parametrize(("group", "expected"), [(0, [2]), (1, [3]), (2, []), (None, [2, 3])])
def test_only_wrongly_classified_images_are_mistaken(group: int | None, expected: list[int]) -> None:
    features = clean_features([0, 1, 2, 0, 1], [0, 1, 0, 1, 1], np.zeros((5, 3), np.float32))
    assert np.flatnonzero(group_rows("mistaken", features, group)).tolist() == expected


@pytest.mark.parametrize("group", [0, 1, None])
def test_moments_are_those_of_each_sides_own_images(group: int | None) -> None:
    rng = np.random.default_rng(1)
    clean, fgsm, pgd = some_clean(rng), attacked_features(rng), attacked_features(rng, 300)
    indices, layer = candidates()
    stream = [("clean", clean), ("fgsm", fgsm), ("pgd", pgd)]
    block = block_moments(indices, layer, stream, group_class=group, attacks=["fgsm", "pgd", "cw"])
    assert block.group == ("pooled" if group is None else str(group))
    assert block.whole.attacked["cw"].count == 0
    for source, features in stream:
        moments = block.whole.clean if source == "clean" else block.whole.attacked[source]
        of_class = (features.predicted == group) | (group is None)
        rows = of_class & ((features.labels == features.predicted) if source == "clean" else features.success)
        scores = features.neurons[rows].astype(np.float64)[:, indices].mean(axis=-1)
        assert moments.count == rows.sum() > 0
        np.testing.assert_allclose(moments.mean, scores.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(moments.m2, np.square(scores - scores.mean(axis=0)).sum(axis=0), rtol=1e-5, atol=1e-6)


def test_a_clean_image_and_what_was_made_of_it_are_in_one_half_and_the_halves_are_all_images() -> None:
    rng = np.random.default_rng(9)
    clean, (indices, layer) = some_clean(rng, 7 * 30), candidates()
    attacked = replace(attacked_features(rng, 30), ids=clean.ids)
    block = block_moments(indices, layer, [("clean", clean), ("pgd", attacked)], group_class=None, attacks=["pgd"])
    second = in_second_half(clean.ids)
    assert 60 < second.sum() < 140 and (in_second_half(clean.ids[::-1]) == second[::-1]).all()
    for number, half in enumerate(block.halves):
        for moments, features, rows in (
            (half.clean, clean, clean.labels == clean.predicted),
            (half.attacked["pgd"], attacked, attacked.success),
        ):
            mine = rows & (in_second_half(features.ids) == bool(number))
            scores = features.neurons[mine].astype(np.float64)[:, indices].mean(axis=-1)
            assert moments.count == mine.sum()
            np.testing.assert_allclose(moments.mean, scores.mean(axis=0), atol=1e-6)


def test_attacked_moments_come_from_attacked_activations() -> None:
    """The authors' package stores the clean activations under both names."""
    rng = np.random.default_rng(2)
    indices, layer = candidates()
    block = block_moments(indices, layer, [("clean", some_clean(rng)), ("pgd", attacked_features(rng, 20))], group_class=1, attacks=["pgd"])
    assert (block.whole.clean.mean < 1).all() and (block.whole.attacked["pgd"].mean > 2).all()


def test_failed_and_skipped_attacks_never_reach_the_moments() -> None:
    """The authors' package counts failed attacks; here nothing that they hold can change a bit."""
    features = attacked_features(np.random.default_rng(3), 5)
    poisoned = replace(features, neurons=np.where(features.success[:, None], features.neurons, np.float32(1e6)))
    indices, layer = candidates()
    plain, other = (block_moments(indices, layer, [("pgd", each)], group_class=None, attacks=["pgd"]) for each in (features, poisoned))
    assert plain.whole.attacked["pgd"].count == 15
    for one, two in zip(plain.halves, other.halves, strict=True):
        assert one.attacked["pgd"].mean.tobytes() == two.attacked["pgd"].mean.tobytes()
        assert one.attacked["pgd"].m2.tobytes() == two.attacked["pgd"].m2.tobytes()


def test_blocks_join_to_the_whole() -> None:
    rng = np.random.default_rng(4)
    stream = [part for _ in range(3) for part in (("clean", some_clean(rng)), ("pgd", attacked_features(rng, 3)))]
    indices, layer = candidates(10)

    def block(which: slice) -> CandidateBlock:
        return block_moments(indices[which], layer[which], stream, group_class=0, attacks=["pgd"])

    whole, joined = block(slice(None)), concatenate([block(slice(0, 4)), block(slice(4, 10))])
    assert (joined.indices == whole.indices).all() and (joined.layer == whole.layer).all()
    for a, b in ((joined.whole.clean, whole.whole.clean), (joined.whole.attacked["pgd"], whole.whole.attacked["pgd"])):
        assert a.count == b.count > 1
        assert (a.mean.tobytes(), a.m2.tobytes()) == (b.mean.tobytes(), b.m2.tobytes())


def test_mixed_moments_are_those_of_all_named_attacks() -> None:
    rng = np.random.default_rng(5)
    first, second, third = (attacked_features(rng, 4) for _ in range(3))
    indices, layer = candidates()
    stream = [("fgsm", first), ("pgd", second), ("cw", third)]
    block = block_moments(indices, layer, stream, group_class=1, attacks=["fgsm", "pgd", "cw"])
    mixed = block.whole.of(["fgsm", "cw"]).mixed()
    neurons = np.concatenate([each.neurons[each.success & (each.predicted == 1)] for each in (first, third)])
    scores = neurons.astype(np.float64)[:, indices].mean(axis=-1)
    assert mixed.count == len(scores)
    np.testing.assert_allclose(mixed.mean, scores.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(mixed.std(), scores.std(axis=0, ddof=1), rtol=1e-5)
    with pytest.raises(WhorlError, match="know nothing of .'square'"):
        block.whole.of(["fgsm", "square"])


def test_a_block_survives_storage() -> None:
    rng = np.random.default_rng(6)
    indices, layer = candidates()
    block = block_moments(
        indices, layer, [("clean", some_clean(rng)), ("pgd", attacked_features(rng))], group_class=1, attacks=["pgd", "clean_looking"]
    )
    again = CandidateBlock.from_arrays("1", block.to_arrays())
    assert (again.indices == indices).all() and (again.layer == layer).all()
    for one, two in zip(again.halves, block.halves, strict=True):
        assert sorted(one.attacked) == ["clean_looking", "pgd"]
        for a, b in ((one.clean, two.clean), *((one.attacked[name], two.attacked[name]) for name in two.attacked)):
            assert (a.count, a.mean.tobytes(), a.m2.tobytes()) == (b.count, b.mean.tobytes(), b.m2.tobytes())


def test_what_cannot_be_gathered_is_said() -> None:
    rng = np.random.default_rng(7)
    indices, layer = candidates()
    with pytest.raises(WhorlError, match="Features of 'cw'"):
        block_moments(indices, layer, [("cw", attacked_features(rng))], group_class=0, attacks=["pgd"])
    features = some_clean(rng)
    neurons = features.neurons.copy()
    bad = int(np.flatnonzero(features.predicted == features.labels)[3])
    neurons[bad] = np.nan
    with pytest.raises(WhorlError, match=f"An activation of image {features.ids[bad]} .clean. is not finite"):
        block_moments(indices, layer, [("clean", replace(features, neurons=neurons))], group_class=None, attacks=[])


def test_blocks_that_do_not_belong_together_are_refused() -> None:
    rng = np.random.default_rng(8)
    (indices, layer), stream = candidates(), [("clean", some_clean(rng))]
    zero, one = (block_moments(indices, layer, stream, group_class=group, attacks=[]) for group in (0, 1))
    with pytest.raises(WhorlError, match="one group"):
        concatenate([zero, one])
    with pytest.raises(WhorlError, match="one group"):
        concatenate([])
