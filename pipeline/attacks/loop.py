"""The iterative loop, stated once: gradient, step, projection, and finished examples leave the batch.

What varies between attacks comes in as functions over ``rows``, the positions (int64, (M,)) in the original batch of
the M examples still under attack. Whatever an attack keeps per example (labels, momentum, draws of a random model) is
looked up by them, so it never has to be cut along with the batch.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.attacks.base import LogitFn, Outcome
from pipeline.attacks.geometry import Norm
from pipeline.errors import ClassifierError

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(images (M, C, H, W), logits (M, K), rows (M,)) to the values (M,) to increase, differentiable in the images. Another
goal, such as a detector's score, is another term of the sum."""

GradientFn = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(images (M, C, H, W), rows (M,)) to the gradient to climb, of the images' shape, and the logits (M, K) met there.
Momentum, an average over a random model's draws, or one gradient made orthogonal to another wrap this."""

Finished = Callable[[Tensor, Tensor], Tensor]
"""(logits (M, K), rows (M,)) to which examples, bool (M,), need no further step."""


def gradient(logits_fn: LogitFn, objective: Objective) -> GradientFn:
    """The gradient of the summed objective with respect to the images alone, by one forward and one backward pass.

    Since the objective is summed, an example's gradient does not depend on the size of its batch, and no parameter
    of the model receives any.

    Raises:
        ClassifierError: the logits carry no gradient to the images (from the function returned).
    """

    def of(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            logits = logits_fn(leaf)
            values = objective(leaf, logits, rows)
            assert values.shape == rows.shape
            if not values.requires_grad:
                raise ClassifierError(_NO_GRADIENT)
            (slope,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True)
        if slope is None:
            raise ClassifierError(_NO_GRADIENT)
        return slope, logits.detach()

    return of


def require_finite(finite: Tensor) -> None:
    """Raises ClassifierError unless ``finite``, bool (), which a loop gathers from its gradients.

    It is looked at once, at the end, so that a device need not wait for it in every step; sign(NaN) is 0 and would hide it.
    """
    if not finite:
        raise ClassifierError(
            "classifier: the gradient of its logits is not finite for some images, where finite ones were expected for images in [0, 1]."
        )


_NO_GRADIENT = (
    "classifier: its logits carry no gradient to the images, where a differentiable model, not run under no_grad or "
    "inference_mode, was expected (a gradient attack has nothing to follow)."
)


def ascend(
    gradient_of: GradientFn,
    images: Tensor,
    start: Tensor,
    *,
    norm: Norm,
    epsilon: float,
    step_size: float,
    steps: int,
    finished: Finished | None = None,
) -> Outcome:
    """Climbs for ``steps`` steps of ``step_size`` (pixel units) inside the ball around ``images`` and [0, 1].

    x_{t+1} = Project(x_t + step_size * direction(gradient(x_t))), x_0 = ``start``. One forward pass a step: where
    ``finished`` is given it sees the logits of that same pass, and an example that it names stays as it was there and
    leaves the batch. What the last step reached is not looked at again here; ``generate`` checks the stored bytes.

    Args:
        gradient_of: what to climb.
        images: float (N, C, H, W) in [0, 1], the balls' centres.
        start: float (N, C, H, W), inside the balls.
        norm: the balls' norm.
        epsilon: the balls' radius, in pixel units.
        step_size: the length of a step in that norm, in pixel units.
        steps: the most steps an example takes.
        finished: which examples need no further step.

    Raises:
        ClassifierError: a gradient is not finite.
    """
    reached, taken = start.clone(), torch.zeros(len(images), dtype=torch.int64, device=images.device)
    rows = torch.arange(len(images), device=images.device)
    current, centre = start, images
    finite = torch.ones((), dtype=torch.bool, device=images.device)
    for _ in range(steps):
        slope, logits = gradient_of(current, rows)
        assert slope.shape == current.shape and len(logits) == len(rows)
        finite = finite & slope.isfinite().all()
        if finished is not None:
            active = ~finished(logits, rows)
            if not active.all():
                reached[rows[~active]] = current[~active]
                rows, current, centre, slope = rows[active], current[active], centre[active], slope[active]
            if not len(rows):
                break
        current = norm.project(current + step_size * norm.direction(slope), centre, epsilon)
        taken[rows] += 1
    reached[rows] = current
    require_finite(finite)
    return Outcome(reached, taken)


Attempt = Callable[[Tensor], Outcome]
"""Rows (int64, (M,)) of the original batch to what an attack makes of those M examples."""


def on_survivors(attempts: Sequence[Attempt], images: Tensor, logits_fn: LogitFn, finished: Finished) -> Outcome:
    """Attacks in turn, each on the examples that those before it left unfinished: restarts, and ensembles.

    An example keeps the image of the first attempt that finished it, or else of the last; its steps are summed. What an
    attempt returned is looked at by one forward pass without gradients, except after the last attempt.

    Args:
        attempts: at least one, in order.
        images: float (N, C, H, W), which give the result its shape.
        logits_fn: the model.
        finished: which examples need no further attempt.
    """
    reached, taken = images.clone(), torch.zeros(len(images), dtype=torch.int64, device=images.device)
    rows = torch.arange(len(images), device=images.device)
    for attempt in attempts:
        outcome = attempt(rows)
        reached[rows] = outcome.images
        taken[rows] += outcome.steps
        if attempt is attempts[-1]:
            break
        with torch.no_grad():
            rows = rows[~finished(logits_fn(outcome.images), rows)]
        if not len(rows):
            break
    return Outcome(reached, taken)
