"""Projected gradient descent: many small steps, each projected back into the ball.

Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards deep learning models resistant to adversarial attacks", ICLR 2018,
section 2.1: x_{t+1} = Project(x_t + step_size * sign(grad_x J(x_t, y))), from a uniform point of the ball. Without a
random start it is the basic iterative method (Kurakin, Goodfellow, Bengio, ICLR 2017 workshop, section 2.2). Under L2
the sign becomes the gradient over its norm; targeted, the steps lower the loss of the target. Guarantees: within epsilon
of the image (pixel units) and in [0, 1] after every step; one forward and one backward pass a step.
"""

from typing import Literal

from torch import Tensor

from pipeline.attacks.base import AttackOptions, Bound, LogitFn, Outcome
from pipeline.attacks.geometry import NormName, norm
from pipeline.attacks.loop import ascend, gradient
from pipeline.attacks.objectives import goal
from pipeline.params.base import Distance, Positive
from pipeline.random import ImageRandom


class Options(AttackOptions):
    """Options of ``pgd``."""

    family: Literal["pgd"]
    norm: NormName
    """The norm that bounds the perturbation, and sets the steps' direction."""
    epsilon: Distance
    """The most that the perturbation may measure, in pixel units."""
    step_size: Distance
    """The length of a step in the same norm, in pixel units."""
    steps: Positive
    random_start: bool
    """Start at a point drawn uniformly from the ball, rather than at the image."""
    targeted: bool
    """Step towards a class drawn per image, rather than away from the true one."""


def targeted(options: Options) -> bool:
    """As the option says."""
    return options.targeted


def bound(options: Options) -> Bound:
    """The ball of the options."""
    return Bound(norm(options.norm), options.epsilon)


def attack(logits_fn: LogitFn, images: Tensor, labels: Tensor, targets: Tensor | None, options: Options, draws: ImageRandom) -> Outcome:
    """See ``base.Family.attack``. Draws ``start`` where the start is random."""
    ball = norm(options.norm)
    return ascend(
        gradient(logits_fn, goal(labels, targets)),
        images,
        ball.start(images, options.epsilon, draws, "start") if options.random_start else images,
        norm=ball,
        epsilon=options.epsilon,
        step_size=options.step_size,
        steps=options.steps,
    )
