"""Targeted sign steps until the model is confident in the target, as the authors of neural fingerprints attack.

Fisher, Shahar, Resheff, "Neural fingerprints for adversarial attack detection", arXiv 2411.04533: from the image,
x_{t+1} = x_t - step_size * sign(grad_x J(x_t, target)) until the target's probability passes ``confidence``, the target
drawn at random per image. Theirs neither projects nor clips; here every step ends in the L-infinity ball and in
[0, 1]. Guarantees: within epsilon of the image (pixel units) and in [0, 1] after every step; an example takes no step
after the first at which it is confident enough.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from pipeline.attacks.base import AttackOptions, Bound, LogitFn, Outcome
from pipeline.attacks.geometry import norm
from pipeline.attacks.loop import ascend, gradient
from pipeline.attacks.objectives import confident_in, towards
from pipeline.params.base import Distance, Positive
from pipeline.random import ImageRandom


class Options(AttackOptions):
    """Options of ``confidence_ifgsm``."""

    family: Literal["confidence_ifgsm"]
    epsilon: Distance
    """The most that any pixel may move, in pixel units."""
    step_size: Distance
    """What every pixel moves by in a step, in pixel units (the authors': 0.01)."""
    confidence: Annotated[float, Field(gt=0, lt=1)]
    """An example is finished once the target's probability is above this (the authors': 0.7)."""
    steps: Positive
    """The most steps an example takes."""


def targeted(options: Options) -> bool:
    """Always."""
    return True


def bound(options: Options) -> Bound:
    """The cube of the options."""
    return Bound(norm("linf"), options.epsilon)


def attack(logits_fn: LogitFn, images: Tensor, labels: Tensor, targets: Tensor | None, options: Options, draws: ImageRandom) -> Outcome:
    """See ``base.Family.attack``. Draws nothing itself: the targets are given."""
    assert targets is not None
    return ascend(
        gradient(logits_fn, towards(targets)),
        images,
        images,
        norm=norm("linf"),
        epsilon=options.epsilon,
        step_size=options.step_size,
        steps=options.steps,
        finished=confident_in(targets, options.confidence),
    )
