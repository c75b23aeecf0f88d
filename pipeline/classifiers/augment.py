"""The augmentation of small images: a random shift over reflected borders and a random mirror image (He et al. 2016, section 4.2)."""

import numpy as np
import numpy.typing as npt


def pad_crop_flip(
    images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], pad: int, flip: bool, draws: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    """Takes rows of the images, each padded by reflection, cropped back to its size at random, and mirrored at random.

    It gathers straight from the images, so nothing is padded in memory.

    Args:
        images: uint8 (N, C, H, W).
        rows: which images, (B,).
        pad: pixels p of padding on each side; the crop's corner is uniform among (2p + 1)² places.
        flip: mirror left to right with probability 1/2.
        draws: uniform in [0, 1), (N, 3): vertical shift, horizontal shift, mirror.

    Returns:
        uint8 (B, C, H, W), in the order of ``rows``.
    """
    height, width = images.shape[-2:]
    chosen = draws[rows]
    shifts = np.floor(chosen[:, :2] * (2 * pad + 1)).astype(np.int64) - pad
    vertical = _reflect(np.arange(height) + shifts[:, :1], height)
    horizontal = _reflect(np.arange(width) + shifts[:, 1:], width)
    if flip:
        horizontal = np.where(chosen[:, 2:] < 0.5, horizontal[:, ::-1], horizontal)
    channels = np.arange(images.shape[1])
    return images[rows[:, None, None, None], channels[:, None, None], vertical[:, None, :, None], horizontal[:, None, None, :]]


def _reflect(places: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Folds places outside [0, size) back inside as in a mirror at the centre of the outermost pixel."""
    period = max(2 * (size - 1), 1)
    folded = places % period
    return np.where(folded < size, folded, period - folded) if size > 1 else np.zeros_like(places)
