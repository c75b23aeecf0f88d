"""``fingerprints`` and ``selection``: the candidates, and what makes one worth keeping."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.base import Name, Positive, Section, Seed, Unique


class FingerprintParams(Section):
    """How candidate fingerprints are sampled."""

    seed: Seed
    k: Positive | dict[str, Positive]
    """Neurons in a fingerprint; or layer to that number, each a divisor of the largest, for layers in which few tell most."""
    layer_weights: dict[str, Annotated[float, Field(ge=0)]]
    """Layer to its weight when the layer of a candidate is drawn; all neurons of a candidate are of one layer."""
    candidates: Positive
    """Candidates a class."""
    block: Positive
    """Candidates of one Ray task."""
    fit_attacks: Unique[Name]
    """The attacks whose successes make up the attacked side of the fit."""

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if not any(self.layer_weights.values()):
            raise ValueError("layer_weights gives no layer a weight, where at least one above 0 was expected")
        drawn = [layer for layer, weight in self.layer_weights.items() if weight]
        if isinstance(self.k, dict):
            if missing := [layer for layer in drawn if layer not in self.k]:
                raise ValueError(f"k has no {missing}, where a number for every layer with a weight was expected")
            widest = max(self.k[layer] for layer in drawn)
            if uneven := [layer for layer in drawn if widest % self.k[layer]]:
                raise ValueError(f"k is {self.k[uneven[0]]} in layer {uneven[0]!r}, where a divisor of the largest, {widest}, was expected")
        return self

    def layer_k(self, layer: str) -> int:
        """Neurons in a fingerprint of a layer."""
        return self.k[layer] if isinstance(self.k, dict) else self.k

    def too_wide(self, neurons: Mapping[str, int]) -> dict[str, int]:
        """The layers among ``neurons`` (layer to how many it has) that are drawn from but have too few for a fingerprint, with their k."""
        drawn = {layer: self.layer_k(layer) for layer, weight in self.layer_weights.items() if weight and layer in neurons}
        return {layer: k for layer, k in drawn.items() if k > neurons[layer]}


class SelectionParams(Section):
    """Which candidates are kept."""

    effect_size: Annotated[float, Field(ge=0)]
    """The least |Cohen's d| between clean scores and those of the attack that a fingerprint shows best."""
    false_discovery_rate: Annotated[float, Field(gt=0, le=1)]
    """Benjamini-Hochberg level over a class's candidates (Welch's t-test)."""
    cross_fit: Annotated[int, Field(ge=2)] | None
    """Clean images, and successes of all attacks together, that each half of a class's images must have for its fingerprints to keep the
    moments of the half that did not choose them; null: they keep those of all images."""
    prefer: Literal["random", "largest_effect", "diverse"]
    """Which of the candidates that pass are kept where there are more than ``bank_size``; ``diverse`` weighs the effect against neurons
    that stand in other fingerprints already."""
    bank_size: Positive
    """Fingerprints kept a class."""
    min_clean: Annotated[int, Field(ge=2)]
    min_attacked: Annotated[int, Field(ge=2)]
    min_fingerprints: Positive
    """A class with less than any of these three uses the pooled bank."""

    @model_validator(mode="after")
    def _fillable(self) -> Self:
        if self.min_fingerprints > self.bank_size:
            raise ValueError(f"min_fingerprints is {self.min_fingerprints}, where at most bank_size, {self.bank_size}, was expected")
        return self

    def drawn_whole(self, draws: Iterable[int]) -> str | None:
        """What is wrong with drawing so many fingerprints, without a full stop; None where nothing is.

        A bank that is drawn whole is the same for every input: nothing about the test would be random.
        """
        if large := [draw for draw in draws if draw >= self.min_fingerprints]:
            return (
                f"{', '.join(map(str, large))} of a bank that may hold as few as {self.min_fingerprints} (selection.min_fingerprints), "
                "where fewer than that were expected, so that every draw is a random one"
            )
        return None
