"""The loop against NumPy: FGSM, PGD and the confidence attack re-derived by hand for a small perceptron, image by image."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from pipeline.attacks.base import Outcome
from pipeline.attacks.geometry import norm
from pipeline.attacks.loop import GradientFn, ascend, gradient, on_survivors
from pipeline.attacks.objectives import away_from, towards
from pipeline.attacks.registry import family, parse_options
from pipeline.errors import ClassifierError
from pipeline.params.attacks import AttackSpec
from pipeline.random import ImageRandom, generator

Floats = npt.NDArray[np.float64]
SHAPE = (2, 2, 3)


@dataclass(frozen=True)
class Perceptron:
    """W2 tanh(W1 x + b1) + b2, in NumPy with its gradient by hand, and in torch."""

    w1: Floats
    b1: Floats
    w2: Floats
    b2: Floats

    def probabilities(self, x: Floats) -> Floats:
        logits = self.w2 @ np.tanh(self.w1 @ x + self.b1) + self.b2
        shifted = np.exp(logits - logits.max())
        return np.asarray(shifted / shifted.sum())

    def loss_gradient(self, x: Floats, label: int) -> Floats:
        """Of -log p_label: softmax minus one-hot, back through the two layers."""
        hidden = np.tanh(self.w1 @ x + self.b1)
        error = self.probabilities(x) - np.eye(len(self.b2))[label]
        return np.asarray(self.w1.T @ ((1 - hidden**2) * (self.w2.T @ error)))

    def logits(self, images: Tensor) -> Tensor:
        w1, b1, w2, b2 = (torch.from_numpy(value).to(images) for value in (self.w1, self.b1, self.w2, self.b2))
        return torch.tanh(images.flatten(1) @ w1.T + b1) @ w2.T + b2


def perceptron() -> Perceptron:
    rng = np.random.default_rng(0)
    return Perceptron(rng.normal(size=(9, 12)), rng.normal(size=9), rng.normal(size=(4, 9)), rng.normal(size=4))


def images_and_classes(count: int = 12) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Images that touch 0 and 1 too, a label and another class for each."""
    rng = np.random.default_rng(1)
    images = np.clip(rng.uniform(-0.3, 1.3, (count, 12)), 0, 1)
    labels = np.array([perceptron().probabilities(image).argmax() for image in images])
    return images, labels, (labels + rng.integers(1, 4, count)) % 4


ONCE = {"restarts": 1, "stop_on_success": False}


def step(name: str, slope: Floats) -> Floats:
    return np.sign(slope) if name == "linf" else slope / np.linalg.norm(slope)


def project(name: str, x: Floats, centre: Floats, epsilon: float) -> Floats:
    moved = x - centre
    if name == "linf":
        moved = np.clip(moved, -epsilon, epsilon)
    elif np.linalg.norm(moved) > epsilon:
        moved = moved * epsilon / np.linalg.norm(moved)
    return np.clip(centre + moved, 0, 1)


def random_start(name: str, centre: Floats, epsilon: float, key: str) -> Floats:
    """The start, drawn again from the documented streams."""
    if name == "linf":
        drawn = generator(7, "attack/x", "start", key).random(SHAPE, dtype=np.float32).ravel().astype(np.float64)
        return project(name, centre + (2 * drawn - 1) * epsilon, centre, epsilon)
    drawn = generator(7, "attack/x", "start/direction", key).standard_normal(SHAPE, dtype=np.float32).ravel().astype(np.float64)
    radius = float(generator(7, "attack/x", "start/radius", key).random((), dtype=np.float32)) ** (1 / 12)
    return project(name, centre + epsilon * radius * step(name, drawn), centre, epsilon)


def by_hand(
    centre: Floats, x: Floats, label: int, sign: int, name: str, epsilon: float, size: float, steps: int, confidence: float | None
) -> tuple[Floats, int]:
    """One image, alone: climbs ``sign`` times the loss of ``label``; the image and the steps it took."""
    model = perceptron()
    for taken in range(steps):
        if confidence is not None and model.probabilities(x)[label] > confidence:
            return x, taken
        x = project(name, x + size * step(name, sign * model.loss_gradient(x, label)), centre, epsilon)
    return x, steps


def attack(options: dict[str, Any], logits_fn: Callable[[Tensor], Tensor]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """The family's own attack, in float64, on all images at once."""
    images, labels, targets = images_and_classes()
    kind, typed = family(options["family"]), parse_options("x", AttackSpec(**options))
    goals = torch.from_numpy(targets) if kind.targeted(typed) else None
    draws = ImageRandom(7, "attack/x", [str(row) for row in range(len(images))])
    outcome = kind.attack(logits_fn, torch.from_numpy(images).view(-1, *SHAPE), torch.from_numpy(labels), goals, typed, draws)
    return outcome.images.flatten(1).numpy(), outcome.steps.numpy()


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize(("name", "epsilon"), [("linf", 0.1), ("l2", 0.6)])
def test_fgsm_by_hand(name: str, epsilon: float, targeted: bool) -> None:
    images, labels, targets = images_and_classes()
    got, steps = attack({"family": "fgsm", "norm": name, "epsilon": epsilon, "targeted": targeted}, perceptron().logits)
    for row, image in enumerate(images):
        goal, sign = (targets[row], -1) if targeted else (labels[row], 1)
        expected = np.clip(image + epsilon * step(name, sign * perceptron().loss_gradient(image, goal)), 0, 1)
        np.testing.assert_allclose(got[row], expected, atol=1e-12)
    assert np.all(steps == 1)


@pytest.mark.parametrize("start", [False, True], ids=["from the image", "random start"])
@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize(("name", "epsilon", "size"), [("linf", 0.1, 0.03), ("l2", 0.6, 0.2)])
def test_pgd_by_hand(name: str, epsilon: float, size: float, targeted: bool, start: bool) -> None:
    images, labels, targets = images_and_classes()
    options = {"family": "pgd", "norm": name, "epsilon": epsilon, "step_size": size, "steps": 7, **ONCE}
    got, steps = attack({**options, "random_start": start, "targeted": targeted}, perceptron().logits)
    for row, image in enumerate(images):
        goal, sign = (targets[row], -1) if targeted else (labels[row], 1)
        first = random_start(name, image, epsilon, str(row)) if start else image
        expected, _ = by_hand(image, first, goal, sign, name, epsilon, size, 7, None)
        np.testing.assert_allclose(got[row], expected, atol=1e-9)
    assert np.all(steps == 7)


def test_confidence_attack_by_hand_and_finished_images_leave_the_batch() -> None:
    images, _, targets = images_and_classes()
    seen: list[int] = []

    def counted(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return perceptron().logits(batch)

    options = {"family": "confidence_ifgsm", "epsilon": 0.35, "step_size": 0.02, "confidence": 0.7, "steps": 30}
    got, steps = attack(options, counted)
    expected_steps = np.zeros(len(images), int)
    for row, image in enumerate(images):
        expected, expected_steps[row] = by_hand(image, image, targets[row], -1, "linf", 0.35, 0.02, 30, 0.7)
        np.testing.assert_allclose(got[row], expected, atol=1e-9)
    np.testing.assert_array_equal(steps, expected_steps)
    assert len(set(expected_steps)) > 3 and expected_steps.max() == 30, "images should finish at different times, and some never"
    # An image takes part in one forward pass a step, and in the one that finds it finished.
    np.testing.assert_array_equal(seen, [(expected_steps >= turn).sum() for turn in range(30)])


def test_the_loop_ends_when_every_image_has_left() -> None:
    images = torch.full((3, 1, 1, 2), 0.5)
    calls: list[int] = []

    def slope(current: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(rows))
        return torch.ones_like(current), rows[:, None].float()

    def finished(logits: Tensor, rows: Tensor) -> Tensor:
        assert torch.equal(logits[:, 0], rows.float())
        return rows < len(calls)  # one more image leaves in each turn

    outcome = ascend(slope, images, images, norm=norm("linf"), epsilon=1.0, step_size=0.125, steps=50, finished=finished)
    assert calls == [3, 2, 1] and outcome.steps.tolist() == [0, 1, 2]
    assert outcome.images[:, 0, 0, 0].tolist() == [0.5, 0.625, 0.75]


def test_one_forward_pass_a_step_and_none_more() -> None:
    calls: list[int] = []

    def counted(batch: Tensor) -> Tensor:
        calls.append(len(batch))
        return perceptron().logits(batch)

    options = {"family": "pgd", "norm": "linf", "epsilon": 0.1, "step_size": 0.03, "steps": 5, **ONCE}
    attack({**options, "random_start": True, "targeted": False}, counted)
    assert calls == [12] * 5


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
def test_with_success_stopping_an_image_stays_where_it_first_fooled(targeted: bool) -> None:
    images, labels, targets = images_and_classes()
    model, seen = perceptron(), list[int]()

    def counted(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return model.logits(batch)

    options = {"family": "pgd", "norm": "linf", "epsilon": 0.35, "step_size": 0.02, "steps": 25, "random_start": False, "restarts": 1}
    got, steps = attack({**options, "targeted": targeted, "stop_on_success": True}, counted)
    expected_steps = np.zeros(len(images), int)
    for row, image in enumerate(images):
        x, goal, sign = image, *((targets[row], -1) if targeted else (labels[row], 1))
        for turn in range(25):
            predicted = model.probabilities(x).argmax()
            if predicted == targets[row] if targeted else predicted != labels[row]:
                break
            x = project("linf", x + 0.02 * step("linf", sign * model.loss_gradient(x, goal)), image, 0.35)
            expected_steps[row] = turn + 1
        np.testing.assert_allclose(got[row], x, atol=1e-9)
    np.testing.assert_array_equal(steps, expected_steps)
    assert len(set(expected_steps)) > 2, "images should finish at different times"
    np.testing.assert_array_equal(
        seen, [(expected_steps >= turn).sum() for turn in range(expected_steps.max() + (expected_steps.max() < 25))]
    )


def test_restarts_are_for_the_survivors_and_from_other_points() -> None:
    images, labels, _ = images_and_classes()
    fooled = {0: {1, 4}, 1: {2}, 2: set[int]()}
    turns: list[list[int]] = []

    def attempt(turn: int, rows: Tensor) -> Outcome:
        turns.append(rows.tolist())
        return Outcome(torch.full((len(rows), *SHAPE), float(turn)), torch.full((len(rows),), 3))

    def finished(logits: Tensor, rows: Tensor) -> Tensor:
        turn = int(logits[0, 0])
        return torch.tensor([row in fooled[turn] for row in rows.tolist()])

    batch = torch.zeros(6, *SHAPE)
    outcome = on_survivors([partial(attempt, turn) for turn in range(3)], batch, lambda x: x.flatten(1)[:, :2], finished)
    assert turns == [[0, 1, 2, 3, 4, 5], [0, 2, 3, 5], [0, 3, 5]]
    assert outcome.images[:, 0, 0, 0].tolist() == [2, 0, 1, 2, 0, 2] and outcome.steps.tolist() == [9, 3, 6, 9, 3, 9]

    options = {"family": "pgd", "norm": "linf", "epsilon": 0.05, "step_size": 0.01, "steps": 1, "random_start": True}
    starts = [attack({**options, **ONCE, "targeted": False, "restarts": count}, perceptron().logits)[0] for count in (1, 2)]
    survived = np.array([perceptron().probabilities(x).argmax() == label for x, label in zip(starts[0], labels, strict=True)])
    np.testing.assert_array_equal((starts[0] != starts[1]).any(1), survived)
    assert survived.sum() > 0 and len(images) == len(survived)


def test_objectives_add_up_and_a_wrapped_gradient_keeps_state_by_row() -> None:
    """The two seams that other attacks build on: another term in the objective, and momentum around the gradient."""
    images, labels, targets = images_and_classes()
    batch, rows = torch.from_numpy(images).view(-1, *SHAPE), torch.arange(12)
    away, to = away_from(torch.from_numpy(labels)), towards(torch.from_numpy(targets))
    both = gradient(perceptron().logits, lambda x, z, r: away(x, z, r) + 0.5 * to(x, z, r) + x.flatten(1).sum(1))(batch, rows)[0]
    model = perceptron()
    by_row = [model.loss_gradient(x, y) - 0.5 * model.loss_gradient(x, t) + 1 for x, y, t in zip(images, labels, targets, strict=True)]
    np.testing.assert_allclose(both.flatten(1).numpy(), by_row, atol=1e-12)

    seen = torch.zeros(12)

    def wrapped(inner: GradientFn) -> GradientFn:
        def of(current: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            seen[rows] += 1
            return inner(current, rows)

        return of

    slope = wrapped(gradient(perceptron().logits, away))
    even_ones_leave = {"finished": lambda _, rows: (rows % 2 == 0) & (seen[rows] == 2)}
    outcome = ascend(slope, batch, batch, norm=norm("linf"), epsilon=0.1, step_size=0.01, steps=4, **even_ones_leave)
    assert seen.tolist() == [2, 4] * 6 and outcome.steps.tolist() == [1, 4] * 6


@pytest.mark.parametrize(
    "logits_fn",
    [lambda x: torch.zeros(len(x), 4), lambda x: x.detach().flatten(1), lambda x: torch.ones(len(x), 4, requires_grad=True) * 2],
    ids=["constant", "detached", "of parameters alone"],
)
def test_a_model_without_gradient_is_said(logits_fn: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ClassifierError, match="logits carry no gradient to the images"):
        attack({"family": "fgsm", "norm": "linf", "epsilon": 0.1, "targeted": False}, logits_fn)
