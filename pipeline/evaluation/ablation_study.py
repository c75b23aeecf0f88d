"""What is told of the detector with one thing changed at a time: plain values in, plain values out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.plotting import percent
from pipeline.evaluation.verdict import Rate, rate
from pipeline.params.ablation import UNCHANGED
from pipeline.params.flat import flatten


@dataclass(frozen=True)
class AblationStudy:
    """A detector, and variants of it that differ in one thing each.

    Attributes:
        detector: its name.
        changes: variant to what it changes, dotted key to value.
        held_out: the family that is left out of the fit where detection of unseen attacks is measured.
        looks: before what ``after_looks`` measures is sent.
        metrics: ``<variant>.<measure>``; a variant that could not be made has none.
    """

    detector: str
    changes: Mapping[str, Mapping[str, Any]]
    held_out: str
    looks: int
    metrics: Mapping[str, float | None]

    @property
    def measured(self) -> list[str]:
        """The variants that could be made, those that detect least of the attacks of the fit first."""
        found = [name for name in self.changes if self.metrics.get(f"{name}.fitted") is not None]
        return sorted(found, key=lambda name: (self.metrics[f"{name}.fitted"] or 0.0, name))

    def of(self, name: str, measure: str) -> Rate | None:
        """One figure of a variant."""
        return rate(self.metrics, f"{name}.{measure}")


def ablation_sentence(study: AblationStudy, alpha: float) -> str:
    """Which changes cost detection, which gained some, and which made no difference that these images can tell."""
    base = study.of(UNCHANGED, "fitted")
    if base is None or not study.measured:
        return f"No variant of the detector {study.detector} was measured."
    words = {name: _judged(study.of(name, "fitted_change")) for name in study.measured}
    said = []
    for opening, word in (("it is worse with", "worse"), ("it is better with", "better"), ("these images tell no difference with", "open")):
        names = [name for name, found in words.items() if found == word]
        shown = [_spoken(name) + (f" ({points(study.of(name, 'fitted_change'))})" if word != "open" else "") for name in names]
        said += [f"{opening} {', '.join(shown)}"] if names else []
    opening = f"As it is, the detector {study.detector} flags {base.text} of attacked tune images ({base.interval}) at {percent(alpha, 2)}"
    return f"{opening}, the mean over the attacks of the fit. With one thing changed: {'; '.join(said)}."


def ablation_rows(study: AblationStudy) -> list[dict[str, Any]]:
    """A row a variant, the detector as it is first."""
    return [
        {
            "name": _spoken(name),
            "changes": [f"{key} {value}" for key, value in flatten(study.changes.get(name, {}))],
            **{measure: study.of(name, measure) for measure in ("fitted", "fitted_change", "unseen", "unseen_change")},
            **{measure: study.of(name, measure) for measure in ("after_looks", "false_alarms", "auroc")},
            "cost": study.metrics.get(f"{name}.cost"),
        }
        for name in (UNCHANGED, *study.measured)
        if study.of(name, "fitted") is not None
    ]


def points(apart: Rate | None) -> str:
    """A difference of shares, in points, with its interval where there is one."""
    if apart is None:
        return "–"
    value, *ends = (None if end is None else f"{100 * end:+.1f}".replace("-", "−") for end in (apart.value, apart.low, apart.high))
    return f"{value} points" if None in ends else f"{value} points, {ends[0]} to {ends[1]}"


def _judged(apart: Rate | None) -> str:
    if apart is None or apart.low is None or apart.high is None:
        return "open"
    return "worse" if apart.high < 0 else "better" if apart.low > 0 else "open"


def _spoken(name: str) -> str:
    return name.replace("_", " ")
