"""The adversarial data set: what is stored, what is flagged, what is drawn, and what is refused."""

import copy
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from attacks_support import as_pixels, check_flags, check_stored, classify, digits, flat_model, linear, run
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from pipeline.attacks.generate import AttackedImages, draw_targets
from pipeline.attacks.geometry import as_floats
from pipeline.classifiers.folding import fold
from pipeline.classifiers.model import Classifier, freeze
from pipeline.random import ImageRandom

CONFIDENCE = {"family": "confidence_ifgsm", "epsilon": 0.2, "step_size": 0.01, "confidence": 0.7, "steps": 60}
FGSM = {"family": "fgsm", "norm": "linf", "epsilon": "1/255", "targeted": False}
PGD = {
    "family": "pgd",
    "norm": "linf",
    "epsilon": 0.2,
    "step_size": 0.05,
    "steps": 3,
    "random_start": True,
    "restarts": 1,
    "targeted": True,
    "stop_on_success": False,
}


def same(a: AttackedImages, b: AttackedImages) -> None:
    for field in fields(AttackedImages):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


@st.composite
def attacks(draw: st.DrawFn) -> dict[str, Any]:
    norm = draw(st.sampled_from(["linf", "l2"]))
    epsilon = draw(st.one_of(st.integers(0, 60).map(lambda level: f"{level}/255"), st.floats(0, 1 if norm == "linf" else 1.5)))
    sizes = {"epsilon": epsilon, "step_size": draw(st.floats(0, 0.5)), "steps": draw(st.integers(1, 4))}
    if norm == "linf" and draw(st.booleans()):
        return {"family": "confidence_ifgsm", **sizes, "confidence": draw(st.floats(0.1, 0.9))}
    start = draw(st.booleans())
    flags = {"random_start": start, "targeted": draw(st.booleans()), "stop_on_success": draw(st.booleans())}
    return {
        "family": "pgd",
        "norm": norm,
        **sizes,
        **flags,
        "restarts": draw(st.integers(1, 3)) if start else 1,
    }


@settings(max_examples=120)
@given(
    options=attacks(),
    seed=st.integers(0, 2**32),
    count=st.integers(0, 7),
    classes=st.integers(2, 4),
    batch_size=st.integers(1, 8),
    eight_bit=st.booleans(),
)
def test_whatever_the_attack_bounds_and_flags_are_true(
    options: dict[str, Any], seed: int, count: int, classes: int, batch_size: int, eight_bit: bool
) -> None:
    rng = np.random.default_rng(seed)
    model = linear(rng.normal(size=(classes, 8)), rng.normal(size=classes))
    images = rng.choice(np.array([0, 1, 60, 128, 254, 255], np.uint8), (count, 2, 2, 2))
    labels = rng.integers(0, classes, count)
    if count:
        labels[::2] = classify(model, images)[::2]
    done: list[int] = []
    result = run(model, images, labels, options, seed=seed, batch_size=batch_size, eight_bit=eight_bit, advance=done.append)
    epsilon = float(options["epsilon"].split("/")[0]) / 255 if isinstance(options["epsilon"], str) else options["epsilon"]
    check_stored(result, images, options.get("norm", "linf"), epsilon)
    check_flags(result, model, images, labels)
    assert sum(done) == count
    targeted = options.get("targeted", True)
    assert np.all((result.target >= 0) == (~result.skipped & targeted)) and np.all(result.target != labels)


# What the authors' package gets wrong, and a test that it would fail for each.


@pytest.mark.parametrize("eight_bit", [True, False], ids=["bytes", "floats"])
def test_a_failed_attack_returns_the_input_and_is_never_a_success(eight_bit: bool) -> None:
    data = digits()
    result = run(data.model, data.images, data.labels, FGSM, eight_bit=eight_bit)
    failed = ~result.skipped & ~result.success
    assert failed.sum() > 100, "a step of one grey level should fail on most digits"
    np.testing.assert_array_equal(result.predicted[failed], data.labels[failed])
    clean = data.images if eight_bit else data.images.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(result.images[failed], clean[failed])
    assert not result.linf[failed].any() and not result.l2[failed].any() and np.all(result.steps[failed] == 1)
    wrong_all_along = classify(data.model, data.images) != data.labels
    assert wrong_all_along.any() and not result.success[wrong_all_along].any()


def test_perturbations_are_projected_and_clipped() -> None:
    """The authors' loop, re-stated, leaves both the ball and [0, 1] on these images; ours leaves neither."""
    weight = np.array([[-1.0, 1.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    images = np.array([[250, 3, 200, 100]], np.uint8).reshape(1, 1, 2, 2)
    theirs, ours_bound = images.ravel() / 255, 0.2
    for _ in range(60):
        theirs = theirs - 0.01 * np.sign(weight[0] - weight[1])
    assert np.abs(theirs - images.ravel() / 255).max() > ours_bound and theirs.min() < 0 and theirs.max() > 1
    labels = np.zeros(1, np.int64)
    # The best point of ball and box just crosses; on the way there the target is never more than half as likely as not.
    crossing = np.array([0.9, 0.0])
    for eight_bit in (True, False):
        result = run(linear(weight, crossing), images, labels, CONFIDENCE, eight_bit=eight_bit)
        assert result.steps.item() == 60 and result.success.all()
        check_stored(result, images, "linf", ours_bound)
        np.testing.assert_allclose(as_pixels(result.images).ravel(), np.array([255, 0, 149, 151]) / 255, atol=1e-6)


def test_what_is_stored_as_attacked_is_the_attacked_image() -> None:
    data = digits()
    result = run(data.model, data.images, data.labels, CONFIDENCE)
    assert result.success.sum() > 100
    changed = (result.images != data.images).reshape(len(data.images), -1).any(1)
    np.testing.assert_array_equal(changed, result.success)
    assert np.all(classify(data.model, result.images)[result.success] != data.labels[result.success])


def test_an_attack_that_rounding_undoes_is_a_failure() -> None:
    """The float image crosses the boundary 0.3 grey levels away; no 8-bit image within 0.6 levels does."""
    model = linear(np.array([[1.0], [0.0]]), np.array([-99.7 / 255, 0.0]))
    images, labels = np.full((1, 1, 1, 1), 100, np.uint8), np.zeros(1, np.int64)
    options = {**FGSM, "epsilon": 0.6 / 255}
    stored = run(model, images, labels, options)
    assert not stored.success.any() and stored.images.item() == 100 and stored.predicted.item() == 0
    assert run(model, images, labels, options, eight_bit=False).success.all()


def test_floats_are_attacked_as_the_bytes_that_they_stand_for() -> None:
    data = digits()
    floats = data.images.astype(np.float32) / np.float32(255)
    for eight_bit in (True, False):
        wanted = run(data.model, data.images, data.labels, PGD, eight_bit=eight_bit)
        same(run(data.model, floats, data.labels, PGD, eight_bit=eight_bit), wanted)


def test_floats_between_grey_levels_keep_the_bound_exactly() -> None:
    data = digits()
    floats = (data.images.astype(np.float32) / 255 * 0.9 + 0.0371).astype(np.float32)
    options = {**PGD, "epsilon": 0.1, "steps": 10, "targeted": False}
    result = run(data.model, floats, data.labels, options, eight_bit=False)
    assert result.success.sum() > 50
    moved = result.images.astype(np.float64) - floats
    assert np.abs(moved).max() <= 0.1 and result.images.min() >= 0 and result.images.max() <= 1
    np.testing.assert_allclose(result.linf, np.abs(moved).reshape(len(moved), -1).max(1), atol=1e-12)


def test_an_attack_sees_the_bytes_that_will_be_stored() -> None:
    """Every image that the model is asked about is on the 8-bit grid; asked for floats, it is not rounded."""
    data = digits()
    seen: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        seen.append(images.detach().clone())
        logits: Tensor = data.model(images)
        return logits

    for eight_bit in (True, False):
        seen.clear()
        run(watched, data.images, data.labels, {**PGD, "step_size": 0.0333}, eight_bit=eight_bit)
        levels = torch.cat(seen) * 255
        assert ((levels - levels.round()).abs() < 1e-4).all() == eight_bit


@pytest.mark.parametrize("epsilon", ["40/255", 0.1])
def test_with_success_stopping_nothing_is_lost_to_rounding(epsilon: str | float) -> None:
    """An image that left the batch as fooled is fooled as stored, also where the bound is half a grey level (25.5)."""
    data = digits()
    options = {**PGD, "epsilon": epsilon, "step_size": 0.0333, "steps": 30, "targeted": False, "stop_on_success": True}
    result = run(data.model, data.images, data.labels, options)
    left_early = (result.steps < 30) & ~result.skipped
    assert left_early.sum() > 50 and result.success[left_early].all()


@pytest.mark.parametrize("epsilon", [0.1, 0.3, 0.7])
def test_stopping_at_success_costs_no_success_under_l2(epsilon: float) -> None:
    data = digits()
    options = {**PGD, "norm": "l2", "epsilon": epsilon, "step_size": epsilon / 4, "steps": 20, "targeted": False}
    stopping, climbing = (run(data.model, data.images, data.labels, options | {"stop_on_success": stop}) for stop in (True, False))
    assert climbing.success.any() and stopping.success[climbing.success].all()
    assert stopping.steps.sum() < climbing.steps.sum() or epsilon == 0.1


@pytest.mark.parametrize(
    ("options", "epsilon"),
    [
        ({"family": "autoattack", "steps": 20, "queries": 100, "target_classes": 3}, 0.12),
        ({"family": "square", "queries": 300, "p_init": 0.8, "schedule": 600, "targeted": False}, 0.6),
    ],
    ids=["autoattack", "square"],
)
def test_storing_bytes_costs_little_under_l2(options: dict[str, Any], epsilon: float) -> None:
    """3,072 pixels rounded fill a good part of these balls; without room left for it, storing undoes a third of the successes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
    images = np.random.default_rng(0).integers(0, 256, (120, 3, 32, 32), dtype=np.uint8)
    with torch.no_grad():
        labels = model(as_floats(torch.from_numpy(images))).argmax(1).numpy()
    entry = {**options, "norm": "l2", "epsilon": epsilon}
    stored, kept = (run(model, images, labels, entry, eight_bit=eight_bit).success.sum() for eight_bit in (True, False))
    assert kept > 30 and stored >= 0.9 * kept


def test_a_bound_below_a_grey_level_is_said() -> None:
    data = digits()
    result = run(data.model, data.images, data.labels, FGSM | {"epsilon": 0.5 / 255})
    assert not result.success.any() and any("less than a grey level" in warning for warning in result.warnings)
    for options, eight_bit in ((FGSM, True), (FGSM | {"epsilon": 0.5 / 255}, False), (FGSM | {"epsilon": 0.0}, True)):
        assert not run(data.model, data.images, data.labels, options, eight_bit=eight_bit).warnings
    ball = {**PGD, "norm": "l2", "step_size": 0.001, "steps": 2}
    for epsilon, blind in ((0.0039, True), (0.004, False)):
        said = run(data.model, data.images, data.labels, ball | {"epsilon": epsilon}).warnings
        assert any("less than a grey level" in warning for warning in said) == blind


def test_a_target_that_a_less_exact_model_missed_is_aimed_at_again() -> None:
    data = digits()
    options = {**PGD, "epsilon": 0.5, "steps": 20}

    def permuted(images: Tensor) -> Tensor:
        logits: Tensor = data.model(images)
        return logits.roll(1, 1)

    alone = run(data.model, data.images, data.labels, options)
    both = run(data.model, data.images, data.labels, options, steps_fns=[permuted, data.model])
    check_flags(both, data.model, data.images, data.labels)
    assert alone.target_reached.sum() > 50 and both.target_reached[alone.target_reached].all() and both.success[alone.success].all()


def test_verdicts_are_the_models_own_whatever_the_steps_are_taken_on() -> None:
    data = digits()
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    options = FGSM | {"epsilon": 0.3}
    misled = run(data.model, data.images, data.labels, options, steps_fns=[other])
    check_flags(misled, data.model, data.images, data.labels)
    own = run(data.model, data.images, data.labels, options)
    assert not np.array_equal(misled.images, own.images) and own.success.sum() > misled.success.sum() > 10


def test_what_a_less_exact_model_leaves_is_attacked_on_the_next() -> None:
    data = digits()
    options = FGSM | {"epsilon": 0.3}
    other, seen = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), list[int]()

    def counted(images: Tensor) -> Tensor:
        seen.append(len(images))
        logits: Tensor = data.model(images)
        return logits

    first = run(data.model, data.images, data.labels, options, steps_fns=[other])
    second = run(data.model, data.images, data.labels, options)
    both = run(data.model, data.images, data.labels, options, steps_fns=[other, counted])
    check_flags(both, data.model, data.images, data.labels)
    np.testing.assert_array_equal(both.success, first.success | second.success)
    np.testing.assert_array_equal(both.images, np.where(first.success[:, None, None, None], first.images, second.images))
    np.testing.assert_array_equal(both.steps, first.steps + np.where(first.success, 0, second.steps))
    assert sum(seen) == (~first.skipped & ~first.success).sum()


# Draws.


@pytest.mark.parametrize("name", ["linf", "l2"])
def test_draws_depend_on_seed_attack_and_id_alone(name: str) -> None:
    images, labels = np.full((9, 3, 2, 2), 128, np.uint8), np.zeros(9, np.int64)
    options = {**PGD, "norm": name}
    ids = [f"{row:032x}" for row in range(9)]
    whole = run(flat_model(5), images, labels, options, ids=ids)
    assert len({row.tobytes() for row in whole.images}) == 9 and len(set(whole.target)) > 1
    for batch_size in (1, 2, 4, 9, 100):
        same(run(flat_model(5), images, labels, options, ids=ids, batch_size=batch_size), whole)
    some = [7, 2, 5]
    part = run(flat_model(5), images[some], labels[some], options, ids=[ids[row] for row in some], batch_size=2)
    np.testing.assert_array_equal(part.images, whole.images[some])
    np.testing.assert_array_equal(part.target, whole.target[some])
    for other in ({"seed": 1}, {"name": "other"}, {"ids": [f"{row:032x}" for row in range(20, 29)]}):
        changed = run(flat_model(5), images, labels, options, **{"ids": ids, **other})  # type: ignore[arg-type]
        assert not (changed.images == whole.images).reshape(9, -1).all(1).any()


def test_skipped_neighbours_change_no_draw() -> None:
    images, ids = np.full((6, 3, 2, 2), 128, np.uint8), [f"{row:032x}" for row in range(6)]
    whole = run(flat_model(5), images, np.zeros(6, np.int64), PGD, ids=ids, batch_size=2)
    labels = np.array([0, 1, 0, 0, 2, 0])
    mixed = run(flat_model(5), images, labels, PGD, ids=ids, batch_size=2)
    np.testing.assert_array_equal(mixed.skipped, labels != 0)
    np.testing.assert_array_equal(mixed.images[labels == 0], whole.images[labels == 0])
    np.testing.assert_array_equal(mixed.target, np.where(labels == 0, whole.target, -1))


def test_targets_are_uniform_among_the_other_classes() -> None:
    labels = np.repeat(np.arange(4), 1000)
    targets = draw_targets(ImageRandom(0, "attack/x", [str(row) for row in range(4000)]), labels, 4)
    counts = np.zeros((4, 4), int)
    np.add.at(counts, (labels, targets), 1)
    assert np.all(np.diag(counts) == 0)
    assert stats.chisquare(counts[~np.eye(4, dtype=bool)]).pvalue > 1e-3
    assert draw_targets(ImageRandom(0, "attack/x", ["a", "b"]), np.array([0, 1]), 2).tolist() == [1, 0]


# Circumstances.


def test_ambient_modes_and_read_only_arrays_change_nothing() -> None:
    data = digits()
    plain = run(data.model, data.images, data.labels, PGD)
    frozen = data.images.copy()
    frozen.flags.writeable = False
    with torch.inference_mode():
        same(run(data.model, frozen, data.labels, PGD), plain)
    with torch.no_grad():
        same(run(data.model, frozen, data.labels, PGD), plain)
    np.testing.assert_array_equal(frozen, data.images)


def test_no_images_and_none_to_attack() -> None:
    calls: list[int] = []
    none = run(flat_model(3), np.empty((0, 3, 2, 2), np.uint8), np.empty(0, np.int64), PGD, advance=calls.append)
    assert none.images.shape == (0, 3, 2, 2) and sum(calls) == 0
    images = np.full((2, 3, 2, 2), 128, np.uint8)
    wrong = run(flat_model(3), images, np.array([1, 2]), PGD, advance=calls.append)
    assert wrong.skipped.all() and sum(calls) == 2
    np.testing.assert_array_equal(wrong.images, images)


@pytest.mark.parametrize("eight_bit", [True, False], ids=["bytes", "floats"])
def test_folding_changes_no_verdict(eight_bit: bool) -> None:
    """On handwritten digits: the folded model's classes of clean and of attacked images are the model's own."""
    data = digits()
    model = freeze(Classifier(copy.deepcopy(data.model), (0.0,), (1.0,), (8, 8)))
    folded = fold(model, 1)
    options = {"family": "pgd", "norm": "linf", "epsilon": "16/255", "step_size": "4/255", "steps": 10, "random_start": True}
    options |= {"restarts": 1, "targeted": False, "stop_on_success": False}
    result = run(model, data.images, data.labels, options, name="pgd", ids=data.ids, eight_bit=eight_bit)
    assert sum(isinstance(part, nn.BatchNorm2d) for part in folded.modules()) == 0 and 0.1 < result.success.mean() < 0.99
    np.testing.assert_array_equal(classify(folded, data.images), result.clean_predicted)
    np.testing.assert_array_equal(classify(folded, result.images), result.predicted)
