"""Redrawn splits: of the right shares, without ``train``, another with every salt and the same with the same one."""

from hashlib import blake2b

import numpy as np
import pytest
from scipy.stats import chisquare

from pipeline.data.redraw import redraw, without_train
from pipeline.params.splits import SPLITS, Fractions

IDS = [blake2b(str(number).encode(), digest_size=16).hexdigest() for number in range(4000)]
FRACTIONS = {
    "mixed": Fractions(**dict(zip(SPLITS, (0.35, 0.25, 0.05, 0.15, 0.20), strict=True))),
    "kept": Fractions(**dict(zip(SPLITS, (0.0, 0.0, 0.0, 0.5, 0.5), strict=True))),
    "train": Fractions(**dict(zip(SPLITS, (1.0, 0.0, 0.0, 0.0, 0.0), strict=True))),
}
ORIGINS = {key: "mixed" if number % 4 else "kept" for number, key in enumerate(IDS)}


def test_shares_are_those_of_the_four_splits_scaled() -> None:
    scaled = without_train(FRACTIONS["mixed"])
    assert [getattr(scaled, split) for split in SPLITS] == pytest.approx([0, 25 / 65, 5 / 65, 15 / 65, 20 / 65])
    with pytest.raises(ValueError, match="all images are in train"):
        without_train(FRACTIONS["train"])


@pytest.mark.parametrize("seed", [1, 2, 77])
def test_every_image_gets_one_split_by_its_origin_s_shares(seed: int) -> None:
    splits = redraw(ORIGINS, seed, FRACTIONS)
    assert list(splits) == IDS and "train" not in splits.values()
    for origin, shares in (("mixed", [25 / 65, 5 / 65, 15 / 65, 20 / 65]), ("kept", [0, 0, 0.5, 0.5])):
        mine = [splits[key] for key in IDS if ORIGINS[key] == origin]
        counts = np.array([mine.count(split) for split in SPLITS[1:]])
        there = np.array(shares) > 0
        assert (counts[~there] == 0).all()
        assert chisquare(counts[there], np.array(shares)[there] * len(mine)).pvalue > 1e-4


def test_each_salt_draws_another_and_the_same_draws_the_same() -> None:
    one, again, other = (redraw(ORIGINS, seed, FRACTIONS) for seed in (5, 5, 6))
    assert one == again
    same = np.mean([one[key] == other[key] for key in IDS])
    shares = {origin: np.array([getattr(without_train(FRACTIONS[origin]), split) for split in SPLITS]) for origin in ("mixed", "kept")}
    by_chance = 0.75 * (shares["mixed"] ** 2).sum() + 0.25 * (shares["kept"] ** 2).sum()
    assert same == pytest.approx(by_chance, abs=0.04)


def test_under_the_salt_that_chose_them_images_would_have_no_uniform_place() -> None:
    """Why ``promise.split_seeds`` may not hold ``splits.split_seed``: what train left has the upper part of the hash's range."""
    from pipeline.data.identity import assign_split

    chosen = {key: "mixed" for key in IDS if assign_split(key, 0, FRACTIONS["mixed"]) != "train"}
    counts = {seed: list(redraw(chosen, seed, FRACTIONS).values()).count("fit") / len(chosen) for seed in (0, 1)}
    assert counts[1] == pytest.approx(25 / 65, abs=0.04)
    assert counts[0] == pytest.approx((25 / 65 - 0.35) / 0.65, abs=0.02)
