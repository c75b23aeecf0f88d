"""What the attack tests share: small models, real images, a row of the families' table and the guarantees of every row."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pipeline.attacks.generate import AttackedImages, attack_images
from pipeline.attacks.registry import parse_options
from pipeline.params.attacks import AttackSpec

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """A row of the families' table.

    Attributes:
        name: the attack's name in the params.
        options: its entry under ``attacks``.
        norm: the norm in which it promises a bound; None for a minimum-norm attack.
        epsilon: that bound, in pixel units.
        success: the least share of correctly classified digits on which it must succeed (a weaker attack is a bug).
    """

    name: str
    options: Mapping[str, Any]
    norm: str | None
    epsilon: float
    success: float


@dataclass(frozen=True)
class Digits:
    """The trained model and the images it never saw."""

    model: nn.Module
    images: Bytes
    labels: Ints
    ids: tuple[str, ...]


@cache
def digits() -> Digits:
    """A small convolutional network, with batch norm, trained on scikit-learn's digits; every other digit is held out."""
    data = load_digits()
    images = np.round(data.images * 255 / 16).astype(np.uint8)[:, None]
    labels = data.target.astype(np.int64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
        )
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    inputs, goals = torch.from_numpy(images[::2]) / 255, torch.from_numpy(labels[::2])
    for _ in range(60):
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(inputs), goals).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    held_out = slice(1, 400, 2)
    count = len(labels[held_out])
    return Digits(model.eval(), images[held_out], labels[held_out], tuple(f"{row:032x}" for row in range(count)))


def linear(weight: npt.NDArray[Any], bias: npt.NDArray[Any]) -> Callable[[Tensor], Tensor]:
    """Logits of a linear model, in float64, so that none hangs on the size of its batch; ``weight`` (K, D), ``bias`` (K,)."""
    factors, offset = torch.from_numpy(weight).double(), torch.from_numpy(bias).double()

    def logits(images: Tensor) -> Tensor:
        return images.flatten(1).double() @ factors.T + offset

    return logits


def run(
    logits_fn: Callable[[Tensor], Tensor],
    images: npt.NDArray[Any],
    labels: Ints,
    options: Mapping[str, Any],
    *,
    name: str = "attack",
    ids: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    eight_bit: bool = True,
    advance: Callable[[int], None] = lambda _: None,
    steps_fns: Sequence[Callable[[Tensor], Tensor]] = (),
) -> AttackedImages:
    """``attack_images`` on the CPU with the options of a params entry."""
    return attack_images(
        logits_fn,
        images,
        labels,
        [f"{row:032x}" for row in range(len(images))] if ids is None else ids,
        name,
        parse_options(name, AttackSpec(**options)),
        seed=seed,
        batch_size=batch_size,
        eight_bit=eight_bit,
        device="cpu",
        advance=advance,
        steps_fns=steps_fns,
    )


def as_pixels(stored: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Stored images in pixel units, float64."""
    return stored / 255 if stored.dtype == np.uint8 else stored.astype(np.float64)


def classify(logits_fn: Callable[[Tensor], Tensor], stored: npt.NDArray[Any]) -> Ints:
    """What the model says of stored images, all in one batch."""
    with torch.no_grad():
        floats = torch.from_numpy(stored).float() / 255 if stored.dtype == np.uint8 else torch.from_numpy(stored)
        return logits_fn(floats).argmax(1).numpy()


def check_stored(result: AttackedImages, images: Bytes, norm: str | None, epsilon: float) -> None:
    """Stored images are in the ball and in [0, 1], and the norms told are theirs; re-derived in NumPy."""
    stored = result.images
    # Bytes as whole grey levels over 255, floats against the float32 image that the model was given.
    clean = images / 255 if stored.dtype == np.uint8 else (images.astype(np.float32) / np.float32(255)).astype(np.float64)
    moved = (as_pixels(stored) - clean).reshape(len(images), math.prod(images.shape[1:]))
    linf, l2 = np.abs(moved).max(1, initial=0), np.sqrt((moved**2).sum(1))
    np.testing.assert_allclose(result.linf, linf, atol=1e-12)
    np.testing.assert_allclose(result.l2, l2, atol=1e-12)
    assert np.all((as_pixels(stored) >= 0) & (as_pixels(stored) <= 1))
    # What is told of bytes is held to the very bound, where it is a whole number of levels; floats always.
    if norm is not None:
        assert np.all((result.linf if norm == "linf" else result.l2) <= epsilon + 1e-8 * (stored.dtype == np.uint8))


def check_flags(result: AttackedImages, logits_fn: Callable[[Tensor], Tensor], images: Bytes, labels: Ints) -> None:
    """Every flag follows from the clean image, the label and the stored image alone."""
    clean, stored = classify(logits_fn, images), classify(logits_fn, result.images)
    np.testing.assert_array_equal(result.clean_predicted, clean)
    np.testing.assert_array_equal(result.predicted, stored)
    np.testing.assert_array_equal(result.skipped, clean != labels)
    np.testing.assert_array_equal(result.success, (clean == labels) & (stored != labels))
    np.testing.assert_array_equal(result.target_reached, (result.target >= 0) & (stored == result.target))
    skipped = result.skipped
    np.testing.assert_array_equal(as_pixels(result.images)[skipped].astype(np.float32), (images / np.float32(255))[skipped])
    assert not result.success[skipped].any() and not result.steps[skipped].any() and np.all(result.target[skipped] == -1)
    failed = ~skipped & ~result.success
    np.testing.assert_array_equal(as_pixels(result.images)[failed].astype(np.float32), (images / np.float32(255))[failed])
    assert not result.linf[failed].any() and not result.l2[failed].any()


def check_guarantees(case: Case, eight_bit: bool) -> AttackedImages:
    """Everything that is promised of every attack, on real images."""
    data = digits()
    before, states = {name: value.clone() for name, value in data.model.state_dict().items()}, global_states()
    advanced: list[int] = []
    result = run(
        data.model, data.images, data.labels, case.options, name=case.name, ids=data.ids, eight_bit=eight_bit, advance=advanced.append
    )
    assert result.images.dtype == (np.uint8 if eight_bit else np.float32) and result.images.shape == data.images.shape
    check_stored(result, data.images, case.norm, case.epsilon)
    check_flags(result, data.model, data.images, data.labels)
    assert sum(advanced) == len(data.images)
    attacked = ~result.skipped
    assert 0 < attacked.sum() < len(attacked), "the model should be good, not perfect"
    assert result.success[attacked].mean() >= case.success, result.success[attacked].mean()
    for name, value in data.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None and parameter.requires_grad for parameter in data.model.parameters())
    assert not any(module.training for module in data.model.modules())
    assert global_states() == states, "draws come from the ImageRandom that an attack is given"
    again = run(data.model, data.images, data.labels, case.options, name=case.name, ids=data.ids, eight_bit=eight_bit)
    np.testing.assert_array_equal(again.images, result.images)
    return result


def global_states() -> tuple[bytes, bytes, object]:
    """Of the generators that nothing may draw from: torch's, NumPy's and Python's."""
    return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate()  # type: ignore[index, union-attr]


def flat_model(classes: int) -> Callable[[Tensor], Tensor]:
    """Class 0 on plain grey and class 1 on all else, with a gradient of 0: what is stored is the random start itself."""
    flat = linear(np.zeros((classes, 12)), np.eye(classes)[0])

    def logits(images: Tensor) -> Tensor:
        found = flat(images)
        changed = (images != 128 / 255).flatten(1).any(1, keepdim=True)
        return found + 2 * changed * torch.eye(classes, dtype=found.dtype)[min(1, classes - 1)]

    return logits
