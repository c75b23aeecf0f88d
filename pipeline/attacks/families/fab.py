"""FAB-T, the targeted fast adaptive boundary attack: it walks along a decision boundary towards the image's nearest point of it.

Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020, algorithm 1, in the
targeted form of the same authors' AutoAttack (ICML 2020): the boundary is that between the true class y and one other class
t, f(x) = z_t(x) - z_y(x), so a step costs one gradient, whatever the number of classes. With x the image, pi the hyperplane
where the linearisation of f at x_i is 0, and d_i and d the moves that bring x_i and x to it (or to the box's corner nearest
to it, where it misses the box): alpha = min(|d_i| / (|d_i| + |d|), alpha_max),
x_{i+1} = clip((1 - alpha) (x_i + eta d_i) + alpha (x + eta d)), and where that is misclassified (as any class) the next
step starts from the shorter (1 - beta) x + beta x_{i+1} instead. The final search of the first paper is left out, as in
AutoAttack.

The strongest wrong classes of the clean image are tried in turn, for each ``restarts`` runs: the first from the image, the
others from a point at a distance of epsilon / 2 from it (a uniform direction for l2, a uniform point of the cube scaled to
its surface for linf). A run goes through all its steps, since what it finds first is not its smallest; further runs are only
for the examples without a misclassified point inside the ball, for which any result outside it is worth nothing.

Guarantees: the result is the misclassified point nearest to the image among all that the model was asked about, and the
image itself where there is none; in [0, 1]; within epsilon (pixel units) only where ``generate`` makes it so. A step costs
a forward and a backward pass, and a forward pass to see where it led; the attack one more forward pass, for the classes. An
example's result does not depend on its batch.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.attacks.base import AttackOptions, Bound, LogitFn, Outcome
from pipeline.attacks.geometry import NormName, norm
from pipeline.attacks.loop import Objective, gradient, require_finite
from pipeline.attacks.margins import lead, strongest_wrong
from pipeline.attacks.objectives import misclassified
from pipeline.params.base import Distance, Positive, Share
from pipeline.random import ImageRandom

_TINY = 1e-30
"""Keeps a ratio of two zeros defined."""


class Options(AttackOptions):
    """Options of ``fab``."""

    family: Literal["fab"]
    norm: NormName
    """The norm that is made small, and that bounds the perturbation."""
    epsilon: Distance
    """The most that the perturbation may measure, in pixel units; restarts begin at half of it."""
    steps: Positive
    """The steps of a run (the authors': 100)."""
    restarts: Positive
    """The most runs per class."""
    target_classes: Positive
    """How many of the clean image's highest wrong classes are tried, all where there are fewer (the authors': 9)."""
    alpha_max: Share
    """The most weight that a step gives to the image's own projection (the authors': 0.1)."""
    eta: Annotated[float, Field(ge=1)]
    """How far beyond the hyperplane a step goes, as a multiple of the way to it (the authors': 1.05)."""
    beta: Share
    """How much of a misclassified point's perturbation the next step starts with (the authors': 0.9)."""


def targeted(options: Options) -> bool:
    """Never: it picks its classes itself, and any wrong class is a success."""
    return False


def bound(options: Options) -> Bound:
    """The ball of the options."""
    return Bound(norm(options.norm), options.epsilon)


def attack(logits_fn: LogitFn, images: Tensor, labels: Tensor, targets: Tensor | None, options: Options, draws: ImageRandom) -> Outcome:
    """See ``base.Family.attack``. Draws ``start/<class's place>/<restart>``, from the second run of a class on."""
    found = _Nearest(images, labels, options.norm)
    taken = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    with torch.no_grad():
        classes = strongest_wrong(logits_fn(images), labels, options.target_classes)
    for place in range(classes.shape[1]):
        ahead = lead(labels, classes[:, place])
        for restart in range(options.restarts):
            rows = (found.distance > options.epsilon).nonzero()[:, 0]
            if not len(rows):
                return Outcome(found.images, taken)
            start = images[rows]
            if restart:
                start = _sample(start, options, draws.subset(rows.cpu().numpy()), f"start/{place}/{restart}")
            _run(logits_fn, ahead, start, images[rows], rows, options, found)
            taken[rows] += options.steps
    return Outcome(found.images, taken)


class _Nearest:
    """The nearest misclassified point of every image of the batch.

    Attributes:
        images: (N, C, H, W), those points; the clean images where none was found.
        distance: (N,), in pixel units; infinite where none was found.
    """

    def __init__(self, clean: Tensor, labels: Tensor, name: NormName) -> None:
        self._clean, self._name, self._wrong = clean, name, misclassified(labels, None)
        self.images, self.distance = clean.clone(), torch.full_like(clean[:, 0, 0, 0], torch.inf)

    def consider(self, points: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        """Keeps those of ``points`` that are wrong and nearer than what there is; returns which are wrong, bool (M,)."""
        wrong = self._wrong(logits, rows)
        distance = _size(points - self._clean[rows], self._name)
        better = wrong & (distance < self.distance[rows])
        self.images[rows] = torch.where(_column(better), points, self.images[rows])
        self.distance[rows] = torch.where(better, distance, self.distance[rows])
        return wrong


def _run(logits_fn: LogitFn, ahead: Objective, start: Tensor, clean: Tensor, rows: Tensor, options: Options, found: _Nearest) -> None:
    """The steps of one run, from ``start``; what it meets goes to ``found``."""
    slope_of, current = gradient(logits_fn, ahead), start
    finite = torch.ones((), dtype=torch.bool, device=rows.device)
    for _ in range(options.steps):
        slope, logits = slope_of(current, rows)
        finite = finite & slope.isfinite().all()
        # A start, or a point that was moved back, may itself be wrong and nearer: the model has just been asked.
        found.consider(current, logits, rows)
        current = biased_step(current, clean, slope, ahead(current, logits, rows).to(current.dtype), options)
        with torch.no_grad():
            wrong = found.consider(current, logits_fn(current), rows)
        current = torch.where(_column(wrong), clean + options.beta * (current - clean), current)
    require_finite(finite)


def biased_step(current: Tensor, clean: Tensor, slope: Tensor, value: Tensor, options: Options) -> Tensor:
    """x_{i+1}, (M, C, H, W), of algorithm 1.

    Args:
        current: x_i.
        clean: the images.
        slope: the gradient of f at x_i.
        value: (M,), f at x_i.
        options: of the attack.
    """
    # At another point the linearisation is f(x_i) + <slope, point - x_i>.
    value_at_clean = value + (slope * (clean - current)).flatten(1).sum(1)
    own = to_hyperplane(current, slope, value, options.norm)
    origin = to_hyperplane(clean, slope, value_at_clean, options.norm)
    near, far = _size(own, options.norm), _size(origin, options.norm)
    alpha = _column((near / (near + far).clamp_min(_TINY)).clamp_max(options.alpha_max))
    return ((1 - alpha) * (current + options.eta * own) + alpha * (clean + options.eta * origin)).clamp(0, 1)


def to_hyperplane(points: Tensor, slope: Tensor, value: Tensor, name: NormName) -> Tensor:
    """The smallest move, (M, C, H, W), after which a linear function is 0 and the point in [0, 1]: exact, not iterated to a tolerance.

    Where the function has no zero in the box, the move to the corner where it is nearest to 0. A pixel in which the
    function does not change, does not move.

    With s the sign of the way to go and c_j the room that pixel j has in the direction s sign(w_j), the solution is
    s sign(w_j) min(t v_j, c_j), for linf with v_j = 1 and for l2 with v_j = |w_j|, at the t where the gain
    g(t) = sum_j |w_j| min(t v_j, c_j) is |value|. g is concave and piecewise linear:
    Newton's method from t = 0 never passes the solution and meets it after finitely many steps (each reaches a further
    kink), usually a handful.

    Args:
        points: (M, C, H, W) in [0, 1].
        slope: w, of the same shape, the function's gradient.
        value: (M,), the function at ``points``.
        name: the norm in which the move is smallest.
    """
    flat, raw = points.flatten(1), slope.flatten(1)
    # Divided by its largest entry: the squares of a gradient of 1e-25 are 0 in float32.
    scale = raw.abs().amax(1, keepdim=True).clamp_min(_TINY)
    weight, gap = raw / scale, -value[:, None] / scale
    direction = gap.sign() * weight.sign()
    room = torch.where(direction > 0, 1 - flat, flat)
    speed = torch.ones_like(weight) if name == "linf" else weight.abs()
    rate, most = weight.abs() * speed, weight.abs() * room
    time = torch.zeros_like(gap)
    for _ in range(flat.shape[1] + 1):
        moving = time * speed < room
        gained, growth = torch.where(moving, 0, most).sum(1, keepdim=True), torch.where(moving, rate, 0).sum(1, keepdim=True)
        later = (gap.abs() - gained) / growth.clamp_min(_TINY)
        later = torch.where((growth > 0) & (later > time), later, time)
        if torch.equal(later, time):
            break
        time = later
    return (direction * torch.minimum(time * speed, room)).view_as(points)


def _sample(clean: Tensor, options: Options, draws: ImageRandom, name: str) -> Tensor:
    """A point at epsilon / 2 from each image, then clipped to [0, 1]."""
    shape = tuple(clean.shape[1:])
    drawn = 2 * draws.uniform(name, shape) - 1 if options.norm == "linf" else draws.normal(name, shape)
    towards = torch.from_numpy(drawn).to(clean)
    return (clean + options.epsilon / 2 * towards / _column(_size(towards, options.norm))).clamp(0, 1)


def _size(moved: Tensor, name: NormName) -> Tensor:
    """The norm of each move, (M,); unlike ``Norm.distance`` in the moves' own precision, on any device."""
    size: Tensor = torch.linalg.vector_norm(moved.flatten(1), ord=torch.inf if name == "linf" else 2, dim=1)
    return size


def _column(values: Tensor) -> Tensor:
    """(M,) as (M, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)
