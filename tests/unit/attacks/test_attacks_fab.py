"""FAB against independent solvers: the projection as a linear programme and by its dual, the steps by hand, exact distances."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from attacks_support import linear
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, linprog
from torch import Tensor

from pipeline.attacks.families import fab
from pipeline.attacks.geometry import NormName
from pipeline.attacks.registry import parse_options
from pipeline.errors import ClassifierError, ParamsError
from pipeline.params.attacks import AttackSpec
from pipeline.random import ImageRandom, generator

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
SHAPE, SIZE = (2, 2, 3), 12
OPTIONS: dict[str, Any] = {
    "family": "fab",
    "norm": "linf",
    "epsilon": 0.05,
    "steps": 12,
    "restarts": 1,
    "target_classes": 9,
    "alpha_max": 0.1,
    "eta": 1.05,
    "beta": 0.9,
}
NORMS = pytest.mark.parametrize("name", ["linf", "l2"])


def size(moved: Floats, name: str) -> float:
    return float(np.abs(moved).max(initial=0) if name == "linf" else np.linalg.norm(moved))


def reachable(x: Floats, w: Floats, value: float) -> tuple[float, Floats]:
    """What the linear function ends with at the corner of the box that lies in the direction of its zero, and that corner."""
    corner = np.where(-value * w > 0, 1.0, np.where(w == 0, x, 0.0))
    return value + float(w @ (corner - x)), corner


def smallest_move(x: Floats, w: Floats, value: float, name: str) -> float:
    """The size of the smallest move to w d + value = 0 within [0, 1]: a linear programme, or a root of the dual."""
    if name == "linf":
        free = np.column_stack([np.eye(len(x)), -np.ones(len(x))])
        cost = np.append(np.zeros(len(x)), 1)
        bounds = [*zip(-x, 1 - x, strict=True), (0, None)]
        below = np.vstack([free, np.column_stack([-np.eye(len(x)), -np.ones(len(x))])])
        solved = linprog(cost, A_ub=below, b_ub=np.zeros(2 * len(x)), A_eq=np.append(w, 0)[None], b_eq=[-value], bounds=bounds)
        assert solved.status == 0, solved.message
        return float(solved.fun)

    def moved(multiplier: float) -> Floats:
        return np.asarray(np.clip(x + multiplier * w, 0, 1) - x)

    if value == 0:
        return 0.0
    far = -math.copysign(2 / np.abs(w[w != 0]).min(), value)
    return size(moved(brentq(lambda multiplier: w @ moved(multiplier) + value, 0, far, xtol=1e-15, rtol=1e-14)), name)


def hyperplane_by_hand(x: Floats, w: Floats, value: float, name: str) -> Floats:
    """The projection by bisection on how far each pixel goes."""
    left, corner = reachable(x, w, value)
    if left * value > 0:
        return np.asarray(corner - x)
    towards, speed = np.sign(-value * w), np.ones(len(w)) if name == "linf" else np.abs(w)

    def move(time: float) -> Floats:
        return np.asarray(np.clip(x + towards * time * speed, 0, 1) - x)

    return move(brentq(lambda time: math.copysign(1, -value) * (w @ move(time) + value), 0, 1e4, xtol=1e-16, rtol=1e-15))


@st.composite
def linear_functions(draw: st.DrawFn) -> tuple[Floats, Floats, float]:
    """A point of the box, often on its edge, weights, some of them 0, and a value that the box may or may not bring to 0."""
    count = draw(st.integers(1, 8))
    pixels = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
    weights = st.one_of(st.just(0.0), st.integers(-50, 50).map(lambda number: number / 10), st.sampled_from([0.01, -0.01]))
    x, w = (np.array(draw(st.lists(values, min_size=count, max_size=count))) for values in (pixels, weights))
    return x, w, draw(st.integers(-60, 60)) / 10


def project(x: Floats, w: Floats, value: float, name: NormName, dtype: torch.dtype = torch.float64) -> Floats:
    points, slope = (torch.from_numpy(given).to(dtype).view(1, 1, 1, -1) for given in (x, w))
    return fab.to_hyperplane(points, slope, torch.tensor([value], dtype=dtype), name).flatten().double().numpy()


@NORMS
@settings(max_examples=100)
@given(case=linear_functions())
def test_the_projection_is_the_solution(case: tuple[Floats, Floats, float], name: NormName) -> None:
    x, w, value = case
    left, corner = reachable(x, w, value)
    assume(abs(left) > 1e-9)
    move = project(x, w, value, name)
    assert np.all(x + move >= -1e-12) and np.all(x + move <= 1 + 1e-12) and not move[w == 0].any()
    if value and left * value > 0:
        np.testing.assert_allclose(x + move, corner, atol=1e-12, err_msg="no zero in the box: the nearest corner")
    else:
        assert value + w @ move == pytest.approx(0, abs=1e-9)
        assert size(move, name) == pytest.approx(smallest_move(x, w, value, name), abs=1e-9)


@NORMS
def test_the_projection_of_many_large_images_in_float32(name: NormName) -> None:
    """As many pixels as CIFAR-10, gradients of any scale, all rows at once: the zero is met at the least size."""
    rng = np.random.default_rng(0)
    x, w = np.clip(rng.uniform(-0.2, 1.2, (40, 3072)), 0, 1), rng.normal(size=(40, 3072)) ** 3
    value = rng.normal(size=40) * 300
    for scale in (1.0, 1e-25):
        given = [torch.from_numpy(part).float() for part in (x.reshape(40, 3, 32, 32), w.reshape(40, 3, 32, 32) * scale, value * scale)]
        move = fab.to_hyperplane(*given, name).flatten(1).double().numpy()
        np.testing.assert_allclose((w * move).sum(1) + value, 0, atol=0.01)
        for row in range(40):
            assert size(move[row], name) == pytest.approx(size(hyperplane_by_hand(x[row], w[row], value[row], name), name), rel=1e-4)


def test_a_projection_does_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(1)
    x, w = (torch.from_numpy(part).float() for part in (rng.uniform(size=(8, 3, 8, 8)), rng.normal(size=(8, 3, 8, 8))))
    value = torch.linspace(-40, 40, 8)
    names: tuple[NormName, ...] = ("linf", "l2")
    for name in names:
        together = fab.to_hyperplane(x, w, value, name)
        alone = torch.cat([fab.to_hyperplane(x[[row]], w[[row]], value[[row]], name) for row in range(8)])
        np.testing.assert_allclose(alone.numpy(), together.numpy(), rtol=0, atol=1e-6)


class Quadratic:
    """z_k(x) = w_k x + x Q_k x / 2 + b_k with diagonal Q_k, which notes every batch that it is asked about."""

    def __init__(self, classes: int = 4) -> None:
        rng = np.random.default_rng(3)
        self.w, self.q = rng.normal(size=(classes, SIZE)), 3 * rng.normal(size=(classes, SIZE))
        self.b = rng.normal(size=classes)
        self.seen = list[tuple[Floats, bool]]()

    def logits(self, x: Floats) -> Floats:
        return np.asarray((x[..., None, :] * (self.w + self.q * x[..., None, :] / 2)).sum(-1) + self.b)

    def jacobian(self, x: Floats) -> Floats:
        return np.asarray(self.w + self.q * x)

    def __call__(self, images: Tensor) -> Tensor:
        self.seen.append((images.detach().flatten(1).numpy().copy(), images.requires_grad))
        x = images.flatten(1)[:, None]
        w, q, b = (torch.from_numpy(value).to(x) for value in (self.w, self.q, self.b))
        return (x * (w + q * x / 2)).sum(2) + b


def images_and_labels(count: int = 10) -> tuple[Floats, Ints]:
    images = np.clip(np.random.default_rng(1).uniform(-0.2, 1.2, (count, SIZE)), 0, 1)
    return images, Quadratic().logits(images).argmax(1)


def attack(
    model: Callable[[Tensor], Tensor], images: Floats, labels: Ints, ids: list[str] | None = None, **changes: Any
) -> tuple[Floats, Ints]:
    """The family's own attack, in float64: images and steps."""
    typed = parse_options("x", AttackSpec(**{**OPTIONS, **changes}))
    draws = ImageRandom(7, "attack/x", ids or [str(row) for row in range(len(images))])
    outcome = fab.attack(model, torch.from_numpy(images).view(-1, *SHAPE), torch.from_numpy(labels), None, typed, draws)  # type: ignore[arg-type]
    return outcome.images.flatten(1).numpy(), outcome.steps.numpy()


def by_hand(clean: Floats, start: Floats, label: int, target: int, name: str, steps: int) -> list[Floats]:
    """The points that one run asks about, in order: x_i and what the step from it reached."""
    model, x, asked = Quadratic(), start, list[Floats]()
    for _ in range(steps):
        asked.append(x)
        f = model.logits(x)[target] - model.logits(x)[label]
        w = model.jacobian(x)[target] - model.jacobian(x)[label]
        own, origin = hyperplane_by_hand(x, w, f, name), hyperplane_by_hand(clean, w, f + w @ (clean - x), name)
        alpha = min(size(own, name) / (size(own, name) + size(origin, name)), 0.1)
        reached = np.clip((1 - alpha) * (x + 1.05 * own) + alpha * (clean + 1.05 * origin), 0, 1)
        asked.append(reached)
        x = reached if model.logits(reached).argmax() == label else 0.1 * clean + 0.9 * reached
    return asked


@NORMS
def test_algorithm_1_by_hand(name: str) -> None:
    """Every point that the model is asked about, for the strongest wrong class and then for the next."""
    images, labels = images_and_labels()
    ranked = np.argsort(-Quadratic().logits(images), axis=1)
    # In a ball of radius 0 nothing is near enough, so every image goes through both classes.
    model = Quadratic()
    got, steps = attack(model, images, labels, norm=name, epsilon=0.0, target_classes=2)
    assert np.all(steps == 24) and len(model.seen) == 1 + 2 * 24
    assert [wanted for _, wanted in model.seen] == [False, *[True, False] * 24]
    np.testing.assert_array_equal(model.seen[0][0], images)
    for row, image in enumerate(images):
        expected = [point for place in (1, 2) for point in by_hand(image, image, labels[row], int(ranked[row, place]), name, 12)]
        np.testing.assert_allclose([seen[row] for seen, _ in model.seen[1:]], expected, atol=1e-8)
        wrong = [point for point in expected if Quadratic().logits(point).argmax() != labels[row]]
        assert wrong, "every image should be beyond the boundary at some time"
        assert size(got[row] - image, name) == pytest.approx(min(size(point - image, name) for point in wrong), abs=1e-8)


@NORMS
@pytest.mark.parametrize("classes", [2, 3])
def test_a_linear_model_is_met_at_its_exact_distance(name: str, classes: int) -> None:
    """With an overshoot of a thousandth, the distance is that of the nearest of the hyperplanes, inside the box, within it."""
    rng = np.random.default_rng(classes)
    weight, bias = rng.normal(size=(classes, SIZE)), rng.normal(size=classes) / 4
    images = np.clip(rng.uniform(-0.3, 1.3, (25, SIZE)), 0, 1)
    logits = images @ weight.T + bias
    labels = logits.argmax(1)
    exact = np.full(len(images), np.inf)
    for row, image in enumerate(images):
        for other in set(range(classes)) - {labels[row]}:
            w, value = weight[other] - weight[labels[row]], float(logits[row, other] - logits[row, labels[row]])
            if reachable(image, w, value)[0] > 0:
                exact[row] = min(exact[row], smallest_move(image, w, value, name))
    got, _ = attack(linear(weight, bias), images, labels, norm=name, epsilon=0.0, eta=1.001, steps=5)
    found = np.array([size(move, name) for move in got - images])
    met = np.isfinite(exact)
    assert met.sum() >= 20
    assert np.all((got @ weight.T + bias).argmax(1)[met] != labels[met]) and not found[~met].any()
    assert np.all(found[met] >= exact[met] * (1 - 1e-9)) and np.all(found[met] <= exact[met] * 1.001 + 1e-9)


@NORMS
def test_the_result_is_the_nearest_wrong_point_that_was_asked_about(name: str) -> None:
    images, labels = images_and_labels()
    model = Quadratic()
    got, _ = attack(model, images, labels, norm=name, epsilon=0.0, restarts=2, target_classes=3, steps=6)
    asked = np.stack([seen for seen, _ in model.seen])
    wrong = Quadratic().logits(asked).argmax(2) != labels
    for row, image in enumerate(images):
        sizes = [size(point - image, name) for point in asked[wrong[:, row], row]]
        assert len(sizes) > 3 and size(got[row] - image, name) == min(sizes)


@NORMS
def test_restarts_and_further_classes_are_for_those_outside_the_ball(name: str) -> None:
    images, labels = images_and_labels()
    one, _ = attack(Quadratic(), images, labels, norm=name, target_classes=1)
    sizes = np.array([size(move, name) for move in one - images])
    epsilon = float(np.median(sizes))
    model = Quadratic()
    got, steps = attack(model, images, labels, norm=name, epsilon=epsilon, target_classes=1, restarts=2)
    outside = sizes > epsilon
    assert 3 <= outside.sum() <= 7
    assert [len(seen) for seen, _ in model.seen] == [10, *[10] * 24, *[outside.sum()] * 24]
    np.testing.assert_array_equal(steps, np.where(outside, 24, 12))
    np.testing.assert_array_equal(got[~outside], one[~outside])
    assert np.all([size(move, name) for move in got - images] <= sizes)
    # The second run starts at half the radius, towards a point of the documented stream.
    for row, start in zip(np.flatnonzero(outside), model.seen[25][0], strict=True):
        draws = generator(7, "attack/x", "start/0/1", str(row))
        drawn = draws.random(SHAPE, dtype=np.float32) * 2 - 1 if name == "linf" else draws.standard_normal(SHAPE, dtype=np.float32)
        towards = drawn.ravel().astype(np.float64)
        np.testing.assert_allclose(start, np.clip(images[row] + epsilon / 2 * towards / size(towards, name), 0, 1), atol=1e-7)


@NORMS
def test_a_result_does_not_depend_on_the_batch(name: str) -> None:
    images, labels = images_and_labels()
    changes = {"norm": name, "epsilon": 0.06 if name == "linf" else 0.12, "restarts": 2, "target_classes": 2, "steps": 8}
    together, steps = attack(Quadratic(), images, labels, **changes)
    assert len(set(steps)) > 1
    for row in range(len(images)):
        alone, taken = attack(Quadratic(), images[[row]], labels[[row]], ids=[str(row)], **changes)
        np.testing.assert_allclose(alone[0], together[row], atol=1e-9)
        assert taken[0] == steps[row]


def test_without_a_boundary_the_image_comes_back() -> None:
    """A slope of 0 leads nowhere; and where no corner of the box is beyond the boundary, none is found."""
    images = np.random.default_rng(0).uniform(size=(4, SIZE))
    for weight in (np.zeros((2, SIZE)), np.stack([np.zeros(SIZE), np.full(SIZE, 0.01)])):
        got, _ = attack(linear(weight, np.array([1.0, 0.0])), images, np.zeros(4, np.int64))
        np.testing.assert_array_equal(got, images)


def test_a_gradient_that_is_not_finite_is_said() -> None:
    """The root of 0 has value 0 and an infinite slope."""

    def model(images: Tensor) -> Tensor:
        x = images.flatten(1)
        return torch.stack([x[:, 0], 1 - x[:, 0] + (x[:, 1] * 0).sqrt()], 1)

    with pytest.raises(ClassifierError, match="the gradient of its logits is not finite"):
        attack(model, np.full((2, SIZE), 0.9), np.zeros(2, np.int64))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"eta": 0.9}, ["attacks.x.eta", "0.9", "greater than or equal to 1"]),
        ({"alpha_max": 1.1}, ["attacks.x.alpha_max", "1.1", "less than or equal to 1"]),
        ({"target_classes": None}, ["attacks.x.target_classes", "None", "integer"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_is_a_sentence(changes: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ParamsError) as caught:
        parse_options("x", AttackSpec(**{**OPTIONS, **changes}))
    assert all(part in str(caught.value) for part in expected) and "\n" not in str(caught.value), str(caught.value)
