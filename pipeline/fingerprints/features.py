"""What the fingerprints see of an image: the kept neurons, and what became of the image under classification and attack."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import WhorlError

CLEAN = "clean"
"""The source name of unattacked images, where attacked ones have their attack's name."""

MISTAKEN = "mistaken"
"""The name under which clean images are gathered that the classifier gets wrong; they are stored among the clean ones."""

POOLED = "pooled"
"""The group that all classes without a group of their own share."""


def stored_as(source: str) -> str:
    """The source among whose images those of a source are stored."""
    return CLEAN if source == MISTAKEN else source


def group_name(group_class: int | None) -> str:
    """The name of a class's group, or of the pooled one (None)."""
    return POOLED if group_class is None else str(group_class)


@dataclass(frozen=True)
class Layout:
    """Which columns of the neurons belong to which layer.

    Attributes:
        layers: the layers' names, in the order of their columns.
        offsets: len(layers) + 1 column numbers; layer i has the columns offsets[i] to offsets[i + 1].

    Raises:
        WhorlError: the offsets do not start at 0, do not grow, or are not one more than the layers.
    """

    layers: tuple[str, ...]
    offsets: tuple[int, ...]

    def __post_init__(self) -> None:
        grows = all(low < high for low, high in zip(self.offsets, self.offsets[1:], strict=False))
        if len(self.offsets) != len(self.layers) + 1 or self.offsets[0] != 0 or not grows:
            raise WhorlError(
                f"The layout's offsets are {list(self.offsets)} for the layers {list(self.layers)}, "
                "where growing numbers from 0, one more than the layers, were expected."
            )

    @property
    def size(self) -> int:
        """The number of neurons, D."""
        return self.offsets[-1]

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """The number of neurons of each layer."""
        offsets = np.array(self.offsets, np.int64)
        return offsets[1:] - offsets[:-1]

    @property
    def neurons(self) -> dict[str, int]:
        """Layer to the number of its neurons."""
        return dict(zip(self.layers, self.sizes.tolist(), strict=True))

    def to_json(self) -> dict[str, Any]:
        """The layout as plain values."""
        return {"layers": list(self.layers), "offsets": list(self.offsets)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Layout":
        """The layout that ``to_json`` described."""
        return cls(tuple(values["layers"]), tuple(values["offsets"]))


@dataclass(frozen=True)
class Features:
    """A batch of images as the fingerprints see them, all from one source (clean, or one attack).

    Attributes:
        ids: the images' ids; an attacked image has the id of the clean one that it was made from.
        labels: (N,) int64.
        clean_predicted: (N,) int64, the class predicted for the clean image.
        predicted: (N,) int64, the class predicted for these pixels; for clean images the same.
        success: (N,) bool, right when clean and wrong now; False for clean images.
        skipped: (N,) bool, wrong when clean and so never attacked; False for clean images.
        neurons: (N, D) float32 activations.

    Raises:
        WhorlError: the lengths differ, or a success is none (skipped, wrong when clean, or right now).
    """

    ids: list[str]
    labels: npt.NDArray[np.int64]
    clean_predicted: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    success: npt.NDArray[np.bool_]
    skipped: npt.NDArray[np.bool_]
    neurons: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) != 1 or self.neurons.ndim != 2:
            raise WhorlError(f"The features have the lengths {lengths}, where one number of images was expected for all.")
        real = ~self.skipped & (self.clean_predicted == self.labels) & (self.predicted != self.labels)
        if (false := np.flatnonzero(self.success & ~real)).size:
            raise WhorlError(
                f"Image {self.ids[false[0]]} is called a successful attack ({false.size} such), where one that is right when clean "
                "and wrong when attacked was expected."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, mask: npt.NDArray[np.bool_]) -> "Features":
        """The images that a mask of shape (N,) selects, in their order."""
        rows = np.flatnonzero(mask)
        return Features(
            [self.ids[row] for row in rows],
            self.labels[rows],
            self.clean_predicted[rows],
            self.predicted[rows],
            self.success[rows],
            self.skipped[rows],
            self.neurons[rows],
        )
