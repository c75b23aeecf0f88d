"""Randomness keyed by (seed, purpose, image id): the same draws whatever the worker, the batch or the order."""

import json
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt


def generator(seed: int, *purpose: str) -> np.random.Generator:
    """A generator whose stream depends on the seed and the purpose alone (BLAKE2b of both keys a Philox)."""
    digest = blake2b(json.dumps([seed, *purpose]).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


class ImageRandom:
    """Draws for a batch of images, each from a stream of its own.

    Args:
        seed: the params' seed.
        purpose: what the draws are for, such as ``attack/fgsm``.
        ids: the images' ids, one a row of every draw.
    """

    def __init__(self, seed: int, purpose: str, ids: Sequence[str]) -> None:
        self.seed, self.purpose, self.ids = seed, purpose, tuple(ids)

    def subset(self, rows: npt.NDArray[np.intp]) -> "ImageRandom":
        """The same streams for some of the images."""
        return ImageRandom(self.seed, self.purpose, [self.ids[row] for row in rows])

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> npt.NDArray[np.float32]:
        """Uniform draws in [0, 1), of shape (N, *shape); the same name gives the same draws again."""
        rows = [generator(self.seed, self.purpose, name, key).random(shape, dtype=np.float32) for key in self.ids]
        return np.stack(rows) if rows else np.empty((0, *shape), np.float32)

    def normal(self, name: str, shape: tuple[int, ...] = ()) -> npt.NDArray[np.float32]:
        """Standard normal draws of shape (N, *shape); the same name gives the same draws again."""
        rows = [generator(self.seed, self.purpose, name, key).standard_normal(shape, dtype=np.float32) for key in self.ids]
        return np.stack(rows) if rows else np.empty((0, *shape), np.float32)

    def integers(self, name: str, high: int) -> npt.NDArray[np.int64]:
        """Uniform integers in [0, high), of shape (N,); the same name gives the same draws again."""
        return np.array([generator(self.seed, self.purpose, name, key).integers(high) for key in self.ids], np.int64)
