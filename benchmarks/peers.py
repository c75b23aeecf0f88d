"""The peers' attacks under one signature, each set up as its documentation tells a user to, with the same budget.

What a peer does beside its attack (foolbox's final check, for one) is left out, so that only attacks are compared. Every
peer is given float images in [0, 1] and the classifier as it is after loading.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from budget import FIXED_CONSTANT, Attack, Attacks, Budget
from torch import Tensor, nn

try:
    import foolbox
    import torchattacks
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier
    from pyautoattack import AutoAttack
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from pyautoattack.fab_pt import FABAttack_PT
    from pyautoattack.square import SquareAttack
except ModuleNotFoundError as error:
    raise SystemExit(f"The peers are not installed here (no {error.name}): `make peers`, then .peers/bin/python.") from error


def peers(model: nn.Module, example: Tensor, classes: int, budget: Budget) -> dict[str, Attacks]:
    """The peers by the names of their distributions."""
    return {
        "torchattacks": _torchattacks(model, classes, budget),
        "foolbox": _foolbox(model, budget),
        "adversarial-robustness-toolbox": _art(model, example, classes, budget),
        "pyautoattack": _pyautoattack(model, classes, budget),
    }


def _torchattacks(model: nn.Module, classes: int, budget: Budget) -> Attacks:
    ball: Any = {"norm": {"linf": "Linf", "l2": "L2"}[budget.norm], "eps": budget.epsilon, "seed": 0}
    steps: Any = {"eps": budget.epsilon, "alpha": budget.step_size, "steps": budget.steps}
    linf = budget.norm == "linf"
    pgd = torchattacks.PGD if linf else torchattacks.PGDL2
    aimed = pgd(model, **steps)
    aimed.set_mode_targeted_by_label(quiet=True)
    run: Any = {**ball, "steps": budget.run_steps}
    fab_t = torchattacks.FAB(model, **run, multi_targeted=True, n_classes=classes)
    unscaled = torchattacks.Square(model, **ball, n_queries=budget.queries, resc_schedule=False)  # as AutoAttack has it
    apgd_ce, apgd_t = torchattacks.APGD(model, **run), torchattacks.APGDT(model, **run, n_classes=classes)
    found: Attacks = {
        "pgd": _with_labels(pgd(model, **steps)),
        "pgd_targeted": lambda images, _labels, targets: aimed(images, targets),
        "deepfool_l2": _with_labels(torchattacks.DeepFool(model, steps=budget.deepfool_steps, overshoot=budget.overshoot)),
        FIXED_CONSTANT: _with_labels(torchattacks.CW(model, c=1, kappa=0, steps=budget.search_steps, lr=budget.learning_rate)),
        "apgd_ce": _with_labels(apgd_ce),
        "apgd_dlr": _with_labels(torchattacks.APGD(model, **run, loss="dlr")),
        "apgd_t": _with_labels(apgd_t),
        "fab_t": _with_labels(fab_t),
        "square": _with_labels(torchattacks.Square(model, **ball, n_queries=budget.queries)),
        # Their AutoAttack class takes 10 steps where the paper takes 100, and cannot be told otherwise.
        "autoattack": _with_labels(torchattacks.MultiAttack([apgd_ce, apgd_t, fab_t, unscaled])),
    }
    if linf:
        found["fgsm"] = _with_labels(torchattacks.FGSM(model, eps=budget.epsilon))
        found["bim"] = _with_labels(torchattacks.BIM(model, **steps))
        found["mim"] = _with_labels(torchattacks.MIFGSM(model, **steps, decay=1.0))
    return found


def _with_labels(attack: Callable[[Tensor, Tensor], Tensor]) -> Attack:
    return lambda images, labels, _targets: attack(images, labels)


def _foolbox(model: nn.Module, budget: Budget) -> Attacks:
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    names = ("FastGradientAttack", "ProjectedGradientDescentAttack", "BasicIterativeAttack", "MomentumIterativeFastGradientMethod")
    prefix = {"linf": "Linf", "l2": "L2"}[budget.norm]
    fgsm, pgd, bim, mim = (getattr(foolbox.attacks, f"{prefix}{name}") for name in names)
    steps: Any = {"abs_stepsize": budget.step_size, "steps": budget.steps}
    deepfool: Any = {"steps": budget.deepfool_steps, "candidates": 10, "overshoot": budget.overshoot}
    search: Any = {"steps": budget.search_steps, "stepsize": budget.learning_rate}
    minimal = foolbox.attacks.L2CarliniWagnerAttack

    def found(attack: Attack) -> Attack:
        """Where it finds nothing it returns a black image; the input is what that means."""

        def attacked(images: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
            result = attack(images, labels, targets)
            return torch.where(result.flatten(1).any(1).view(-1, 1, 1, 1), result, images)

        return attacked

    def run(attack: Any, targeted: bool = False, **bound: float) -> Attack:
        def attacked(images: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
            wanted = foolbox.criteria.TargetedMisclassification(targets) if targeted else foolbox.criteria.Misclassification(labels)
            result: Tensor = attack.run(wrapped, images, wanted, **bound)
            return result

        return attacked

    return {
        "fgsm": run(fgsm(), epsilon=budget.epsilon),
        "pgd": run(pgd(**steps), epsilon=budget.epsilon),
        "pgd_targeted": run(pgd(**steps), targeted=True, epsilon=budget.epsilon),
        "bim": run(bim(**steps, random_start=False), epsilon=budget.epsilon),
        "mim": run(mim(**steps, momentum=1.0), epsilon=budget.epsilon),
        "deepfool_l2": run(foolbox.attacks.L2DeepFoolAttack(**deepfool)),
        "deepfool_linf": run(foolbox.attacks.LinfDeepFoolAttack(**deepfool)),
        "carlini_wagner": found(run(minimal(**search, binary_search_steps=budget.searches, initial_const=budget.constant))),
        FIXED_CONSTANT: found(run(minimal(**search, binary_search_steps=1, initial_const=1.0))),
    }


def _art(model: nn.Module, example: Tensor, classes: int, budget: Budget) -> Attacks:
    shape = tuple(example.shape[1:])
    wrapped = PyTorchClassifier(model, nn.CrossEntropyLoss(), shape, nb_classes=classes, clip_values=(0.0, 1.0), device_type="cpu")
    batch: Any = {"batch_size": len(example)}
    quiet: Any = {**batch, "verbose": False}
    ball: Any = {"norm": {"linf": np.inf, "l2": 2}[budget.norm], "eps": budget.epsilon}
    steps: Any = {**ball, "eps_step": budget.step_size, "max_iter": budget.steps, **quiet}
    run: Any = {**ball, "eps_step": 2 * budget.epsilon, "max_iter": budget.run_steps, "nb_random_init": 1, **quiet}
    search: Any = {"learning_rate": budget.learning_rate, "max_iter": budget.search_steps, **quiet}

    def by(attack: Any, targeted: bool = False) -> Attack:
        def attacked(images: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
            return torch.from_numpy(attack.generate(images.numpy(), y=(targets if targeted else labels).numpy()))

        return attacked

    return {
        "fgsm": by(evasion.FastGradientMethod(wrapped, **ball, **batch)),
        "pgd": by(evasion.ProjectedGradientDescent(wrapped, **steps, num_random_init=1)),
        "bim": by(evasion.ProjectedGradientDescent(wrapped, **steps, num_random_init=0)),
        "pgd_targeted": by(evasion.ProjectedGradientDescent(wrapped, **steps, num_random_init=1, targeted=True), targeted=True),
        "mim": by(evasion.MomentumIterativeMethod(wrapped, **steps, decay=1.0)),
        "deepfool_l2": by(evasion.DeepFool(wrapped, max_iter=budget.deepfool_steps, epsilon=budget.overshoot, nb_grads=10, **quiet)),
        "carlini_wagner": by(
            evasion.CarliniL2Method(wrapped, **search, binary_search_steps=budget.searches, initial_const=budget.constant)
        ),
        FIXED_CONSTANT: by(evasion.CarliniL2Method(wrapped, **search, binary_search_steps=1, initial_const=1.0)),
        "apgd_ce": by(evasion.AutoProjectedGradientDescent(wrapped, **run, loss_type="cross_entropy")),
        "apgd_dlr": by(evasion.AutoProjectedGradientDescent(wrapped, **run, loss_type="difference_logits_ratio")),
        "square": by(evasion.SquareAttack(wrapped, **ball, max_iter=budget.queries, p_init=0.8, **quiet)),
    }


def _pyautoattack(model: nn.Module, classes: int, budget: Budget) -> Attacks:
    ball: Any = {"norm": {"linf": "Linf", "l2": "L2"}[budget.norm], "eps": budget.epsilon, "seed": 0, "device": "cpu"}
    run: Any = {**ball, "n_iter": budget.run_steps}
    wrong = min(classes - 1, 9)

    def by(attack: Any) -> Attack:
        def attacked(images: Tensor, labels: Tensor, _targets: Tensor) -> Tensor:
            result: Tensor = attack.perturb(images, labels)
            return result

        return attacked

    def ensemble(images: Tensor, labels: Tensor, _targets: Tensor) -> Tensor:
        whole = AutoAttack(model, norm=ball["norm"], eps=budget.epsilon, seed=0, version="standard", device="cpu")
        whole.verbose = False
        whole.apgd.n_iter = whole.apgd_targeted.n_iter = whole.fab.n_iter = budget.run_steps
        whole.apgd_targeted.n_target_classes = whole.fab.n_target_classes = wrong
        whole.square.n_queries = budget.queries
        attacked: Tensor = whole.run_standard_evaluation(images, labels, batch_size=len(images))[0]
        return attacked

    return {
        "apgd_ce": by(APGDAttack(model, **run, loss="ce")),
        "apgd_dlr": by(APGDAttack(model, **run, loss="dlr")),
        "apgd_t": by(APGDAttack_targeted(model, **run, n_target_classes=wrong)),
        "fab_t": by(FABAttack_PT(model, **run, targeted=True, n_target_classes=wrong)),
        "square": by(SquareAttack(model, **ball, n_queries=budget.queries, p_init=0.8, resc_schedule=True)),
        "autoattack": ensemble,
    }
