"""Attackers who work on a guarded classifier: who descend on the guard's own score, search by asking it, or change what it flagged.

A guard is what answers here: the classifier's logits and, beside them, by how much its score is above the threshold, once for
each draw looked at. Images are uint8 at rest, and every attacker sees what the stored bytes do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Literal

import torch
from torch import Tensor

from pipeline.attacks.adaptive import Unscaled, orthogonal, selective, shared_pass, trade_off, weighted
from pipeline.attacks.geometry import LEVELS, NormName, as_floats, norm
from pipeline.attacks.loop import Finished, GradientFn, Objective, ascend, gradient
from pipeline.attacks.patches import share, squares
from pipeline.attacks.transforms import through_bytes
from pipeline.random import ImageRandom

Look = Callable[[Tensor, int], Tensor]
"""(images (N, C, H, W), step) to (N, K + E): K logits, then of E draws by how much the score of the predicted class is above the
threshold, in standard deviations of clean scores. Differentiable in the images; the draws may depend on the step alone."""

Kind = Literal["weighted", "traded", "orthogonal", "selective"]

AHEAD = 1.0
"""Logits by which the wrong class is to lead: beyond it the classifier's goal asks for nothing more."""
BELOW = 2.0
"""Clean standard deviations by which scores are to stay below the threshold, so that draws not looked at pass too."""
P_INIT = 0.3
"""The share of the image that the first square covers (Andriushchenko et al. 2020, section 4.1)."""


@dataclass(frozen=True)
class Descent:
    """One attacker who descends.

    Attributes:
        kind: how the two goals meet (see ``pipeline.attacks.adaptive``).
        weight: lambda of ``weighted``, sigma of ``traded``; the others have none.
        norm: of the perturbation.
        epsilon: its bound, in pixel units.
        step_size: in the same units.
        steps: how many.
    """

    kind: Kind
    weight: float
    norm: NormName
    epsilon: float
    step_size: float
    steps: int


def descend(look: Look, images: Tensor, labels: Tensor, classes: int, how: Descent, draws: ImageRandom) -> Tensor:
    """Projected gradient steps towards a wrong label that the guard lets pass.

    Of all points that were met the one is kept whose draws lie lowest among those with a wrong label; without any, the last.

    Args:
        look: the classifier and the attacker's copy of the guard.
        images: uint8 (N, C, H, W).
        labels: int64 (N,), the true classes.
        classes: K.
        how: the attacker.
        draws: of the random start, one stream an image.

    Returns:
        uint8 (N, C, H, W), within epsilon of the images.
    """
    ball, centres, steps = norm(how.norm), as_floats(images), count()
    logits_fn = through_bytes(lambda current: look(current, next(steps)))
    kept = _Lowest(centres, labels, classes)
    follow = kept.watching(_follow(how, logits_fn, labels, classes))
    moves = Unscaled(ball) if how.kind == "traded" else ball
    start = ball.start(centres, how.epsilon, draws, "start")
    outcome = ascend(follow, centres, start, norm=moves, epsilon=how.epsilon, step_size=how.step_size, steps=how.steps)
    best = torch.where(kept.lowest.isfinite().view(-1, 1, 1, 1), kept.images, outcome.images)
    return ball.quantise(best, centres, how.epsilon)


def _follow(how: Descent, logits_fn: Callable[[Tensor], Tensor], labels: Tensor, classes: int) -> GradientFn:
    mislead, evade, fooled = misleading(labels, classes), evading(classes), misled(labels, classes)
    match how.kind:
        case "weighted":
            return gradient(logits_fn, weighted((1.0, mislead), (how.weight, evade)))
        case "selective":
            return gradient(logits_fn, selective(mislead, evade, fooled))
        case "orthogonal":
            return orthogonal(shared_pass(logits_fn, mislead, evade), fooled)
        case "traded":
            return trade_off(shared_pass(logits_fn, mislead, evade), how.weight, norm(how.norm))


def misleading(labels: Tensor, classes: int) -> Objective:
    """How little the true class (int64 (N,)) is ahead of the best other one, in logits, up to a lead of ``AHEAD`` for that one."""

    def objective(_images: Tensor, looked: Tensor, rows: Tensor) -> Tensor:
        logits, own = looked[:, :classes], labels[rows][:, None]
        lead = logits.gather(1, own)[:, 0] - logits.scatter(1, own, -torch.inf).amax(1)
        return -torch.relu(lead + AHEAD)

    return objective


def evading(classes: int) -> Objective:
    """How little the draws' scores lie above the threshold, down to ``BELOW`` below it; their mean (EOT)."""

    def objective(_images: Tensor, looked: Tensor, _rows: Tensor) -> Tensor:
        return -torch.relu(looked[:, classes:] + BELOW).mean(1)

    return objective


def misled(labels: Tensor, classes: int) -> Finished:
    """Whether the classifier predicts another class than the true one, int64 (N,)."""

    def finished(looked: Tensor, rows: Tensor) -> Tensor:
        return looked[:, :classes].argmax(1) != labels[rows]

    return finished


class _Lowest:
    """Remembers of every image the point with a wrong label at which the draws' scores lay lowest."""

    def __init__(self, centres: Tensor, labels: Tensor, classes: int) -> None:
        self.images, self.lowest = centres.clone(), torch.full((len(centres),), torch.inf)
        self.misled, self.classes = misled(labels, classes), classes

    def watching(self, gradient_of: GradientFn) -> GradientFn:
        """The same gradient; every point that it is asked for is looked at."""

        def of(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            slope, looked = gradient_of(images, rows)
            height = torch.where(self.misled(looked, rows), torch.relu(looked[:, self.classes :] + BELOW).mean(1), torch.inf)
            lower = height < self.lowest[rows]
            self.images[rows[lower]], self.lowest[rows[lower]] = images.detach()[lower], height[lower]
            return slope, looked

        return of


@dataclass(frozen=True)
class Reply:
    """What a live guard says of M images.

    Attributes:
        predicted: int64 (M,), the classes.
        flagged: bool (M,).
        probability: float (M,), the classifier's own of that class; None from a guard that gives decisions alone.
        p_value: float (M,); None likewise.
    """

    predicted: Tensor
    flagged: Tensor
    probability: Tensor | None = None
    p_value: Tensor | None = None


Ask = Callable[[Tensor, Tensor, int], Reply]
"""(images uint8 (M, C, H, W), their rows in the batch, the number of the query) to what the guard says."""


@dataclass(frozen=True)
class Searched:
    """What a search ended with.

    Attributes:
        images: uint8 (N, C, H, W), the accepted ones, or the best.
        misled: bool (N,), whether any query met a wrong label, flagged or not.
        accepted: bool (N,).
        queries: int64 (N,).
    """

    images: Tensor
    misled: Tensor
    accepted: Tensor
    queries: Tensor


def search(ask: Ask, images: Tensor, labels: Tensor, *, norm_name: NormName, epsilon: float, queries: int, draws: ImageRandom) -> Searched:
    """Square's random search (Andriushchenko et al. 2020, Algorithm 1) for a wrong label that the guard accepts, by asking it alone.

    What is lowered is, for a right label, 2 plus its probability; for a wrong one that is flagged, 1 minus the p-value; without
    scores these are 2 and 1, and then a proposal that is no worse is kept too, so that the search wanders. One accepted wrong
    label ends it.

    Args:
        ask: the guard; every query counts.
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        norm_name: of the perturbation.
        epsilon: its bound, in pixel units.
        queries: at most this many an image.
        draws: one stream an image.
    """
    ball, kind, centres = norm(norm_name), squares(norm_name), as_floats(images)
    found = Searched(images.clone(), torch.zeros(len(images)).bool(), torch.zeros(len(images)).bool(), torch.zeros(len(images)).long())
    rows, current, lowest = torch.arange(len(images)), centres, torch.full((len(images),), torch.inf)
    for number in range(queries):
        streams, there = draws.subset(rows.numpy()), centres[rows]
        if number:
            side = kind.side(share(P_INIT, number - 1, queries), *images.shape[2:])
            drawn = torch.from_numpy(streams.uniform(f"square/{number}", (kind.width(images.shape[1]),)))
            proposed = kind.propose(current, there, epsilon, side, drawn)
        else:
            proposed = kind.start(there, epsilon, streams)
        stored = ball.quantise(proposed, there, epsilon)
        reply = ask(stored, rows, number)
        wrong, height = reply.predicted != labels[rows], _height(reply, labels[rows])
        kept, done = height <= lowest, wrong & ~reply.flagged
        found.queries[rows] += 1
        found.misled[rows] |= wrong
        found.accepted[rows] = done
        found.images[rows[kept]] = stored[kept]
        current, lowest = torch.where(kept.view(-1, 1, 1, 1), proposed, current), torch.where(kept, height, lowest)
        rows, current, lowest = rows[~done], current[~done], lowest[~done]
        if not len(rows):
            break
    return found


def _height(reply: Reply, labels: Tensor) -> Tensor:
    """What a search lowers: below 0 for an accepted wrong label."""
    right = 2.0 + (torch.zeros(len(labels)) if reply.probability is None else reply.probability.float())
    flagged = 1.0 - (torch.zeros(len(labels)) if reply.p_value is None else reply.p_value.float())
    wrong = torch.where(reply.flagged, flagged, -torch.ones(len(labels)))
    return torch.where(reply.predicted == labels, right, wrong)


def nudged(images: Tensor, pixels: int, draws: ImageRandom, number: int) -> Tensor:
    """The images with a few values moved by one grey level, which nobody sees: uint8 (N, C, H, W).

    Args:
        images: uint8 (N, C, H, W).
        pixels: how many values, at most; the same one may be drawn twice.
        draws: one stream an image.
        number: another number is another change.
    """
    drawn = torch.from_numpy(draws.uniform(f"nudge/{number}", (pixels, 2)))
    flat = images.flatten(1).to(torch.int64)
    where = (drawn[..., 0].double() * flat.shape[1]).long()
    old = flat.gather(1, where)
    moved = old + torch.where(drawn[..., 1] < 0.5, -1, 1)
    moved = torch.where((moved < 0) | (moved > LEVELS), 2 * old - moved, moved)
    return flat.scatter(1, where, moved).to(torch.uint8).view_as(images)
