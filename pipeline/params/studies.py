"""``transfer`` and ``promise``: what is known of attacks that the fit never saw, and of false alarms on images drawn anew."""

from typing import Annotated

from pydantic import Field

from pipeline.params.base import Name, Positive, Section, Seed, Unique


class TransferParams(Section):
    """A detector refitted without each family of attacks, and on each alone."""

    detector: Name
    """Which of ``detectors`` is refitted."""
    committees: Positive
    """Committees a class that a refitted committee detector has; with as many as its own, the fit on all attacks is that detector."""


class CorruptionParams(Section):
    """How strongly clean test images are changed, by things that are no attack."""

    gaussian_noise: Annotated[float, Field(gt=0, le=1)]
    """Standard deviation, in pixel units of [0, 1]."""
    gaussian_blur: Annotated[float, Field(gt=0)]
    """Standard deviation, in pixels."""
    jpeg: Annotated[int, Field(ge=1, le=100)]
    """Quality of the file that an image is saved to and read from."""
    brightness: Annotated[float, Field(ge=-1, le=1)]
    """Added to every pixel, in units of [0, 1]."""


class PromiseParams(Section):
    """False alarms over redrawn splits, and on clean images that are not quite like the calibration images."""

    detector: Name
    """Which of ``detectors`` is refitted for every redraw; the corrupted images meet it as it is."""
    split_seeds: Unique[Seed]
    """Salts, each of which redraws fit, tune, calibrate and test; none is ``splits.split_seed``."""
    committees: Positive
    """Committees a class that a refitted committee detector has. An image meets one of them, whichever their number."""
    corruptions: CorruptionParams
