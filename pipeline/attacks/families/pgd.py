"""Projected gradient descent: many small steps, each projected back into the ball.

Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards deep learning models resistant to adversarial attacks", ICLR 2018,
section 2.1: x_{t+1} = Project(x_t + step_size * sign(grad_x J(x_t, y))), from a uniform point of the ball. Without a
random start it is the basic iterative method (Kurakin, Goodfellow, Bengio, ICLR 2017 workshop, section 2.2). Under L2
the sign becomes the gradient over its norm; targeted, the steps lower the loss of the target. Restarts (the same
section) begin again from another point on the examples that no earlier one fooled. Guarantees: within epsilon of the
image (pixel units) and in [0, 1] after every step; one forward and one backward pass a step, and one forward pass
between restarts.
"""

from functools import partial
from typing import Literal, Self

from pydantic import model_validator
from torch import Tensor

from pipeline.attacks.base import AttackOptions, Bound, LogitFn, Outcome
from pipeline.attacks.geometry import NormName, norm
from pipeline.attacks.loop import ascend, gradient, on_survivors
from pipeline.attacks.objectives import goal, misclassified
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
    restarts: Positive
    """How often an example that is not fooled is tried, each time from another random start."""
    stop_on_success: bool
    """An example leaves at the first step at which the model predicts the target, or any wrong class without one; rather
    than climbing on for all its steps to where the model is surer of its error."""
    targeted: bool
    """Step towards a class drawn per image, rather than away from the true one."""

    @model_validator(mode="after")
    def _restarts_differ(self) -> Self:
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts is {self.restarts} without a random start, where 1 was expected: every one would be the same")
        return self


def targeted(options: Options) -> bool:
    """As the option says."""
    return options.targeted


def bound(options: Options) -> Bound:
    """The ball of the options."""
    return Bound(norm(options.norm), options.epsilon)


def attack(logits_fn: LogitFn, images: Tensor, labels: Tensor, targets: Tensor | None, options: Options, draws: ImageRandom) -> Outcome:
    """See ``base.Family.attack``. Draws ``start`` for the first start, where it is random, and ``start/1`` onwards for restarts."""
    ball, finished = norm(options.norm), misclassified(labels, targets)

    def attempt(restart: int, rows: Tensor) -> Outcome:
        centre, name = images[rows], f"start/{restart}" if restart else "start"
        some = draws.subset(rows.cpu().numpy())
        return ascend(
            gradient(logits_fn, goal(labels[rows], None if targets is None else targets[rows])),
            centre,
            ball.start(centre, options.epsilon, some, name) if options.random_start else centre,
            norm=ball,
            epsilon=options.epsilon,
            step_size=options.step_size,
            steps=options.steps,
            finished=misclassified(labels[rows], None if targets is None else targets[rows]) if options.stop_on_success else None,
        )

    return on_survivors([partial(attempt, restart) for restart in range(options.restarts)], images, logits_fn, finished)
