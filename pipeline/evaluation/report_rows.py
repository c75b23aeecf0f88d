"""The tables and sentences of a run, as plain values: what the report and the pages of results have in common."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.evaluation.ablation_study import AblationStudy, ablation_rows, ablation_sentence
from pipeline.evaluation.figures import attack_names
from pipeline.evaluation.game_headline import FILTERING, size_of
from pipeline.evaluation.game_verdict import paragraph, summary
from pipeline.evaluation.hardening_study import HardeningStudy, hardening_rounds, hardening_sentence
from pipeline.evaluation.metrics import percent as level
from pipeline.evaluation.metrics import wilson
from pipeline.evaluation.report_inputs import GameInputs, ReportInputs
from pipeline.evaluation.studies import (
    PromiseStudy,
    TransferStudy,
    changed_sentence,
    corruption_rows,
    promise_rows,
    promise_sentence,
    redrawn_attacks,
    transfer_rows,
    transfer_sentence,
)
from pipeline.evaluation.verdict import Rate, rate

GAME_COLUMNS = {
    "fresh": "fresh draws, attacker knows nothing",
    "static": "best fixed draw, attacker knows nothing",
    "draws": "fixed draw, known",
    "secret": "fresh, secret bank, {looks} looks at another",
    "secret_banks": "fresh, secret bank, {looks} looks at several others",
    "bank": "fresh, known bank, {looks} looks",
    "fresh.accepted": "accepted of the images tried, no look",
    "bank.accepted": "accepted, known bank, {looks} looks",
}
"""What stands in the table of the game, of the headline's figures, and under which heading."""


def attack_order(inputs: ReportInputs) -> list[str]:
    """The attacks in the order of the params file."""
    return list(dict.fromkeys([*(str(row["attack"]) for row in inputs.attacks), *attack_names(inputs.scores)]))


def detector_rows(inputs: ReportInputs, name: str, attacks: Sequence[str], alphas: Sequence[float]) -> dict[str, Any]:
    """One detector's figures: false alarms at each rate, on all clean images and on those classified right, and a row an attack."""
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
    }


def attack_row(row: Mapping[str, Any], confidence: float) -> dict[str, Any]:
    """What an attack did to the classifier, with its success of the images tried."""
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


def facts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each value in words, a share together with its interval."""
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


def calibration_rows(inputs: ReportInputs, detectors: Sequence[str], alphas: Sequence[float]) -> list[dict[str, Any]]:
    """A row a group; a group whose smallest possible p-value, 1/(n+1), is above a rate can flag nothing at it."""
    groups = list(dict.fromkeys(group for name in detectors for group in inputs.calibration[name]))
    rows = []
    for group in groups:
        counts = [inputs.calibration[name].get(group) for name in detectors]
        fewest = min(count for count in counts if count is not None)
        # Compared as whole images, since 1/(n+1) <= alpha is lost to rounding where they are equal.
        mute = [alpha for alpha in alphas if alpha * (fewest + 1) < 1 - 1e-9]
        rows.append({"name": group_name(group, inputs.class_names), "counts": counts, "least": 1 / (fewest + 1), "mute": mute})
    return rows


def group_name(group: str, class_names: Sequence[str]) -> str:
    """A calibration group as it is shown: its class, or ``pooled``."""
    return class_names[int(group)] if group.isdecimal() and int(group) < len(class_names) else group


def game_rows(inputs: ReportInputs, attacks: Sequence[str]) -> dict[str, Any]:
    """What the game says, the table of its headline's figures, and the attackers fitted to the guard."""
    game, told = inputs.game, sent_figures(inputs.game)
    columns = {who: words for who, words in GAME_COLUMNS.items() if any(f"{attack}.{who}" in game.headline for attack in attacks)}
    return {
        "says": game_says(inputs),
        "columns": [heading.format(looks=game.looks) for heading in columns.values()],
        "rows": [(attack, [rate(told, f"{attack}.{who}") for who in columns]) for attack in attacks],
        "fitted": summary(game.headline),
    }


def sent_figures(game: GameInputs) -> dict[str, float | None]:
    """The headline without shares of less than one image sent: such a share is that of whichever image happens to be left."""
    few = {
        f"{row['attack']}.{FILTERING[row['knowledge'], row['attacker']]}{'.keyed' if row['defender'] == 'keyed' else ''}"
        for row in game.cells
        if (size_of(row), row["budget"]) == (game.own, game.looks)
        and row["defender"] in ("fresh", "keyed")
        and (row["knowledge"], row["attacker"]) in FILTERING
        and row["sent"] < 1
    }
    return {name: value for name, value in game.headline.items() if name.removesuffix("_low").removesuffix("_high") not in few}


def game_says(inputs: ReportInputs) -> str:
    """The paragraph of the game, for report and card."""
    game = inputs.game
    return paragraph(
        sent_figures(game),
        attack_order(inputs),
        alpha=inputs.alpha,
        looks=game.looks,
        bound=game.bound,
        tries=game.tries,
        queries=game.queries,
        keyed=inputs.params["publish"]["draws"] == "keyed",
        played=game.detector,
        guarding=inputs.guard_detector,
    )


def transfer_section(study: TransferStudy, alpha: float) -> dict[str, Any]:
    """What is said of unseen attacks, and a row a fit."""
    return {"study": study, "sentence": transfer_sentence(study, alpha), "rows": transfer_rows(study, alpha)}


def hardening_section(study: HardeningStudy) -> dict[str, Any]:
    """What is said of the rounds of hardening, and a table a round."""
    return {"study": study, "sentence": hardening_sentence(study), "rounds": hardening_rounds(study)}


def ablation_part(study: AblationStudy, alpha: float) -> dict[str, Any]:
    """What is said of the detector with one thing changed at a time, and a row a variant."""
    return {"study": study, "sentence": ablation_sentence(study, alpha), "rows": ablation_rows(study)}


def promise_section(study: PromiseStudy, inputs: ReportInputs, attacks: Sequence[str], alphas: Sequence[float]) -> dict[str, Any]:
    """What is said of the redrawn promise: by calibration group, by attack and by corruption."""
    return {
        "study": study,
        "sentence": promise_sentence(study, inputs.alpha),
        "changed": changed_sentence(study, inputs.alpha),
        "groups": promise_rows(study, alphas, inputs.class_names),
        "attacks": redrawn_attacks(study, attacks, alphas),
        "corruptions": corruption_rows(study, alphas),
    }


def seconds(value: float) -> str:
    """A duration as people say it."""
    minutes, rest = divmod(value, 60)
    return f"{minutes:.0f} min {rest:.0f} s" if minutes else f"{rest:.1f} s"
