"""What a search may change of a committee detector, and what a point of its space stands for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.errors import WhorlError
from pipeline.params.detectors import CommitteeDetectorParams
from pipeline.params.fingerprints import FingerprintParams, SelectionParams

T = TypeVar("T", FingerprintParams, SelectionParams, CommitteeDetectorParams)
LAYER = "layer."
"""What the name of a layer's switch begins with in a point."""
DIGITS = 3
"""Significant digits of a tuned number: more would claim what no search can tell."""
Point = Mapping[str, bool | int | float | str]
"""A switch for each layer (``layer.NAME``), and k, draw, directions, shrinkage, effect_size, prefer."""


@dataclass(frozen=True)
class Design:
    """The params that make a committee detector out of activations."""

    fingerprints: FingerprintParams
    selection: SelectionParams
    detector: CommitteeDetectorParams

    def values(self, name: str) -> dict[str, Any]:
        """Dotted key to value of all that a search may change; ``name`` is the detector's."""
        return {
            "fingerprints.k": self.fingerprints.k,
            **{f"fingerprints.layer_weights.{layer}": weight for layer, weight in self.fingerprints.layer_weights.items()},
            "selection.effect_size": self.selection.effect_size,
            "selection.prefer": self.selection.prefer,
            f"detectors.{name}.draw": self.detector.draw,
            f"detectors.{name}.directions": self.detector.directions,
            f"detectors.{name}.shrinkage": self.detector.shrinkage,
        }

    def without(self, attacks: set[str]) -> "Design":
        """The same design, fitted without some attacks."""
        kept = tuple(name for name in self.fingerprints.fit_attacks if name not in attacks)
        return Design(_changed(self.fingerprints, fit_attacks=kept), self.selection, self.detector)


def tuned(base: Design, point: Point, sizes: Mapping[str, int]) -> Design:
    """The design of a point, valid whatever the point.

    A layer that is on keeps its weight in ``base`` (1 where that is 0). One with fewer than k neurons is off, and where no layer
    is left on, all that have enough are. There are never more directions than fingerprints drawn.

    Args:
        base: what everything else is taken from.
        point: of the space.
        sizes: layer to its neurons.

    Raises:
        WhorlError: no layer has k neurons.
    """
    k, draw = int(point["k"]), int(point["draw"])
    able = [layer for layer, size in sizes.items() if size >= k]
    if not able:
        raise WhorlError(f"tune.space.k: {k} neurons are more than any layer has, where at most {max(sizes.values())} were expected.")
    on = {layer for layer in able if point[f"{LAYER}{layer}"]} or set(able)
    weights = {layer: (weight or 1.0) if layer in on else 0.0 for layer, weight in base.fingerprints.layer_weights.items()}
    return Design(
        _changed(base.fingerprints, k=k, layer_weights=weights),
        _changed(base.selection, effect_size=_short(point["effect_size"]), prefer=point["prefer"]),
        _changed(base.detector, draw=draw, directions=min(int(point["directions"]), draw), shrinkage=_short(point["shrinkage"])),
    )


def inspection_cost(design: Design) -> int:
    """Numbers fetched and multiply-adds made to inspect one image, the same on every machine.

    Of the m fingerprints' k neurons each, m k are fetched and added. Of each attack's R directions, R m weights are fetched and
    multiplied, and 3 R numbers (centre, shift, variance) fetched and combined, a multiply-add each.
    """
    m, k, directions = design.detector.draw, design.fingerprints.k, design.detector.directions
    return 2 * m * k + 2 * len(design.fingerprints.fit_attacks) * directions * (m + 3)


def _changed(params: T, **changes: Any) -> T:
    return type(params).model_validate({**params.model_dump(), **changes})


def _short(value: Any) -> float:
    return float(f"{value:.{DIGITS}g}")
