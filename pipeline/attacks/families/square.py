"""The Square Attack: random search over squares that needs no gradient, only what the model answers.

Andriushchenko, Croce, Flammarion, Hein, "Square Attack: a query-efficient black-box adversarial attack via random
search", ECCV 2020. Algorithm 1: from a start at the ball's edge (one query) every query changes the squares of Algorithm 2
(L-infinity) or 3 (L2) and is kept if the loss is lower. The loss is the margin z_y - max_{k != y} z_k, or the
cross-entropy of the target (section 3.1). A square covers a share p of the image, halved after the queries 10, 50, 200,
500, 1000, 2000, 4000, 6000 and 8000 of 10,000 (section 4.1 and the authors' code), or the same fractions of ``schedule``:
the paper stretches it to its number of queries, AutoAttack makes 5,000 queries of the 10,000 and begins with p = 0.8.
``patches`` has the squares.

Guarantees: within epsilon of the image (pixel units) and in [0, 1] after every query, up to float32 rounding; the loss
never rises from one kept image to the next, save that an image which does what is wanted is always kept; one forward
pass a query without any gradient, and none for an example once the model is wrong on it; an example's proposals do not
depend on the batch. ``steps`` are queries. The model may be anything that scores classes, such as a whole guard; one that
answers at random should be averaged over draws first, or else one lucky answer is what later ones are held against.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.attacks.base import AttackOptions, Bound, LogitFn, Outcome
from pipeline.attacks.geometry import NormName, norm
from pipeline.attacks.loop import Objective
from pipeline.attacks.objectives import away_from, misclassified
from pipeline.attacks.patches import share, squares
from pipeline.params.base import Distance, Positive
from pipeline.random import ImageRandom

CHUNK = 256
"""Proposals drawn at a time: a generator an image is dear, and the draws of all queries are large."""


class Options(AttackOptions):
    """Options of ``square``."""

    family: Literal["square"]
    norm: NormName
    """The norm that bounds the perturbation, and chooses between Algorithms 2 and 3."""
    epsilon: Distance
    """The most that the perturbation may measure, in pixel units."""
    queries: Positive
    """The most often that the model is asked about an image, the start included."""
    p_init: Annotated[float, Field(gt=0, le=1)]
    """The share of the image that a square covers at first."""
    schedule: Positive
    """The queries over which that share is halved nine times: as many as ``queries`` in the paper, 10,000 in AutoAttack."""
    targeted: bool
    """Look for a class drawn per image, rather than for any but the true one."""


def targeted(options: Options) -> bool:
    """As the option says."""
    return options.targeted


def bound(options: Options) -> Bound:
    """The ball of the options."""
    return Bound(norm(options.norm), options.epsilon)


def attack(logits_fn: LogitFn, images: Tensor, labels: Tensor, targets: Tensor | None, options: Options, draws: ImageRandom) -> Outcome:
    """See ``base.Family.attack``. Draws ``start``, and ``square/0`` onwards for every 256 proposals."""
    loss, finished = _margin(labels) if targets is None else away_from(targets), misclassified(labels, targets)
    reached, taken = images.clone(), torch.full(images.shape[:1], options.queries, device=images.device)
    search = _begun(images)
    # Not inference_mode: a model that takes gradients of its own, as some detectors do, could not under it.
    with torch.no_grad():
        proposed = squares(options.norm).start(images, options.epsilon, draws)
        for query in range(options.queries):
            if query:
                search, proposed = _propose(search, query - 1, options, draws)
            logits = logits_fn(proposed)
            done = finished(logits, search.rows)
            search = _keep(search, proposed, loss(proposed, logits, search.rows), done)
            if done.any():
                reached[search.rows[done]], taken[search.rows[done]] = search.current[done], query + 1
                search = search.only(~done)
            if not len(search.rows):
                break
    reached[search.rows] = search.current
    return Outcome(reached, taken)


@dataclass(frozen=True)
class _Search:
    """What belongs to the M examples still under attack.

    Attributes:
        rows: int64 (M,), where they are in the batch.
        centres: float (M, C, H, W), their images.
        current: float (M, C, H, W), the best points so far.
        lowest: float (M,), the loss there.
        drawn: float (M, CHUNK, width), the draws of the present chunk of proposals.
    """

    rows: Tensor
    centres: Tensor
    current: Tensor
    lowest: Tensor
    drawn: Tensor

    def only(self, kept: Tensor) -> "_Search":
        return _Search(self.rows[kept], self.centres[kept], self.current[kept], self.lowest[kept], self.drawn[kept])


def _begun(images: Tensor) -> _Search:
    """Before the first query, with nothing drawn."""
    unknown = torch.full(images.shape[:1], torch.inf, device=images.device)
    return _Search(torch.arange(len(images), device=images.device), images, images, unknown, images.new_empty(len(images), 0, 0))


def _propose(search: _Search, turn: int, options: Options, draws: ImageRandom) -> tuple[_Search, Tensor]:
    """The next points to ask about; ``turn`` counts the proposals from 0."""
    kind = squares(options.norm)
    channels, height, width = search.centres.shape[1:]
    if turn % CHUNK == 0:
        # The start was a query too.
        few = min(CHUNK, options.queries - 1 - turn), kind.width(channels)
        uniform = draws.subset(search.rows.cpu().numpy()).uniform(f"square/{turn // CHUNK}", few)
        search = replace(search, drawn=torch.from_numpy(uniform).to(search.centres))
    side = kind.side(share(options.p_init, turn, options.schedule), height, width)
    return search, kind.propose(search.current, search.centres, options.epsilon, side, search.drawn[:, turn % CHUNK])


def _keep(search: _Search, proposed: Tensor, losses: Tensor, done: Tensor) -> _Search:
    """Takes over what lowered the loss, or does what is wanted."""
    better = done | (losses < search.lowest)
    return replace(
        search,
        current=torch.where(better.view(-1, 1, 1, 1), proposed, search.current),
        lowest=torch.where(better, losses, search.lowest),
    )


def _margin(labels: Tensor) -> Objective:
    """How far the true class is ahead of the best other one, in logits. ``labels``: int64 (N,)."""

    def objective(_images: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        # Half precision would tell too few margins apart, and scores of a black box may be whole numbers.
        wide, own = logits.to(torch.promote_types(logits.dtype, torch.float32)), labels[rows][:, None]
        return wide.gather(1, own)[:, 0] - wide.scatter(1, own, -torch.inf).amax(1)

    return objective
