"""``transfer``, ``promise`` and ``hardening``: attacks that the fit never saw, false alarms on images drawn anew, survivors in the fit."""

from typing import Annotated

from pydantic import Field

from pipeline.params.base import Count, Name, Positive, Section, Seed, Unique


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


class HardeningParams(Section):
    """A detector fitted again on the attacked images that got past it, round after round."""

    detector: Name
    """Which of ``detectors`` is hardened: one of the kind ``committee``."""
    rounds: Count
    """How often survivors are folded back into the fit, those of earlier rounds among them; 0 measures the detector as it is."""
    looks: Positive
    """Committees that the attacker looks at before sending an image (R); survivors are those that would probably pass all of them."""
    folds: Annotated[int, Field(ge=2)]
    """Parts of the ``fit`` images: whether an image survives is judged by a detector that was fitted on the other parts."""
    committees: Positive
    """Committees a class that every detector of the study has; with as many as its own, that of round 0 is the detector itself."""
    reselect: bool
    """Whether each round selects its bank again, with the survivors among the attacks of the fit (true), or refits the committees of the
    same bank (false). Another bank does better or worse by luck, too, which no interval of the study holds: with the same one, what a
    round changes is what the survivors change."""
    seed: Seed
    """Of the parts, and of the draws that a part's clean images meet."""
