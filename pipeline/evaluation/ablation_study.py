"""What is told of a detector with one thing changed at a time: plain values in, plain values out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.plotting import percent
from pipeline.evaluation.verdict import Rate, rate
from pipeline.params.ablation import UNCHANGED
from pipeline.params.flat import flatten

MEASURES = ("fitted", "unseen", "after_looks", "false_alarms")
"""Of a variant."""


@dataclass(frozen=True)
class AblationStudy:
    """A detector, and variants of it that differ in one thing each.

    Attributes:
        detector: its name.
        changes: variant to what it changes, dotted key to value.
        held_out: the family that is left out of the fit where detection of unseen attacks is measured.
        looks: before what ``after_looks`` measures is sent.
        metrics: ``<variant>.<measure>``, and its ``_change``; a variant that could not be made has none.
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

    @property
    def luck(self) -> float | None:
        """The largest change of detection among variants that change seeds alone; None where none was measured."""
        seeds = [name for name in self.measured if all(key.endswith(".seed") for key in self.changes[name])]
        return max((abs(self.metrics[f"{name}.fitted_change"] or 0.0) for name in seeds), default=None)

    def of(self, name: str, measure: str) -> Rate | None:
        """One figure of a variant."""
        return rate(self.metrics, f"{name}.{measure}")


def ablation_sentence(study: AblationStudy, alpha: float) -> str:
    """Which changes cost detection, and which gained some: by more than other images would make, and more than other seeds did."""
    base, luck = study.of(UNCHANGED, "fitted"), study.luck
    if base is None or not study.measured:
        return f"No variant of the detector {study.detector} was measured."
    words = {name: _judged(study.of(name, "fitted_change"), luck or 0.0) for name in study.measured}
    said = []
    for opening, word in (("detects less", "less"), ("detects more", "more"), ("nothing can be told of", "open")):
        names = [name for name, found in words.items() if found == word]
        shown = [_spoken(name) + (f" ({_signed(study.metrics[f'{name}.fitted_change'])})" if word != "open" else "") for name in names]
        said += [f"{opening}: {', '.join(shown)}"] if names else []
    opening = f"As it is, the detector {study.detector} flags {base.text} of attacked tune images ({base.interval}) at {percent(alpha, 2)}"
    seeds = (
        "How much the luck of a seed moves it was not measured."
        if luck is None
        else f"Other seeds alone moved it by up to {100 * luck:.1f} points, so nothing is said of changes up to that."
    )
    return f"{opening}, the mean over the attacks of the fit. With one thing changed, in points: it {'; '.join(said)}. {seeds}"


def ablation_rows(study: AblationStudy) -> list[dict[str, Any]]:
    """A row a variant, the detector as it is first; of each measure its value, and its change."""
    return [
        {
            "name": _spoken(name),
            "changes": [f"{key} {value}" for key, value in flatten(study.changes.get(name, {}))],
            **{f"{measure}{end}": study.of(name, f"{measure}{end}") for measure in MEASURES for end in ("", "_change")},
            "cost": study.metrics.get(f"{name}.cost"),
        }
        for name in (UNCHANGED, *study.measured)
        if study.of(name, "fitted") is not None
    ]


def points(apart: Rate | None) -> str:
    """A difference of shares, in points, with its interval where there is one."""
    if apart is None:
        return "–"
    ends = "" if apart.low is None or apart.high is None else f", {_signed(apart.low)} to {_signed(apart.high)}"
    return f"{_signed(apart.value)} points{ends}"


def _signed(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:+.1f}".replace("-", "−")


def _told(share: float) -> float:
    """Its size as it is written, in tenths of points."""
    return float(f"{100 * abs(share):.1f}")


def _judged(apart: Rate | None, luck: float) -> str:
    if apart is None or _told(apart.value) <= _told(luck):
        return "open"
    low, high = (apart.value if end is None else end for end in (apart.low, apart.high))  # no resample differs from it
    return "less" if high < 0 else "more" if low > 0 else "open"


def _spoken(name: str) -> str:
    return name.replace("_", " ")
