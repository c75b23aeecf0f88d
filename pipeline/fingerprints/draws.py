"""Which of a bank's fingerprints an image meets."""

import math
import os
from hashlib import blake2b, shake_256
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.fingerprints.sampling import distinct

KEY_BYTES = 32
"""What a key of draws has."""


class Draws(Protocol):
    """A source of uniform draws for N images, each image's own and independent of the others.

    ``pipeline.random.ImageRandom`` is the seeded one: the same seed, purpose and id give the same draw again, whatever the
    batch, so an evaluation can be repeated. ``FreshDraws`` and ``KeyedDraws`` are for use: nobody can foresee the first, nor
    the second without its key.
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
        return _uniform(os.urandom(4 * math.prod(full)), full)


class KeyedDraws:
    """Draws that depend on a secret key and an image's pixels: exactly the same image again meets the same draw.

    One changed pixel, by one grey level, buys a new draw: this stops who sends the same image until it passes, not who changes
    it a little each time. Without the key a draw cannot be told from a random one: an image's seed is a keyed BLAKE2b
    (RFC 7693) of its pixels, and its draws are what SHAKE-256 (FIPS 202) makes of the seed and the draw's name.

    Args:
        key: 32 secret bytes, or ``stand_in_key`` of a seed where draws are to be reproduced and nothing is at stake.
        images: the decoded pixels, uint8 (N, C, H, W); or float32 of that shape, of which the floats themselves are hashed: the
            same image as bytes and as floats meets two draws.

    Raises:
        ValueError: the key has another length, or the images another type or number of dimensions.
    """

    def __init__(self, key: bytes, images: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key of {len(key)} bytes, where {KEY_BYTES} were expected")
        if images.ndim != 4 or images.dtype not in (np.uint8, np.float32):
            raise ValueError(f"images of {images.dtype} {images.shape}, where uint8 or float32 of (N, C, H, W) was expected")
        self._seeds = _seeds(key, images)

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> npt.NDArray[np.float64]:
        """Uniform draws in [0, 1) of 32 bits, of shape (N, *shape); the same key, image and name give the same draws again."""
        size, label = 4 * math.prod(shape), name.encode()
        return _uniform(b"".join([shake_256(seed + label).digest(size) for seed in self._seeds]), (len(self._seeds), *shape))


def stand_in_key(seed: int) -> bytes:
    """A key for evaluations, so that they reproduce: made of the params' seed by BLAKE2b, and no secret."""
    return blake2b(str(seed).encode(), digest_size=KEY_BYTES, person=b"whorl stand-in").digest()


def _seeds(key: bytes, images: npt.NDArray[Any]) -> list[bytes]:
    """64 bytes an image, of a keyed hash of its type, its shape and its pixels."""
    if images.dtype == np.float32:
        images = images + np.float32(0)  # -0 becomes 0: the same to the classifier, so no new draw
    keyed, seeds = blake2b(f"{images.dtype} {images.shape[1:]}\0".encode(), key=key, person=b"whorl draw"), []
    for image in np.ascontiguousarray(images):
        one = keyed.copy()
        one.update(image)
        seeds.append(one.digest())
    return seeds


def _uniform(words: bytes, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return np.frombuffer(words, "<u4").reshape(shape).astype(np.float64) * 2.0**-32


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
