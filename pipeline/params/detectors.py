"""``detectors`` and ``calibration``: the tests that are run on an input, and the false alarms they are allowed."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.base import Positive, Section, Seed


class FingerprintDetectorParams(Section):
    """A test over fingerprints drawn afresh for each input, each taken by itself."""

    kind: Literal["fingerprint"]
    statistic: Literal["likelihood_ratio", "vote", "anomaly"]
    draw: Positive
    """Fingerprints drawn for an input (m)."""


class CommitteeDetectorParams(Section):
    """A joint test over fingerprints drawn together beforehand; which of these committees an input meets is drawn afresh."""

    kind: Literal["committee"]
    draw: Positive
    """Fingerprints of a committee (m)."""
    layer_weights: dict[str, Annotated[float, Field(ge=0)]] | None
    """Layer to its share of a committee, as far as the bank has so many fingerprints of it; without any (null), the bank's own shares. A
    layer with a weight above 0 and few fingerprints, such as ``logit_margins``, then has all of them in every committee."""
    committees: Positive
    """Committees a class (T)."""
    directions: Positive
    """Directions kept against each attack (R), those that tell most; with as many as ``draw`` the joint ratio is exact."""
    shrinkage: Annotated[float, Field(ge=0, le=1)]
    """Share of the diagonal in every covariance; with 1 the fingerprints count as independent."""
    pooling: Annotated[float, Field(ge=0, le=1)]
    """Share of the mean of all covariances, clean and attacked, in each; with 1 the ratio is linear, in a single direction."""
    mistakes: bool
    """Whether clean images that the classifier gets wrong are a part of their own in the likelihood without an attack."""
    seed: Seed
    """Of the draw of the committees."""

    @model_validator(mode="after")
    def _layers_drawn(self) -> Self:
        if self.layer_weights is not None and not any(self.layer_weights.values()):
            raise ValueError("layer_weights gives no layer a weight, where at least one above 0 was expected")
        return self

    @model_validator(mode="after")
    def _directions_exist(self) -> Self:
        if self.directions > self.draw:
            raise ValueError(f"directions is {self.directions}, where at most draw, {self.draw}, was expected")
        if self.pooling == 1 and self.directions != 1:
            raise ValueError(f"directions is {self.directions}, where 1 was expected, since with a pooling of 1 there is but one")
        return self


DetectorParams = Annotated[FingerprintDetectorParams | CommitteeDetectorParams, Field(discriminator="kind")]


class CalibrationParams(Section):
    """The false alarms that every detector is allowed."""

    alpha: Annotated[float, Field(gt=0, lt=1)]
    """The promised false-alarm rate: an image is flagged when its p-value is at most this."""
    seed: Seed
    """Of the draws that the calibration images meet."""
