"""What adaptive attacks are made of: a detector's goal beside the classifier's, an average over a random model, momentum.

Everything here makes one of ``loop``'s functions from others of them, so the pieces nest and ``loop.ascend`` runs what
comes out, success stopping included. Two goals can meet in three places: in the objective (``weighted``, ``selective``:
one backward pass), between their gradients (``orthogonal``: two) or between their steps (``trade_off``: two).

A detector's goal is an ``Objective`` like any other: the larger, the less the detector objects, for instance minus its
score. Where the detector reads the classifier's activations, or a stopping rule needs its verdict, let ``logits_fn``
return both side by side and let objectives and rules each read their columns: that is still one forward pass a step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import final

import torch
from torch import Tensor

from pipeline.attacks.base import LogitFn
from pipeline.attacks.geometry import Norm, norm
from pipeline.attacks.loop import Finished, GradientFn, Objective, gradient
from pipeline.errors import ClassifierError
from pipeline.random import ImageRandom

PairFn = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(images (M, C, H, W), rows (M,)) to the gradient of the classifier's objective, that of the detector's, both to climb
and of the images' shape, and the classifier's logits (M, K)."""

RandomLogitFn = Callable[[Tensor, Tensor, int], Tensor]
"""(images (M, C, H, W), rows (M,), number) to the logits (M, K) of one draw of a random model. What is drawn for an image
must depend on its id (``ImageRandom``, looked up by ``rows``) and on the sample's number alone: the same number is the
same draw."""

SampleGradientFn = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""As ``loop.GradientFn``, for the draw of that number."""

_NOISE = 1e-5
"""Share of a gradient's length that float32 leaves of it when all of it should be projected away."""


def weighted(*terms: tuple[float, Objective]) -> Objective:
    """The weighted sum of objectives: J = sum_i w_i J_i, the Lagrangian of several goals."""

    def objective(images: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        return torch.stack([weight * term(images, logits, rows) for weight, term in terms]).sum(0)

    return objective


def selective(classifier: Objective, detector: Objective, fooled: Finished) -> Objective:
    """Per example the detector's objective once the classifier is fooled, the classifier's until then.

    Bryniarski, Hussein, Pereira, Carlini, "Evading adversarial example detection defenses with orthogonal projected
    gradient descent", ICLR 2022 (arXiv 2106.15023, 2021), "Selective gradient descent". No step is spent on a goal that
    is met, and no weight has to be found between the two.
    """

    def objective(images: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        evade = fooled(logits.detach(), rows)
        values = logits.new_zeros(len(rows), dtype=torch.promote_types(logits.dtype, torch.float32))
        # Each on its own examples: through ``torch.where`` the other's gradient, where it is infinite, would come as NaN.
        for mask, goal in ((~evade, classifier), (evade, detector)):
            if mask.any():
                found = goal(images[mask], logits[mask], rows[mask])
                values = values.index_put((mask.nonzero()[:, 0],), found.to(values.dtype))
        return values

    return objective


def shared_pass(logits_fn: LogitFn, classifier: Objective, detector: Objective) -> PairFn:
    """The gradients of both objectives by one forward pass and two backward passes.

    Raises:
        ClassifierError: one of the objectives carries no gradient to the images (from the function returned).
    """

    def of(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            logits = logits_fn(leaf)
            first, second = classifier(leaf, logits, rows), detector(leaf, logits, rows)
            # The first backward pass must leave the graph for the second, the second need not.
            return _slope("classifier", first, leaf, True), _slope("detector", second, leaf, False), logits.detach()

    return of


def separate_passes(classifier: GradientFn, detector: GradientFn) -> PairFn:
    """The gradients of two functions that share nothing, such as a fixed classifier and an average over a random detector."""

    def of(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slope, logits = classifier(images, rows)
        return slope, detector(images, rows)[0], logits

    return of


def orthogonal(pair: PairFn, fooled: Finished) -> GradientFn:
    """Selective steps that leave the other goal alone, to first order.

    Bryniarski et al. (see ``selective``), "Orthogonal gradient descent": grad f - proj_{grad g} grad f while the
    classifier f is not fooled, and grad g - proj_{grad f} grad g for the detector g once it is, per example. Orthogonal to
    float32 precision; where one gradient is a multiple of the other nothing is left, and the example stays where it is.
    Under L-infinity the loop steps by the sign, as the authors do, which is orthogonal only roughly.
    """

    def of(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        classifier, detector, logits = pair(images, rows)
        evade = fooled(logits, rows).view(-1, 1, 1, 1)
        followed, other = torch.where(evade, detector, classifier), torch.where(evade, classifier, detector)
        return without_component(followed, other), logits

    return of


def trade_off(pair: PairFn, sigma: float, norm: Norm) -> GradientFn:
    """Metzen's step between both goals; for ``loop.ascend`` under ``Unscaled(norm)``, which takes it as it is.

    Metzen, Genewein, Fischer, Bischoff, "On detecting adversarial perturbations", ICLR 2017, equation 3:
    (1 - sigma) sign(grad J_cls) + sigma sign(grad J_det), the sign being the L-infinity ``direction``.

    Args:
        pair: the two gradients.
        sigma: what the detector's goal counts for, in [0, 1].
        norm: in whose directions both gradients are followed.
    """

    def of(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        classifier, detector, logits = pair(images, rows)
        step = (1 - sigma) * norm.direction(classifier) + sigma * norm.direction(detector)
        # The sign of NaN is 0, and the loop would take a broken gradient for a sound one.
        return torch.where((classifier + detector).isfinite(), step, torch.nan), logits

    return of


def with_momentum(gradient_of: GradientFn, images: Tensor, decay: float) -> GradientFn:
    """The gradient with momentum: g_{t+1} = decay * g_t + grad / ||grad||_1.

    Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018, equation 6. The function returned remembers
    g_t for the whole batch: make a new one for every run.

    Args:
        gradient_of: what momentum is added to.
        images: float (N, C, H, W), the whole batch, which gives the momentum its shape.
        decay: the share of g_t that is kept, at least 0.
    """
    momentum = torch.zeros_like(images)

    def of(current: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        slope, logits = gradient_of(current, rows)
        size = slope.abs().sum((1, 2, 3), keepdim=True)
        joined = decay * momentum[rows] + slope / torch.where(size > 0, size, torch.ones_like(size))
        momentum[rows] = joined
        return joined, logits

    return of


def sampled(logits_fn: RandomLogitFn, objective: Objective) -> SampleGradientFn:
    """The gradient of an objective on single draws of a random model; raises as ``loop.gradient`` does."""

    def of(images: Tensor, rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
        return gradient(lambda current: logits_fn(current, rows, number), objective)(images, rows)

    return of


def expected(gradient_of_sample: SampleGradientFn, samples: int) -> GradientFn:
    """The gradient averaged over draws of a random model or transformation (EOT), an estimate of its expectation.

    Athalye, Engstrom, Ilyas, Kwok, "Synthesizing robust adversarial examples", ICML 2018, section 2:
    grad E_t[J(t(x))] = E_t[grad J(t(x))]. The function returned counts its calls: the draws of step t are those numbered
    from t * ``samples``, new ones at every step; make a new one for every run. The logits returned are the mean over
    the draws, so that a stopping rule judges the model's usual answer and not that of one lucky draw.

    Args:
        gradient_of_sample: the gradient for one draw.
        samples: draws a step, at least 1, each a forward and a backward pass.
    """
    steps = count()

    def of(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        first = next(steps) * samples
        slope, logits = gradient_of_sample(images, rows, first)
        for number in range(first + 1, first + samples):
            another, answer = gradient_of_sample(images, rows, number)
            slope, logits = slope + another, logits + answer
        return slope / samples, logits / samples

    return of


def without_component(followed: Tensor, other: Tensor) -> Tensor:
    """What of ``followed`` is orthogonal to ``other``, per example (both (M, C, H, W)); 0 where that is below float noise."""
    unit = norm("l2").direction(other)
    left = followed
    # A second time for what rounding left of the first: where both point nearly the same way, that is not little.
    for _ in range(2):
        left = left - (left * unit).sum((1, 2, 3), keepdim=True) * unit
    nothing = left.abs().amax((1, 2, 3), keepdim=True) <= _NOISE * followed.abs().amax((1, 2, 3), keepdim=True)
    return torch.where(nothing, 0, left)


@final
@dataclass(frozen=True)
class Unscaled:
    """The ball of ``norm``, in which the gradient function itself says how far each step goes (in units of the step size)."""

    norm: Norm

    def start(self, images: Tensor, epsilon: float, draws: ImageRandom, name: str) -> Tensor:
        """As ``norm`` does."""
        return self.norm.start(images, epsilon, draws, name)

    def direction(self, gradient: Tensor) -> Tensor:
        """The gradient itself."""
        return gradient

    def project(self, adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
        """As ``norm`` does."""
        return self.norm.project(adversarial, images, epsilon)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """As ``norm`` does."""
        return self.norm.distance(a, b)

    def confine(self, adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
        """As ``norm`` does."""
        return self.norm.confine(adversarial, images, epsilon)

    def quantise(self, adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
        """As ``norm`` does."""
        return self.norm.quantise(adversarial, images, epsilon)


def _slope(which: str, values: Tensor, leaf: Tensor, keep: bool) -> Tensor:
    if values.requires_grad:
        (slope,) = torch.autograd.grad(values.sum(), leaf, retain_graph=keep, allow_unused=True)
        if slope is not None:
            return slope
    raise ClassifierError(f"attack: the {which}'s objective carries no gradient to the images, where a differentiable one was expected.")
