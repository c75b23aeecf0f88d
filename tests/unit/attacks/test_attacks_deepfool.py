"""DeepFool against closed forms and NumPy: distances to hyperplanes, algorithm 2 by hand, rounding, and who leaves when."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from attacks_support import digits, linear, run
from torch import Tensor

from pipeline.attacks.base import Outcome
from pipeline.attacks.families import deepfool
from pipeline.attacks.geometry import round_to_bytes
from pipeline.attacks.registry import parse_options
from pipeline.attacks.transforms import through_bytes
from pipeline.errors import ClassifierError, ParamsError
from pipeline.params.attacks import AttackSpec
from pipeline.random import ImageRandom

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
SHAPE, SIZE, CLASSES = (3, 2, 2), 12, 5
OPTIONS: dict[str, Any] = {"family": "deepfool", "norm": "l2", "steps": 30, "candidates": 10, "overshoot": 0.02}
NORMS = pytest.mark.parametrize("name", ["linf", "l2"])


def attack(logits_fn: Callable[[Tensor], Tensor], images: Floats, labels: Ints, **options: Any) -> Outcome:
    """The family's own attack, in float64."""
    parsed = parse_options("x", AttackSpec(**(OPTIONS | options)))
    assert isinstance(parsed, deepfool.Options)
    batch = torch.from_numpy(images).view(-1, *SHAPE)
    return deepfool.attack(logits_fn, batch, torch.from_numpy(labels), None, parsed, ImageRandom(0, "x", ["id"] * len(images)))


class Network:
    """W2 tanh(W1 x) in NumPy, with its Jacobian by hand, and in torch."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.w1, self.w2 = rng.normal(size=(9, SIZE)), rng.normal(size=(CLASSES, 9))

    def values(self, x: Floats) -> Floats:
        return np.asarray(self.w2 @ np.tanh(self.w1 @ x))

    def jacobian(self, x: Floats) -> Floats:
        return np.asarray((self.w2 * (1 - np.tanh(self.w1 @ x) ** 2)) @ self.w1)

    def logits(self, images: Tensor) -> Tensor:
        w1, w2 = torch.from_numpy(self.w1).to(images), torch.from_numpy(self.w2).to(images)
        return torch.tanh(images.flatten(1) @ w1.T) @ w2.T


def some_images(network: Network, count: int) -> tuple[Floats, Ints]:
    """Images that touch 0 and 1 too, and what the network says of them."""
    images = np.clip(np.random.default_rng(1).uniform(-0.2, 1.2, (count, SIZE)), 0, 1)
    return images, np.array([network.values(image).argmax() for image in images])


def by_hand(network: Network, image: Floats, label: int, name: str, steps: int, candidates: int) -> tuple[Floats, int]:
    """Algorithm 2, of one image: the first misclassified iterate (or the image) and the steps taken."""
    rivals = [k for k in np.argsort(-network.values(image))[:candidates] if k != label]
    total, x, shortest = np.zeros(SIZE), image, 1e-5 * (1 if name == "linf" else SIZE**0.5)
    for taken in range(1, steps + 1):
        slopes = network.jacobian(x)[rivals] - network.jacobian(x)[label]
        gaps = network.values(x)[rivals] - network.values(x)[label]
        dual = np.abs(slopes).sum(1) if name == "linf" else np.linalg.norm(slopes, axis=1)
        best = np.argmin(np.abs(gaps) / dual)
        unit = np.sign(slopes[best]) if name == "linf" else slopes[best] / dual[best]
        total = total + max(abs(gaps[best]) / dual[best], shortest) * unit
        x = np.clip(image + 1.02 * total, 0, 1)
        if network.values(x).argmax() != label:
            return x, taken
    return image, steps


@NORMS
@pytest.mark.parametrize("candidates", [2, 3, 10], ids=lambda count: f"{count} candidates")
def test_algorithm_2_by_hand(name: str, candidates: int) -> None:
    network = Network(0)
    images, labels = some_images(network, 40)
    outcome = attack(network.logits, images, labels, norm=name, candidates=candidates, steps=8)
    expected = [by_hand(network, image, label, name, 8, candidates) for image, label in zip(images, labels, strict=True)]
    np.testing.assert_allclose(outcome.images.flatten(1).numpy(), [x for x, _ in expected], atol=1e-9)
    assert outcome.steps.tolist() == [taken for _, taken in expected]
    assert len(set(outcome.steps.tolist())) > 4, "images should finish at different times"
    failed = [np.array_equal(x, image) for (x, _), image in zip(expected, images, strict=True)]
    assert 0 < sum(failed) < 20, "and some should fail"
    np.testing.assert_array_equal(outcome.images.flatten(1).numpy()[failed], images[failed])


@NORMS
def test_a_linear_model_is_fooled_at_the_nearest_hyperplane_in_one_step(name: str) -> None:
    rng = np.random.default_rng(2)
    weight, images = rng.normal(size=(CLASSES, SIZE)), rng.uniform(0.45, 0.55, (50, SIZE))
    # Nearly even logits, so that the nearest hyperplane is far from 0 and 1.
    bias = -weight @ np.full(SIZE, 0.5)
    values = images @ weight.T + bias
    labels = values.argmax(1)
    dual = {"linf": 1, "l2": 2}[name]
    between = np.linalg.norm(weight[None] - weight[labels][:, None], ord=dual, axis=2)
    with np.errstate(invalid="ignore"):
        distances = (values.max(1, keepdims=True) - values) / between
    distances[np.arange(50), labels] = np.inf
    outcome = attack(linear(weight, bias), images, labels, norm=name)
    moved = outcome.images.flatten(1).numpy() - images
    reached = np.abs(moved).max(1) if name == "linf" else np.linalg.norm(moved, axis=1)
    shortest = 1e-5 if name == "linf" else 1e-5 * SIZE**0.5
    np.testing.assert_allclose(reached, 1.02 * np.maximum(distances.min(1), shortest), rtol=1e-9)
    assert (distances.min(1) > shortest).sum() > 40
    assert torch.all(outcome.steps == 1)
    np.testing.assert_array_equal((outcome.images.flatten(1).numpy() @ weight.T + bias).argmax(1), distances.argmin(1))


@NORMS
def test_an_example_depends_on_no_other_and_those_that_left_are_not_asked_about(name: str) -> None:
    network, seen = Network(0), list[int]()
    images, labels = some_images(network, 40)

    def counted(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return network.logits(batch)

    outcome = attack(counted, images, labels, norm=name, steps=6)
    steps = outcome.steps.numpy()
    # One pass for the classes and the first gradients, one a step, and one more where the gradients of fewer are needed.
    expected = [40]
    for turn in range(1, 7):
        now, later = int((steps >= turn).sum()), int((steps > turn).sum())
        expected += [now] * (now > 0) + [later] * (0 < later < now)
    assert seen == expected and len(set(seen)) > 3
    for row in range(0, 40, 7):
        alone = attack(network.logits, images[row : row + 1], labels[row : row + 1], norm=name, steps=6)
        np.testing.assert_allclose(alone.images[0].numpy(), outcome.images[row].numpy(), atol=1e-12)
        assert alone.steps[0] == outcome.steps[row]


@NORMS
@pytest.mark.parametrize("levels", [1e-4, 1e-3, 0.1, 0.4, 3.3])
def test_a_boundary_between_two_grey_levels_is_crossed_on_the_grid(name: str, levels: float) -> None:
    """The images lie ``levels`` grey levels (a pixel, in a diagonal direction) from the boundary: most steps vanish in rounding."""
    rng = np.random.default_rng(3)
    images = rng.integers(100, 150, (20, *SHAPE)).astype(np.uint8)
    weight = np.stack([np.zeros(SIZE), rng.normal(size=SIZE)])
    results = []
    for image in images:
        # A boundary of its own for each image.
        bias = np.array([0, -weight[1] @ (image.ravel() / 255) - np.abs(weight[1]).sum() * levels / 255])
        result = run(linear(weight, bias), image[None], np.zeros(1, np.int64), OPTIONS | {"norm": name})
        assert result.success[0]
        results.append(result)
    steps = [int(result.steps[0]) for result in results]
    if name == "linf":
        # All pixels together need ``levels``, so no fewer whole levels can do.
        np.testing.assert_allclose([result.linf[0] * 255 for result in results], np.ceil(levels))
    if levels < 0.01:
        assert min(steps) > 4, "steps by the book should be too short to be seen"
    assert max(steps) <= 10, "and those that cannot be seen should grow"


def test_what_rounding_undoes_is_no_success() -> None:
    data = digits()
    batch, labels = torch.from_numpy(data.images) / 255, torch.from_numpy(data.labels)
    with torch.no_grad():
        right = data.model(batch).argmax(1) == labels
    batch, labels = batch[right], labels[right]
    options = deepfool.Options(family="deepfool", norm="l2", steps=2, candidates=10, overshoot=0.02)
    outcome = deepfool.attack(through_bytes(data.model), batch, labels, None, options, ImageRandom(0, "x", ["id"] * len(batch)))
    touched = (outcome.images != batch).flatten(1).any(1)
    with torch.no_grad():
        wrong = data.model(round_to_bytes(outcome.images) / 255).argmax(1) != labels
    assert torch.equal(touched, wrong) and 0 < wrong.sum() < len(batch)


@NORMS
def test_a_tie_and_a_gradient_of_nothing_are_survived(name: str) -> None:
    """Equal logits count for the first class, at distance 0 from the other; and a model that never changes is not fooled."""
    images, labels = np.full((2, SIZE), 0.5), np.zeros(2, np.int64)
    weight = np.stack([np.zeros(SIZE), np.arange(1.0, SIZE + 1)])
    tied = attack(linear(weight, -weight @ images[0]), images, labels, norm=name)
    moved = np.abs(tied.images.flatten(1).numpy() - images)
    assert torch.all(tied.steps == 1) and np.all(moved.max(1) > 0) and moved.max() < 1e-4
    flat = attack(linear(0 * weight, np.array([1.0, 0])), images, labels, norm=name, steps=200)
    np.testing.assert_array_equal(flat.images.flatten(1).numpy(), images)
    assert torch.all(flat.steps == 200)


@pytest.mark.parametrize(
    ("logits_fn", "said"),
    [
        (lambda x: x.detach().flatten(1), "no gradient to the images"),
        (lambda x: torch.ones(len(x), 4, requires_grad=True) * 2, "no gradient to the images"),
        (lambda x: (x.flatten(1) - x.flatten(1).detach()).abs().sqrt() + 1, "not finite"),
    ],
    ids=["detached", "of parameters alone", "nan"],
)
def test_an_unfit_model_is_said(logits_fn: Callable[[Tensor], Tensor], said: str) -> None:
    with pytest.raises(ClassifierError, match=said):
        attack(logits_fn, np.full((2, SIZE), 0.5), np.zeros(2, np.int64))


@pytest.mark.parametrize(("key", "value"), [("candidates", 1), ("steps", 0), ("overshoot", -0.1), ("norm", "l1")])
def test_options_out_of_range_are_said(key: str, value: Any) -> None:
    with pytest.raises(ParamsError, match=f"attacks.mine.{key}"):
        parse_options("mine", AttackSpec(**(OPTIONS | {key: value})))
