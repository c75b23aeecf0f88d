"""``splits``: who sees which image."""

import math
from typing import Self

from pydantic import model_validator

from pipeline.params.base import Section, Seed, Share

SPLITS = ("train", "fit", "tune", "calibrate", "test")


class Fractions(Section):
    """How one origin's images are divided; the five shares add up to 1."""

    train: Share
    fit: Share
    tune: Share
    calibrate: Share
    test: Share

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        total = sum(getattr(self, split) for split in SPLITS)
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ValueError(f"the shares add up to {total:g}, where 1 was expected")
        return self


class SplitParams(Section):
    """Who sees which image."""

    split_seed: Seed
    """The salt of the hash that assigns an image to a split: each value redraws all of them."""
    origins: dict[str, Fractions]
    """Origin of the data source to its fractions; every origin of the source must be named."""
