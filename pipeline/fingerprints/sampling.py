"""Random index sets: which neurons make up a candidate fingerprint."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pipeline.errors import ParamsError
from pipeline.fingerprints.features import Layout, group_name
from pipeline.params.fingerprints import FingerprintParams
from pipeline.random import generator


def distinct(uniform: npt.NDArray[np.floating], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Uniform draws without replacement, one set a row (Floyd's algorithm; Bentley and Floyd, CACM 30(9), 1987).

    Floyd's step s guesses one of the first t + 1, t = size - m + s, and takes t itself where the guess is taken already.
    It is taken where an earlier step guessed the same, or where it is an earlier step's t and that step's guess was taken.
    The first is found by sorting, the second by following the pointers with doubling, so no step waits for another: a few
    operations on whole arrays, whatever N and the sizes. A set is uniform among the m-subsets; the order in a row is not.
    The grain of the draws (2^-24 for float32) moves a probability by less than size / 2^24 of it.

    Args:
        uniform: (N, m) draws in [0, 1).
        sizes: (N,) how many there are to draw from, each at least m.

    Returns:
        (N, m) int64, row i with m different numbers in [0, sizes[i]).

    Raises:
        ValueError: a size is below m.
    """
    count, m = uniform.shape
    if count and m > sizes.min():
        raise ValueError(f"{m} different numbers cannot be drawn from {sizes.min()}")
    steps, bits = np.arange(m), m.bit_length()
    tops = sizes[:, None] - m + steps
    guesses = (uniform.astype(np.float64) * (tops + 1)).astype(np.int64)
    keys = np.sort(guesses << bits | steps, axis=1)
    taken = np.zeros((count, m), np.bool_)
    again = keys[:, 1:] >> bits == keys[:, :-1] >> bits
    np.put_along_axis(taken, keys[:, 1:] & ((1 << bits) - 1), again, axis=1)
    whose = guesses - tops[:, :1]
    earlier = np.where((whose >= 0) & (whose < steps), whose, steps)
    waiting = np.flatnonzero((earlier != steps).any(axis=1))
    taken[waiting] = _follow(taken[waiting], earlier[waiting])
    drawn: npt.NDArray[np.int64] = np.where(taken, tops, guesses)
    return drawn


def _follow(taken: npt.NDArray[np.bool_], earlier: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """True where any step on the way back from a step is: pointers to earlier steps, or to themselves where the way ends."""
    for _ in range(taken.shape[1].bit_length()):
        taken = taken | np.take_along_axis(taken, earlier, axis=1)
        earlier = np.take_along_axis(earlier, earlier, axis=1)
    return taken


def apportion(count: int, sizes: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """How many of ``count`` each layer gives, in proportion to the weights as far as it has so many (Sainte-Lague's method).

    A small layer gives all that it has and the others the rest. A layer without weight gives only where all others are empty.

    Args:
        count: at most the sum of the sizes.
        sizes: (L,) how many each layer has.
        weights: (L,) at least 0.

    Returns:
        (L,) int64, adding up to ``count``, each at most its size.

    Raises:
        ValueError: there are fewer than ``count``.
    """
    if count > sizes.sum():
        raise ValueError(f"{count} cannot be drawn from layers of {sizes.tolist()}")
    given = np.zeros(len(sizes), np.int64)
    for _ in range(count):
        claims = np.where(weights > 0, weights, np.finfo(np.float64).tiny) / (2 * given + 1)
        given[np.where(given < sizes, claims, -1.0).argmax()] += 1
    return given


def distinct_by_layer(
    uniform: npt.NDArray[np.floating], layer: npt.NDArray[np.int16], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Uniform draws without replacement from every layer, one set a row, as many from each as ``apportion`` says.

    Args:
        uniform: (N, m) draws in [0, 1).
        layer: (F,) positions in the weights, the layers of the F fingerprints to draw from.
        weights: (L,) at least 0.

    Returns:
        (N, m) int64 rows of ``layer``, different inside a row, layer after layer.

    Raises:
        ValueError: there are fewer than m fingerprints.
    """
    given = apportion(uniform.shape[1], np.bincount(layer, minlength=len(weights)), weights)
    parts = np.split(uniform, np.cumsum(given)[:-1], axis=1)
    of_layer = [np.flatnonzero(layer == number) for number in range(len(weights))]
    return np.concatenate(
        [rows[distinct(part, np.full(len(part), len(rows)))] for rows, part in zip(of_layer, parts, strict=True) if part.shape[1]], axis=1
    )


def sample_index_sets(
    rng: np.random.Generator, layout: Layout, k: int | Mapping[str, int], count: int, layer_weights: Mapping[str, float]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int16]]:
    """Draws candidate fingerprints, each a uniform k-subset of one layer's neurons (Fisher et al. 2024, section 3).

    Args:
        rng: the source of all randomness.
        layout: which columns belong to which layer.
        k: neurons in a fingerprint; or layer to that number, each a divisor of the largest.
        count: how many candidates, F.
        layer_weights: layer to the weight with which it is drawn; a layer that is not named is never drawn.

    Returns:
        indices: (F, k) int32 columns of the neurons, growing inside a row; without repetition, but that in a layer whose k is smaller
            than the largest each neuron stands as often as fills the row, which leaves the mean as it is.
        layer: (F,) int16, the position in ``layout.layers`` of each candidate's layer.

    Raises:
        ParamsError: a layer that may be drawn is not in the layout or has fewer than k neurons, or none may be drawn.
    """
    sizes = np.array([k if isinstance(k, int) else k.get(layer, 1) for layer in layout.layers], np.int64)
    weights = _weights(layout, sizes, layer_weights)
    layer, widest = rng.choice(len(weights), size=count, p=weights / weights.sum()), int(sizes[weights > 0].max())
    uniform, indices = rng.random((count, widest)), np.empty((count, widest), np.int64)
    for size in np.unique(sizes[layer]):
        rows = np.flatnonzero(sizes[layer] == size)
        inside = distinct(uniform[rows, :size], layout.sizes[layer[rows]])
        indices[rows] = inside.repeat(widest // size, axis=1)
    indices = np.sort(indices + np.array(layout.offsets, np.int64)[layer, None], axis=1)
    return indices.astype(np.int32), layer.astype(np.int16)


def sample_block(
    params: FingerprintParams, layout: Layout, label: int | None, number: int, count: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int16]]:
    """The index sets and layers of one block of a group's candidates."""
    rng = generator(params.seed, "fingerprints", group_name(label), str(number))
    return sample_index_sets(rng, layout, params.k, count, params.layer_weights)


def _weights(layout: Layout, sizes: npt.NDArray[np.int64], layer_weights: Mapping[str, float]) -> npt.NDArray[np.float64]:
    drawn = {layer: weight for layer, weight in layer_weights.items() if weight}
    if not drawn:
        raise ParamsError("fingerprints.layer_weights: gives no layer a weight, where at least one above 0 was expected.")
    for layer, weight in drawn.items():
        if weight < 0:
            raise ParamsError(f"fingerprints.layer_weights.{layer}: is {weight:g}, where a weight of 0 or more was expected.")
        if layer not in layout.layers:
            raise ParamsError(f"fingerprints.layer_weights: {layer!r} is not kept, where one of {list(layout.layers)} was expected.")
        k, size = (int(of[layout.layers.index(layer)]) for of in (sizes, layout.sizes))
        if k > size:
            raise ParamsError(f"fingerprints.k: {k} is larger than layer {layer!r}, where at most its {size} neurons were expected.")
    return np.array([drawn.get(layer, 0.0) for layer in layout.layers])
