"""The report of a run: one HTML file that needs no network and no script, for the person who decides whether to deploy.

The template is ``templates/report.html.j2``; this file turns plain values into what it prints. Everything that comes from
data (class names, file names, messages) is escaped by Jinja.
"""

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from pipeline.evaluation.figures import (
    attack_names,
    detection_overview,
    fingerprint_heatmap,
    magnified_difference,
    roc_figure,
    score_histograms,
    to_svg,
    training_curves,
)
from pipeline.evaluation.game_figures import frontier
from pipeline.evaluation.game_verdict import paragraph, summary
from pipeline.evaluation.hardening_figure import hardening_figure
from pipeline.evaluation.hardening_study import HardeningStudy, hardening_rounds, hardening_sentence
from pipeline.evaluation.metrics import percent as level
from pipeline.evaluation.metrics import wilson
from pipeline.evaluation.plotting import ROLES, percent
from pipeline.evaluation.studies import (
    PromiseStudy,
    TransferStudy,
    corruption_rows,
    promise_rows,
    promise_sentence,
    redrawn_attacks,
    transfer_rows,
    transfer_sentence,
)
from pipeline.evaluation.study_figures import promise_figure, transfer_heatmap
from pipeline.evaluation.verdict import Rate, rate, verdict
from pipeline.params.flat import flatten

GAME_COLUMNS = {
    "fresh": "fresh draws, attacker knows nothing",
    "static": "best fixed draw, attacker knows nothing",
    "draws": "fixed draw, known",
    "secret": "fresh, secret bank, {looks} looks",
    "bank": "fresh, known bank, {looks} looks",
    "fresh.accepted": "accepted of the images tried, no look",
    "bank.accepted": "accepted, known bank, {looks} looks",
}
"""What stands in the table of the game, of the headline's figures, and under which heading."""

LISTED = 500
"""Rows of a list of files that the page prints; how many were left out is said."""


@dataclass(frozen=True)
class GalleryItem:
    """One attacked test image and what the guard made of it.

    Attributes:
        clean: (C, H, W) uint8, C 1 or 3.
        attacked: of the same shape.
        attack: its name.
        label: true class, an index of the class names.
        clean_predicted: the classifier's class for ``clean``.
        predicted: the classifier's class for ``attacked``.
        p_value: of ``attacked``, in (0, 1].
        flagged: whether the p-value is at most the promised rate.
    """

    clean: npt.NDArray[np.uint8]
    attacked: npt.NDArray[np.uint8]
    attack: str
    label: int
    clean_predicted: int
    predicted: int
    p_value: float
    flagged: bool


@dataclass(frozen=True)
class GameInputs:
    """What the report prints of the game.

    Attributes:
        cells: a mapping a cell: defender, draw, committees, knowledge, attacker, attack, budget, and what ``game.summarise`` gives.
        headline: flat values, as ``game_verdict.headline`` gives them.
        detector: the one that played.
        own: its m and T.
        looks: R of the filtering attacker in the headline.
        epsilon: the bound of the attackers who are fitted to the guard, in pixel units.
    """

    cells: Sequence[Mapping[str, Any]]
    headline: Mapping[str, float | None]
    detector: str
    own: tuple[int, int]
    looks: int
    epsilon: float


@dataclass(frozen=True)
class ReportInputs:
    """Everything that the report prints.

    Attributes:
        params: the params file, nested; ``evaluation.alphas`` and ``evaluation.confidence`` are read.
        versions: library to version.
        commit: of the code.
        class_names: by class index.
        classifier: what to say of it, in order; a key with ``_low`` and ``_high`` beside it is a share with its interval.
        promise: None where the false-alarm promise holds, else a sentence why it is void.
        metrics: flat values, ``<detector>.<attack or clean>.<metric>``, in [0, 1]; None where undefined.
        attacks: a mapping an attack: attack, family, images (of the test split), skipped (wrong when clean), successes,
            mean_linf and mean_l2 (over successes, pixel units of [0, 1]), target_reached (a count; None where untargeted).
        scores: a row per (detector, attack, image, seed).
        history: a mapping an epoch as ``training_curves`` takes it; None where the classifier was adopted.
        kept: class name (or ``pooled``) to layer to fingerprints kept.
        pooled: class name to why it uses the pooled bank.
        calibration: detector to group (a class index or ``pooled``) to calibration images.
        quarantine: a mapping a file: key, origin, label, reason, detail.
        counts: split to images.
        gallery: in the order of printing.
        alpha: the promised false-alarm rate.
        guard_detector: the detector that the guard uses.
        timings: stage to seconds; empty where unknown.
        notes: sentences.
        transfer: the detector on attacks that its fit never saw; None where that was not studied.
        hardened: the detector with survivors folded back into its fit; None where that was not studied.
        redrawn: the promise over redrawn splits and under corruptions; None where that was not studied.
        game: against attackers who know the guard.
    """

    params: Mapping[str, Any]
    versions: Mapping[str, str]
    commit: str
    class_names: Sequence[str]
    classifier: Mapping[str, Any]
    promise: str | None
    metrics: Mapping[str, float | None]
    attacks: Sequence[Mapping[str, Any]]
    scores: pa.Table
    history: Sequence[Mapping[str, Any]] | None
    kept: Mapping[str, Mapping[str, int]]
    pooled: Mapping[str, str]
    calibration: Mapping[str, Mapping[str, int]]
    quarantine: Sequence[Mapping[str, Any]]
    counts: Mapping[str, int]
    gallery: Sequence[GalleryItem]
    alpha: float
    guard_detector: str
    timings: Mapping[str, float]
    notes: Sequence[str]
    transfer: TransferStudy | None
    hardened: HardeningStudy | None
    redrawn: PromiseStudy | None
    game: GameInputs


def render_report(inputs: ReportInputs) -> str:
    """The report as one self-contained HTML document; the same inputs give the same document."""
    environment = Environment(
        loader=PackageLoader("pipeline.evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "seconds": _seconds}
    return environment.get_template("report.html.j2").render(_context(inputs)) + "\n"


def _context(inputs: ReportInputs) -> dict[str, Any]:
    settings = inputs.params["evaluation"]
    alphas = sorted({*settings["alphas"]})
    attacks = _attack_order(inputs)
    detectors = sorted(inputs.calibration, key=lambda name: name != inputs.guard_detector)
    confidence = float(settings["confidence"])
    judged = verdict(inputs.metrics, inputs.guard_detector, attacks, alpha=inputs.alpha, confidence=confidence, promise=inputs.promise)
    overview = detection_overview(inputs.metrics, detectors, attacks, inputs.alpha, width=5.6)
    return {
        "inputs": inputs,
        "verdict": judged,
        "alphas": alphas,
        "confidence": confidence,
        "attacks": [_attack_row(row, confidence) for row in inputs.attacks],
        "overview": _inline(overview, "overview", "Detection of each attack by each detector, with intervals"),
        "detectors": [_detector(inputs, name, attacks, alphas) for name in detectors],
        "training": _inline(training_curves(inputs.history), "training", "Loss and accuracy by epoch") if inputs.history else None,
        "heatmap": _inline(fingerprint_heatmap(inputs.kept), "kept", "Fingerprints kept for each class and layer"),
        "layers": list(dict.fromkeys(layer for row in inputs.kept.values() for layer in row)),
        "classifier": list(_facts(inputs.classifier)),
        "calibration": _calibration(inputs, detectors, alphas),
        "reasons": Counter(str(row["reason"]) for row in inputs.quarantine).most_common(),
        "listed": LISTED,
        "gallery": _gallery(inputs),
        "transfer": _transfer(inputs.transfer, inputs.alpha) if inputs.transfer else None,
        "hardened": _hardened(inputs.hardened) if inputs.hardened else None,
        "redrawn": _redrawn(inputs.redrawn, inputs, attacks, alphas) if inputs.redrawn else None,
        "game": _game(inputs, attacks),
        "flat_params": list(flatten(inputs.params)),
        "colours": ROLES,
    }


def _game(inputs: ReportInputs, attacks: Sequence[str]) -> dict[str, Any]:
    game = inputs.game
    picture = frontier(game.cells, attacks, game.own, inputs.alpha)
    return {
        "says": game_says(inputs),
        "columns": [heading.format(looks=game.looks) for heading in GAME_COLUMNS.values()],
        "rows": [(attack, [rate(game.headline, f"{attack}.{who}") for who in GAME_COLUMNS]) for attack in attacks],
        "fitted": summary(game.headline),
        "figure": _inline(picture, "frontier", "Detection against looks at a local copy, one line a defender"),
    }


def game_says(inputs: ReportInputs) -> str:
    """The paragraph of the game, for report and card."""
    game = inputs.game
    return paragraph(
        game.headline,
        _attack_order(inputs),
        alpha=inputs.alpha,
        looks=game.looks,
        epsilon=game.epsilon,
        keyed=inputs.params["publish"]["draws"] == "keyed",
        played=game.detector,
        guarding=inputs.guard_detector,
    )


def _transfer(study: TransferStudy, alpha: float) -> dict[str, Any]:
    return {
        "study": study,
        "sentence": transfer_sentence(study, alpha),
        "rows": transfer_rows(study, alpha),
        "figure": _inline(transfer_heatmap(study, alpha), "transfer", "Detection by attacks of the fit and attacks tested"),
    }


def _hardened(study: HardeningStudy) -> dict[str, Any]:
    return {
        "study": study,
        "sentence": hardening_sentence(study),
        "rounds": hardening_rounds(study),
        "figure": _inline(hardening_figure(study), "hardening", "Accepted and detected shares, round by round"),
    }


def _redrawn(study: PromiseStudy, inputs: ReportInputs, attacks: Sequence[str], alphas: Sequence[float]) -> dict[str, Any]:
    return {
        "study": study,
        "sentence": promise_sentence(study, inputs.alpha),
        "groups": promise_rows(study, alphas, inputs.class_names),
        "attacks": redrawn_attacks(study, attacks, alphas),
        "corruptions": corruption_rows(study, alphas),
        "figure": _inline(promise_figure(study, inputs.alpha), "redrawn", "False alarms by redraw and by corruption"),
    }


def _attack_order(inputs: ReportInputs) -> list[str]:
    return list(dict.fromkeys([*(str(row["attack"]) for row in inputs.attacks), *attack_names(inputs.scores)]))


def _detector(inputs: ReportInputs, name: str, attacks: Sequence[str], alphas: Sequence[float]) -> dict[str, Any]:
    metrics = inputs.metrics
    return {
        "name": name,
        "guard": name == inputs.guard_detector,
        "clean_images": metrics.get(f"{name}.clean.images"),
        "false_alarms": [
            (alpha, rate(metrics, f"{name}.clean.fpr_at_{level(alpha)}"), rate(metrics, f"{name}.clean.fpr_at_{level(alpha)}_correct_only"))
            for alpha in alphas
        ],
        "rows": [
            {
                "attack": attack,
                "images": metrics.get(f"{name}.{attack}.images"),
                "auroc": rate(metrics, f"{name}.{attack}.auroc"),
                "correct_only": rate(metrics, f"{name}.{attack}.auroc_correct_only"),
                "rates": [rate(metrics, f"{name}.{attack}.tpr_at_{level(alpha)}") for alpha in alphas],
            }
            for attack in attacks
        ],
        "roc": _inline(roc_figure(inputs.scores, name, alphas), f"roc-{name}", f"ROC curves of {name}, one an attack"),
        "histogram": _inline(score_histograms(inputs.scores, name, inputs.alpha), f"scores-{name}", f"Scores of {name}"),
    }


def _attack_row(row: Mapping[str, Any], confidence: float) -> dict[str, Any]:
    tried = int(row["images"]) - int(row["skipped"])
    reached = row.get("target_reached")
    return {
        **row,
        "tried": tried,
        "success": _share(int(row["successes"]), tried, confidence),
        "reached": None if reached is None else _share(int(reached), tried, confidence),
    }


def _share(count: int, of: int, confidence: float) -> Rate | None:
    estimate = wilson(count, of, confidence)
    return None if estimate.value is None else Rate(estimate.value, estimate.low, estimate.high)


def _facts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if any(key.endswith(end) and key.removesuffix(end) in values for end in ("_low", "_high")):
            continue
        words = key.replace("_", " ")
        if isinstance(value, float) and f"{key}_low" in values:
            known = Rate(value, values[f"{key}_low"], values.get(f"{key}_high"))
            yield words, f"{known.text} ({known.interval})"
        else:
            yield words, _plain(value)


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _calibration(inputs: ReportInputs, detectors: Sequence[str], alphas: Sequence[float]) -> list[dict[str, Any]]:
    """A row a group; a group whose smallest possible p-value, 1/(n+1), is above a rate can flag nothing at it."""
    groups = list(dict.fromkeys(group for name in detectors for group in inputs.calibration[name]))
    rows = []
    for group in groups:
        counts = [inputs.calibration[name].get(group) for name in detectors]
        fewest = min(count for count in counts if count is not None)
        # Compared as whole images, since 1/(n+1) <= alpha is lost to rounding where they are equal.
        mute = [alpha for alpha in alphas if alpha * (fewest + 1) < 1 - 1e-9]
        rows.append({"name": _group_name(group, inputs.class_names), "counts": counts, "least": 1 / (fewest + 1), "mute": mute})
    return rows


def _group_name(group: str, class_names: Sequence[str]) -> str:
    return class_names[int(group)] if group.isdecimal() and int(group) < len(class_names) else group


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


def _seconds(value: float) -> str:
    minutes, seconds = divmod(value, 60)
    return f"{minutes:.0f} min {seconds:.0f} s" if minutes else f"{seconds:.1f} s"
