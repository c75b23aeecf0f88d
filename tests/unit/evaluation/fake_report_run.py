"""A made-up run for the tests of the figures and of the report: realistic in shape, drawn from a seeded generator."""

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.evaluation.ablation_study import AblationStudy
from pipeline.evaluation.game import Play, filtered, foreseen, plain, resubmitted, summarise
from pipeline.evaluation.game_headline import Size, headline
from pipeline.evaluation.hardening_study import HardeningStudy
from pipeline.evaluation.metrics import evaluate_table
from pipeline.evaluation.report_inputs import GalleryItem, GameInputs, ReportInputs
from pipeline.evaluation.studies import PromiseStudy, TransferStudy
from pipeline.evaluation.transfer import fit_sets, unseen
from pipeline.params.evaluation import EvaluationParams

ALPHA = 0.05
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DETECTORS = {"likelihood_ratio": 1.0, "vote": 0.75, "anomaly": 0.4}
SHIFTS = {"fgsm": 1.6, "pgd": 5.5, "pgd_targeted": 3.6, "targeted_iterative": 2.6}
LAYERS = ("layer1", "layer2", "layer3", "logits")


def score_table(images: int = 400, seeds: tuple[int, ...] = (0, 1, 2), attacks: dict[str, float] = SHIFTS) -> pa.Table:
    """Rows of every detector, attack, image and seed; an attack's rows are the images that were right when clean."""
    rng = np.random.default_rng(7)
    labels = np.arange(images) % len(CLASSES)
    clean_predicted = np.where(rng.random(images) < 0.93, labels, (labels + 1) % len(CLASSES))
    wins = {"clean": np.zeros(images, bool)} | {attack: (rng.random(images) < 0.8) & (clean_predicted == labels) for attack in attacks}
    calibration = np.sort(rng.standard_t(4, 500) * 10 - 20)
    blocks = []
    for (detector, power), seed, (attack, success) in product(DETECTORS.items(), seeds, wins.items()):
        rows = np.arange(images) if attack == "clean" else np.flatnonzero(clean_predicted == labels)
        score = rng.standard_t(4, len(rows)) * 10 - 20 + 10 * power * attacks.get(attack, 0.0)
        blocks.append(
            {
                "detector": np.full(len(rows), detector),
                "attack": np.full(len(rows), attack),
                "id": np.array([f"{row:032x}" for row in rows]),
                "label": labels[rows],
                "clean_predicted": clean_predicted[rows],
                "predicted": np.where(success, (labels + 3) % len(CLASSES), clean_predicted)[rows],
                "success": success[rows],
                "score": score,
                "p_value": (1 + len(calibration) - np.searchsorted(calibration, score, "left")) / (len(calibration) + 1),
                "group": np.full(len(rows), "pooled"),
                "seed": np.full(len(rows), seed),
            }
        )
    return pa.table({name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]})


def metric_values(table: pa.Table) -> dict[str, float | None]:
    """The table's own figures, with few resamples."""
    chosen = EvaluationParams(alphas=(0.01, ALPHA), seeds=(0, 1, 2), confidence=0.95, bootstrap=60, bootstrap_seed=0)
    return evaluate_table(table, chosen)


def training_history(epochs: int = 18) -> list[dict[str, Any]]:
    """A plausible run: the loss on ``tune`` falls and then rises a little."""
    rng = np.random.default_rng(3)
    return [
        {
            "epoch": epoch,
            "train_loss": 2.2 * 0.78**epoch + 0.03,
            "train_accuracy": 0.995 - 0.85 * 0.75**epoch,
            "tune_loss": 2.1 * 0.8**epoch + 0.16 + 0.004 * max(0, epoch - 12) + 0.01 * rng.random(),
            "tune_accuracy": 0.95 - 0.8 * 0.76**epoch - 0.01 * rng.random(),
            "learning_rate": 0.05 * (1 - epoch / epochs),
        }
        for epoch in range(epochs)
    ]


def image_pair(rng: np.random.Generator, channels: int = 3, size: int = 32) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A smooth clean image and the same with sign noise of 8 grey levels."""
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(2 * np.pi * (x * rng.uniform(0.5, 2) + y * rng.uniform(0.5, 2)) + rng.uniform(0, 6)) for _ in range(channels)]
    clean = np.clip(128 + 100 * np.stack(waves), 0, 255)
    attacked = np.clip(clean + 8 * rng.choice([-1, 1], clean.shape), 0, 255)
    return clean.astype(np.uint8), attacked.astype(np.uint8)


def gallery(each: int = 3) -> list[GalleryItem]:
    """A few images of each attack; every third one slips through."""
    rng = np.random.default_rng(11)
    items = []
    for number, attack in enumerate(attack for attack in SHIFTS for _ in range(each)):
        clean, attacked = image_pair(rng)
        p_value = 0.31 if number % 3 == 2 else 0.002
        items.append(GalleryItem(clean, attacked, attack, number % 10, number % 10, (number + 3) % 10, p_value, p_value <= ALPHA))
    return items


def kept_counts() -> dict[str, dict[str, int]]:
    """Fingerprints kept a class and layer; one class keeps none of its own."""
    rng = np.random.default_rng(5)
    kept = {name: {layer: int(rng.integers(20, 480)) for layer in LAYERS} for name in CLASSES}
    kept["cat"] = dict.fromkeys(LAYERS, 0)
    return kept | {"pooled": {layer: 250 for layer in LAYERS}}


def params() -> dict[str, Any]:
    """The sections that the report reads, and some that it only prints."""
    return {
        "data": {"source": {"kind": "parquet", "files": {"train": ["data/train-*.parquet"]}}, "max_quarantined": 0.01},
        "classifier": {"kind": "train", "architecture": "cifar_resnet20", "mean": [0.49, 0.48, 0.45], "epochs": 18},
        "attacks": {name: {"family": "pgd", "epsilon": "8/255"} for name in SHIFTS},
        "calibration": {"alpha": ALPHA, "seed": 0},
        "evaluation": {"alphas": [0.01, 0.05], "seeds": [0, 1, 2], "confidence": 0.95, "bootstrap": 1000, "bootstrap_seed": 0},
        "game": {"surrogates": 3, "queries": 60, "descend": {"samples": 8}, "disjoint": {"two_banks": {"draw": 30, "parts": 2}}},
        "publish": {"detector": "likelihood_ratio", "draws": "fresh"},
    }


def attack_rows() -> list[dict[str, Any]]:
    """What each attack reached on the test split."""
    return [
        {
            "attack": name,
            "family": "confidence_ifgsm" if "iterative" in name else name.split("_")[0],
            "images": 400,
            "skipped": 28,
            "successes": 300 - 10 * i,
            "mean_linf": 0.0314,
            "mean_l2": 1.21 + i / 10,
            "target_reached": 280 if "targeted" in name else None,
        }
        for i, name in enumerate(SHIFTS)
    ]


FAMILIES = {"fgsm": "fgsm", "pgd": "pgd", "pgd_targeted": "pgd", "targeted_iterative": "confidence_ifgsm"}
CORRUPTIONS = {"gaussian_noise": 0.02, "gaussian_blur": 0.5, "jpeg": 75.0, "brightness": 0.1}


def _known(name: str, value: float, spread: float = 0.03) -> dict[str, float | None]:
    return {name: value, f"{name}_low": max(0.0, value - spread), f"{name}_high": min(1.0, value + spread)}


def transfer_study() -> TransferStudy:
    """Good on what the fit knew, worse elsewhere; the fit on ``confidence_ifgsm`` alone could not be made."""
    fits, metrics = fit_sets(list(FAMILIES), FAMILIES), dict[str, float | None]()
    for fit, fitted in fits.items():
        if fit == "only_confidence_ifgsm":
            continue
        for number, attack in enumerate(FAMILIES):
            value = 0.31 + 0.11 * number if unseen(attack, fitted, FAMILIES) else 0.93
            metrics |= _known(f"{fit}.{attack}.tpr_at_5", value) | _known(f"{fit}.{attack}.auroc", 0.5 + value / 2)
        metrics |= _known(f"{fit}.clean.fpr_at_5", 0.045)
    return TransferStudy("likelihood_ratio", fits, FAMILIES, metrics)


def promise_study(at_five: float = 0.047) -> PromiseStudy:
    """Twenty redraws around a mean rate, and corruptions that cost more."""
    rng, metrics = np.random.default_rng(2), dict[str, float | None]()
    rates = {0.01: (0.009 + 0.004 * rng.random(20)).tolist(), ALPHA: (at_five + 0.02 * (rng.random(20) - 0.5)).tolist()}
    for percent, alpha, mean in (("1", 0.01, 0.011), ("5", ALPHA, at_five)):
        for key in ("all", "group_3", "group_pooled"):
            found = _known(f"redrawn.{key}.fpr_at_{percent}", mean, 0.006)
            kept = float((found[f"redrawn.{key}.fpr_at_{percent}_low"] or 0.0) <= alpha)
            metrics |= found | {f"redrawn.{key}.fpr_at_{percent}_kept": kept, f"redrawn.{key}.fpr_at_{percent}_redraws": 20.0}
        for attack in FAMILIES:
            metrics |= _known(f"redrawn.{attack}.tpr_at_{percent}", 0.7)
        for number, name in enumerate(("none", *CORRUPTIONS)):
            metrics |= _known(f"corrupted.{name}.fpr_at_{percent}", alpha * (1 + number), 0.01)
    for number, name in enumerate(("none", *CORRUPTIONS)):
        metrics |= _known(f"corrupted.{name}.accuracy", 0.93 - 0.03 * number, 0.01)
    return PromiseStudy("likelihood_ratio", 25, CORRUPTIONS, rates, metrics)


def hardening_study(step: float = -0.04, rounds: int = 2) -> HardeningStudy:
    """Every round moves what is accepted of each attack by ``step``, and detection the other way."""
    metrics = dict[str, float | None]()

    def change(name: str, value: float, spread: float) -> dict[str, float | None]:
        return {f"{name}_change": value, f"{name}_change_low": value - spread, f"{name}_change_high": value + spread}

    for number in range(rounds + 1):
        moved, clean = step * number, f"round{number}.clean.flagged"
        shares = {"accepted": 0.16 + moved, "accepted_evenly": 0.15 + moved, "detected_after_looks": 0.05}
        shares |= {"auroc": 0.95, "detected": 0.7 - moved, "detected_evenly": 0.69 - moved}
        for name in (f"round{number}.{attack}" for attack in SHIFTS):
            metrics[f"{name}.images"] = 120.0
            for measure, value in shares.items():
                metrics |= _known(f"{name}.{measure}", value)
            if number:
                metrics |= change(f"{name}.accepted_evenly", moved, 0.01) | change(f"{name}.detected_evenly", -moved, 0.01)
                metrics[f"{name}.survivors"] = 40.0
        metrics |= _known(clean, 0.047 + 0.004 * number, 0.01) | _known(f"{clean}_correct_only", 0.04 + 0.004 * number, 0.01)
        metrics |= change(clean, 0.004 * number, 0.003) if number else {}
    return HardeningStudy("likelihood_ratio", 8, True, list(SHIFTS), metrics)


def ablation_study() -> AblationStudy:
    """A variant that is worse, one that is better, one of which nothing can be told, and one that could not be made."""
    changes = {
        "half_the_draw": {"detector.draw": 30},
        "linear": {"detector.pooling": 1.0, "detector.directions": 1},
        "other_seeds": {"fingerprints.seed": 1},
        "refused": {"selection.effect_size": 9.0},
    }
    metrics = dict[str, float | None]()
    for name, moved in {"unchanged": None, "half_the_draw": 0.05, "linear": -0.2, "other_seeds": 0.01}.items():
        for measure, base in {"fitted": 0.8, "unseen": 0.7, "after_looks": 0.3, "false_alarms": 0.3}.items():
            metrics |= _known(f"{name}.{measure}", base + (moved or 0.0), 0.02)
            if moved is not None:
                change = f"{name}.{measure}_change"
                metrics |= {change: moved, f"{change}_low": moved - 0.02, f"{change}_high": moved + 0.02}
        metrics[f"{name}.cost"] = 1200.0
    return AblationStudy("likelihood_ratio", changes, "confidence_ifgsm", 8, metrics)


def _set_aside(key: str, label: int, reason: str, detail: str) -> dict[str, Any]:
    return {"key": key, "origin": "train", "label": label, "reason": reason, "detail": detail}


OWN = Size(60, 200, 1000)
OTHERS = {Size(20, 200, 1000): 1.5, Size(60, 200, 300): 0.8, Size(60, 200, 100): 0.6, Size(30, 200, 1000, "two_banks"): 1.2}
"""Sizes that the game tried beside the guard's own, each with the power that its chances are raised to."""
INTERVALS = EvaluationParams(alphas=(ALPHA,), seeds=(0,), confidence=0.95, bootstrap=40, bootstrap_seed=0)


def game_cells(attacks: dict[str, float] = SHIFTS, images: int = 120) -> list[dict[str, Any]]:
    """The cells of a game in which a surrogate's draws agree less with the guard's than those of its own bank do."""
    rng, rows = np.random.default_rng(13), []

    def cell(defender: str, size: Size, knowledge: str, attacker: str, attack: str, budget: int, play: Play) -> None:
        known = {
            "defender": defender,
            **size._asdict(),
            "knowledge": knowledge,
            "attacker": attacker,
        }
        norms = np.full(images, 0.9), np.full(images, 0.03)
        rows.append({**known, "attack": attack, "budget": budget, **summarise(play, *norms, INTERVALS)})

    everyone, mean = np.ones(images, bool), 1 / (1 + np.exp(-rng.normal(0, 1, images)))
    for defender in ("fresh", "keyed", "static"):
        cell(defender, OWN, "nothing", "plain", "clean", 0, plain(everyone, np.full(images, 0.04)))
    for attack, shift in attacks.items():
        success, chance = rng.random(images) < 0.8, mean ** (2 / shift)
        fixed = (rng.random(images) < chance).astype(float)
        for size, share in ((OWN, chance), *((size, chance**power) for size, power in OTHERS.items())):
            cell("fresh", size, "nothing", "plain", attack, 0, plain(success, share))
            for looks in (1, 8, 64):
                cell("fresh", size, "bank", "filter", attack, looks, filtered(success, share, share, looks))
        cell("keyed", OWN, "nothing", "plain", attack, 0, plain(success, chance**1.1))
        for knowledge in ("bank", "algorithm"):
            cell("keyed", OWN, knowledge, "filter", attack, 8, filtered(success, chance, chance**1.3, 8))
        cell("keyed", OWN, "algorithm", "filter_banks", attack, 8, filtered(success, chance**0.9, chance**1.5, 8))
        for looks in (1, 8, 64):
            cell("fresh", OWN, "algorithm", "filter", attack, looks, filtered(success, rng.permutation(chance), chance, looks))
            cell("fresh", OWN, "algorithm", "filter_banks", attack, looks, filtered(success, chance**0.95, chance, looks))
        cell("static", OWN, "nothing", "plain", attack, 0, plain(success, fixed))
        cell("static", OWN, "draws", "filter", attack, 1, foreseen(success, fixed))
        for defender, afresh in (("fresh", True), ("keyed", False)):
            cell(defender, OWN, "nothing", "resubmit", attack, 16, resubmitted(success, chance, 16, afresh=afresh))
    for knowledge, power in (("algorithm", 0.5), ("bank", 0.1)):
        for defender, most in (("fresh", power), ("keyed", power + 0.2)):
            cell(defender, OWN, knowledge, "descend", "traded_0.5", 20, plain(everyone, most * mean))
    cell("fresh", OWN, "nothing", "query", "scores", 60, plain(everyone, 1 - 0.1 * mean))
    for defender, least in (("fresh", 0.3), ("keyed", 0.4)):
        cell(defender, OWN, "nothing", "resubmit_changed", "pgd", 16, plain(everyone, least + 0.1 * mean))
    return rows


def game_inputs(**changes: Any) -> GameInputs:
    """The game as the report prints it."""
    cells = changes["cells"] if "cells" in changes else game_cells()
    played = {"detector": "likelihood_ratio", "own": OWN, "looks": 8, "bound": "L∞ 8/255", "tries": 16, "queries": 60}
    fields = {"cells": cells, "headline": headline(cells, list(SHIFTS), OWN, 8), **played}
    return GameInputs(**{**fields, **changes})


def report_inputs(**changes: Any) -> ReportInputs:
    """A whole run; ``changes`` replaces fields (metrics follow from the scores unless they are given)."""
    table = changes["scores"] if "scores" in changes else score_table()
    fields: dict[str, Any] = {
        "params": params(),
        "versions": {"python": "3.11.14", "torch": "2.15.0", "ray": "2.60.0", "whorl": "0.1.0"},
        "commit": "4f2a9c1d7be0",
        "class_names": CLASSES,
        "classifier": {"architecture": "cifar_resnet20", "accuracy": 0.931, "accuracy_low": 0.902, "accuracy_high": 0.952},
        "promise": None,
        "metrics": changes["metrics"] if "metrics" in changes else metric_values(table),
        "attacks": attack_rows(),
        "scores": table,
        "history": training_history(),
        "kept": kept_counts(),
        "pooled": {"cat": "12 successful attacked images, where at least 20 were needed"},
        "calibration": {name: {"pooled": 100, **{str(c): 80 for c in range(5)}} for name in DETECTORS},
        "quarantine": [
            _set_aside("train/00017.png", 3, "truncated", "image file is truncated (12 bytes not processed)"),
            _set_aside("train/<b>evil</b>.png", 4, "unreadable", "cannot identify image file"),
            _set_aside("train/00044.png", 4, "duplicate", "same pixels as train/00021.png"),
        ],
        "counts": {"train": 2000, "fit": 1200, "tune": 200, "calibrate": 500, "test": 400},
        "gallery": gallery(),
        "alpha": ALPHA,
        "guard_detector": "likelihood_ratio",
        "timings": {"prepare": 3.2, "train_classifier": 95.0, "attack@pgd": 41.7, "evaluate": 12.4},
        "transfer": transfer_study(),
        "hardened": hardening_study(),
        "ablated": ablation_study(),
        "redrawn": promise_study(),
        "game": changes["game"] if "game" in changes else game_inputs(),
        "notes": ["2 images stood under two labels and were set aside: train/1.png and train/9.png."],
    }
    return ReportInputs(**{**fields, **changes})
