"""Fingerprint scores: the mean activation of a few neurons."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import embedding_bag

Float = TypeVar("Float", np.float32, np.float64)


def fingerprint_scores(neurons: npt.NDArray[Float], indices: npt.NDArray[np.int32]) -> npt.NDArray[Float]:
    """Every fingerprint on every image: s_I(x) = mean of a_i(x) over i in I (Fisher et al. 2024, section 3).

    Args:
        neurons: (N, D) activations, float32 or float64.
        indices: (F, k) columns of the neurons.

    Returns:
        (N, F) in the neurons' type (a transposed view: a fingerprint's scores lie together). A score depends on its own image and
        fingerprint alone, bit for bit.
    """
    if not len(neurons) or not len(indices):
        return np.empty((len(neurons), len(indices)), neurons.dtype)
    # One neuron on all images is a row of the table, so a bag sums k contiguous rows instead of gathering N * k numbers.
    table = torch.tensor(np.ascontiguousarray(neurons.T))
    scores: npt.NDArray[Float] = embedding_bag(torch.tensor(indices), table, mode="mean").numpy()
    return scores.T


def drawn_scores(neurons: npt.NDArray[np.float32], indices: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """Each image on fingerprints of its own.

    Args:
        neurons: (N, D) activations.
        indices: (N, m, k) columns of the neurons, image by image.

    Returns:
        (N, m) float32 scores.
    """
    images, size = neurons.shape
    starts = np.arange(images, dtype=np.int64)[:, None, None] * size
    gathered: npt.NDArray[np.float32] = neurons.reshape(-1).take(indices + starts)
    scores: npt.NDArray[np.float32] = gathered.mean(axis=-1)
    return scores
