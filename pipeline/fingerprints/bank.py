"""The bank: the kept fingerprints of every group, and which group each class uses."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ArtifactError
from pipeline.fingerprints.features import Layout


@dataclass(frozen=True)
class Fingerprints:
    """F fingerprints with the Gaussians of their scores.

    Attributes:
        indices: (F, k) int32 columns of the neurons.
        layer: (F,) int16 positions in the layout's layers.
        mu0: (F,) float32, mean score on clean images.
        sd0: (F,) float32, its standard deviation, above 0.
        mu1: (F,) float32, mean score on attacked images.
        sd1: (F,) float32, its standard deviation, above 0.
        effect: (F,) float32, Cohen's d of the attack that it shows best.
    """

    indices: npt.NDArray[np.int32]
    layer: npt.NDArray[np.int16]
    mu0: npt.NDArray[np.float32]
    sd0: npt.NDArray[np.float32]
    mu1: npt.NDArray[np.float32]
    sd1: npt.NDArray[np.float32]
    effect: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.indices)

    def rows(self, start: int, stop: int) -> "Fingerprints":
        """The fingerprints from start to stop, as views."""
        return Fingerprints(*(getattr(self, field.name)[start:stop] for field in fields(self)))


@dataclass(frozen=True)
class Bank:
    """All groups' fingerprints, end to end, so that a batch of images of all classes is looked up at once.

    Attributes:
        layout: which columns belong to which layer.
        names: the groups' names, such as ``0``, ``7`` and ``pooled``.
        starts: (G + 1,) int64; group g has the rows starts[g] to starts[g + 1].
        fingerprints: all groups' fingerprints.
        class_group: (K,) int64, class to the position of its group.
        pooled_reasons: why each class that uses the pooled bank has none of its own.
    """

    layout: Layout
    names: tuple[str, ...]
    starts: npt.NDArray[np.int64]
    fingerprints: Fingerprints
    class_group: npt.NDArray[np.int64]
    pooled_reasons: dict[int, str]

    @classmethod
    def build(
        cls, layout: Layout, groups: Mapping[str, Fingerprints], class_group: Mapping[int, str], pooled_reasons: Mapping[int, str]
    ) -> "Bank":
        """A bank of one or more groups; ``class_group`` names the group of every class from 0 on."""
        names = tuple(groups)
        columns = ([getattr(group, field.name) for group in groups.values()] for field in fields(Fingerprints))
        starts = np.cumsum([0, *(len(group) for group in groups.values())], dtype=np.int64)
        positions = np.array([names.index(class_group[label]) for label in range(len(class_group))], np.int64)
        return cls(layout, names, starts, Fingerprints(*map(np.concatenate, columns)), positions, dict(pooled_reasons))

    @property
    def groups(self) -> dict[str, Fingerprints]:
        """Group to its fingerprints."""
        return {
            name: self.fingerprints.rows(int(start), int(stop))
            for name, start, stop in zip(self.names, self.starts, self.starts[1:], strict=False)
        }

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """(G,) the number of fingerprints of each group."""
        return np.diff(self.starts)

    def kept(self) -> dict[str, dict[str, int]]:
        """Group to layer to the number of its fingerprints, layers without any included."""
        counts = {name: np.bincount(group.layer, minlength=len(self.layout.layers)) for name, group in self.groups.items()}
        return {name: dict(zip(self.layout.layers, map(int, row), strict=True)) for name, row in counts.items()}

    def to_arrays(self) -> tuple[dict[str, npt.NDArray[np.generic]], dict[str, Any]]:
        """The bank as named arrays and plain values (which JSON holds), for storage."""
        arrays = {field.name: getattr(self.fingerprints, field.name) for field in fields(Fingerprints)}
        plain = {
            "layout": self.layout.to_json(),
            "groups": list(self.names),
            "pooled_reasons": {str(label): reason for label, reason in self.pooled_reasons.items()},
        }
        return {**arrays, "starts": self.starts, "class_group": self.class_group}, plain

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], plain: Mapping[str, Any]) -> "Bank":
        """The bank that ``to_arrays`` described.

        Raises:
            ArtifactError: the arrays contradict each other.
        """
        bank = cls(
            Layout.from_json(plain["layout"]),
            tuple(plain["groups"]),
            arrays["starts"],
            Fingerprints(*(arrays[field.name] for field in fields(Fingerprints))),
            arrays["class_group"],
            {int(label): reason for label, reason in plain["pooled_reasons"].items()},
        )
        for problem in _problems(bank):
            raise ArtifactError(f"The bank of fingerprints {problem}.")
        return bank


def _problems(bank: Bank) -> list[str]:
    rows, sets = bank.fingerprints, bank.fingerprints.indices
    lengths = {field.name: len(getattr(rows, field.name)) for field in fields(rows)}
    checks = {
        f"has arrays of the lengths {lengths}, where one length was expected": len(set(lengths.values())) == 1,
        f"ends at row {bank.starts[-1]}, where {len(rows)} was expected": bank.starts[-1] == len(rows),
        "has a group without fingerprints": len(bank.starts) == len(bank.names) + 1 and bool((bank.sizes > 0).all()),
        f"points outside of its {bank.layout.size} neurons": not sets.size or 0 <= sets.min() <= sets.max() < bank.layout.size,
        "has a standard deviation that is not above 0": bool((rows.sd0 > 0).all() and (rows.sd1 > 0).all()),
        f"sends a class to none of its {len(bank.names)} groups": bool(np.isin(bank.class_group, np.arange(len(bank.names))).all()),
    }
    return [problem for problem, holds in checks.items() if not holds]
