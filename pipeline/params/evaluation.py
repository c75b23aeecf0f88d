"""``evaluation`` and ``publish``: what is measured, and what is handed over."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.base import Count, Name, Positive, Section, Seed, Unique

DrawsKind = Literal["fresh", "keyed"]
"""Fresh at every call; or keyed, by a secret hash of an image's pixels: the same image meets the same draw, and one changed pixel
buys a new one."""


class EvaluationParams(Section):
    """What is measured on ``test``, and with which intervals."""

    alphas: Unique[Annotated[float, Field(gt=0, lt=1)]]
    """False-alarm rates at which detection is reported."""
    seeds: Unique[Seed]
    """One set of draws, and of figures, per seed."""
    confidence: Annotated[float, Field(gt=0, lt=1)]
    bootstrap: Positive
    """Resamples of the test images behind each interval."""
    bootstrap_seed: Seed


class PublishParams(Section):
    """What is handed over at the end."""

    detector: Name
    """Which of ``detectors`` the guard uses."""
    draws: DrawsKind
    """Which draws the guard uses; figures are measured with seeded ones either way."""
    experiment: str
    """The MLflow experiment."""
    gallery: Count
    """Images an attack in the report's gallery."""
