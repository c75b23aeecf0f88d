"""Carlini-Wagner against closed forms and NumPy: distances to hyperplanes, Adam and the search by hand, and who leaves when."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from attacks_support import linear, run
from torch import Tensor

from pipeline.attacks.base import Outcome
from pipeline.attacks.families import carlini_wagner
from pipeline.attacks.geometry import round_to_bytes
from pipeline.attacks.registry import parse_options
from pipeline.attacks.transforms import through_bytes
from pipeline.errors import ClassifierError, ParamsError
from pipeline.params.attacks import AttackSpec
from pipeline.random import ImageRandom

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
SHAPE, SIZE, CLASSES, RATE = (3, 2, 2), 12, 4, 0.05
OPTIONS: dict[str, Any] = {
    "family": "carlini_wagner",
    "confidence": 0.0,
    "learning_rate": RATE,
    "steps": 50,
    "search_steps": 6,
    "initial_const": 0.01,
    "abort_early": True,
    "targeted": False,
}
KINDS = pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])


def attack(logits_fn: Callable[[Tensor], Tensor], images: Floats, labels: Ints, targets: Ints | None = None, **options: Any) -> Outcome:
    """The family's own attack, in float64; targeted where there are targets."""
    parsed = parse_options("x", AttackSpec(**(OPTIONS | {"targeted": targets is not None} | options)))
    assert isinstance(parsed, carlini_wagner.Options)
    goals = None if targets is None else torch.from_numpy(targets)
    batch = torch.from_numpy(images).view(-1, *SHAPE)
    return carlini_wagner.attack(logits_fn, batch, torch.from_numpy(labels), goals, parsed, ImageRandom(0, "x", ["id"] * len(images)))


class Network:
    """W2 tanh(W1 x) in NumPy, with its Jacobian by hand, and in torch."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.w1, self.w2 = 0.5 * rng.normal(size=(9, SIZE)), rng.normal(size=(CLASSES, 9))

    def values(self, x: Floats) -> Floats:
        return np.asarray(np.tanh(x @ self.w1.T) @ self.w2.T)

    def jacobian(self, x: Floats) -> Floats:
        return np.asarray((self.w2 * (1 - np.tanh(self.w1 @ x) ** 2)) @ self.w1)

    def logits(self, images: Tensor) -> Tensor:
        w1, w2 = torch.from_numpy(self.w1).to(images), torch.from_numpy(self.w2).to(images)
        return torch.tanh(images.flatten(1) @ w1.T) @ w2.T


def some_images(network: Network, count: int) -> tuple[Floats, Ints, Ints]:
    """Images that touch 0 and 1 too, what the network says of them, and another class for each."""
    rng = np.random.default_rng(1)
    images = np.clip(rng.uniform(-0.2, 1.2, (count, SIZE)), 0, 1)
    labels = network.values(images).argmax(1)
    return images, labels, (labels + rng.integers(1, CLASSES, count)) % CLASSES


def gaps(values: Floats, classes: Ints, targeted: bool) -> Floats:
    """The paper's f_6 before its maximum, (N,)."""
    rows = np.arange(len(values))
    others = values.copy()
    others[rows, classes] = -np.inf
    ahead = others.max(1) - values[rows, classes]
    return ahead if targeted else -ahead


def by_hand(network: Network, image: Floats, goal: int, targeted: bool, kappa: float, steps: int, const: float, consts: int) -> Floats:
    """Sections V and VI for one image, without aborting early: the nearest success, or the image."""
    best, nearest, lower, upper = image, np.inf, 0.0, np.inf
    for number in range(consts):
        w, mean, square, suffices = np.arctanh((2 * image - 1) * 0.999999), np.zeros(SIZE), np.zeros(SIZE), False
        for step in range(1, steps + 1):
            x = (np.tanh(w) + 1) / 2
            values = network.values(x)
            other = int(np.where(np.arange(CLASSES) == goal, -np.inf, values).argmax())
            up, down = (other, goal) if targeted else (goal, other)
            gap = values[up] - values[down]
            distance = np.linalg.norm(x - image)
            if gap <= -kappa:
                suffices |= step > steps - 20  # of 40 steps, in periods of twenty
                if distance < nearest:
                    best, nearest = x, distance
            slope = 2 * (x - image)
            if gap > -kappa:
                slope = slope + const * (network.jacobian(x)[up] - network.jacobian(x)[down])
            slope = slope * (1 - np.tanh(w) ** 2) / 2
            mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
            settling = (1 + np.cos(np.pi * (step - 1) / steps)) / 2 if number + 1 == consts and upper < np.inf else 1.0
            w = w - settling * RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        lower, upper = (lower, min(upper, const)) if suffices else (max(lower, const), upper)
        const = 10 * const if np.isinf(upper) else (lower + upper) / 2
    return best


@KINDS
@pytest.mark.parametrize(("kappa", "const", "consts"), [(0.0, 0.01, 5), (0.3, 0.01, 5), (0.0, 1.0, 1)])
def test_adam_and_the_search_by_hand(targeted: bool, kappa: float, const: float, consts: int) -> None:
    network = Network(0)
    images, labels, targets = some_images(network, 12)
    options: dict[str, Any] = {"steps": 40, "search_steps": consts, "abort_early": False, "confidence": kappa, "initial_const": const}
    outcome = attack(network.logits, images, labels, targets if targeted else None, **options)
    goals = targets if targeted else labels
    expected = [by_hand(network, image, goal, targeted, kappa, 40, const, consts) for image, goal in zip(images, goals, strict=True)]
    np.testing.assert_allclose(outcome.images.flatten(1).numpy(), expected, atol=1e-7)
    assert torch.all(outcome.steps == 40 * consts)
    assert sum(not np.array_equal(x, image) for x, image in zip(expected, images, strict=True)) > 6


def plane() -> tuple[Floats, Floats, Floats, Ints, Floats]:
    """A linear model whose hyperplanes pass near grey images: weights, bias, images, classes and L2 distances (N, K)."""
    rng = np.random.default_rng(2)
    weight, images = rng.normal(size=(CLASSES, SIZE)), rng.uniform(0.4, 0.6, (30, SIZE))
    bias = -weight @ np.full(SIZE, 0.5)
    values = images @ weight.T + bias
    labels = values.argmax(1)
    between = np.linalg.norm(weight[None] - weight[labels][:, None], axis=2)
    between[np.arange(30), labels] = np.inf
    distances = (values.max(1, keepdims=True) - values) / between
    distances[np.arange(30), labels] = np.inf
    return weight, bias, images, labels, distances


@pytest.mark.parametrize("learning_rate", [0.005, 0.03])
@pytest.mark.parametrize("abort_early", [False, True], ids=["all steps", "aborting early"])
def test_a_linear_model_is_fooled_near_its_nearest_hyperplane(abort_early: bool, learning_rate: float) -> None:
    """Also from a c so small that Adam's first steps overshoot the nearest hyperplanes, which says nothing of that c."""
    weight, bias, images, labels, distances = plane()
    options = {"steps": 200, "search_steps": 9, "initial_const": 1e-4, "abort_early": abort_early, "learning_rate": learning_rate}
    outcome = attack(linear(weight, bias), images, labels, **options)
    reached = np.linalg.norm(outcome.images.flatten(1).numpy() - images, axis=1)
    nearest = distances.min(1)
    assert np.all(reached >= nearest * (1 - 1e-9))
    # Adam's last steps are about as long as the distances here.
    usual, most = (1.04, 1.25) if abort_early else (1.02, 1.1)
    assert np.median(reached / nearest) < usual and np.mean(reached / nearest < most) > 0.9, np.sort(reached / nearest)


def test_a_target_is_reached_near_its_hyperplane() -> None:
    weight, bias, images, _, _ = plane()
    weight, bias = weight[:2], bias[:2]
    values = images @ weight.T + bias
    targets = values.argmin(1)
    distance = np.abs(values[:, 0] - values[:, 1]) / np.linalg.norm(weight[0] - weight[1])
    outcome = attack(linear(weight, bias), images, 1 - targets, targets, steps=100, learning_rate=0.01)
    reached = np.linalg.norm(outcome.images.flatten(1).numpy() - images, axis=1)
    assert np.all((outcome.images.flatten(1).numpy() @ weight.T + bias).argmax(1) == targets)
    assert np.all(reached >= distance * (1 - 1e-9)) and np.median(reached / distance) < 1.03


@KINDS
def test_more_confidence_is_reached_and_costs_more(targeted: bool) -> None:
    network = Network(3)
    images, labels, targets = some_images(network, 24)
    goals, norms = targets if targeted else labels, []
    for kappa in (0.0, 0.5, 1.0):
        outcome = attack(network.logits, images, labels, targets if targeted else None, confidence=kappa)
        result = outcome.images.flatten(1).numpy()
        moved = np.linalg.norm(result - images, axis=1)
        assert np.all(gaps(network.values(result), goals, targeted)[moved > 0] <= -kappa + 1e-12)
        norms.append(np.where(moved > 0, moved, np.nan))
    steady = np.isfinite(norms).all(0)
    assert steady.sum() >= 6
    assert np.all(norms[0][steady] < norms[1][steady]) and np.all(norms[1][steady] < norms[2][steady])


def test_what_cannot_succeed_returns_the_input() -> None:
    weight, bias, images, labels, _ = plane()
    most = np.abs(weight[:, None] - weight[None]).sum(2).max()  # no gap in the cube is larger
    outcome = attack(linear(weight, bias), images, labels, confidence=float(most) + 1)
    np.testing.assert_array_equal(outcome.images.flatten(1).numpy(), images)


@KINDS
def test_an_example_depends_on_no_other_and_those_that_left_are_not_asked_about(targeted: bool) -> None:
    network, seen = Network(0), list[int]()
    images, labels, targets = some_images(network, 24)
    goals = targets if targeted else None

    def counted(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return network.logits(batch)

    outcome = attack(counted, images, labels, goals, steps=100)
    steps = outcome.steps.numpy()
    assert seen == [(steps > turn).sum() for turn in range(steps.max())]
    assert len(set(seen)) > 3 and steps.max() < 6 * 100 and np.all(steps % 20 == 0)
    for row in range(0, 24, 5):
        some = slice(row, row + 1)
        alone = attack(network.logits, images[some], labels[some], None if goals is None else goals[some], steps=100)
        np.testing.assert_allclose(alone.images[0].numpy(), outcome.images[row].numpy(), atol=1e-9)
        assert alone.steps[0] == outcome.steps[row]


def test_aborting_early_saves_steps_and_costs_little() -> None:
    network = Network(0)
    images, labels, _ = some_images(network, 40)
    norms, steps = [], []
    for abort_early in (False, True):
        outcome = attack(network.logits, images, labels, steps=100, search_steps=9, learning_rate=0.01, abort_early=abort_early)
        norms.append(np.linalg.norm(outcome.images.flatten(1).numpy() - images, axis=1))
        steps.append(outcome.steps.sum())
    assert steps[0] == 40 * 900 and steps[1] < steps[0] / 1.5
    assert np.array_equal(norms[0] > 0, norms[1] > 0) and norms[1].mean() < 1.01 * norms[0].mean()


def test_a_search_that_settled_nothing_ends_as_its_last_const_would_alone() -> None:
    """Of examples whose first c is too small, two search steps find what either c finds by itself, and not less."""
    network = Network(0)
    images, labels, _ = some_images(network, 40)
    given = {"steps": 20, "learning_rate": 0.01, "confidence": 0.1, "abort_early": False}
    both = attack(network.logits, images, labels, search_steps=2, initial_const=0.1, **given).images.flatten(1).numpy()
    first, second = (
        attack(network.logits, images, labels, search_steps=1, initial_const=const, **given).images.flatten(1).numpy()
        for const in (0.1, 1.0)
    )
    too_small, enough = ((found == images).all(1) for found in (first, second))
    assert (too_small & ~enough).sum() >= 5
    np.testing.assert_allclose(both[too_small], second[too_small], atol=1e-12)


def test_the_last_const_is_taken_whole() -> None:
    """The first success of a large c is an overshoot; with no further c to try, the way back is worth all steps."""
    network = Network(0)
    images, labels, _ = some_images(network, 40)
    norms = []
    for abort_early in (False, True):
        outcome = attack(network.logits, images, labels, steps=100, search_steps=1, initial_const=1.0, abort_early=abort_early)
        assert torch.all(outcome.steps == 100)
        norms.append(np.linalg.norm(outcome.images.flatten(1).numpy() - images, axis=1))
    np.testing.assert_array_equal(*norms)


@pytest.mark.parametrize(
    ("steps", "period"), [(3, 3), (10, 10), (25, 25), (40, 20), (45, 45), (100, 20), (101, 101), (1000, 100), (250, 25)]
)
def test_periods_divide_a_search_step_evenly(steps: int, period: int) -> None:
    assert carlini_wagner._period(steps) == period


def test_what_rounding_undoes_is_no_success() -> None:
    """Boundaries 0.2 to 0.6 grey levels away, in the direction of all pixels, are only crossed where whole levels cross them."""
    rng = np.random.default_rng(4)
    images = rng.integers(100, 150, (6, *SHAPE)).astype(np.uint8)
    weight = np.stack([np.zeros(SIZE), rng.normal(size=SIZE)])
    for image, levels in zip(images, np.linspace(0.2, 0.6, 6), strict=True):
        bias = np.array([0, -weight[1] @ (image.ravel() / 255) - np.abs(weight[1]).sum() * levels / 255])
        model = linear(weight, bias)
        outcome = attack(through_bytes(model), image.reshape(1, SIZE) / 255, np.zeros(1, np.int64), learning_rate=0.002)
        assert model(round_to_bytes(outcome.images) / 255).argmax(1)[0] == 1
        result = run(model, image[None], np.zeros(1, np.int64), OPTIONS | {"learning_rate": 0.002})
        assert result.success[0] and result.l2[0] * 255 < 2.5 * max(1, levels * math.sqrt(SIZE))


@pytest.mark.parametrize(
    ("logits_fn", "said"),
    [
        (lambda x: x.detach().flatten(1), "no gradient to the images"),
        (lambda x: x.flatten(1) * torch.tensor([1.0, math.nan] * (SIZE // 2)), "not finite"),
    ],
    ids=["detached", "nan"],
)
def test_an_unfit_model_is_said(logits_fn: Callable[[Tensor], Tensor], said: str) -> None:
    with pytest.raises(ClassifierError, match=said):
        attack(logits_fn, np.full((2, SIZE), 0.5), np.zeros(2, np.int64))


@pytest.mark.parametrize(
    ("key", "value"), [("confidence", -1.0), ("learning_rate", 0.0), ("steps", 0), ("search_steps", 0), ("initial_const", 0.0)]
)
def test_options_out_of_range_are_said(key: str, value: Any) -> None:
    with pytest.raises(ParamsError, match=f"attacks.mine.{key}"):
        parse_options("mine", AttackSpec(**(OPTIONS | {key: value})))
