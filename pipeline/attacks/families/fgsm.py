"""The fast gradient sign method: one step of full length.

Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015, section 4:
x' = clip(x + epsilon * sign(grad_x J(x, y))). Under L2 the sign becomes the gradient over its norm; targeted, the
step lowers the loss of the target instead. Exact for a linear model of two classes. Guarantees: within epsilon
of the image (pixel units) and in [0, 1]; one forward and one backward pass.
"""

from typing import Literal

from torch import Tensor

from pipeline.attacks.base import AttackOptions, Bound, LogitFn, Outcome
from pipeline.attacks.geometry import NormName, norm
from pipeline.attacks.loop import ascend, gradient
from pipeline.attacks.objectives import goal
from pipeline.params.base import Distance
from pipeline.random import ImageRandom


class Options(AttackOptions):
    """Options of ``fgsm``."""

    family: Literal["fgsm"]
    norm: NormName
    """The norm that bounds the perturbation, and sets the step's direction."""
    epsilon: Distance
    """The perturbation's size, in pixel units."""
    targeted: bool
    """Step towards a class drawn per image, rather than away from the true one."""


def targeted(options: Options) -> bool:
    """As the option says."""
    return options.targeted


def bound(options: Options) -> Bound:
    """The ball of the options."""
    return Bound(norm(options.norm), options.epsilon)


def attack(logits_fn: LogitFn, images: Tensor, labels: Tensor, targets: Tensor | None, options: Options, draws: ImageRandom) -> Outcome:
    """See ``base.Family.attack``. Draws nothing."""
    return ascend(
        gradient(logits_fn, goal(labels, targets)),
        images,
        images,
        norm=norm(options.norm),
        epsilon=options.epsilon,
        step_size=options.epsilon,
        steps=1,
    )
