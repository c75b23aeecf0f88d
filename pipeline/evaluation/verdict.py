"""What a run's figures say, in plain words and with their uncertainty: the part of the report that is read first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.evaluation.metrics import percent as level
from pipeline.evaluation.plotting import UNIT, percent


@dataclass(frozen=True)
class Rate:
    """A share or an area in [0, 1] with its interval, where one is known."""

    value: float
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """The value as a percentage."""
        return percent(self.value)

    @property
    def interval(self) -> str:
        """The interval as percentages, or that there is none."""
        if self.low is None or self.high is None:
            return "no interval"
        return f"{percent(self.low).removesuffix(UNIT)} to {percent(self.high)}"

    @property
    def area(self) -> str:
        """The value as an area under a curve."""
        return f"{self.value:.3f}"

    @property
    def area_interval(self) -> str:
        """The interval of an area under a curve, or that there is none."""
        return "no interval" if self.low is None or self.high is None else f"{self.low:.3f} to {self.high:.3f}"

    @property
    def strip(self) -> tuple[float, float, float]:
        """Left edge and width of the interval, and the place of the value, in percent of a track from 0 to 1."""
        low, high = (self.value if end is None else min(max(end, 0.0), 1.0) for end in (self.low, self.high))
        return round(100 * low, 2), round(100 * max(high - low, 0.0), 2), round(100 * self.value, 2)


def rate(metrics: Mapping[str, float | None], key: str) -> Rate | None:
    """The metric ``key`` with ``key_low`` and ``key_high``; None where it is absent or undefined."""
    value = metrics.get(key)
    return None if value is None else Rate(value, metrics.get(f"{key}_low"), metrics.get(f"{key}_high"))


@dataclass(frozen=True)
class Verdict:
    """The headline, the sentences under it, and the figures that stand out.

    Attributes:
        headline: one line.
        sentences: plain sentences, in the order of reading.
        void: why the false-alarm promise does not hold; None where it does.
        promised: the promised rate, such as ``5 %``.
        false_alarms: observed on the clean test images.
        weakest: the attack detected least, and how well.
        strongest: the attack detected best, and how well.
    """

    headline: str
    sentences: tuple[str, ...]
    void: str | None
    promised: str
    false_alarms: Rate | None
    weakest: tuple[str, Rate] | None
    strongest: tuple[str, Rate] | None


def verdict(
    metrics: Mapping[str, float | None],
    detector: str,
    attacks: Sequence[str],
    *,
    alpha: float,
    confidence: float,
    promise: str | None,
) -> Verdict:
    """Says what a detector catches and what it costs.

    Args:
        metrics: flat values as ``pipeline.evaluation.metrics`` names them.
        detector: the one that the guard uses.
        attacks: all that were run.
        alpha: the promised false-alarm rate, in (0, 1).
        confidence: of the intervals, in (0, 1).
        promise: None where the promise holds, else a sentence why it is void.
    """
    found = [(attack, rate(metrics, f"{detector}.{attack}.tpr_at_{level(alpha)}")) for attack in attacks]
    measured = sorted(((attack, r) for attack, r in found if r is not None), key=lambda pair: pair[1].value)
    unmeasured = [attack for attack, r in found if r is None]
    false_alarms = rate(metrics, f"{detector}.clean.fpr_at_{level(alpha)}")
    images = metrics.get(f"{detector}.clean.images")
    sentences = [
        *_detection(measured, detector, alpha, confidence, promise),
        *_undefined(unmeasured, alpha),
        _false_alarms(false_alarms, images, alpha, promise),
        "None of the attacks behind these figures knows of the guard; what attackers reach who do stands apart.",
    ]
    return Verdict(
        headline=_headline(measured),
        sentences=tuple(sentences),
        void=promise,
        promised=percent(alpha, 2),
        false_alarms=false_alarms,
        weakest=measured[0] if measured else None,
        strongest=measured[-1] if len(measured) > 1 else None,
    )


def _headline(measured: Sequence[tuple[str, Rate]]) -> str:
    if not measured:
        return "Detection could not be measured in this run"
    least, most = measured[0][1].text, measured[-1][1].text
    if least == most:
        return f"Flags {least} of attacked images"
    return f"Flags {least} to {most} of attacked images, depending on the attack"


def _detection(measured: Sequence[tuple[str, Rate]], detector: str, alpha: float, confidence: float, promise: str | None) -> list[str]:
    if not measured:
        return []
    aim = "promised" if promise is None else "nominal"
    attack, best = measured[-1]
    opening = (
        f"With the detector {detector}, set to a {aim} false-alarm rate of at most {percent(alpha, 2)}, the guard flags {best.text} "
        f"({percent(confidence, 2)} interval {best.interval}) of the images that {attack} turned from right to wrong"
    )
    if len(measured) == 1:
        return [f"{opening}."]
    attack, worst = measured[0]
    return [f"{opening}, but {worst.text} ({worst.interval}) of those that {attack} did: the weakest of these attacks."]


def _undefined(attacks: Sequence[str], alpha: float) -> list[str]:
    if not attacks:
        return []
    return [
        f"For {', '.join(attacks)} there is no figure: no test image was attacked successfully, "
        f"or {percent(alpha, 2)} is not among evaluation.alphas."
    ]


def _false_alarms(observed: Rate | None, images: float | None, alpha: float, promise: str | None) -> str:
    if observed is None:
        return f"False alarms at {percent(alpha, 2)} were not measured."
    clean = f"the {images:,.0f} clean test images" if images else "the clean test images"
    said = f"It raises a false alarm on {observed.text} ({observed.interval}) of {clean}, misclassified ones included"
    if promise is not None:
        return f"{said}; on other clean images this may be more, since the promise is void."
    if observed.low is not None and observed.low > alpha:
        return (
            f"{said}: more than promised. The promise is an average over calibration sets, so this is either the luck of this one, "
            "or the test images differ from those that set the thresholds."
        )
    if observed.high is not None and observed.high < alpha:
        return f"{said}: less than the promise allows."
    return f"{said}: in keeping with the promise."
