"""The table of families: every row keeps every promise, on real images. Adding an attack adds a row."""

import math

import numpy as np
import pytest
import torch
from attacks_support import Case, check_guarantees, digits, linear, run

from pipeline.attacks.base import EPSILON
from pipeline.attacks.registry import families, family, family_names, parse_options
from pipeline.params.attacks import AttackSpec

PGD = {
    "family": "pgd",
    "norm": "linf",
    "epsilon": "16/255",
    "step_size": "4/255",
    "steps": 10,
    "random_start": True,
    "restarts": 1,
    "targeted": False,
    "stop_on_success": False,
}
SQUARE = {"family": "square", "norm": "linf", "epsilon": "32/255", "queries": 100, "p_init": 0.8, "schedule": 100, "targeted": False}
AUTO = {"family": "autoattack", "norm": "linf", "epsilon": "16/255", "steps": 5, "queries": 30, "target_classes": 2}
BIM = {"family": "bim", "norm": "linf", "epsilon": "16/255", "step_size": "4/255", "steps": 10, "targeted": False, "stop_on_success": False}
MIM = {**BIM, "family": "mim", "decay": 1.0}
APGD = {
    "family": "apgd",
    "norm": "linf",
    "epsilon": "16/255",
    "steps": 20,
    "restarts": 1,
    "loss": "ce",
    "target_classes": None,
    "rho": 0.75,
    "stop_on_success": False,
}
FAB = {
    "family": "fab",
    "norm": "linf",
    "epsilon": "16/255",
    "steps": 10,
    "restarts": 1,
    "target_classes": 3,
    "alpha_max": 0.1,
    "eta": 1.05,
    "beta": 0.9,
}
DEEPFOOL = {"family": "deepfool", "norm": "linf", "steps": 30, "candidates": 10, "overshoot": 0.02}
CW = {
    "family": "carlini_wagner",
    "confidence": 0.0,
    "learning_rate": 0.05,
    "steps": 50,
    "search_steps": 4,
    "initial_const": 0.1,
    "abort_early": True,
    "targeted": False,
}
APGD_TARGETED = {**APGD, "epsilon": "24/255", "steps": 10, "loss": "dlr_targeted", "target_classes": 3, "stop_on_success": True}

CASES = [
    Case("fgsm", {"family": "fgsm", "norm": "linf", "epsilon": "16/255", "targeted": False}, "linf", 16 / 255, 0.1),
    Case("fgsm_targeted", {"family": "fgsm", "norm": "linf", "epsilon": "32/255", "targeted": True}, "linf", 32 / 255, 0.25),
    Case("fgsm_l2", {"family": "fgsm", "norm": "l2", "epsilon": 0.7, "targeted": False}, "l2", 0.7, 0.5),
    Case("pgd", PGD, "linf", 16 / 255, 0.15),
    Case("pgd_odd_bound", {**PGD, "epsilon": 0.1}, "linf", 0.1, 0.4),
    Case("bim", BIM, "linf", 16 / 255, 0.15),
    Case("bim_l2", {**BIM, "norm": "l2", "epsilon": 0.7, "step_size": 0.2, "stop_on_success": True}, "l2", 0.7, 0.7),
    Case("mim", MIM, "linf", 16 / 255, 0.15),
    Case("mim_l2", {**MIM, "norm": "l2", "epsilon": 0.7, "step_size": 0.2}, "l2", 0.7, 0.7),
    Case("mim_targeted", {**MIM, "epsilon": "40/255", "targeted": True, "stop_on_success": True}, "linf", 40 / 255, 0.4),
    Case("pgd_targeted", {**PGD, "epsilon": "40/255", "targeted": True}, "linf", 40 / 255, 0.25),
    Case("pgd_l2", {**PGD, "norm": "l2", "epsilon": 0.7, "step_size": 0.2}, "l2", 0.7, 0.7),
    Case("apgd", APGD, "linf", 16 / 255, 0.19),
    Case("apgd_dlr_l2", {**APGD, "norm": "l2", "epsilon": 0.7, "loss": "dlr", "restarts": 2}, "l2", 0.7, 0.82),
    Case("apgd_targeted", APGD_TARGETED, "linf", 24 / 255, 0.42),
    Case("fab", FAB, "linf", 16 / 255, 0.17),
    Case("fab_l2", {**FAB, "norm": "l2", "epsilon": 0.7, "restarts": 2}, "l2", 0.7, 0.82),
    Case("deepfool", DEEPFOOL, None, math.inf, 1.0),
    Case("deepfool_l2", {**DEEPFOOL, "norm": "l2"}, None, math.inf, 1.0),
    Case("carlini_wagner", CW, None, math.inf, 0.98),
    Case("carlini_wagner_targeted", {**CW, "confidence": 0.5, "targeted": True}, None, math.inf, 0.85),
    Case(
        "confidence",
        {"family": "confidence_ifgsm", "epsilon": 0.2, "step_size": 0.01, "confidence": 0.7, "steps": 60},
        "linf",
        0.2,
        0.7,
    ),
    Case("square", SQUARE, "linf", 32 / 255, 0.45),
    Case("square_l2", {**SQUARE, "norm": "l2", "epsilon": 0.9}, "l2", 0.9, 0.6),
    Case("square_targeted", {**SQUARE, "epsilon": "64/255", "targeted": True}, "linf", 64 / 255, 0.75),
    Case("autoattack", AUTO, "linf", 16 / 255, 0.17),
    Case("autoattack_l2", {**AUTO, "norm": "l2", "epsilon": 0.7}, "l2", 0.7, 0.8),
]


@pytest.mark.parametrize("eight_bit", [True, False], ids=["bytes", "floats"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_family_keeps_every_promise(case: Case, eight_bit: bool) -> None:
    check_guarantees(case, eight_bit)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_image_s_result_hangs_on_nothing_but_seed_attack_and_id(case: Case) -> None:
    """In another order and in other batches it is the same, of a model in float64, whose logits hang on no batch either."""
    rng, images, ids = np.random.default_rng(0), digits().images[:7], digits().ids[:7]
    model = linear(rng.normal(size=(10, images[0].size)), np.zeros(10))
    labels = model(torch.from_numpy(images / 255)).argmax(1).numpy()
    whole, order = run(model, images, labels, case.options, name=case.name, ids=ids), rng.permutation(len(ids))
    other = run(model, images[order], labels[order], case.options, name=case.name, ids=[ids[row] for row in order], batch_size=3)
    for field in ("images", "predicted", "success", "target", "steps"):
        np.testing.assert_array_equal(getattr(other, field), getattr(whole, field)[order], err_msg=field)


def test_every_family_has_a_row() -> None:
    assert {case.options["family"] for case in CASES} == set(family_names())


@pytest.mark.parametrize("name", family_names())
def test_a_family_is_named_as_its_file_and_says_where_it_comes_from(name: str) -> None:
    module = families()[name]
    assert module.Options.model_fields["family"].annotation.__args__ == (name,)  # type: ignore[union-attr]
    assert all(field.is_required() for field in module.Options.model_fields.values())
    assert module.__doc__ is not None and "Guarantees:" in module.__doc__


def test_the_radius_of_a_ball_is_called_epsilon() -> None:
    """``generate`` cuts it to whole grey levels by that name; another one would have storing undo successes."""
    for case in CASES:
        options = parse_options(case.name, AttackSpec(**case.options))
        bound = family(options.family).bound(options)
        assert bound is None or bound.epsilon == options.model_dump()[EPSILON], case.name


def test_an_attack_is_stronger_with_more_steps_or_a_larger_bound() -> None:
    by_name = {case.name: check_guarantees(case, True).success.sum() for case in CASES if case.name in ("fgsm", "bim", "pgd_odd_bound")}
    assert by_name["fgsm"] < by_name["bim"] < by_name["pgd_odd_bound"]


@pytest.mark.parametrize("family", ["fgsm", "pgd"])
@pytest.mark.parametrize("levels", [3, 20])
def test_linf_is_exact_on_a_linear_model_of_two_classes(family: str, levels: int) -> None:
    """The best point of cube and box is known: every pixel goes to the end of its interval that the weights ask for."""
    rng = np.random.default_rng(levels)
    weight, bias = rng.normal(size=(2, 12)), np.zeros(2)
    images = rng.integers(0, 256, (200, 3, 2, 2), dtype=np.uint8)
    flat = images.reshape(200, 12).astype(np.int64)
    labels = (flat / 255 @ weight.T).argmax(1)
    towards_other = np.where(labels == 0, 1, -1)[:, None] * np.sign(weight[1] - weight[0])
    best = np.clip(flat + levels * towards_other.astype(np.int64), 0, 255)
    options = {"family": family, "norm": "linf", "epsilon": f"{levels}/255", "targeted": False}
    if family == "pgd":
        options |= {"step_size": "4/255", "steps": 12, "random_start": True, "restarts": 1, "stop_on_success": False}
    result = run(linear(weight, bias), images, labels, options)
    expected = (best / 255 @ weight.T).argmax(1) != labels
    assert 0 < expected.sum() < 200
    np.testing.assert_array_equal(result.success, expected)
    np.testing.assert_array_equal(result.images.reshape(200, 12), np.where(expected[:, None], best, flat))


@pytest.mark.parametrize("family", ["fgsm", "pgd"])
def test_l2_is_exact_on_a_linear_model_of_two_classes(family: str) -> None:
    """Far from 0 and 1 an L2 attack of size epsilon succeeds where the image is nearer than that to the boundary."""
    rng = np.random.default_rng(5)
    weight, bias, epsilon = rng.normal(size=(2, 12)), np.zeros(2), 0.33
    images = rng.integers(100, 156, (300, 3, 2, 2), dtype=np.uint8)
    logits = images.reshape(300, 12) / 255 @ weight.T
    labels = logits.argmax(1)
    distance = np.abs(logits[:, 1] - logits[:, 0]) / np.linalg.norm(weight[1] - weight[0])
    options = {"family": family, "norm": "l2", "epsilon": epsilon, "targeted": False}
    if family == "pgd":
        options |= {"step_size": 0.1, "steps": 40, "random_start": True, "restarts": 1, "stop_on_success": False}
    result = run(linear(weight, bias), images, labels, options, eight_bit=False)
    clear = np.abs(distance - epsilon) > 1e-4
    assert 50 < (distance < epsilon).sum() < 250 and clear.sum() > 290
    np.testing.assert_array_equal(result.success[clear], (distance < epsilon)[clear])
