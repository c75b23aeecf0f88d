"""Attacking through an input transformation: what the defender does to an image before the model becomes a part of it.

``through_bytes`` and ``through_jpeg`` make a ``LogitFn`` of one and may be nested. Neither transformation has a useful
derivative, so the backward pass takes it for the identity, the straight-through estimate of Athalye, Carlini, Wagner,
"Obfuscated gradients give a false sense of security", ICML 2018, section 4.1 (BPDA). ``through_resize_pad`` is random
and differentiable; it makes an ``adaptive.RandomLogitFn``, whose gradient ``adaptive.expected`` averages over draws.
"""

import io
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from pipeline.attacks.adaptive import RandomLogitFn
from pipeline.attacks.base import LogitFn
from pipeline.attacks.geometry import LEVELS, as_floats, round_to_bytes
from pipeline.errors import WhorlError
from pipeline.random import ImageRandom

_JPEG_CHANNELS = (1, 3)
_BLOCK = 64
"""Samples whose draws are made together: one stream an image and block costs far less than one an image and sample."""


def through_bytes(logits_fn: LogitFn) -> LogitFn:
    """The model as it sees an image that was stored in 8 bits.

    Forward, the model is given exactly the floats that ``geometry.as_floats`` makes of the bytes that
    ``geometry.round_to_bytes`` makes of the images; backward, the rounding is the identity.

    Args:
        logits_fn: the model, on float images (N, C, H, W) in [0, 1].
    """

    def of(images: Tensor) -> Tensor:
        with torch.no_grad():
            shown = as_floats(_nearest_levels(images)).to(images.dtype)
        return logits_fn(_straight_through(images, shown))

    return of


def through_jpeg(logits_fn: LogitFn, quality: int) -> LogitFn:
    """The model behind JPEG compression (Das et al., "Keeping the bad guys out", 2017).

    Forward, every image is rounded to bytes, written as a JPEG by Pillow (its default chroma subsampling) and read
    again, on the CPU; backward, all of it is the identity.

    Args:
        logits_fn: the model, on float images (N, C, H, W) in [0, 1], grey or RGB.
        quality: Pillow's, from 1 to 100.

    Raises:
        WhorlError: a quality outside that range; images of neither one nor three channels (from the function returned).
    """
    if not 1 <= quality <= 100:
        raise WhorlError(f"attack: the JPEG quality is {quality}, where one from 1 to 100 was expected.")

    def of(images: Tensor) -> Tensor:
        if images.shape[1] not in _JPEG_CHANNELS:
            raise WhorlError(f"attack: the images have {images.shape[1]} channels, where 1 or 3 were expected to make a JPEG of them.")
        levels = round_to_bytes(images.detach().cpu()).movedim(1, 3).numpy()
        decoded = torch.from_numpy(np.stack([_recompress(image, quality) for image in levels])).movedim(3, 1)
        return logits_fn(_straight_through(images, as_floats(decoded).to(images)))

    return of


def through_resize_pad(logits_fn: LogitFn, draws: ImageRandom, growth: int) -> RandomLogitFn:
    """The model behind random resizing and padding, differentiable in the images.

    Xie, Wang, Zhang, Ren, Yuille, "Mitigating adversarial effects through randomization", ICLR 2018, section 3: an image
    of H x W pixels is resized (bilinear) by a whole number of pixels g, uniform in [0, growth), to (H + g) x (W + g), and
    then padded with zeros to (H + growth) x (W + growth), its place uniform among the (growth - g + 1)^2 that there are
    (theirs: H = W = 299, growth = 32). A growth of 0 is the identity.

    Args:
        logits_fn: the model, on float images (M, C, H + growth, W + growth) in [0, 1].
        draws: one stream an image of the original batch; a sample's draws depend on the image and its number alone.
        growth: by how many pixels height and width grow, at least 0.
    """
    placements = _placements(draws, growth)

    def of(images: Tensor, rows: Tensor, number: int) -> Tensor:
        grown, top, left = placements(number).to(images.device)[rows].unbind(1)
        down = _resizing(images.shape[2], grown, top, growth).to(images.dtype)[:, None]
        across = _resizing(images.shape[3], grown, left, growth).to(images.dtype)[:, None]
        return logits_fn(down @ images @ across.transpose(2, 3))

    return of


class _StraightThrough(torch.autograd.Function):
    """Its second argument forward; backward the first gets the whole gradient.

    ``images + (shown - images).detach()`` is rounded where the two are far apart, as after JPEG, and leaves the 8-bit grid.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, shown: Tensor) -> Tensor:
        return shown.view_as(shown)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _straight_through(images: Tensor, shown: Tensor) -> Tensor:
    result: Tensor = _StraightThrough.apply(images, shown)
    return result


def _nearest_levels(images: Tensor) -> Tensor:
    """What ``round_to_bytes`` rounds to, without float64, which not every device has.

    Whether 255 x is nearer to the level above than to the one below is asked as 256 x - below - 1/2 >= x, whose two sides
    are exact in float32 where it matters; the product 255 x is not. The one float that lies on a middle is 1/2, which
    goes up in both.
    """
    images = images.clamp(0, 1)
    below = (images * LEVELS).floor_()
    nearer_above = (images * (LEVELS + 1)).sub_(below).sub_(0.5).ge_(images)
    return below.add_(nearer_above)


def _recompress(image: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """One image, uint8 (H, W, C), after JPEG."""
    stream = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream)).reshape(image.shape)


def _placements(draws: ImageRandom, growth: int) -> Callable[[int], Tensor]:
    """For a sample's number: by how much each image is resized, and the rows and columns of padding before it, int64 (N, 3)."""

    @lru_cache(maxsize=1)
    def block(index: int) -> Tensor:
        uniform = draws.uniform(f"resize_pad/{index}", (_BLOCK, 3)).astype(np.float64)
        grown = np.floor(uniform[:, :, :1] * growth)
        offset = np.floor(uniform[:, :, 1:] * (growth - grown + 1))
        return torch.from_numpy(np.concatenate([grown, offset], 2).astype(np.int64))

    return lambda number: block(number // _BLOCK)[:, number % _BLOCK]


def _resizing(size: int, grown: Tensor, offset: Tensor, growth: int) -> Tensor:
    """Bilinear resizing and padding along one side as a matrix an image, float32 (M, size + growth, size).

    A matrix product has a gradient that is the same every time, which ``interpolate`` on a GPU has not.

    Args:
        size: pixels along that side.
        grown: int64 (M,), how many there are more after resizing.
        offset: int64 (M,), the padding before them.
        growth: how many there are more after padding.
    """
    place = torch.arange(size + growth, device=grown.device) - offset[:, None]
    resized = size + grown[:, None]
    source = ((place + 0.5) * size / resized - 0.5).clamp(0, size - 1)
    weights = (1 - (source[:, :, None] - torch.arange(size, device=grown.device)).abs()).clamp_min(0)
    return weights * ((place >= 0) & (place < resized))[:, :, None]
