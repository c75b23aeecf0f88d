"""The two balls that attacks move in, and the rounding that keeps a stored image inside them.

Images are float32 tensors (N, C, H, W) in [0, 1]; sizes are in the same pixel units (8/255 is eight grey levels).
Everything is per example. A norm supplies a random start, the direction of steepest ascent and a projection, so the
loop never asks which norm it runs under.
"""

import math
from typing import Literal, Protocol, final

import torch
from torch import Tensor

from pipeline.random import ImageRandom

LEVELS = 255
"""Steps between black and white in an 8-bit image."""

NormName = Literal["linf", "l2"]

SLACK = 1e-6
"""In grey levels: what float arithmetic may take from a bound such as 8/255 * 255 before it counts as less than 8."""
_MARGIN = 1 - 1e-9
"""Share of the bound that a float image uses, so that its last rounding cannot leave the ball."""


class Norm(Protocol):
    """What an attack needs to know of a norm."""

    def start(self, images: Tensor, epsilon: float, draws: ImageRandom, name: str) -> Tensor:
        """A point drawn uniformly from each image's ball, then clipped to [0, 1].

        Args:
            images: float (N, C, H, W) in [0, 1].
            epsilon: the ball's radius, in pixel units.
            draws: one stream an image.
            name: what the draws are called; another name gives another start (for restarts).
        """

    def direction(self, gradient: Tensor) -> Tensor:
        """The unit step (N, C, H, W) along which the loss grows fastest; 0 where the gradient is 0."""

    def project(self, adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
        """The nearest point in the ball, then in [0, 1]; inside both, up to float32 rounding."""

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """The norm of a - b per example, float64 (N,), in the units of the arguments."""

    def confine(self, adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
        """As ``project``, but float32 and inside exactly: ``distance(result, images) <= epsilon`` and [0, 1] hold."""

    def quantise(self, adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
        """The 8-bit image, uint8 (N, C, H, W), nearest to ``adversarial`` that is still in the ball.

        Args:
            adversarial: float (N, C, H, W); values outside [0, 1] are clipped first.
            images: float (N, C, H, W), on the 8-bit grid (multiples of 1/255).
            epsilon: the ball's radius, in pixel units, honoured to 1e-6 grey levels.
        """


@final
class Linf:
    """The maximum norm: every pixel may move by up to epsilon."""

    def start(self, images: Tensor, epsilon: float, draws: ImageRandom, name: str) -> Tensor:
        """Uniform in the cube."""
        uniform = torch.from_numpy(draws.uniform(name, tuple(images.shape[1:]))).to(images)
        return self.project(images + (2 * uniform - 1) * epsilon, images, epsilon)

    def direction(self, gradient: Tensor) -> Tensor:
        """The gradient's sign."""
        return gradient.sign()

    def project(self, adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
        """Clips every pixel to within epsilon of the image, and to [0, 1]."""
        return torch.clamp(adversarial, images - epsilon, images + epsilon).clamp_(0, 1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """The largest difference of any pixel, float64 (N,)."""
        return (a.double() - b.double()).abs().flatten(1).amax(1)

    def confine(self, adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
        """Clips in float64 and rounds each pixel towards the image."""
        bound = epsilon * _MARGIN
        return _round_towards(images, (adversarial.clamp(0, 1).double() - images.double()).clamp(-bound, bound))

    def quantise(self, adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
        """Clips the whole number of grey levels that a pixel moves to floor(epsilon * 255)."""
        bound = math.floor(epsilon * LEVELS + SLACK)
        origin = _levels(images)
        moved = (_levels(adversarial) - origin).clamp(-bound, bound)
        return (origin + moved).to(torch.uint8)


@final
class L2:
    """The Euclidean norm over all pixels and channels of an image."""

    def start(self, images: Tensor, epsilon: float, draws: ImageRandom, name: str) -> Tensor:
        """Uniform in the ball: a uniform direction, and a radius of u^(1/D) epsilon (volume grows with the D-th power)."""
        shape = tuple(images.shape[1:])
        towards = self.direction(torch.from_numpy(draws.normal(f"{name}/direction", shape)).to(images))
        radius = torch.from_numpy(draws.uniform(f"{name}/radius")).to(images).pow(1 / math.prod(shape))
        return self.project(images + epsilon * _column(radius) * towards, images, epsilon)

    def direction(self, gradient: Tensor) -> Tensor:
        """The gradient over its norm."""
        # Divided by its largest entry first: the squares of a gradient of 1e-25 are 0 in float32.
        largest = gradient.abs().flatten(1).amax(1)
        scaled = gradient / _column(torch.where(largest > 0, largest, torch.ones_like(largest)))
        return scaled / _column(_length(scaled).clamp_min(1))

    def project(self, adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
        """Shrinks the perturbation to norm epsilon where it is longer, then clips (which only shortens it)."""
        moved = adversarial - images
        length = _length(moved)
        factor = torch.where(length > epsilon, epsilon / length, torch.ones_like(length))
        return (images + moved * _column(factor)).clamp_(0, 1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """The root of the summed squares, float64 (N,)."""
        return _length(a.double() - b.double())

    def confine(self, adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
        """Shrinks in float64 and rounds each pixel towards the image."""
        return _round_towards(images, _shrink(adversarial.clamp(0, 1).double() - images.double(), epsilon * _MARGIN))

    def quantise(self, adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
        """Rounds, then takes back as few and as cheap upward roundings as bring the perturbation inside.

        Every pixel ends on one of the two grey levels beside the one that was asked for; where plain rounding is
        inside, that is the result.
        """
        origin, radius = _levels(images), epsilon * LEVELS + SLACK
        wanted = _shrink(adversarial.clamp(0, 1).double() * LEVELS - origin, epsilon * LEVELS)
        moved = _take_back(wanted.round(), wanted, radius**2)
        return (origin + moved).to(torch.uint8)


_NORMS: dict[NormName, Norm] = {"linf": Linf(), "l2": L2()}


def norm(name: NormName) -> Norm:
    """The norm of that name."""
    return _NORMS[name]


def as_floats(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) as float32 in [0, 1], as every classifier here is given them."""
    # By a tensor: CUDA multiplies by the reciprocal of a plain number, which may end in another bit than the CPU's division.
    return images.float() / torch.full((), LEVELS, device=images.device, dtype=torch.float32)


def round_to_bytes(images: Tensor) -> Tensor:
    """The nearest 8-bit image, uint8, of float images; for attacks that have no bound to respect."""
    return _levels(images).to(torch.uint8)


def _levels(images: Tensor) -> Tensor:
    """Float images as whole grey levels, float64."""
    return (images.clamp(0, 1).double() * LEVELS).round()


def _column(values: Tensor) -> Tensor:
    """(N,) as (N, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def _length(moved: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(moved.flatten(1), dim=1)
    return length


def _shrink(moved: Tensor, radius: float) -> Tensor:
    length = _length(moved)
    return moved * _column(torch.where(length > radius, radius / length, torch.ones_like(length)))


def _round_towards(images: Tensor, moved: Tensor) -> Tensor:
    """``images + moved`` as float32, rounded so that no pixel moves further than asked."""
    rounded = (images.double() + moved).float()
    too_far = (rounded.double() - images.double()).abs() > moved.abs()
    return torch.where(too_far, torch.nextafter(rounded, images.float()), rounded)


def _take_back(moved: Tensor, wanted: Tensor, squared: float) -> Tensor:
    """Moves entries one level towards 0, cheapest first, until the sum of squares of each row is at most ``squared``.

    Only entries that were rounded away from 0 may move. All of them together always suffice: what is left is then
    no longer than ``wanted``, which is inside.
    """
    flat, goal = moved.flatten(1), wanted.flatten(1)
    excess = flat.square().sum(1) - squared
    rounded_up = flat.abs() > goal.abs()
    gain = torch.where(rounded_up, 2 * flat.abs() - 1, 0)
    cost = 1 - 2 * (flat.abs() - goal.abs())
    order = torch.where(rounded_up, gain / cost, -1).argsort(dim=1, descending=True, stable=True)
    gained = gain.gather(1, order).cumsum(1)
    before = gained - gain.gather(1, order)
    needed = torch.zeros_like(rounded_up).scatter(1, order, before < excess[:, None]) & rounded_up
    return torch.where(needed, flat - flat.sign(), flat).view_as(moved)
