"""Candidate fingerprints with the moments of their scores on clean and on attacked images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from zlib import crc32

import numpy as np
import numpy.typing as npt

from pipeline.errors import WhorlError
from pipeline.fingerprints.features import CLEAN, MISTAKEN, Features, group_name
from pipeline.fingerprints.moments import Moments, merge
from pipeline.fingerprints.scores import fingerprint_scores

_ROWS = 1024
"""Images scored at a time: bounds the memory, and being fixed, fixes the rounding."""

Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Sides:
    """The moments of F candidates on clean and on attacked images.

    Attributes:
        clean: on the group's clean images.
        attacked: attack to the moments on the images that it turned into the group's class, kept apart so that any mix of
            attacks can be fitted from the same block.
    """

    clean: Moments
    attacked: dict[str, Moments]

    @classmethod
    def empty(cls, size: int, attacks: Iterable[str]) -> "Sides":
        """Those of no images, for F = size candidates."""
        return cls(Moments.empty(size), {name: Moments.empty(size) for name in attacks})

    def some(self, which: npt.NDArray[np.intp]) -> "Sides":
        """Those of some of the candidates."""
        return Sides(self.clean.some(which), {name: moments.some(which) for name, moments in self.attacked.items()})

    def of(self, attacks: Sequence[str]) -> "Sides":
        """Those of some of the attacks, in their order; the others are not looked at.

        Raises:
            WhorlError: nothing is known of one of the attacks.
        """
        if missing := [name for name in attacks if name not in self.attacked]:
            raise WhorlError(f"The candidates know nothing of {missing}, where some of {sorted(self.attacked)} were expected.")
        return Sides(self.clean, {name: self.attacked[name] for name in attacks})

    def merged(self, other: "Sides") -> "Sides":
        """Those of the images of both, which know the same attacks."""
        attacked = {name: merge(moments, other.attacked[name]) for name, moments in self.attacked.items()}
        return Sides(merge(self.clean, other.clean), attacked)

    def mixed(self) -> Moments:
        """The moments on the successes of all attacks together, each image counting once an attack."""
        return reduce(merge, self.attacked.values(), Moments.empty(len(self.clean.mean)))


@dataclass(frozen=True)
class CandidateBlock:
    """Some candidates of one group (a predicted class, or all classes pooled).

    Attributes:
        group: the group's name.
        indices: (F, k) int32 columns of the neurons.
        layer: (F,) int16 positions in the layout's layers.
        halves: the moments on either half of the images (see ``in_second_half``).
    """

    group: str
    indices: npt.NDArray[np.int32]
    layer: npt.NDArray[np.int16]
    halves: tuple[Sides, Sides]

    @cached_property
    def whole(self) -> Sides:
        """The moments on all images."""
        return self.halves[0].merged(self.halves[1])

    def to_arrays(self) -> Arrays:
        """All of the block but its group's name as named arrays, for storage."""
        arrays: Arrays = {"indices": self.indices, "layer": self.layer}
        for number, half in enumerate(self.halves):
            for prefix, moments in [(CLEAN, half.clean), *((f"attacked.{name}", m) for name, m in half.attacked.items())]:
                arrays[f"{prefix}.{number}.count"] = np.array([moments.count], np.int64)
                arrays[f"{prefix}.{number}.mean"], arrays[f"{prefix}.{number}.m2"] = moments.mean, moments.m2
        return arrays

    @classmethod
    def from_arrays(cls, group: str, arrays: Mapping[str, npt.NDArray[np.generic]]) -> "CandidateBlock":
        """The block that ``to_arrays`` described."""

        def moments(prefix: str) -> Moments:
            mean, m2 = (np.asarray(arrays[f"{prefix}.{part}"], np.float64) for part in ("mean", "m2"))
            return Moments(int(arrays[f"{prefix}.count"][0]), mean, m2)

        def half(number: int) -> Sides:
            start, ending = "attacked.", f".{number}.m2"
            names = sorted(key.removeprefix(start).removesuffix(ending) for key in arrays if key.startswith(start) and key.endswith(ending))
            return Sides(moments(f"{CLEAN}.{number}"), {name: moments(f"attacked.{name}.{number}") for name in names})

        indices, layer = np.asarray(arrays["indices"], np.int32), np.asarray(arrays["layer"], np.int16)
        return cls(group, indices, layer, (half(0), half(1)))


def in_second_half(ids: Sequence[str]) -> npt.NDArray[np.bool_]:
    """(N,) which half of the images each is of, whatever the shards and seeds: a clean image and what was made of it are of one."""
    return np.array([crc32(key.encode()) % 2 == 1 for key in ids], np.bool_)


def group_rows(source: str, features: Features, group_class: int | None) -> npt.NDArray[np.bool_]:
    """Which images count for a group: both sides are conditioned on the predicted class (Fisher et al. 2024, section 3).

    Args:
        source: ``clean``, ``mistaken`` or an attack's name.
        features: N images of that source.
        group_class: the class c, or None for all classes pooled.

    Returns:
        (N,) bool. Clean images: predicted c and of class c; mistaken ones: predicted c and of another class. Attacked images:
        *successful* and predicted c; so neither a failed attack nor an image that was wrong all along ever counts as an attack.
    """
    right = features.predicted == features.labels
    rows: npt.NDArray[np.bool_] = {CLEAN: right, MISTAKEN: ~right}.get(source, features.success)
    return rows if group_class is None else rows & (features.predicted == group_class)


class BlockAccumulator:
    """Gathers the moments of one block from batches of features, in memory that does not grow with the images.

    Args:
        indices: (F, k) int32.
        layer: (F,) int16.
        group_class: the class that the block is for, or None for the pooled group.
        attacks: the attacks whose features may come.
    """

    def __init__(
        self, indices: npt.NDArray[np.int32], layer: npt.NDArray[np.int16], *, group_class: int | None, attacks: Sequence[str]
    ) -> None:
        self.group_class = group_class
        halves = (Sides.empty(len(indices), attacks), Sides.empty(len(indices), attacks))
        self.block = CandidateBlock(group_name(group_class), indices, layer, halves)

    def add(self, source: str, features: Features) -> None:
        """Adds the features of ``clean`` images or of an attack's.

        Raises:
            WhorlError: the source is neither clean nor one of the attacks, or an activation is not finite.
        """
        halves = [{CLEAN: half.clean, **half.attacked} for half in self.block.halves]
        if source not in halves[0]:
            raise WhorlError(f"Features of {source!r} came to fingerprints, where those of one of {list(halves[0])} were expected.")
        rows = np.flatnonzero(group_rows(source, features, self.group_class))
        second = in_second_half([features.ids[row] for row in rows])
        for known, mine in zip(halves, (rows[~second], rows[second]), strict=True):
            for start in range(0, len(mine), _ROWS):
                self._add(known[source], source, features, mine[start : start + _ROWS])

    def _add(self, moments: Moments, source: str, features: Features, chosen: npt.NDArray[np.intp]) -> None:
        scores = fingerprint_scores(features.neurons[chosen], self.block.indices)
        moments.update(scores)
        if not np.isfinite(moments.mean).all():
            bad = features.ids[chosen[np.flatnonzero(~np.isfinite(scores).all(axis=1))[0]]]
            raise WhorlError(f"An activation of image {bad} ({source}) is not finite, where only finite numbers were expected.")


def block_moments(
    indices: npt.NDArray[np.int32],
    layer: npt.NDArray[np.int16],
    stream: Iterable[tuple[str, Features]],
    *,
    group_class: int | None,
    attacks: Sequence[str],
) -> CandidateBlock:
    """The block of some candidates, from one pass over a stream of (source, features).

    Args:
        indices: (F, k) int32 columns of the neurons.
        layer: (F,) int16.
        stream: ``clean`` or an attack's name, with a batch of its images; the order fixes the rounding.
        group_class: the class that the block is for, or None for the pooled group.
        attacks: the attacks that the stream may hold; one without a success in the group has moments of count 0.

    Raises:
        WhorlError: as ``BlockAccumulator.add``.
    """
    accumulator = BlockAccumulator(indices, layer, group_class=group_class, attacks=attacks)
    for source, features in stream:
        accumulator.add(source, features)
    return accumulator.block


def concatenate(blocks: Sequence[CandidateBlock]) -> CandidateBlock:
    """All candidates of one group from its blocks, which saw the same images.

    Raises:
        WhorlError: there is no block, or they differ in group, attacks or numbers of images.
    """
    seen = {
        (block.group, *((half.clean.count, *sorted((name, m.count) for name, m in half.attacked.items())) for half in block.halves))
        for block in blocks
    }
    if len(seen) != 1:
        raise WhorlError(f"Blocks of candidates have {sorted(map(str, seen))}, where one group and the same images were expected for all.")
    return CandidateBlock(
        blocks[0].group,
        np.concatenate([block.indices for block in blocks]),
        np.concatenate([block.layer for block in blocks]),
        (_joined([block.halves[0] for block in blocks]), _joined([block.halves[1] for block in blocks])),
    )


def _joined(sides: Sequence[Sides]) -> Sides:
    attacked = {name: _side_by_side([each.attacked[name] for each in sides]) for name in sides[0].attacked}
    return Sides(_side_by_side([each.clean for each in sides]), attacked)


def _side_by_side(parts: Sequence[Moments]) -> Moments:
    return Moments(parts[0].count, np.concatenate([part.mean for part in parts]), np.concatenate([part.m2 for part in parts]))
