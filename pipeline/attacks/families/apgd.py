"""Auto-PGD: projected gradient ascent with momentum that halves its own step size and goes back to its best point.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020,
algorithm 1. With P the projection onto ball and box, eta the step size (2 epsilon at first) and alpha = 0.75:
z_{k+1} = P(x_k + eta * direction(grad f(x_k))), x_{k+1} = P(x_k + alpha (z_{k+1} - x_k) + (1 - alpha) (x_k - x_{k-1})),
x_1 = z_1. At the checkpoints w_j = ceil(p_j steps), p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06),
an example's step size is halved, and it goes on from its best point, where (1) fewer than rho of the steps since
w_{j-1} increased f, or (2) w_{j-1} did not halve and the best f has not grown since. As in the authors' code the
conditions are looked at once x_{w_j} is known, and x_k of the momentum survives the return to the best point. f is the
cross-entropy, DLR or targeted DLR (``pipeline.attacks.margins``); the last tries the strongest wrong classes of the clean
image in turn. Every run starts at a point drawn uniformly from the ball; further restarts and classes are for the examples
that are still classified correctly.

Guarantees: within epsilon of the image (pixel units) and in [0, 1] after every step. A run costs one forward and one
backward pass a step, and one forward pass to look at its last point; targeted DLR adds one forward pass on the clean
images, and every run but the last one on what it ended with. An example's result does not depend on its batch.
"""

from dataclasses import dataclass, fields
from functools import partial
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from pipeline.attacks.base import AttackOptions, Bound, LogitFn, Outcome
from pipeline.attacks.geometry import Norm, NormName, norm
from pipeline.attacks.loop import Objective, gradient, on_survivors, require_finite
from pipeline.attacks.margins import dlr, dlr_targeted, strongest_wrong
from pipeline.attacks.objectives import away_from, misclassified
from pipeline.params.base import Distance, Positive, Share
from pipeline.random import ImageRandom

_MOMENTUM = 0.75
"""alpha: the share of the projected gradient step in a step; the rest goes on as the step before."""


class Options(AttackOptions):
    """Options of ``apgd``."""

    family: Literal["apgd"]
    norm: NormName
    """The norm that bounds the perturbation, and sets the steps' direction."""
    epsilon: Distance
    """The most that the perturbation may measure, in pixel units."""
    steps: Positive
    """The most gradient steps of a run (the authors': 100)."""
    restarts: Positive
    """The most runs, each from a random point of its own; for ``dlr_targeted``, the most runs per class."""
    loss: Literal["ce", "dlr", "dlr_targeted"]
    """What is climbed; ``dlr`` needs 3 classes, ``dlr_targeted`` 4."""
    target_classes: Positive | None
    """How many of the clean image's highest wrong classes ``dlr_targeted`` tries, all where there are fewer (the
    authors': 9); null for the other losses."""
    rho: Share
    """The share of steps that must increase the loss, or else the step size is halved (the authors': 0.75)."""
    stop_on_success: bool
    """End an example's run at the first point that the model gets wrong, rather than climb on and keep the last such
    point. The success is the same, for fewer steps (under L2, where bytes are stored, but for what storing takes back)."""

    @model_validator(mode="after")
    def _classes_go_with_the_targeted_loss(self) -> Self:
        if self.target_classes is not None and self.loss != "dlr_targeted":
            raise ValueError(
                f"target_classes is {self.target_classes}, where null was expected with the loss {self.loss}, which aims at none"
            )
        if self.target_classes is None and self.loss == "dlr_targeted":
            raise ValueError("target_classes is null, where a number of classes was expected with the loss dlr_targeted")
        return self


def targeted(options: Options) -> bool:
    """Never: ``dlr_targeted`` picks its classes itself, and any wrong class is a success."""
    return False


def bound(options: Options) -> Bound:
    """The ball of the options."""
    return Bound(norm(options.norm), options.epsilon)


def attack(logits_fn: LogitFn, images: Tensor, labels: Tensor, targets: Tensor | None, options: Options, draws: ImageRandom) -> Outcome:
    """See ``base.Family.attack``. Draws ``start/<class's place>/<restart>``."""
    attempts = [
        partial(_run, logits_fn, objective, images, labels, options, draws, f"start/{place}/{restart}")
        for place, objective in enumerate(_objectives(logits_fn, images, labels, options))
        for restart in range(options.restarts)
    ]
    return on_survivors(attempts, images, logits_fn, misclassified(labels, None))


def checkpoints(steps: int) -> list[int]:
    """The w_j from w_0 = 0 up to ``steps``; those that coincide, of a short run, count once."""
    # In hundredths: in floats 0.41 * 100 may come out above 41, whose ceiling is 42.
    shares = [0, 22]
    while shares[-1] < 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    places = {-(-share * steps // 100) for share in shares}
    return sorted(place for place in places if place <= steps)


def _objectives(logits_fn: LogitFn, images: Tensor, labels: Tensor, options: Options) -> list[Objective]:
    """What is climbed in turn: one loss, or the targeted one for each class."""
    if options.target_classes is None:
        return [away_from(labels) if options.loss == "ce" else dlr(labels)]
    with torch.no_grad():
        classes = strongest_wrong(logits_fn(images), labels, options.target_classes)
    return [dlr_targeted(labels, classes[:, place]) for place in range(classes.shape[1])]


def _run(
    logits_fn: LogitFn, objective: Objective, images: Tensor, labels: Tensor, options: Options, draws: ImageRandom, name: str, rows: Tensor
) -> Outcome:
    """Algorithm 1 on the examples of ``rows``; one that is never misclassified returns its point of the highest loss."""
    ball, slope_of, fooled = norm(options.norm), gradient(logits_fn, objective), misclassified(labels, None)
    centre = images[rows]
    start = ball.start(centre, options.epsilon, draws.subset(rows.cpu().numpy()), name)
    slope, logits = slope_of(start, rows)
    climb = _begin(rows, centre, start, slope, objective(start, logits, rows), fooled(logits, rows), options.epsilon)
    reached, taken = start.clone(), torch.zeros_like(rows)
    marks = checkpoints(options.steps)
    since = dict(zip(marks[1:], marks, strict=False))
    for step in range(1, options.steps + 1):
        if options.stop_on_success and climb.fooled.any():
            climb.leave(climb.fooled, reached)
        if not len(climb.rows):
            break
        climb.move(ball, options.epsilon, 1 if step == 1 else _MOMENTUM)
        if step < options.steps:
            slope, logits = slope_of(climb.current, climb.rows)
        else:
            with torch.no_grad():
                slope, logits = climb.slope, logits_fn(climb.current)
        climb.look(slope, objective(climb.current, logits, climb.rows), fooled(logits, climb.rows))
        taken[climb.places] += 1
        if step in since:
            climb.adapt(options.rho * (step - since[step]))
    climb.leave(torch.ones_like(climb.fooled), reached)
    return Outcome(reached, taken)


@dataclass
class _Climb:
    """Where a run stands: a row per example that is still in it.

    Attributes:
        rows: positions in the original batch.
        places: positions in the run.
        centre: the images.
        previous: x_{k-1}.
        current: x_k.
        slope: the gradient there.
        loss: f there.
        best: the point of the highest f so far.
        best_slope: the gradient there.
        best_loss: f there.
        wrong: the last misclassified point.
        fooled: whether there was one.
        finite: whether the gradients were finite.
        size: the step size, in pixel units.
        rises: steps since the last checkpoint that increased f.
        best_then: the highest f at the last checkpoint.
        halved: whether that checkpoint halved the step size.
    """

    rows: Tensor
    places: Tensor
    centre: Tensor
    previous: Tensor
    current: Tensor
    slope: Tensor
    loss: Tensor
    best: Tensor
    best_slope: Tensor
    best_loss: Tensor
    wrong: Tensor
    fooled: Tensor
    finite: Tensor
    size: Tensor
    rises: Tensor
    best_then: Tensor
    halved: Tensor

    def move(self, ball: Norm, epsilon: float, share: float) -> None:
        """The next point; ``share``: alpha."""
        stepped = ball.project(self.current + _column(self.size) * ball.direction(self.slope), self.centre, epsilon)
        mixed = self.current + share * (stepped - self.current) + (1 - share) * (self.current - self.previous)
        self.previous, self.current = self.current, ball.project(mixed, self.centre, epsilon)

    def look(self, slope: Tensor, loss: Tensor, wrong: Tensor) -> None:
        """Takes note of what the model said of ``current``."""
        self.rises += loss > self.loss
        self.slope, self.loss = slope, loss
        better = loss > self.best_loss
        self.best, self.best_slope = _choose(better, self.current, self.best), _choose(better, slope, self.best_slope)
        self.best_loss = torch.where(better, loss, self.best_loss)
        self.wrong, self.fooled = _choose(wrong, self.current, self.wrong), self.fooled | wrong
        self.finite = self.finite & slope.isfinite().flatten(1).all(1)

    def adapt(self, needed: float) -> None:
        """Halves and goes back where ``needed`` rises were not reached, or where nothing changed since the last checkpoint."""
        halve = (self.rises < needed) | (~self.halved & (self.best_loss == self.best_then))
        self.size = torch.where(halve, self.size / 2, self.size)
        self.current, self.slope = _choose(halve, self.best, self.current), _choose(halve, self.best_slope, self.slope)
        self.loss = torch.where(halve, self.best_loss, self.loss)
        self.rises, self.best_then, self.halved = torch.zeros_like(self.rises), self.best_loss, halve

    def leave(self, gone: Tensor, reached: Tensor) -> None:
        """Writes down what the examples of ``gone``, bool, ended with, and drops them."""
        require_finite(self.finite[gone].all())
        reached[self.places[gone]] = _choose(self.fooled, self.wrong, self.best)[gone]
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[~gone])


def _begin(rows: Tensor, centre: Tensor, start: Tensor, slope: Tensor, loss: Tensor, wrong: Tensor, epsilon: float) -> _Climb:
    """A run at x_0, of which the model has told what it says."""
    return _Climb(
        rows=rows,
        places=torch.arange(len(rows), device=rows.device),
        centre=centre,
        previous=start,
        current=start,
        slope=slope,
        loss=loss,
        best=start,
        best_slope=slope,
        best_loss=loss,
        wrong=start,
        fooled=wrong,
        finite=slope.isfinite().flatten(1).all(1),
        size=torch.full((len(rows),), 2 * epsilon, dtype=start.dtype, device=start.device),
        rises=torch.zeros_like(rows),
        best_then=loss,
        halved=torch.zeros_like(wrong),
    )


def _choose(where: Tensor, these: Tensor, those: Tensor) -> Tensor:
    """Images of ``these`` where ``where``, bool (M,), and of ``those`` elsewhere."""
    return torch.where(_column(where), these, those)


def _column(values: Tensor) -> Tensor:
    """(M,) as (M, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)
