"""The squares that a random search tries: how large they are, where they lie, and what is written into them.

Each norm supplies a start and a proposal. Images are float (N, C, H, W) in [0, 1], sizes are in pixel units, and ``drawn``
holds uniform draws from [0, 1), a row an image: every image has a square of its own, and only the side is shared.
"""

import math
from functools import cache
from typing import Protocol, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.attacks.geometry import L2, NormName
from pipeline.random import ImageRandom

Floats = npt.NDArray[np.float64]

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The proposals, out of 10,000, after which the share of an image that a square covers is halved."""
_SCALE = 10_000
_CANCELLED = 1e-4
"""Norm of the sum of two unit patterns below which it holds little but rounding."""


def share(initial: float, turn: int, total: int) -> float:
    """The share of an image that the square of a proposal covers: ``initial``, halved as the search goes on.

    Args:
        initial: the share that the search begins with, in (0, 1].
        turn: the proposal, from 0.
        total: the proposals to which ``HALVINGS`` is stretched.
    """
    place = turn * _SCALE // total
    return float(initial / 2 ** sum(place > halving for halving in HALVINGS))


def bump(height: int, width: int) -> Floats:
    """One half of the L2 pattern, (height, width), of unit norm: it falls off from the middle to every side.

    The paper's equation (2): a pixel at distance d (in the maximum norm) from the middle is sum_{j=d}^{n} 1 / (j + 1)^2,
    n half of the longer side.
    """
    terms = 1 / (1 + np.arange(max(height, width) // 2 + 1.0)) ** 2
    tails = terms[::-1].cumsum()[::-1]
    rows, columns = np.abs(np.arange(height) - height // 2), np.abs(np.arange(width) - width // 2)
    values: Floats = tails[np.maximum(rows[:, None], columns)]
    return values / np.linalg.norm(values)


@cache
def pattern(side: int) -> Floats:
    """The L2 pattern of unit norm and its transpose, (2, side * side): a bump above, the negative of one below."""
    upper = side // 2
    whole = np.concatenate([bump(upper, side), -bump(side - upper, side)])
    whole /= np.linalg.norm(whole)
    return np.stack([whole, whole.T]).reshape(2, -1)


class Squares(Protocol):
    """What a search needs to know of a norm."""

    def side(self, share: float, height: int, width: int) -> int:
        """The side, in pixels, of the square nearest to ``share`` of the image."""

    def width(self, channels: int) -> int:
        """The draws that a proposal takes."""

    def start(self, images: Tensor, epsilon: float, draws: ImageRandom) -> Tensor:
        """Where the search begins, inside the ball and [0, 1]. Draws ``start``."""

    def propose(self, current: Tensor, images: Tensor, epsilon: float, side: int, drawn: Tensor) -> Tensor:
        """Another point of the ball and [0, 1], which differs from ``current`` within squares alone.

        Args:
            current: float (M, C, H, W), the best point so far.
            images: float (M, C, H, W), the balls' centres.
            epsilon: the balls' radius.
            side: of the squares, in pixels, at most H and W.
            drawn: float (M, ``width(C)``), uniform draws.
        """


@final
class LinfSquares:
    """Squares in which every channel moves to one end of its interval (Algorithm 2)."""

    def side(self, share: float, height: int, width: int) -> int:
        """At least 1."""
        return min(max(round(math.sqrt(share * height * width)), 1), height, width)

    def width(self, channels: int) -> int:
        """A corner and a sign a channel."""
        return 2 + channels

    def start(self, images: Tensor, epsilon: float, draws: ImageRandom) -> Tensor:
        """Vertical stripes one pixel wide, of random signs."""
        channels, width = images.shape[1], images.shape[3]
        stripes = torch.from_numpy(draws.uniform("start", (channels, 1, width))).to(images)
        return (images + epsilon * _signs(stripes)).clamp_(0, 1)

    def propose(self, current: Tensor, images: Tensor, epsilon: float, side: int, drawn: Tensor) -> Tensor:
        """Adds 2 epsilon times a random sign a channel and projects, which leads to the end of every pixel's interval.

        Signs that would change nothing are turned round, where the authors' code draws others: no query is wasted.
        """
        inside = _pixels(drawn[:, :2], side, images)
        old, centre = current.flatten(2).gather(2, inside), images.flatten(2).gather(2, inside)
        moved = epsilon * _signs(drawn[:, 2:, None])
        new = (centre + moved).clamp(0, 1)
        unchanged = (new == old).flatten(1).all(1)[:, None, None]
        new = torch.where(unchanged, (centre - moved).clamp(0, 1), new)
        return current.flatten(2).scatter(2, inside, new).view_as(current)


@final
class L2Squares:
    """Squares that take over the norm of another one (Algorithm 3)."""

    def side(self, share: float, height: int, width: int) -> int:
        """Odd and at least 3, as far as the image is large enough."""
        return min(max(round(math.sqrt(share * height * width)), 3) | 1, height, width)

    def width(self, channels: int) -> int:
        """Two corners, an orientation and a sign a channel."""
        return 5 + channels

    def start(self, images: Tensor, epsilon: float, draws: ImageRandom) -> Tensor:
        """Tiles, five to the shorter side where it is long enough, of patterns with random orientations and signs."""
        channels, height, width = images.shape[1:]
        side = max(min(height, width) // 5, 1)
        down, across = height // side, width // side
        drawn = torch.from_numpy(draws.uniform("start", (1 + channels, down * across))).to(images)
        tiles = _signs(drawn[:, 1:])[..., None] * _oriented(drawn[:, :1], side)
        tiled = tiles.view(-1, channels, down, across, side, side).transpose(3, 4).reshape(-1, channels, down * side, across * side)
        moved, top, left = torch.zeros_like(images), (height - down * side) // 2, (width - across * side) // 2
        moved[:, :, top : top + down * side, left : left + across * side] = tiled
        return L2().project(images + epsilon * L2().direction(moved), images, epsilon)

    def propose(self, current: Tensor, images: Tensor, epsilon: float, side: int, drawn: Tensor) -> Tensor:
        """Empties one square and adds the pattern to another, which receives the norm of both and what the ball has left.

        Before the clipping to [0, 1] the result is at epsilon from the image exactly.
        """
        first, second = _pixels(drawn[:, :2], side, images), _pixels(drawn[:, 2:4], side, images)
        moved = (current - images).flatten(2)
        unused = (epsilon**2 - moved.square().sum((1, 2))).clamp_min(0) / images.shape[1]
        old = moved.gather(2, first)
        # The first square is emptied first, so that what the two share is counted once.
        rest = moved.scatter(2, first, 0.0)
        available = old.square().sum(2) + rest.gather(2, second).square().sum(2) + unused[:, None]
        added = _signs(drawn[:, 5:, None]) * _oriented(drawn[:, None, 4], side)
        mixed = added + _unit(old)
        # The pattern that is there already, with the other sign, would leave nothing but rounding to scale up.
        mixed = torch.where(torch.linalg.vector_norm(mixed, dim=2, keepdim=True) > _CANCELLED, mixed, added)
        new = available.sqrt()[..., None] * _unit(mixed)
        result = rest.scatter(2, second, 0.0).scatter(2, first, new).view_as(images)
        return L2().project(images + result, images, epsilon)


_SQUARES: dict[NormName, Squares] = {"linf": LinfSquares(), "l2": L2Squares()}


def squares(name: NormName) -> Squares:
    """The squares of the norm of that name."""
    return _SQUARES[name]


def _signs(drawn: Tensor) -> Tensor:
    """Draws from [0, 1) as -1 or 1."""
    return 1 - 2 * (drawn < 0.5).to(drawn.dtype)


def _oriented(drawn: Tensor, side: int) -> Tensor:
    """One of the two orientations of the pattern for each draw: (..., side * side)."""
    both = torch.from_numpy(pattern(side)).to(drawn.dtype).to(drawn.device)
    return torch.where(drawn[..., None] < 0.5, both[0], both[1])


def _pixels(drawn: Tensor, side: int, images: Tensor) -> Tensor:
    """Where a square lies whose corner is uniform among the places where it fits: flat indices, int64 (M, C, side * side).

    Args:
        drawn: (M, 2), uniform draws for the top and the left.
        side: of the squares, in pixels.
        images: float (M, C, H, W), for its shape alone.
    """
    channels, height, width = images.shape[1:]
    top, left = (drawn[:, 0] * (height - side + 1)).long(), (drawn[:, 1] * (width - side + 1)).long()
    along = torch.arange(side, device=images.device)
    inside = (along[:, None] * width + along).flatten()
    return ((top * width + left)[:, None] + inside)[:, None].expand(-1, channels, -1)


def _unit(values: Tensor) -> Tensor:
    """Divided by the norm of the last axis; 0 where that is 0."""
    length: Tensor = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return values / length.clamp_min(torch.finfo(values.dtype).tiny)
