"""``tune``: the search for a better committee detector, which reads ``fit`` and ``tune`` and changes nothing by itself."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline.params.base import Name, Positive, Section, Seed, Share, Unique


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the bounds are {bounds[0]:g} and {bounds[1]:g}, where the smaller one was expected first")
    return bounds


def _chain(choices: tuple[int, ...]) -> tuple[int, ...]:
    rising = sorted(choices)
    if uneven := [(low, high) for low, high in pairwise(rising) if high % low]:
        raise ValueError("{} is no divisor of {}, where from the smallest on each was expected to divide the next".format(*uneven[0]))
    return tuple(rising)


WholeBounds = Annotated[tuple[Positive, Positive], Field(strict=False), AfterValidator(_rising)]
ShareBounds = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]], Field(strict=False), AfterValidator(_rising)
]
EffectBounds = Annotated[tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], Field(strict=False), AfterValidator(_rising)]


class SpaceParams(Section):
    """What is tried: bounds, or a list of choices."""

    k: Annotated[Unique[Positive], AfterValidator(_chain)]
    """Choices for each layer, beside leaving it out; from the smallest on each divides the next (see ``fingerprints.k``)."""
    draw: WholeBounds
    directions: WholeBounds
    shrinkage: ShareBounds
    pooling: Unique[Share]
    effect_size: EffectBounds
    prefer: Unique[Literal["random", "largest_effect", "diverse"]]


class TrialParams(Section):
    """How a design is measured on ``tune``."""

    detector: Name
    """Which of ``detectors`` it is a design of: one of the kind ``committee``."""
    seed: Seed
    """Of the halves of ``tune``, and of the draws that its images meet."""
    held_out: Name
    """The attack family that is left out of the fit when detection of unseen attacks is measured."""
    looks: Positive
    """Draws that an attacker who knows the bank looks at before sending an image."""
    draws: Positive
    """Draws that each image meets, more than ``looks``."""

    @model_validator(mode="after")
    def _enough_draws(self) -> Self:
        if self.draws <= self.looks:
            raise ValueError(f"draws is {self.draws}, where more than looks, {self.looks}, were expected")
        return self


class TuneParams(TrialParams):
    """How the search is made, and what its proposal may cost; the seed is the sampler's too."""

    trials: Positive
    """How many designs are tried, the one in the params file among them."""
    batch: Positive
    """Trials suggested together: a suggestion rests on all earlier batches and on nothing else, however many workers there are."""
    startup: Positive
    """Trials drawn at random before the sampler learns from them."""
    cost_limit: Annotated[float, Field(gt=0)]
    """How many times the inspection cost of the params file the proposal may have."""
    space: SpaceParams
