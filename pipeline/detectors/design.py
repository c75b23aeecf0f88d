"""What a search may change of a committee detector, and what a point of its space stands for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.errors import WhorlError
from pipeline.params.detectors import CommitteeDetectorParams
from pipeline.params.fingerprints import FingerprintParams, SelectionParams

T = TypeVar("T", FingerprintParams, SelectionParams, CommitteeDetectorParams)
LAYER = "k."
"""What the name of a layer's k begins with in a point; 0 leaves the layer out."""
DIGITS = 3
"""Significant digits of a tuned number: more would claim what no search can tell."""
Point = Mapping[str, int | float | str]
"""A k for each layer (``k.NAME``), and draw, directions, shrinkage, pooling, effect_size, prefer."""


@dataclass(frozen=True)
class Design:
    """The params that make a committee detector out of activations."""

    fingerprints: FingerprintParams
    selection: SelectionParams
    detector: CommitteeDetectorParams

    def values(self, name: str) -> dict[str, Any]:
        """Dotted key to value of all that a search may change; ``name`` is the detector's.

        No layer's name is in a key: it may have dots.
        """
        return {
            "fingerprints.k": self.fingerprints.k,
            "fingerprints.layer_weights": self.fingerprints.layer_weights,
            "selection.effect_size": self.selection.effect_size,
            "selection.prefer": self.selection.prefer,
            f"detectors.{name}.draw": self.detector.draw,
            f"detectors.{name}.directions": self.detector.directions,
            f"detectors.{name}.shrinkage": self.detector.shrinkage,
            f"detectors.{name}.pooling": self.detector.pooling,
        }

    def at(self, values: Mapping[str, Any], name: str) -> "Design":
        """The same design with the values that another's ``values`` gave."""

        def changed(params: T, prefix: str) -> T:
            return _changed(params, **{key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)})

        return Design(
            changed(self.fingerprints, "fingerprints."),
            changed(self.selection, "selection."),
            changed(self.detector, f"detectors.{name}."),
        )

    def without(self, attacks: set[str]) -> "Design":
        """The same design, fitted without some attacks."""
        kept = tuple(name for name in self.fingerprints.fit_attacks if name not in attacks)
        return Design(_changed(self.fingerprints, fit_attacks=kept), self.selection, self.detector)


def choices(layers: Mapping[str, int], k: Sequence[int]) -> dict[str, list[int]]:
    """Layer to the k that it may have: 0, which leaves it out, and those of a list that it has neurons for.

    Raises:
        WhorlError: no layer has neurons enough.
    """
    able = {layer: [0, *(size for size in k if size <= neurons)] for layer, neurons in layers.items()}
    if all(len(sizes) == 1 for sizes in able.values()):
        raise WhorlError(f"tune.space.k: {min(k)} neurons are more than any layer has, where at most {max(layers.values())} were expected.")
    return able


def tuned(base: Design, point: Point, able: Mapping[str, Sequence[int]]) -> Design:
    """The design of a point, valid whatever the point.

    A layer that is not left out keeps its weight in ``base`` (1 where that is 0). Where all are left out, all that can are in, with
    the smallest k. There are never more directions than fingerprints drawn, and with a pooling of 1 there is one.

    Args:
        base: what everything else is taken from.
        point: of the space.
        able: layer to the k that it may have (see ``choices``).
    """
    sizes = {layer: int(point[f"{LAYER}{layer}"]) for layer in able}
    if not any(sizes.values()):
        sizes = {layer: min(size for size in may if size) if len(may) > 1 else 0 for layer, may in able.items()}
    drawn = {layer: size for layer, size in sizes.items() if size}
    weights = {layer: (weight or 1.0) if layer in drawn else 0.0 for layer, weight in base.fingerprints.layer_weights.items()}
    k = next(iter(drawn.values())) if len(set(drawn.values())) == 1 else drawn
    draw, pooling = int(point["draw"]), float(point["pooling"])
    directions = 1 if pooling == 1 else min(int(point["directions"]), draw)
    return Design(
        _changed(base.fingerprints, k=k, layer_weights=weights),
        _changed(base.selection, effect_size=_short(point["effect_size"]), prefer=point["prefer"]),
        _changed(base.detector, draw=draw, directions=directions, shrinkage=_short(point["shrinkage"]), pooling=pooling),
    )


def inspection_cost(design: Design) -> int:
    """Numbers fetched and multiply-adds made to inspect one image, the same on every machine.

    Of the m fingerprints' k neurons each (the largest k of any layer, which the others are filled up to), m k are fetched and
    added. Of the R directions of each attack, and of natural mistakes where they are modelled, R m weights are fetched and
    multiplied, and 3 R numbers (centre, shift, variance) fetched and combined, a multiply-add each.
    """
    prints, m, directions = design.fingerprints, design.detector.draw, design.detector.directions
    k = max(prints.layer_k(layer) for layer, weight in prints.layer_weights.items() if weight)
    return 2 * m * k + 2 * (len(prints.fit_attacks) + design.detector.mistakes) * directions * (m + 3)


def _changed(params: T, **changes: Any) -> T:
    return type(params).model_validate({**params.model_dump(), **changes})


def _short(value: Any) -> float:
    return float(f"{value:.{DIGITS}g}")
