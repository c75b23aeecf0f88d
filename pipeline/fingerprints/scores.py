"""Fingerprint scores: the mean activation of a few neurons."""

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
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
    return bag_means(table_of(neurons), indices).T


def table_of(neurons: npt.NDArray[Float]) -> Tensor:
    """Activations (N, D) as ``bag_means`` takes them, (D, N): one neuron on all images is a row."""
    return torch.tensor(np.ascontiguousarray(neurons.T))


def bag_means(table: Tensor, indices: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
    """Means of k rows of a table, (F, N): contiguous rows are summed, where gathering from the activations would pick N * k numbers."""
    means: npt.NDArray[Any] = embedding_bag(torch.tensor(indices), table, mode="mean").numpy()
    return means


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
