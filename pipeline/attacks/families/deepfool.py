"""DeepFool: to the nearest boundary of the linearised model, again and again until the true boundary is crossed.

Moosavi-Dezfooli, Fawzi, Frossard, "DeepFool: a simple and accurate method to fool deep neural networks", CVPR 2016,
algorithm 2. With f_k the logits, y the image's class, and from x_0 = x and r = 0, while the model says y:

    w'_k = grad f_k(x_i) - grad f_y(x_i),  f'_k = f_k(x_i) - f_y(x_i)
    l = argmin over k of |f'_k| / ||w'_k||_q
    r = r + |f'_l| / ||w'_l||_q * d(w'_l),  x_{i+1} = clip(x + (1 + overshoot) * r)

where q is the dual of the norm and d the unit step along which f'_l grows fastest: for L2 q = 2 and d(w) = w / ||w||_2,
for L-infinity (section 3.3) q = 1 and d(w) = sign(w). As in the authors' program only the classes that score highest on
the clean image are compared, and gradients are taken at the overshot iterates.

A model that rounds the image to bytes does not see a step that is too short to reach the next grey level, and the same
step would follow again and again. So where a step has left the logits as they were the next is twice as long, until one
tells; and none moves pixels by less than 1e-5 (root mean square, or each for L-infinity), lest it end on the boundary.

Guarantees: in [0, 1]; what is returned is the first iterate that the model misclassifies, judged by its logits for that
very image, or the input where no step reached one; no bound on the perturbation, whose size is in pixel units. One
forward pass a step, one more where examples leave the batch, and a backward pass a step and compared class; an example
that has left costs none. Draws nothing.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.attacks.base import AttackOptions, LogitFn, Outcome
from pipeline.attacks.geometry import Norm, NormName, norm
from pipeline.attacks.loop import require_finite
from pipeline.attacks.margins import strongest_wrong
from pipeline.attacks.objectives import misclassified
from pipeline.errors import ClassifierError
from pipeline.params.base import Positive, Share
from pipeline.random import ImageRandom

_SHORTEST = 1e-5
"""In pixel units: what a step moves pixels by at least, since from the very boundary (a tie) the way to it is 0."""
_UNSEEN = 1e-5
"""Share of the largest logit: a change below it counts as none (float noise, which varies with the batch, is smaller)."""


class Options(AttackOptions):
    """Options of ``deepfool``."""

    family: Literal["deepfool"]
    norm: NormName
    """The norm in which the perturbation is to be small."""
    steps: Positive
    """The most steps an example takes."""
    candidates: Annotated[int, Field(ge=2)]
    """How many classes are considered, the image's own among them: those of the highest logits on the clean image."""
    overshoot: Share
    """By what share the perturbation is longer than the sum of the steps (the paper's: 0.02)."""


def targeted(options: Options) -> bool:
    """Never."""
    return False


def bound(options: Options) -> None:
    """None: the norm is made small, not bounded."""
    return None


@dataclass(frozen=True)
class _Active:
    """The M examples still under attack: what is kept of each, row by row.

    Attributes:
        rows: int64 (M,), positions in the original batch.
        images: (M, C, H, W), the clean images.
        classes: int64 (M, R + 1), the image's own class, then those it is compared with.
        moved: (M, C, H, W), r: the sum of the steps.
        logits: (M, K), at the iterate before the current one; NaN at first.
        stretch: (M,), how much longer than the linear model's the last step was.
    """

    rows: Tensor
    images: Tensor
    classes: Tensor
    moved: Tensor
    logits: Tensor
    stretch: Tensor

    def keep(self, which: Tensor) -> "_Active":
        """The examples of the mask, bool (M,)."""
        return _Active(*(getattr(self, field.name)[which] for field in fields(self)))


def attack(logits_fn: LogitFn, images: Tensor, labels: Tensor, targets: Tensor | None, options: Options, draws: ImageRandom) -> Outcome:
    """See ``base.Family.attack``. Draws nothing.

    Raises:
        ClassifierError: the logits carry no gradient to the images, or one that is not finite.
    """
    reached, taken = images.clone(), torch.zeros(len(images), dtype=torch.int64, device=images.device)
    current, finished, finite = images, misclassified(labels, None), torch.ones((), dtype=torch.bool, device=images.device)
    leaf, logits = _forward(logits_fn, images)
    active = _start(images, labels, logits, options.candidates)
    for _ in range(options.steps):
        if len(logits) > len(active.rows):
            # A graph without those that left: this pass costs less than backward passes through their part of it.
            leaf, logits = _forward(logits_fn, current)
        active, current, sound = _step(leaf, logits, active, options)
        finite = finite & sound
        taken[active.rows] += 1
        leaf, logits = _forward(logits_fn, current)
        done = finished(logits, active.rows)
        if done.any():
            reached[active.rows[done]] = current[done]
            active, current = active.keep(~done), current[~done]
            if not len(current):
                break
    require_finite(finite)
    return Outcome(reached, taken)


def _forward(logits_fn: LogitFn, images: Tensor) -> tuple[Tensor, Tensor]:
    """The images as a leaf of a new graph, and the logits in it."""
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        return leaf, logits_fn(leaf)


def _start(images: Tensor, labels: Tensor, logits: Tensor, candidates: int) -> _Active:
    return _Active(
        rows=torch.arange(len(images), device=images.device),
        images=images,
        classes=torch.cat([labels[:, None], strongest_wrong(logits.detach(), labels, candidates - 1)], 1),
        moved=torch.zeros_like(images),
        logits=torch.full_like(logits.detach(), math.nan),
        stretch=images.new_ones(len(images)),
    )


def _step(leaf: Tensor, logits: Tensor, active: _Active, options: Options) -> tuple[_Active, Tensor, Tensor]:
    """One step: the state after it, the new iterate, and whether every gradient was finite, bool ()."""
    longest = 1.0 if options.norm == "linf" else math.sqrt(leaf[0].numel())
    distance, direction, finite = _nearest(leaf, logits, active.classes, norm(options.norm))
    seen, before = logits.detach(), active.logits
    unseen = (seen - before).abs().amax(1) <= _UNSEEN * seen.abs().amax(1)
    stretch = torch.where(unseen, 2 * active.stretch, 1)
    length = (stretch * distance.clamp_min(_SHORTEST * longest)).clamp_max(longest)
    moved = active.moved + length.view(-1, 1, 1, 1) * direction
    current = (active.images + (1 + options.overshoot) * moved).clamp(0, 1)
    return replace(active, moved=moved, logits=seen, stretch=stretch), current, finite


def _nearest(leaf: Tensor, logits: Tensor, classes: Tensor, ball: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """The distance (M,) to the nearest boundary of the linearised model, the unit step (M, C, H, W) towards it, and whether
    every gradient was finite, bool ().

    Where no gradient leads anywhere the distance is infinite and the step 0. One backward pass a class, all through the
    same graph: on a CPU faster than one pass over a batch of all classes, whether of gradients alone or of images too.
    """
    nearest, direction = leaf.new_full((len(leaf),), math.inf), torch.zeros_like(leaf)
    finite = torch.ones((), dtype=torch.bool, device=leaf.device)
    with torch.enable_grad():
        widened = logits.to(torch.promote_types(logits.dtype, leaf.dtype))
    for rival in range(1, classes.shape[1]):
        with torch.enable_grad():
            gap = widened.gather(1, classes[:, rival, None]) - widened.gather(1, classes[:, :1])
        slope = _slope(gap, leaf, again=rival + 1 < classes.shape[1])
        finite = finite & slope.isfinite().all()
        steepest = ball.direction(slope)
        # Along the steepest unit step the gap grows by the dual norm of its gradient.
        distance = gap.detach()[:, 0].abs().to(leaf.dtype) / (slope * steepest).flatten(1).sum(1)
        nearer = distance < nearest
        nearest = torch.where(nearer, distance, nearest)
        direction = torch.where(nearer.view(-1, 1, 1, 1), steepest, direction)
    return nearest, direction, finite


def _slope(gap: Tensor, leaf: Tensor, again: bool) -> Tensor:
    """The gradient of the summed gaps with respect to the images alone; ``again`` keeps the graph for another."""
    if gap.requires_grad:
        (slope,) = torch.autograd.grad(gap.sum(), leaf, retain_graph=again, allow_unused=True)
        if slope is not None:
            return slope
    raise ClassifierError("classifier: its logits carry no gradient to the images, where a differentiable model was expected.")
