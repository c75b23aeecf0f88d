"""The report of a run: one HTML file that needs no network and no script, for the person who decides whether to deploy.

The template is ``templates/report.html.j2``; this file turns plain values into what it prints. Everything that comes from
data (class names, file names, messages) is escaped by Jinja.
"""

import base64
import io
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from pipeline.evaluation.ablation_figure import ablation_figure
from pipeline.evaluation.ablation_study import AblationStudy, points
from pipeline.evaluation.figures import (
    detection_overview,
    fingerprint_heatmap,
    magnified_difference,
    roc_figure,
    score_histograms,
    to_svg,
    training_curves,
)
from pipeline.evaluation.game_figures import frontier
from pipeline.evaluation.hardening_figure import hardening_figure
from pipeline.evaluation.hardening_study import HardeningStudy
from pipeline.evaluation.plotting import ROLES, percent
from pipeline.evaluation.randomness import randomness
from pipeline.evaluation.randomness_figure import randomness_figure
from pipeline.evaluation.report_inputs import GalleryItem, ReportInputs
from pipeline.evaluation.report_rows import (
    ablation_part,
    attack_order,
    attack_row,
    calibration_rows,
    detector_rows,
    facts,
    game_rows,
    hardening_section,
    promise_section,
    seconds,
    transfer_section,
)
from pipeline.evaluation.studies import PromiseStudy, TransferStudy
from pipeline.evaluation.study_figures import promise_figure, transfer_heatmap
from pipeline.evaluation.verdict import verdict
from pipeline.params.flat import flatten

LISTED = 500
"""Rows of a list of files that the page prints; how many were left out is said."""


def render_report(inputs: ReportInputs) -> str:
    """The report as one self-contained HTML document; the same inputs give the same document."""
    environment = Environment(
        loader=PackageLoader("pipeline.evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "seconds": seconds, "points": points}
    return environment.get_template("report.html.j2").render(_context(inputs)) + "\n"


def _context(inputs: ReportInputs) -> dict[str, Any]:
    settings = inputs.params["evaluation"]
    alphas = sorted({*settings["alphas"]})
    attacks = attack_order(inputs)
    detectors = sorted(inputs.calibration, key=lambda name: name != inputs.guard_detector)
    confidence = float(settings["confidence"])
    judged = verdict(inputs.metrics, inputs.guard_detector, attacks, alpha=inputs.alpha, confidence=confidence, promise=inputs.promise)
    overview = detection_overview(inputs.metrics, detectors, attacks, inputs.alpha, width=5.6)
    return {
        "inputs": inputs,
        "verdict": judged,
        "alphas": alphas,
        "confidence": confidence,
        "attacks": [attack_row(row, confidence) for row in inputs.attacks],
        "overview": _inline(overview, "overview", "Detection of each attack by each detector, with intervals"),
        "detectors": [_detector(inputs, name, attacks, alphas) for name in detectors],
        "training": _inline(training_curves(inputs.history), "training", "Loss and accuracy by epoch") if inputs.history else None,
        "heatmap": _inline(fingerprint_heatmap(inputs.kept), "kept", "Fingerprints kept for each class and layer"),
        "layers": list(dict.fromkeys(layer for row in inputs.kept.values() for layer in row)),
        "classifier": list(facts(inputs.classifier)),
        "calibration": calibration_rows(inputs, detectors, alphas),
        "reasons": Counter(str(row["reason"]) for row in inputs.quarantine).most_common(),
        "listed": LISTED,
        "gallery": _gallery(inputs),
        "transfer": _transfer(inputs.transfer, inputs.alpha) if inputs.transfer else None,
        "hardened": _hardened(inputs.hardened) if inputs.hardened else None,
        "ablated": _ablated(inputs.ablated, inputs.alpha) if inputs.ablated and inputs.ablated.measured else None,
        "redrawn": _redrawn(inputs.redrawn, inputs, attacks, alphas) if inputs.redrawn else None,
        "game": _game(inputs, attacks),
        "flat_params": list(flatten(inputs.params)),
        "colours": ROLES,
    }


def _game(inputs: ReportInputs, attacks: Sequence[str]) -> dict[str, Any]:
    picture = frontier(inputs.game.cells, attacks, inputs.game.own, inputs.alpha)
    spread = randomness_figure(randomness(inputs.game.cells, attacks, inputs.game.looks), inputs.game.own, inputs.game.looks)
    return {
        **game_rows(inputs, attacks),
        "randomness": _inline(spread, "randomness", "Disagreement of draws against detection, and against what is accepted"),
        "figure": _inline(picture, "frontier", "Detection against looks at a local copy, one line a defender"),
    }


def _transfer(study: TransferStudy, alpha: float) -> dict[str, Any]:
    figure = _inline(transfer_heatmap(study, alpha), "transfer", "Detection by attacks of the fit and attacks tested")
    return {**transfer_section(study, alpha), "figure": figure}


def _hardened(study: HardeningStudy) -> dict[str, Any]:
    figure = _inline(hardening_figure(study), "hardening", "Accepted and detected shares, round by round")
    return {**hardening_section(study), "figure": figure}


def _ablated(study: AblationStudy, alpha: float) -> dict[str, Any]:
    figure = _inline(ablation_figure(study), "ablation", "Detection gained or lost by each change")
    return {**ablation_part(study, alpha), "figure": figure}


def _redrawn(study: PromiseStudy, inputs: ReportInputs, attacks: Sequence[str], alphas: Sequence[float]) -> dict[str, Any]:
    figure = _inline(promise_figure(study, inputs.alpha), "redrawn", "False alarms by redraw and by corruption")
    return {**promise_section(study, inputs, attacks, alphas), "figure": figure}


def _detector(inputs: ReportInputs, name: str, attacks: Sequence[str], alphas: Sequence[float]) -> dict[str, Any]:
    return {
        **detector_rows(inputs, name, attacks, alphas),
        "roc": _inline(roc_figure(inputs.scores, name, alphas), f"roc-{name}", f"ROC curves of {name}, one an attack"),
        "histogram": _inline(score_histograms(inputs.scores, name, inputs.alpha), f"scores-{name}", f"Scores of {name}"),
    }


def _gallery(inputs: ReportInputs) -> list[tuple[str, list[dict[str, Any]]]]:
    attacks = dict.fromkeys(item.attack for item in inputs.gallery)
    return [(attack, [_card(item, inputs.class_names) for item in inputs.gallery if item.attack == attack]) for attack in attacks]


def _card(item: GalleryItem, class_names: Sequence[str]) -> dict[str, Any]:
    difference, factor = magnified_difference(item.clean, item.attacked)
    images = {"clean": item.clean, "attacked": item.attacked, f"difference ×{factor:.3g}": difference}
    return {
        "images": [(caption, _data_uri(image)) for caption, image in images.items()],
        "label": class_names[item.label],
        "clean_predicted": class_names[item.clean_predicted],
        "predicted": class_names[item.predicted],
        "p_value": f"{item.p_value:.2g}",
        "flagged": item.flagged,
        "small": max(item.clean.shape[1:]) < 160,
    }


def _data_uri(image: npt.NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _inline(figure: Figure, name: str, label: str) -> Markup:
    return inline_svg(to_svg(figure), re.sub(r"[^a-z0-9]+", "-", name.lower()), label)


def inline_svg(svg: str, prefix: str, label: str) -> Markup:
    """An SVG document made part of a page: ids of its own, the page's colours and fonts, a width that follows the page.

    Args:
        svg: as ``figures.to_svg`` writes it.
        prefix: set before each id, so that several may stand in one page.
        label: what a screen reader says.
    """
    # A style element would hold for the whole page, whose own style says the same for figures.
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r'\b(id=")', rf"\g<1>{prefix}-", body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", body)
    for role, colour in ROLES.items():
        body = re.sub(f"{colour}(?![0-9a-f])", f"var(--{role})", body, flags=re.IGNORECASE)
    # A presentation attribute takes no var(), so colours given as attributes become styles.
    body = re.sub(r'\b(fill|stroke)="(var\(--[\w-]+\))"', r'style="\1: \2"', body)
    opening, rest = body.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    # matplotlib escapes every text it writes, so what it wrote is safe to insert.
    return Markup('<svg role="img" aria-label="{}"').format(label) + Markup(opening.removeprefix("<svg") + ">" + rest)
