"""The basic iterative method: FGSM in small steps, from the image itself.

Kurakin, Goodfellow, Bengio, "Adversarial examples in the physical world", ICLR 2017 workshop, section 2.2: x_0 = x,
x_{t+1} = Clip_{x, epsilon}(x_t + step_size * sign(grad_x J(x_t, y))); targeted (section 2.3, there for the least likely
class), the steps lower the loss of the target. It is PGD without a random start, and so draws nothing. Under L2 the sign
becomes the gradient over its norm. Guarantees: within epsilon of the image (pixel units) and in [0, 1] after every step;
one forward and one backward pass a step.
"""

from typing import Literal

from torch import Tensor

from pipeline.attacks.base import AttackOptions, Bound, LogitFn, Outcome
from pipeline.attacks.geometry import NormName, norm
from pipeline.attacks.loop import ascend, gradient
from pipeline.attacks.objectives import goal, misclassified
from pipeline.params.base import Distance, Positive
from pipeline.random import ImageRandom


class Options(AttackOptions):
    """Options of ``bim``."""

    family: Literal["bim"]
    norm: NormName
    """The norm that bounds the perturbation, and sets the steps' direction."""
    epsilon: Distance
    """The most that the perturbation may measure, in pixel units."""
    step_size: Distance
    """The length of a step in the same norm, in pixel units (the authors': 1/255)."""
    steps: Positive
    """The most steps an example takes (the authors': min(E + 4, 1.25 E) for an epsilon of E grey levels)."""
    stop_on_success: bool
    """An example takes no step after the first at which the model predicts the target, or any wrong class without one."""
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
        step_size=options.step_size,
        steps=options.steps,
        finished=misclassified(labels, targets) if options.stop_on_success else None,
    )
