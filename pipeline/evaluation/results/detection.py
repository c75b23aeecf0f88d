"""What is detected, attack by attack and detector by detector, and what of clean images is flagged: as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.metrics import percent as level
from pipeline.evaluation.plotting import percent
from pipeline.evaluation.report_inputs import ReportInputs
from pipeline.evaluation.report_rows import attack_row, detector_rows, group_name
from pipeline.evaluation.results.markdown import area, number, share, table
from pipeline.evaluation.results.measures import MEAN, Largest, largest_group, mean_over_attacks
from pipeline.evaluation.verdict import rate
from pipeline.params.evaluation import EvaluationParams
from pipeline.params.flat import flatten

ATTACKS = ("attack", "family", "settings", "images tried", "fooled, of those tried", "target reached", "mean L∞", "mean L2")


def detection_section(inputs: ReportInputs, attacks: Sequence[str], alphas: Sequence[float]) -> dict[str, Any]:
    """The report's rows, with a row for the mean over attacks, and each detector's group with most false alarms.

    Returns:
        ``attacks``, a table; and ``detectors``, each with its name, whether the guard uses it, and the tables ``found`` and ``alarms``.
    """
    params = EvaluationParams.model_validate(inputs.params["evaluation"], strict=False)
    means = mean_over_attacks(inputs.scores, params)
    names = sorted(inputs.calibration, key=lambda name: name != inputs.guard_detector)
    return {
        "attacks": _attacks(inputs, params.confidence),
        "detectors": [_detector(detector_rows(inputs, name, attacks, alphas), inputs, means, params) for name in names],
    }


def _attacks(inputs: ReportInputs, confidence: float) -> str:
    rows = [attack_row(row, confidence) for row in inputs.attacks]
    return table(
        ATTACKS,
        [
            (
                row["attack"],
                row["family"],
                _settings(inputs, row["attack"]),
                number(row["tried"]),
                share(row["success"]),
                share(row["reached"]),
                number(row["mean_linf"], ".4f"),
                number(row["mean_l2"], ".3f"),
            )
            for row in rows
        ],
    )


def _settings(inputs: ReportInputs, attack: str) -> str:
    return ", ".join(f"{key} {value}" for key, value in flatten(inputs.params["attacks"].get(attack, {})) if key != "family")


def _detector(
    known: Mapping[str, Any], inputs: ReportInputs, means: Mapping[str, float | None], params: EvaluationParams
) -> dict[str, Any]:
    name, alphas = known["name"], [alpha for alpha, _, _ in known["false_alarms"]]
    mean = {
        "auroc": rate(means, f"{name}.{MEAN}.auroc"),
        "correct_only": rate(means, f"{name}.{MEAN}.auroc_correct_only"),
        "rates": [rate(means, f"{name}.{MEAN}.tpr_at_{level(alpha)}") for alpha in alphas],
    }
    rows = [*known["rows"], {"attack": "mean over attacks", "images": None, **mean}]
    header = ["attack", "images", "AUROC", "AUROC, correct only", *(f"detected at {percent(alpha, 2)}" for alpha in alphas)]
    found = [
        (row["attack"], number(row["images"]), area(row["auroc"]), area(row["correct_only"]), *map(share, row["rates"])) for row in rows
    ]
    alarms = [
        ("all clean images", *(share(value) for _, value, _ in known["false_alarms"])),
        ("classified correctly", *(share(value) for _, _, value in known["false_alarms"])),
        ("group with most", *(_largest(inputs, largest_group(inputs.scores, name, alpha, params)) for alpha in alphas)),
    ]
    images = f" ({known['clean_images']:,.0f} clean images)" if known["clean_images"] is not None else ""
    return {
        "name": name,
        "guard": known["guard"],
        "found": table(header, found),
        "alarms": table([f"false alarms{images}", *(f"flagged at {percent(alpha, 2)}" for alpha in alphas)], alarms),
    }


def _largest(inputs: ReportInputs, found: Largest | None) -> str | None:
    if found is None:
        return None
    where = f"{group_name(found.group, inputs.class_names)}, {found.images:,} images"
    return f"{share(found.rate)}; {where}, {f'one of {found.groups} groups' if found.groups > 1 else 'the only group'}"
