"""APGD against NumPy: the losses, the schedule and algorithm 1, re-derived by hand for a quadratic model, image by image."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from attacks_support import linear, run
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.attacks.families import apgd
from pipeline.attacks.margins import dlr, dlr_targeted, lead, strongest_wrong
from pipeline.attacks.registry import parse_options
from pipeline.errors import ClassifierError, ParamsError
from pipeline.params.attacks import AttackSpec
from pipeline.random import ImageRandom, generator

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
SHAPE, SIZE, CLASSES = (2, 2, 3), 12, 5
OPTIONS: dict[str, Any] = {
    "family": "apgd",
    "norm": "linf",
    "epsilon": 0.1,
    "steps": 36,
    "restarts": 1,
    "loss": "ce",
    "target_classes": None,
    "rho": 0.75,
    "stop_on_success": False,
}


@dataclass(frozen=True)
class Quadratic:
    """z_k(x) = w_k x + x Q_k x / 2 + b_k with diagonal Q_k: curved, its gradient known by hand."""

    w: Floats
    q: Floats
    b: Floats

    def logits(self, x: Floats) -> Floats:
        return np.asarray(self.w @ x + self.q @ (x * x) / 2 + self.b)

    def jacobian(self, x: Floats) -> Floats:
        return self.w + self.q * x

    def __call__(self, images: Tensor) -> Tensor:
        # Row by row, so that no logit hangs on the size of its batch.
        x = images.flatten(1)[:, None]
        w, q, b = (torch.from_numpy(value).to(x) for value in (self.w, self.q, self.b))
        return (x * (w + q * x / 2)).sum(2) + b


def quadratic(classes: int = CLASSES) -> Quadratic:
    rng = np.random.default_rng(3)
    return Quadratic(rng.normal(size=(classes, SIZE)), 6 * rng.normal(size=(classes, SIZE)), rng.normal(size=classes))


def images_and_labels(count: int = 16) -> tuple[Floats, Ints]:
    """Images that touch 0 and 1 too, with the classes that the model predicts."""
    images = np.clip(np.random.default_rng(1).uniform(-0.3, 1.3, (count, SIZE)), 0, 1)
    return images, np.array([quadratic().logits(image).argmax() for image in images])


def attack(
    model: Callable[[Tensor], Tensor], images: Floats, labels: Ints, ids: list[str] | None = None, **changes: Any
) -> tuple[Floats, Ints]:
    """The family's own attack, in float64: images and steps."""
    typed = parse_options("x", AttackSpec(**{**OPTIONS, **changes}))
    draws = ImageRandom(7, "attack/x", ids or [str(row) for row in range(len(images))])
    outcome = apgd.attack(model, torch.from_numpy(images).view(-1, *SHAPE), torch.from_numpy(labels), None, typed, draws)  # type: ignore[arg-type]
    return outcome.images.flatten(1).numpy(), outcome.steps.numpy()


def project(name: str, x: Floats, centre: Floats, epsilon: float) -> Floats:
    moved = x - centre
    if name == "linf":
        moved = np.clip(moved, -epsilon, epsilon)
    elif np.linalg.norm(moved) > epsilon:
        moved = moved * epsilon / np.linalg.norm(moved)
    return np.clip(centre + moved, 0, 1)


def random_start(name: str, centre: Floats, epsilon: float, key: str, place: str) -> Floats:
    """The start, drawn again from the documented streams."""
    if name == "linf":
        drawn = generator(7, "attack/x", place, key).random(SHAPE, dtype=np.float32).ravel().astype(np.float64)
        return project(name, centre + (2 * drawn - 1) * epsilon, centre, epsilon)
    drawn = generator(7, "attack/x", f"{place}/direction", key).standard_normal(SHAPE, dtype=np.float32).ravel().astype(np.float64)
    radius = float(generator(7, "attack/x", f"{place}/radius", key).random((), dtype=np.float32)) ** (1 / SIZE)
    return project(name, centre + epsilon * radius * drawn / np.linalg.norm(drawn), centre, epsilon)


def loss_by_hand(loss: str, z: Floats, label: int, target: int) -> tuple[float, Floats]:
    """The loss and its derivative by the logits, by the quotient rule."""
    if loss == "ce":
        softmax = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        return -float(np.log(softmax[label])), softmax - np.eye(len(z))[label]
    order, unit = np.argsort(-z), np.eye(len(z))
    if loss == "dlr":
        other = next(k for k in order if k != label)
        above, below = unit[other] - unit[label], unit[order[0]] - unit[order[2]]
    else:
        above, below = unit[target] - unit[label], unit[order[0]] - (unit[order[2]] + unit[order[3]]) / 2
    top, bottom = above @ z, below @ z
    # Where the true class has sunk to the denominator's, DLR is 1 all around: its slope is 0, and is to come out as exactly 0.
    return float(top / bottom), np.asarray(above / bottom - below * (top / bottom) / bottom)


def schedule(steps: int) -> list[int]:
    """The checkpoints from the recursion of the paper, in fractions."""
    p = [Fraction(0), Fraction(22, 100)]
    while p[-1] <= 1:
        p.append(p[-1] + max(p[-1] - p[-2] - Fraction(3, 100), Fraction(6, 100)))
    return sorted({ceil(share * steps) for share in p if ceil(share * steps) <= steps})


@dataclass(frozen=True)
class Told:
    """What algorithm 1 met.

    Attributes:
        met: every point.
        wrong: the numbers of the misclassified ones.
        best: the one of the highest loss.
        reasons: why step sizes were halved.
        tied: whether two points were equally good up to rounding, so that another order of sums may decide otherwise.
    """

    met: list[Floats]
    wrong: list[int]
    best: Floats
    reasons: set[str]
    tied: bool


def by_hand(centre: Floats, x0: Floats, label: int, target: int, name: str, loss: str, rho: float, epsilon: float, steps: int) -> Told:
    """Algorithm 1 on one image, with its whole history kept."""
    model = quadratic()

    def f(x: Floats) -> float:
        return loss_by_hand(loss, model.logits(x), label, target)[0]

    def direction(x: Floats) -> Floats:
        slope = loss_by_hand(loss, model.logits(x), label, target)[1] @ model.jacobian(x)
        return np.sign(slope) if name == "linf" or not slope.any() else slope / np.linalg.norm(slope)

    marks, met = schedule(steps), [x0]
    reasons, tied = set[str](), False
    x, values, rose, sizes, best = [x0], [f(x0)], [False], {0: 2 * epsilon}, {0: f(x0)}
    size, x_best, f_best = 2 * epsilon, x0, f(x0)
    for k in range(1, steps + 1):
        z = project(name, x[-1] + size * direction(x[-1]), centre, epsilon)
        mixed = z if k == 1 else project(name, x[-1] + 0.75 * (z - x[-1]) + 0.25 * (x[-1] - x[-2]), centre, epsilon)
        met.append(mixed)
        tied |= any(abs(f(mixed) - f(point)) < 1e-13 and not np.array_equal(mixed, point) for point in (x[-1], x_best))
        rose.append(f(mixed) > values[-1])
        x, values = [x[-1], mixed], [*values, f(mixed)]
        if values[-1] > f_best:
            x_best, f_best = mixed, values[-1]
        if k in marks:
            before = marks[marks.index(k) - 1]
            few = sum(rose[before + 1 : k + 1]) < Fraction(rho) * (k - before)
            stuck = sizes[before] == size and best[before] == f_best
            sizes[k], best[k] = size, f_best
            if few or stuck:
                reasons |= {name for name, holds in (("few", few), ("stuck", stuck)) if holds}
                size, x[-1], values[-1] = size / 2, x_best, f_best
    wrong = [k for k, point in enumerate(met) if model.logits(point).argmax() != label]
    return Told(met, wrong, x_best, reasons, tied)


@pytest.mark.parametrize("rho", [0.75, 0.0], ids=["both conditions", "the second alone"])
@pytest.mark.parametrize("loss", ["ce", "dlr", "dlr_targeted"])
@pytest.mark.parametrize(("name", "epsilon"), [("linf", 0.08), ("l2", 0.25)])
def test_algorithm_1_by_hand(name: str, epsilon: float, loss: str, rho: float) -> None:
    images, labels = images_and_labels()
    ranked = np.array([np.argsort(-quadratic().logits(image)) for image in images])
    changes = {"norm": name, "epsilon": epsilon, "loss": loss, "rho": rho, "target_classes": 1 if loss == "dlr_targeted" else None}
    climbed, steps = attack(quadratic(), images, labels, **changes)
    stopped, fewer = attack(quadratic(), images, labels, **changes, stop_on_success=True)
    reasons, first_wrong, ties = set[str](), np.full(len(images), 36), 0
    for row, image in enumerate(images):
        start = random_start(name, image, epsilon, str(row), "start/0/0")
        told = by_hand(image, start, labels[row], ranked[row, 1], name, loss, rho, epsilon, 36)
        reasons |= told.reasons
        ties += told.tied
        if told.tied:
            first_wrong[row] = fewer[row]
        elif told.wrong:
            first_wrong[row] = told.wrong[0]
            np.testing.assert_allclose(climbed[row], told.met[told.wrong[-1]], atol=1e-9)
            np.testing.assert_allclose(stopped[row], told.met[told.wrong[0]], atol=1e-9)
        else:
            np.testing.assert_allclose(climbed[row], told.best, atol=1e-9)
            np.testing.assert_allclose(stopped[row], told.best, atol=1e-9)
    assert np.all(steps == 36)
    np.testing.assert_array_equal(fewer, first_wrong)
    assert ties <= 5
    assert ("few" if rho else "stuck") in reasons
    assert 3 <= (first_wrong < 36).sum() <= len(images) - 3


def test_the_schedule() -> None:
    assert apgd.checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    for steps in range(1, 400):
        assert apgd.checkpoints(steps) == schedule(steps)


logits = st.lists(st.integers(-40, 40).map(lambda value: value / 4), min_size=4, max_size=7, unique=True)


@settings(max_examples=100)
@given(z=logits, place=st.integers(0, 6), other=st.integers(1, 6), shift=st.integers(-9, 9), power=st.integers(-20, 20))
def test_dlr_is_its_formula_and_ignores_shift_and_scale(z: list[float], place: int, other: int, shift: int, power: int) -> None:
    """Powers of two, small whole shifts and quarters make float32 exact, so invariance holds to the last bit or nearly."""
    label = place % len(z)
    target = (label + 1 + other % (len(z) - 1)) % len(z)
    row, labels, targets = torch.arange(1), torch.tensor([label]), torch.tensor([target])
    for name, objective in (("dlr", dlr(labels)), ("dlr_targeted", dlr_targeted(labels, targets))):
        leaf = torch.tensor([z], requires_grad=True)
        value = objective(torch.empty(1), leaf, row)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
        expected, derivative = loss_by_hand(name, np.array(z), label, target)
        assert value.item() == pytest.approx(expected, rel=1e-6, abs=1e-7)
        np.testing.assert_allclose(slope[0].numpy(), derivative, rtol=1e-4, atol=1e-6)
        assert (value.item() > 0) == (z[label] < (max(z) if name == "dlr" else z[target]))
        elsewhere = objective(torch.empty(1), (torch.tensor([z]) + shift) * 2.0**power, row)
        assert elsewhere.item() == value.item()
    assert lead(labels, targets)(torch.empty(1), torch.tensor([z]), row).item() == z[target] - z[label]


def test_equal_logits_give_finite_losses_and_half_precision_is_widened() -> None:
    rows, labels, targets = torch.arange(1), torch.tensor([0]), torch.tensor([1])
    for objective in (dlr(labels), dlr_targeted(labels, targets)):
        leaf = torch.ones(1, 6, requires_grad=True)
        value = objective(torch.empty(1), leaf, rows)
        assert value.item() == 0 and torch.autograd.grad(value.sum(), leaf)[0].isfinite().all()
        half = objective(torch.empty(1), torch.tensor([[9.0, 8.5, 3, 2.25, 1]], dtype=torch.float16), rows)
        assert half.dtype == torch.float32 and half.item() == objective(torch.empty(1), torch.tensor([[9.0, 8.5, 3, 2.25, 1]]), rows).item()


def test_the_strongest_wrong_classes() -> None:
    z = torch.tensor([[0.0, 5, 3, 4], [9, 1, 2, 3]])
    assert strongest_wrong(z, torch.tensor([1, 3]), 2).tolist() == [[3, 2], [0, 2]]
    assert strongest_wrong(z, torch.tensor([1, 3]), 9).tolist() == [[3, 2, 0], [0, 2, 1]]


class Watched:
    """A model that notes every batch: the images, and whether a gradient was wanted."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        self.model, self.seen = model, list[tuple[Floats, bool]]()

    def __call__(self, images: Tensor) -> Tensor:
        self.seen.append((images.detach().flatten(1).numpy().copy(), images.requires_grad))
        return self.model(images)


@pytest.mark.parametrize("stop", [False, True], ids=["to the end", "stop on success"])
def test_calls_of_the_model_and_restarts_for_survivors_alone(stop: bool) -> None:
    images, labels = images_and_labels()
    model = Watched(quadratic())
    _, steps = attack(model, images, labels, epsilon=0.07, steps=8, restarts=2, stop_on_success=stop)
    _, first = attack(quadratic(), images, labels, epsilon=0.07, steps=8, restarts=1, stop_on_success=True)
    fooled = np.array([by_hand_fooled(image, label, key, 8) for key, (image, label) in enumerate(zip(images, labels, strict=True))])
    left = ~fooled
    assert 3 <= left.sum() <= 13
    run_one = [int((first >= step).sum()) if stop else 16 for step in range(1, 9)]
    sizes, gradients = [len(seen) for seen, _ in model.seen], [wanted for _, wanted in model.seen]
    # The start, eight points, a look at what the run ended with; then the same for those who are left.
    assert sizes[:10] == [16, *run_one, 16] and sizes[10] == left.sum() and len(sizes) == 19
    assert gradients == [*[True] * 8, False, False, *[True] * 8, False]
    if not stop:
        assert sizes[10:] == [left.sum()] * 9
        np.testing.assert_array_equal(steps, np.where(left, 16, 8))
    # The second run starts from points of its own.
    again = [random_start("linf", images[row], 0.07, str(row), "start/0/1") for row in np.flatnonzero(left)]
    np.testing.assert_allclose(model.seen[10][0], again, atol=1e-12)


def by_hand_fooled(image: Floats, label: int, key: int, steps: int) -> bool:
    start = random_start("linf", image, 0.07, str(key), "start/0/0")
    return bool(by_hand(image, start, label, 0, "linf", "ce", 0.75, 0.07, steps).wrong)


def test_targeted_dlr_takes_the_strongest_wrong_classes_in_turn() -> None:
    """Where no class can be reached (a tiny ball) every class costs a run, and each run climbs towards its own."""
    images, labels = images_and_labels(6)
    model = Watched(quadratic())
    changes = {"epsilon": 1e-4, "loss": "dlr_targeted", "steps": 1}
    _, steps = attack(model, images, labels, **changes, target_classes=9)
    assert steps.tolist() == [4] * 6, "five classes, four of them wrong"
    # The clean images; then per class the start, the step and, but for the last, a look.
    assert len(model.seen) == 1 + 3 * 4 - 1
    np.testing.assert_array_equal(model.seen[0][0], images)
    for place in range(4):
        stepped = model.seen[2 + 3 * place][0]
        for row, image in enumerate(images):
            target = np.argsort(-quadratic().logits(image))[1 + place]
            start = random_start("linf", image, 1e-4, str(row), f"start/{place}/0")
            told = by_hand(image, start, labels[row], int(target), "linf", "dlr_targeted", 0.75, 1e-4, 1)
            np.testing.assert_allclose(stepped[row], told.met[1], atol=1e-12)


def test_every_point_that_the_model_sees_is_in_the_ball() -> None:
    images, labels = images_and_labels()
    for name, epsilon in (("linf", 0.05), ("l2", 0.3)):
        model = Watched(quadratic())
        attack(model, images, labels, norm=name, epsilon=epsilon, steps=20)
        for seen, _ in model.seen:
            moved = seen - images
            sizes = np.abs(moved).max(1) if name == "linf" else np.linalg.norm(moved, axis=1)
            assert np.all(sizes <= epsilon + 1e-12) and seen.min() >= 0 and seen.max() <= 1
            assert sizes.max() > 0


@pytest.mark.parametrize("stop", [False, True])
def test_a_result_does_not_depend_on_the_batch(stop: bool) -> None:
    images, labels = images_and_labels(6)
    changes = {"epsilon": 0.04, "loss": "dlr_targeted", "target_classes": 2, "restarts": 2, "steps": 20, "stop_on_success": stop}
    together, steps = attack(quadratic(), images, labels, **changes)
    for row in range(len(images)):
        alone, taken = attack(quadratic(), images[[row]], labels[[row]], ids=[str(row)], **changes)
        np.testing.assert_allclose(alone[0], together[row], atol=1e-9)
        assert taken[0] == steps[row]


@pytest.mark.parametrize("levels", [3, 20])
def test_linf_is_exact_on_a_linear_model_of_two_classes(levels: int) -> None:
    """The best point of cube and box is known: every pixel goes to the end of its interval that the weights ask for."""
    rng = np.random.default_rng(levels)
    weight = rng.normal(size=(2, SIZE))
    images = rng.integers(0, 256, (200, *SHAPE), dtype=np.uint8)
    flat = images.reshape(200, SIZE).astype(np.int64)
    labels = (flat @ weight.T).argmax(1)
    towards_other = np.where(labels == 0, 1, -1)[:, None] * np.sign(weight[1] - weight[0]).astype(np.int64)
    possible = (np.clip(flat + levels * towards_other, 0, 255) @ weight.T).argmax(1) != labels
    assert 0 < possible.sum() < 200
    result = run(linear(weight, np.zeros(2)), images, labels, {**OPTIONS, "epsilon": f"{levels}/255", "steps": 20})
    np.testing.assert_array_equal(result.success, possible)


@pytest.mark.parametrize(("loss", "classes", "least"), [("dlr", 2, 3), ("dlr_targeted", 3, 4)])
def test_too_few_classes_are_said_before_any_step(loss: str, classes: int, least: int) -> None:
    images, _ = images_and_labels(4)
    targets = {"target_classes": 2 if loss == "dlr_targeted" else None}
    model = Watched(quadratic(classes))
    with pytest.raises(ClassifierError, match=f"has {classes} classes, where at least {least} were expected by the loss {loss}"):
        attack(model, images, np.zeros(4, np.int64), loss=loss, **targets)
    assert len(model.seen) == (2 if loss == "dlr_targeted" else 1), "the clean images for the classes, and the start"
    attack(quadratic(least), images, np.zeros(4, np.int64), loss=loss, steps=2, **targets)


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("broken", [0, 1, 3])
def test_a_gradient_that_was_not_finite_once_is_said(stop: bool, broken: int) -> None:
    """The root of 0 has value 0 and an infinite slope; sign(NaN) would hide it."""
    calls: list[int] = []

    def model(images: Tensor) -> Tensor:
        calls.append(len(images))
        x = images.flatten(1)
        nothing = (x[:, 1] * 0).sqrt() if len(calls) == broken + 1 else torch.zeros(())
        return torch.stack([x[:, 0], 1 - x[:, 0] + nothing], 1)

    images, labels = np.full((2, SIZE), 0.9), np.zeros(2, np.int64)
    with pytest.raises(ClassifierError, match="the gradient of its logits is not finite"):
        attack(model, images, labels, stop_on_success=stop, epsilon=0.1, steps=6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"target_classes": 9}, ["attacks.x:", "target_classes is 9, where null was expected with the loss ce"]),
        ({"loss": "dlr_targeted"}, ["attacks.x:", "target_classes is null, where a number of classes was expected"]),
        ({"loss": "cw"}, ["attacks.x.loss", "'cw'", "'ce', 'dlr' or 'dlr_targeted'"]),
        ({"rho": 1.5}, ["attacks.x.rho", "1.5", "less than or equal to 1"]),
        ({"restarts": 0}, ["attacks.x.restarts", "0", "greater than 0"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_mistake_is_a_sentence(changes: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ParamsError) as caught:
        parse_options("x", AttackSpec(**{**OPTIONS, **changes}))
    assert all(part in str(caught.value) for part in expected) and "\n" not in str(caught.value), str(caught.value)
