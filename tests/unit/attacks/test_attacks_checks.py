"""What is said of images and models that make an attack meaningless; models that are fit are said nothing of."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from attacks_support import digits
from torch import Tensor, nn

from pipeline.attacks.checks import MOST, check_images, check_logits, examine
from pipeline.attacks.geometry import as_floats
from pipeline.errors import ClassifierError, WhorlError


def with_pixel(value: float, row: int = 3) -> Tensor:
    images = torch.full((5, 1, 2, 2), 0.5)
    images[row, 0, 1, 0] = value
    return images


@pytest.mark.parametrize("images", [with_pixel(0.0), with_pixel(1.0), torch.rand(2, 3, 4, 4, dtype=torch.float64), torch.zeros(0, 1, 2, 2)])
def test_images_that_are_fit(images: Tensor) -> None:
    check_images(images)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (with_pixel(1.0001), ["1 of 5 images", "number 3", "1.0001", "floats in [0, 1] were expected."]),
        (with_pixel(-0.25, 0), ["number 0", "-0.25", "normalisation belongs inside the model"]),
        (with_pixel(float("nan"), 1), ["number 1", "nan"]),
        (with_pixel(float("inf"), 2), ["number 2", "inf"]),
        (with_pixel(0.5) * 255, ["5 of 5 images", "number 0", "127.5", "divided by 255"]),
        (6 * with_pixel(-0.25), ["5 of 5 images", "with 3)", "normalisation belongs inside the model"]),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), ["uint8 of shape (2, 1, 2, 2)", "floats (N, C, H, W) in [0, 1] were expected"]),
        (torch.zeros(1, 2, 2), ["float32 of shape (1, 2, 2)"]),
        (torch.zeros(4, 0, 2, 2), ["shape (4, 0, 2, 2)"]),
    ],
    ids=["above 1", "below 0", "nan", "inf", "grey levels", "normalised", "bytes", "one image", "no channels"],
)
def test_images_that_are_not(images: Tensor, expected: list[str]) -> None:
    with pytest.raises(WhorlError) as caught:
        check_images(images)
    said = str(caught.value)
    assert said.startswith("attack: ") and said.endswith(".") and all(part in said for part in expected), said


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 4), (3, 4, 1)])
def test_logits_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ClassifierError, match=r"\(3, K\) with K of at least 2"):
        check_logits(torch.zeros(shape), 3)


def right_ones() -> tuple[Tensor, Tensor]:
    """Digits that the model gets right, and their labels."""
    images, labels = as_floats(torch.from_numpy(digits().images)), torch.from_numpy(digits().labels)
    with torch.no_grad():
        right = digits().model(images).argmax(1) == labels
    return images[right], labels[right]


def half_dead(images: Tensor) -> Tensor:
    """No slope on every other image."""
    dead = (torch.arange(len(images)) % 2 == 0)[:, None]
    logits: Tensor = digits().model(images)
    return torch.where(dead, logits.detach(), logits)


def noisy(images: Tensor) -> Tensor:
    logits: Tensor = digits().model(images + 0.05 * torch.randn_like(images))
    return logits


def rounded(images: Tensor) -> Tensor:
    logits: Tensor = digits().model((images * 15).round() / 15)
    return logits


@pytest.mark.parametrize(
    ("logits_fn", "expected"),
    [
        (lambda x: digits().model(x), []),
        (lambda x: digits().model(x).log_softmax(1), []),
        (lambda x: digits().model(x).half(), []),
        (lambda x: digits().model(x).softmax(1), ["like probabilities"]),
        (lambda x: digits().model(x).sigmoid(), []),
        (lambda x: digits().model(x) - digits().model(x).mean(1, keepdim=True) + 0.1, []),
        (half_dead, ["exactly zero on 8 of 16 images"]),
        (rounded, ["exactly zero on 16 of 16 images"]),
        (lambda x: digits().model(x) * 1000, ["exactly zero on 16 of 16 images"]),
        (lambda x: digits().model(x.detach()).detach(), ["carry no gradient"]),
        (lambda x: digits().model(x.detach()), ["carry no gradient"]),
        (noisy, ["differ between two passes"]),
        (
            lambda x: noisy(x).softmax(1).detach(),
            ["like probabilities", "carry no gradient", "differ between two passes"],
        ),
    ],
    ids=[
        "fit",
        "log-softmax",
        "half",
        "softmax",
        "sigmoid",
        "sum of 1",
        "half-dead",
        "rounded",
        "saturated",
        "detached",
        "parameters",
        "noisy",
        "all",
    ],
)
def test_what_is_said_of_a_model(logits_fn: Callable[[Tensor], Tensor], expected: list[str]) -> None:
    said = examine(logits_fn, *right_ones())
    assert len(said) == len(expected), said
    for sentence, part in zip(said, expected, strict=True):
        assert sentence.startswith("classifier: ") and sentence.endswith(".") and part in sentence and "expected" in sentence


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite(value: float) -> None:
    with pytest.raises(ClassifierError, match="some of its logits are not finite"):
        examine(lambda x: digits().model(x) * torch.tensor([1.0] * 9 + [value]), *right_ones())


def test_looking_is_cheap_and_leaves_everything_as_it_was() -> None:
    """Two forward passes over 16 images, and the model, its gradients, the images and the generators' state as before."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10)).eval()
    model[2].train()  # random, from torch's own generator
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls: list[int] = []

    def counted(batch: Tensor) -> Tensor:
        calls.append(len(batch))
        logits: Tensor = model(batch)
        return logits

    images, labels = right_ones()
    copy, state = images.clone(), torch.get_rng_state()
    said = examine(counted, images, labels)
    assert calls == [MOST, MOST] and len(said) == 1 and "differ" in said[0]
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(images, copy) and not images.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("ambient", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_it_may_be_asked_where_gradients_are_off(ambient: Callable[[], torch.no_grad]) -> None:
    with ambient():
        images = torch.from_numpy(np.random.default_rng(0).random((2, 1, 8, 8), dtype=np.float32)) * 1
        assert examine(digits().model, images, torch.tensor([0, 1])) == ()
