"""The momentum iterative method (MI-FGSM): steps along the gradients gathered so far.

Dong, Liao, Pang, Su, Zhu, Hu, Li, "Boosting adversarial attacks with momentum", CVPR 2018, algorithm 1: x_0 = x, g_0 = 0,
g_{t+1} = decay * g_t + grad_x J(x_t, y) / ||grad_x J(x_t, y)||_1 and x_{t+1} = Clip(x_t + step_size * sign(g_{t+1}));
under L2 (section 3.3) the sign becomes g_{t+1} over its L2 norm; targeted, J is minus the loss of the target. Guarantees:
within epsilon of the image (pixel units) and in [0, 1] after every step; one forward and one backward pass a step.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from pipeline.attacks.adaptive import with_momentum
from pipeline.attacks.base import AttackOptions, Bound, LogitFn, Outcome
from pipeline.attacks.geometry import NormName, norm
from pipeline.attacks.loop import ascend, gradient
from pipeline.attacks.objectives import goal, misclassified
from pipeline.params.base import Distance, Positive
from pipeline.random import ImageRandom


class Options(AttackOptions):
    """Options of ``mim``."""

    family: Literal["mim"]
    norm: NormName
    """The norm that bounds the perturbation, and sets the steps' direction."""
    epsilon: Distance
    """The most that the perturbation may measure, in pixel units."""
    step_size: Distance
    """The length of a step in the same norm, in pixel units (the authors': epsilon / steps)."""
    steps: Positive
    """The most steps an example takes (the authors': 10)."""
    decay: Annotated[float, Field(ge=0)]
    """What of the momentum the next step keeps (the authors': 1.0); 0 is the basic iterative method."""
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
        with_momentum(gradient(logits_fn, goal(labels, targets)), images, options.decay),
        images,
        images,
        norm=norm(options.norm),
        epsilon=options.epsilon,
        step_size=options.step_size,
        steps=options.steps,
        finished=misclassified(labels, targets) if options.stop_on_success else None,
    )
