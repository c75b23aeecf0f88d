"""Splits drawn anew among the images that the classifier was not trained on."""

from collections.abc import Mapping

from pipeline.data.identity import assign_split
from pipeline.params.splits import SPLITS, Fractions

TRAIN, *ROLES = SPLITS


def without_train(fractions: Fractions) -> Fractions:
    """The shares of the four splits after ``train``, scaled to add up to 1.

    Raises:
        ValueError: there is nothing but ``train``.
    """
    shares = {split: float(getattr(fractions, split)) for split in ROLES}
    if not (total := sum(shares.values())):
        raise ValueError("all images are in train, where a share of some other split was expected")
    return Fractions(train=0.0, **{split: share / total for split, share in shares.items()})


def redraw(origins: Mapping[str, str], split_seed: int, fractions: Mapping[str, Fractions]) -> dict[str, str]:
    """The split of each image under another salt; ``train`` takes part in nothing.

    Given the images, each salt draws the splits independently of every other, so long as none is the salt that chose them.

    Args:
        origins: id to origin of all images in fit, tune, calibrate and test.
        split_seed: the salt.
        fractions: origin to its shares, ``train`` included.
    """
    among = {origin: without_train(fractions[origin]) for origin in set(origins.values())}
    return {key: assign_split(key, split_seed, among[origin]) for key, origin in origins.items()}
