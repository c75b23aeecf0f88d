"""``detectors`` and ``calibration``: the tests that are run on an input, and the false alarms they are allowed."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.base import Positive, Section, Seed


class FingerprintDetectorParams(Section):
    """A test over fingerprints drawn afresh for each input."""

    kind: Literal["fingerprint"]
    statistic: Literal["likelihood_ratio", "vote", "anomaly"]
    draw: Positive
    """Fingerprints drawn for an input (m)."""


DetectorParams = FingerprintDetectorParams


class CalibrationParams(Section):
    """The false alarms that every detector is allowed."""

    alpha: Annotated[float, Field(gt=0, lt=1)]
    """The promised false-alarm rate: an image is flagged when its p-value is at most this."""
    seed: Seed
    """Of the draws that the calibration images meet."""
