"""Candidate fingerprints with the moments of their scores on clean and on attacked images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt

from pipeline.errors import WhorlError
from pipeline.fingerprints.features import CLEAN, Features, group_name
from pipeline.fingerprints.moments import Moments, merge
from pipeline.fingerprints.scores import fingerprint_scores

_ROWS = 1024
"""Images scored at a time: bounds the memory, and being fixed, fixes the rounding."""

Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class CandidateBlock:
    """Some candidates of one group (a predicted class, or all classes pooled).

    Attributes:
        group: the group's name.
        indices: (F, k) int32 columns of the neurons.
        layer: (F,) int16 positions in the layout's layers.
        clean: moments on the group's clean images.
        attacked: attack to the moments on the images that it turned into the group's class, kept apart so that any mix of
            attacks can be fitted from the same block.
    """

    group: str
    indices: npt.NDArray[np.int32]
    layer: npt.NDArray[np.int16]
    clean: Moments
    attacked: dict[str, Moments]

    def to_arrays(self) -> Arrays:
        """All of the block but its group's name as named arrays, for storage."""
        arrays: Arrays = {"indices": self.indices, "layer": self.layer}
        for prefix, moments in [(CLEAN, self.clean), *((f"attacked.{name}", m) for name, m in self.attacked.items())]:
            arrays[f"{prefix}.count"] = np.array([moments.count], np.int64)
            arrays[f"{prefix}.mean"], arrays[f"{prefix}.m2"] = moments.mean, moments.m2
        return arrays

    @classmethod
    def from_arrays(cls, group: str, arrays: Mapping[str, npt.NDArray[np.generic]]) -> "CandidateBlock":
        """The block that ``to_arrays`` described."""

        def moments(prefix: str) -> Moments:
            mean, m2 = (np.asarray(arrays[f"{prefix}.{part}"], np.float64) for part in ("mean", "m2"))
            return Moments(int(arrays[f"{prefix}.count"][0]), mean, m2)

        names = sorted(key.removeprefix("attacked.").removesuffix(".m2") for key in arrays if key.endswith(".m2") and key != f"{CLEAN}.m2")
        indices, layer = np.asarray(arrays["indices"], np.int32), np.asarray(arrays["layer"], np.int16)
        return cls(group, indices, layer, moments(CLEAN), {name: moments(f"attacked.{name}") for name in names})


def group_rows(source: str, features: Features, group_class: int | None) -> npt.NDArray[np.bool_]:
    """Which images count for a group: both sides are conditioned on the predicted class (Fisher et al. 2024, section 3).

    Args:
        source: ``clean`` or an attack's name.
        features: N images of that source.
        group_class: the class c, or None for all classes pooled.

    Returns:
        (N,) bool. Clean images: predicted c and of class c. Attacked images: *successful* and predicted c; so neither a
        failed attack nor an image that was wrong all along ever counts as an attack.
    """
    rows = features.predicted == features.labels if source == CLEAN else features.success
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
        self.block = CandidateBlock(
            group_name(group_class), indices, layer, Moments.empty(len(indices)), {name: Moments.empty(len(indices)) for name in attacks}
        )

    def add(self, source: str, features: Features) -> None:
        """Adds the features of ``clean`` images or of an attack's.

        Raises:
            WhorlError: the source is neither clean nor one of the attacks, or an activation is not finite.
        """
        known = {CLEAN: self.block.clean, **self.block.attacked}
        if source not in known:
            raise WhorlError(f"Features of {source!r} came to fingerprints, where those of one of {list(known)} were expected.")
        rows = np.flatnonzero(group_rows(source, features, self.group_class))
        for start in range(0, len(rows), _ROWS):
            chosen = rows[start : start + _ROWS]
            scores = fingerprint_scores(features.neurons[chosen], self.block.indices)
            known[source].update(scores)
            if not np.isfinite(known[source].mean).all():
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
    seen = {(block.group, block.clean.count, *sorted((name, m.count) for name, m in block.attacked.items())) for block in blocks}
    if len(seen) != 1:
        raise WhorlError(f"Blocks of candidates have {sorted(map(str, seen))}, where one group and the same images were expected for all.")
    return CandidateBlock(
        blocks[0].group,
        np.concatenate([block.indices for block in blocks]),
        np.concatenate([block.layer for block in blocks]),
        _side_by_side([block.clean for block in blocks]),
        {name: _side_by_side([block.attacked[name] for block in blocks]) for name in blocks[0].attacked},
    )


def mixed_moments(block: CandidateBlock, attacks: Sequence[str]) -> Moments:
    """The moments on the successes of several attacks together, each image counting once an attack.

    Raises:
        WhorlError: the block has no moments of one of the attacks.
    """
    if missing := [name for name in attacks if name not in block.attacked]:
        raise WhorlError(
            f"The candidates of group {block.group} know nothing of {missing}, where some of {sorted(block.attacked)} were expected."
        )
    return reduce(merge, (block.attacked[name] for name in attacks), Moments.empty(len(block.indices)))


def _side_by_side(parts: Sequence[Moments]) -> Moments:
    return Moments(parts[0].count, np.concatenate([part.mean for part in parts]), np.concatenate([part.m2 for part in parts]))
