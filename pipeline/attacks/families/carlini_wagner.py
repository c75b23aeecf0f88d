"""Carlini and Wagner's L2 attack: the smallest change that wins by a margin, by Adam and a search for the margin's weight.

Carlini, Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017, sections V and VI. Images are
x'(w) = (tanh(w) + 1) / 2, so that none leaves [0, 1], and Adam, from the image on, minimises over w

    ||x'(w) - x||_2^2 + c * max(gap(x'(w)), -confidence),

f_6 of section V on the logits z: the gap is max over i != t of z_i - z_t for a target t, and z_y - max over i != y of
z_i without one. An image is a success where the gap is at most -confidence and the model predicts as asked. Each example
searches for the c of its own: ten times the last until one suffices, then half way between the largest that did not and
the smallest that did. Of all successes that it meets it keeps the nearest.

Where this is not the authors' program:
- A c suffices where there was a success among the last of the search step's iterates (a period), not among any.
  Adam's first steps have the learning rate's length whatever the gradient's, so they often overshoot into a success
  with a c that is far too small, and the search would go on below it.
- Aborting early is decided for each example by itself. From the second period of a search step on it is asked what the
  last one brought: a nearer success, or, where it had none, another loss, by 5 %. If nothing, its next search step begins,
  and no example waits for another. The last search step is taken whole: it has the best c, and a change that has become
  small goes on becoming smaller.
- In the last of several search steps the learning rate falls to 0 along half a cosine (Loshchilov, Hutter, ICLR 2017, equation 5):
  with a c that an earlier search step has bounded from above, Adam's full steps only go round the nearest success. Where none sufficed
  before, nothing has been settled, and the learning rate stays: with less of it the boundary might not be reached at all.

Guarantees: in [0, 1]; a returned image reached the confidence, by the logits that the model gave for it, and is the
nearest (L2, pixel units, before any rounding) of those that did; an example without any returns its input. One forward
and one backward pass a step; an example that has left costs none. Draws nothing.
"""

import math
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.attacks.base import AttackOptions, LogitFn, Outcome
from pipeline.attacks.loop import Finished, Objective, gradient, require_finite
from pipeline.attacks.objectives import misclassified
from pipeline.params.base import Positive
from pipeline.random import ImageRandom

_INSIDE = 0.999999
"""Share of tanh's range in which images begin: at its very ends w would be infinite."""
_BETAS = (0.9, 0.999)
_TINY = 1e-8
"""Adam's constants (Kingma, Ba, ICLR 2015, algorithm 1)."""
_FACTOR, _LARGEST = 10, 1e10
"""By how much c grows while none suffices, and the largest c (both the authors')."""
_PERIODS, _SHORTEST = 10, 20
"""Periods that a search step is divided into, and the fewest steps in one: twice what Adam's mean remembers."""
_GAIN = 0.05
"""The least relative gain within a period."""


class Options(AttackOptions):
    """Options of ``carlini_wagner``."""

    family: Literal["carlini_wagner"]
    confidence: Annotated[float, Field(ge=0)]
    """By how much, in logits, the class asked for must be ahead (the paper's kappa)."""
    learning_rate: Annotated[float, Field(gt=0)]
    """Adam's, in units of w (the authors': 0.01); in the last search step, its first where an earlier c sufficed."""
    steps: Positive
    """The most steps in one search step."""
    search_steps: Positive
    """How many values of c an example tries (the authors': 9)."""
    initial_const: Annotated[float, Field(gt=0, le=_LARGEST)]
    """The first c (the authors': 0.001)."""
    abort_early: bool
    """Go on to the next c where a period brought nothing, but for the last c, rather than always take all steps."""
    targeted: bool
    """Reach a class drawn per image, rather than any but the true one."""


def targeted(options: Options) -> bool:
    """As the option says."""
    return options.targeted


def bound(options: Options) -> None:
    """None: the norm is made small, not bounded."""
    return None


@dataclass
class _Active:
    """The M examples still under attack; every field has one row for each.

    Attributes:
        rows: int64, positions in the original batch.
        images: (M, C, H, W), the clean images.
        classes: int64, the targets, or else the true classes.
        w, mean, square: (M, C, H, W), where Adam is, and its two moving averages.
        age: int64, steps taken in this search step.
        search_step: int64, how many are over.
        const, lower, upper: c, the largest that did not suffice and the smallest that did.
        nearest: (M, C, H, W), the nearest success; the clean image before there is one.
        distance: its distance; infinite before.
        recent: bool, whether there was a success in this period.
        lowest: the lowest loss in this period.
        distance_before, lowest_before: what they were when it began.
    """

    rows: Tensor
    images: Tensor
    classes: Tensor
    w: Tensor
    mean: Tensor
    square: Tensor
    age: Tensor
    search_step: Tensor
    const: Tensor
    lower: Tensor
    upper: Tensor
    nearest: Tensor
    distance: Tensor
    recent: Tensor
    lowest: Tensor
    distance_before: Tensor
    lowest_before: Tensor

    def keep(self, which: Tensor) -> "_Active":
        """The examples of the mask, bool (M,)."""
        return _Active(*(getattr(self, field.name)[which] for field in fields(self)))


def attack(logits_fn: LogitFn, images: Tensor, labels: Tensor, targets: Tensor | None, options: Options, draws: ImageRandom) -> Outcome:
    """See ``base.Family.attack``. Draws nothing.

    Raises:
        ClassifierError: the logits carry no gradient to the images, or one that is not finite.
    """
    reached, taken = images.clone(), torch.zeros(len(images), dtype=torch.int64, device=images.device)
    active = _begin(images, labels if targets is None else targets, options)
    finished, period = misclassified(labels, targets), _period(options.steps)
    finite = torch.ones((), dtype=torch.bool, device=images.device)
    while len(active.rows):
        # Within a period nobody waits for the device.
        for _ in range(period):
            finite = finite & _step(logits_fn, active, finished, options)
        taken[active.rows] += period
        over = active.age >= options.steps
        if options.abort_early:
            over |= (active.search_step < options.search_steps - 1) & (active.age >= 2 * period) & ~_gained(active)
        _next_search_step(active, over)
        _next_period(active)
        leaving = active.search_step >= options.search_steps
        if leaving.any():
            reached[active.rows[leaving]] = active.nearest[leaving]
            active = active.keep(~leaving)
    require_finite(finite)
    return Outcome(reached, taken)


def _period(steps: int) -> int:
    """The fewest steps into which a search step divides evenly, from a tenth of it on, so that all examples end theirs together."""
    return next(length for length in range(min(max(_SHORTEST, math.ceil(steps / _PERIODS)), steps), steps + 1) if steps % length == 0)


def _begin(images: Tensor, classes: Tensor, options: Options) -> _Active:
    none = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    never = images.new_full((len(images),), math.inf)
    return _Active(
        rows=torch.arange(len(images), device=images.device),
        images=images,
        classes=classes,
        w=_to_w(images),
        mean=torch.zeros_like(images),
        square=torch.zeros_like(images),
        age=none,
        search_step=none.clone(),
        const=torch.full_like(never, options.initial_const),
        lower=torch.zeros_like(never),
        upper=never,
        nearest=images.clone(),
        distance=never.clone(),
        recent=none.bool(),
        lowest=never.clone(),
        distance_before=never.clone(),
        lowest_before=never.clone(),
    )


def _to_w(images: Tensor) -> Tensor:
    return torch.atanh((2 * images - 1) * _INSIDE)


def _step(logits_fn: LogitFn, active: _Active, finished: Finished, options: Options) -> Tensor:
    """Judges the current images, then moves ``active`` on by one step; returns whether every gradient was finite, bool ()."""
    current = (torch.tanh(active.w) + 1) / 2
    moved = current - active.images
    slope, logits = gradient(logits_fn, _weighed(active, options))(current, active.rows)
    gap, squared = _gap(logits, active.classes, options.targeted), moved.flatten(1).square().sum(1)
    loss = squared + active.const * (gap.clamp_min(-options.confidence) + options.confidence)
    _judge(active, current, squared.sqrt(), finished(logits, active.rows) & (gap <= -options.confidence), loss)
    # The slope is of minus the weighed gap; d x' / d w = (1 - tanh(w)^2) / 2 = 2 x' (1 - x').
    _adam(active, (2 * moved - slope) * 2 * current * (1 - current), _learning_rate(active, options))
    return slope.isfinite().all()


def _weighed(active: _Active, options: Options) -> Objective:
    """Minus the part of the loss that depends on the logits."""

    def objective(_images: Tensor, logits: Tensor, _rows: Tensor) -> Tensor:
        return -active.const * _gap(logits, active.classes, options.targeted).clamp_min(-options.confidence)

    return objective


def _gap(logits: Tensor, classes: Tensor, targeted: bool) -> Tensor:
    """How far, (M,), the example is from what is asked: at most 0 where it is reached."""
    widened = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = widened.gather(1, classes[:, None])[:, 0]
    other = widened.scatter(1, classes[:, None], -math.inf).amax(1)
    return other - own if targeted else own - other


def _judge(active: _Active, current: Tensor, distance: Tensor, success: Tensor, loss: Tensor) -> None:
    """Keeps what is nearer than all successes so far, and what the period is judged by."""
    nearer = success & (distance < active.distance)
    active.nearest = torch.where(nearer.view(-1, 1, 1, 1), current, active.nearest)
    active.distance = torch.where(nearer, distance, active.distance)
    active.recent = active.recent | success
    active.lowest = torch.minimum(active.lowest, loss.to(active.lowest.dtype))


def _learning_rate(active: _Active, options: Options) -> Tensor:
    """Of the next step, (M,): it falls where the search is at its last step and knows a c that suffices."""
    settled = (active.search_step == options.search_steps - 1) & active.upper.isfinite()
    return options.learning_rate * torch.where(settled, (1 + torch.cos(math.pi * active.age.to(active.w.dtype) / options.steps)) / 2, 1.0)


def _adam(active: _Active, slope: Tensor, learning_rate: Tensor) -> None:
    """One step of Adam, where each example counts its own; ``learning_rate`` is (M,)."""
    first, second = _BETAS
    active.age = active.age + 1
    active.mean = torch.lerp(slope, active.mean, first)
    active.square = torch.lerp(slope.square(), active.square, second)
    mean_share, square_share = ((1 - beta ** active.age.to(slope.dtype)).view(-1, 1, 1, 1) for beta in _BETAS)
    active.w = active.w - learning_rate.view(-1, 1, 1, 1) * (active.mean / mean_share) / ((active.square / square_share).sqrt() + _TINY)


def _gained(active: _Active) -> Tensor:
    """Whether the period brought a nearer success, or, where it had none, a change of the loss; bool (M,)."""
    nearer = active.distance < (1 - _GAIN) * active.distance_before
    changed = (active.lowest - active.lowest_before).abs() > _GAIN * active.lowest_before
    return torch.where(active.recent, nearer, changed)


def _next_search_step(active: _Active, over: Tensor) -> None:
    """Where a search step is over, bool (M,): the next c, and Adam anew from the image."""
    active.upper = torch.where(over & active.recent, torch.minimum(active.upper, active.const), active.upper)
    active.lower = torch.where(over & ~active.recent, torch.maximum(active.lower, active.const), active.lower)
    larger = (_FACTOR * active.const).clamp_max(_LARGEST)
    following = torch.where(active.upper.isinf(), larger, (active.lower + active.upper) / 2)
    active.const = torch.where(over, following, active.const)
    pixels = over.view(-1, 1, 1, 1)
    active.w = torch.where(pixels, _to_w(active.images), active.w)
    active.mean, active.square = active.mean.masked_fill(pixels, 0), active.square.masked_fill(pixels, 0)
    active.age = active.age.masked_fill(over, 0)
    active.search_step = active.search_step + over


def _next_period(active: _Active) -> None:
    active.lowest_before, active.distance_before = active.lowest, active.distance
    active.lowest, active.recent = torch.full_like(active.lowest, math.inf), torch.zeros_like(active.recent)
