"""Which of a bank's fingerprints an image meets."""

import os
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.fingerprints.sampling import distinct
from pipeline.random import generator


class Draws(Protocol):
    """A source of uniform draws for N images, each image's own and independent of the others.

    ``pipeline.random.ImageRandom`` is the keyed one: the same seed, purpose and id give the same draw again, whatever the
    batch, so an evaluation can be repeated. ``FreshDraws`` is the one for use: nobody can foresee or repeat it.
    """

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> npt.NDArray[np.floating[Any]]:
        """Uniform draws in [0, 1), of shape (N, *shape)."""
        ...


class FreshDraws:
    """Draws from the operating system's own cryptographic source, anew at every call.

    No generator state exists that could be guessed, copied into a worker or recovered from what a guard answers.

    Args:
        images: the number of images, N.
    """

    def __init__(self, images: int) -> None:
        self.images = images

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> npt.NDArray[np.float64]:
        """Uniform draws in [0, 1) of 32 bits, of shape (N, *shape); never the same again, whatever the name."""
        full = (self.images, *shape)
        words = np.frombuffer(os.urandom(4 * int(np.prod(full))), np.uint32).reshape(full)
        return words.astype(np.float64) * 2.0**-32


def draw(draws: Draws, sizes: npt.NDArray[np.int64], m: int) -> npt.NDArray[np.int64]:
    """Draws m different fingerprints for each image, uniformly from its bank.

    Args:
        draws: keyed or fresh randomness for the N images.
        sizes: (N,) the number of fingerprints in each image's bank, at least m each.
        m: fingerprints an image.

    Returns:
        (N, m) int64, row i with different numbers in [0, sizes[i]).

    Raises:
        ValueError: a bank has fewer than m.
    """
    return distinct(draws.uniform("draw", (m,)), sizes)


class StaticDraws:
    """One and the same draw for every image and call: no randomness at all, for measuring what randomness buys.

    Args:
        images: the number of images, N.
        seed: which draw.
    """

    def __init__(self, images: int, seed: int) -> None:
        self.images, self.seed = images, seed

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> npt.NDArray[np.float64]:
        """Uniform draws in [0, 1), of shape (N, *shape), the same for all N; they depend on seed, name and shape alone."""
        row = np.asarray(generator(self.seed, "static", name).random(shape))
        return np.broadcast_to(row, (self.images, *shape)).copy()
