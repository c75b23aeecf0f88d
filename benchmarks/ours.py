"""Our attacks under the names of ``peers.py``, with the same budget, by way of the product."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from budget import FIXED_CONSTANT, Attack, Budget
from subject import Subject
from torch import Tensor, nn

from pipeline.attacks.base import AttackOptions, Outcome
from pipeline.attacks.loop import on_survivors
from pipeline.attacks.objectives import misclassified
from pipeline.attacks.registry import family, parse_options
from pipeline.classifiers.folding import for_steps
from pipeline.params.attacks import AttackSpec
from pipeline.params.base import Precision
from pipeline.random import ImageRandom


def options(attack: str, budget: Budget) -> AttackOptions:
    """Our attack's options within a budget."""
    return parse_options(attack, AttackSpec(**_specs(budget)[attack]))


def _specs(budget: Budget) -> dict[str, dict[str, Any]]:
    """What would stand in ``params.yaml``, by attack."""
    ball = {"norm": budget.norm, "epsilon": budget.epsilon}
    steps = {**ball, "step_size": budget.step_size, "steps": budget.steps, "stop_on_success": False}
    pgd = {"family": "pgd", **steps, "random_start": True, "restarts": 1}
    apgd = {"family": "apgd", **ball, "steps": budget.run_steps, "restarts": 1, "rho": 0.75, "stop_on_success": True}
    deepfool = {"family": "deepfool", "steps": budget.deepfool_steps, "candidates": 10, "overshoot": budget.overshoot}
    weigh = {"family": "carlini_wagner", "confidence": 0.0, "learning_rate": budget.learning_rate, "steps": budget.search_steps}
    search = {**weigh, "abort_early": True, "targeted": False}
    return {
        "fgsm": {"family": "fgsm", **ball, "targeted": False},
        "pgd": {**pgd, "targeted": False},
        "pgd_targeted": {**pgd, "targeted": True, "stop_on_success": True},
        "bim": {"family": "bim", **steps, "targeted": False},
        "mim": {"family": "mim", **steps, "decay": 1.0, "targeted": False},
        "confidence_ifgsm": {
            "family": "confidence_ifgsm",
            "epsilon": budget.epsilon,
            "step_size": 1 / 255,
            "confidence": 0.7,
            "steps": budget.run_steps,
        },
        "deepfool_l2": {**deepfool, "norm": "l2"},
        "deepfool_linf": {**deepfool, "norm": "linf"},
        "carlini_wagner": {**search, "search_steps": budget.searches, "initial_const": budget.constant},
        FIXED_CONSTANT: {**search, "search_steps": 1, "initial_const": 1.0},
        "apgd_ce": {**apgd, "loss": "ce", "target_classes": None},
        "apgd_dlr": {**apgd, "loss": "dlr", "target_classes": None},
        "apgd_t": {**apgd, "loss": "dlr_targeted", "target_classes": 9},
        "fab_t": {
            "family": "fab",
            **ball,
            "steps": budget.run_steps,
            "restarts": 1,
            "target_classes": 9,
            "alpha_max": 0.1,
            "eta": 1.05,
            "beta": 0.9,
        },
        "square": {"family": "square", **ball, "queries": budget.queries, "p_init": 0.8, "schedule": budget.queries, "targeted": False},
        "autoattack": {"family": "autoattack", **ball, "steps": budget.run_steps, "queries": budget.queries, "target_classes": 9},
    }


def stepping_models(subject: Subject, precision: Precision) -> tuple[nn.Module, ...]:
    """What the product gives to its attacks' steps: the folded, channels-last model, after the same in low precision where asked for."""
    return for_steps(subject.model, subject.channels, precision)


def bare_attack(subject: Subject, stepping: Sequence[nn.Module], chosen: AttackOptions) -> Attack:
    """The attack alone, as the peers' are: without the product's rounding, checking and storing.

    Where there are several models to step on, each goes on with the images that the ones before it left, as in the product.
    """
    draws, kind = ImageRandom(0, "attack/benchmark", subject.ids), family(chosen.family)

    def attacked(images: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        aims = targets if kind.targeted(chosen) else None

        def attempt(logits_fn: nn.Module, rows: Tensor) -> Outcome:
            aim = None if aims is None else aims[rows]
            return kind.attack(logits_fn, images[rows], labels[rows], aim, chosen, draws.subset(rows.numpy()))

        attempts = [partial(attempt, logits_fn) for logits_fn in stepping]
        return on_survivors(attempts, images, subject.model, misclassified(labels, aims)).images

    return attacked
