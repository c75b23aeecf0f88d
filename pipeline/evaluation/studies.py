"""What the report says of unseen attacks and of the redrawn promise: plain values in, plain values out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.metrics import percent as level
from pipeline.evaluation.plotting import percent
from pipeline.evaluation.transfer import ALL, left_out, unseen
from pipeline.evaluation.verdict import Rate, rate

Metrics = Mapping[str, float | None]
NONE = "none"
"""What uncorrupted images are called beside the corrupted ones."""


@dataclass(frozen=True)
class TransferStudy:
    """A detector refitted on several sets of attacks.

    Attributes:
        detector: its name.
        fits: fit to its attacks, ``all`` first.
        families: attack to family, of all that were tested.
        metrics: ``<fit>.<attack>.<measure>``; a fit that could not be made has none.
    """

    detector: str
    fits: Mapping[str, Sequence[str]]
    families: Mapping[str, str]
    metrics: Metrics


@dataclass(frozen=True)
class PromiseStudy:
    """A detector's false alarms over redrawn splits and under corruptions.

    Attributes:
        detector: its name.
        committees: how many a class a refitted one had; None where the detector has none.
        corruptions: name to how strongly.
        rates: false-alarm rate to the share of clean images flagged in each redraw.
        metrics: ``redrawn.…`` and ``corrupted.…``.
    """

    detector: str
    committees: int | None
    corruptions: Mapping[str, float]
    rates: Mapping[float, Sequence[float]]
    metrics: Metrics


def transfer_sentence(study: TransferStudy, alpha: float) -> str:
    """Where the detector is weakest on what it did not know, said first."""
    fits = {name: left_out(name, study.fits, study.families) for name in study.families}
    known = [(name, rate(study.metrics, f"{fit}.{name}.tpr_at_{level(alpha)}")) for name, fit in fits.items() if fit is not None]
    found = sorted(((name, value) for name, value in known if value is not None), key=lambda pair: pair[1].value)
    if not found:
        return "No attack could be left out of the fit: how the detector fares on an attack that it never met is not known."
    (worst, least), (best, most) = found[0], found[-1]
    whole = rate(study.metrics, f"{ALL}.{worst}.tpr_at_{level(alpha)}") if fits[worst] != ALL else None
    met = f" (fitted on all attacks: {whole.text})" if whole else ""
    said = f"Of images attacked by {worst}, the detector {study.detector} flags {least.text} ({least.interval}) at {percent(alpha, 2)}"
    opening = f"{said} when no attack of that family was in the fit{met}: its weakest point against an attack that it never met."
    return opening if worst == best else f"{opening} Its strongest is {best}, with {most.text} ({most.interval})."


def transfer_rows(study: TransferStudy, alpha: float) -> list[dict[str, Any]]:
    """A row a fit, a cell an attack."""
    return [
        {
            "fit": fit.replace("_", " ", 1),
            "cells": [
                {
                    "attack": name,
                    "unseen": unseen(name, fitted, study.families),
                    "auroc": rate(study.metrics, f"{fit}.{name}.auroc"),
                    "found": rate(study.metrics, f"{fit}.{name}.tpr_at_{level(alpha)}"),
                }
                for name in study.families
            ],
            "alarms": rate(study.metrics, f"{fit}.clean.fpr_at_{level(alpha)}"),
        }
        for fit, fitted in study.fits.items()
    ]


def promise_sentence(study: PromiseStudy, alpha: float) -> str:
    """Whether the promise was kept over the redraws."""
    mean, redraws = (
        rate(study.metrics, key := f"redrawn.all.fpr_at_{level(alpha)}"),
        study.metrics.get(f"redrawn.all.fpr_at_{level(alpha)}_redraws"),
    )
    if mean is None or not redraws:
        return "No redraw could be made: the promise was not tried on redrawn splits."
    kept = (
        "in keeping with" if study.metrics.get(f"{key}_kept") == 1 else "more than" if mean.low is not None else "not to be compared with"
    )
    return (
        f"With bank, detector and calibration made anew on each of {redraws:.0f} redraws of the splits, {mean.text} ({mean.interval}) of "
        f"fresh clean images were flagged on average, {kept} the promised {percent(alpha, 2)}."
    )


def changed_sentence(study: PromiseStudy, alpha: float) -> str:
    """What becomes of clean images that somebody changed a little, the one flagged most first; empty where none was looked at."""
    rows = [(row["name"], row["cells"][0][1]) for row in corruption_rows(study, [alpha]) if row["name"] != NONE]
    found = sorted(((name, value) for name, value in rows if value is not None), key=lambda pair: -pair[1].value)
    if not found:
        return ""
    said = ", ".join(f"{value.text} ({value.interval}) with {name}" for name, value in found)
    promised = "The promise is for clean images like those it was calibrated on."
    return f"{promised} Changed a little, the detector {study.detector} flags them at these rates: {said}."


def promise_rows(study: PromiseStudy, alphas: Sequence[float], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for all clean images, and one a calibration group."""
    metrics = study.metrics
    first = f".fpr_at_{level(alphas[0])}"
    keys = [key.removeprefix("redrawn.").removesuffix(first) for key in metrics if key.startswith("redrawn.") and key.endswith(first)]
    return [
        {
            "name": _shown(key, class_names),
            "redraws": metrics.get(f"redrawn.{key}{first}_redraws"),
            "cells": [
                (alpha, rate(metrics, f"redrawn.{key}.fpr_at_{level(alpha)}"), metrics.get(f"redrawn.{key}.fpr_at_{level(alpha)}_kept"))
                for alpha in alphas
            ],
        }
        for key in sorted(keys, key=lambda key: (key != "all", key == "group_pooled", len(key), key))
    ]


def _shown(key: str, class_names: Sequence[str]) -> str:
    group = key.removeprefix("group_")
    return "all clean images" if key == "all" else class_names[int(group)] if group.isdecimal() else group


def redrawn_attacks(study: PromiseStudy, attacks: Sequence[str], alphas: Sequence[float]) -> list[tuple[str, list[Rate | None]]]:
    """Attack to its mean detection over the redraws at each rate."""
    return [(name, [rate(study.metrics, f"redrawn.{name}.tpr_at_{level(alpha)}") for alpha in alphas]) for name in attacks]


def corruption_rows(study: PromiseStudy, alphas: Sequence[float]) -> list[dict[str, Any]]:
    """A row for the clean images as they are, and one a corruption."""
    return [
        {
            "name": "none" if name == NONE else f"{name.replace('_', ' ')} {amount:g}",
            "accuracy": rate(study.metrics, f"corrupted.{name}.accuracy"),
            "cells": [(alpha, rate(study.metrics, f"corrupted.{name}.fpr_at_{level(alpha)}")) for alpha in alphas],
        }
        for name, amount in {NONE: 0.0, **study.corruptions}.items()
    ]
