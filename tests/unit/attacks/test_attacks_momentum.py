"""MIM and BIM against NumPy: the papers' recursions by hand for a small non-linear model, image by image."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from attacks_support import digits, run
from torch import Tensor

from pipeline.attacks.adaptive import with_momentum
from pipeline.attacks.geometry import norm
from pipeline.attacks.loop import ascend
from pipeline.attacks.registry import family, parse_options
from pipeline.errors import ClassifierError, ParamsError
from pipeline.params.attacks import AttackSpec
from pipeline.random import ImageRandom

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(4, 12))
IMAGES = np.clip(RNG.uniform(-0.2, 1.2, (10, 12)), 0, 1)


def logits(x: Floats) -> Floats:
    return np.asarray(np.sin(3 * x) @ WEIGHT.T)


def slope(x: Floats, label: int) -> Floats:
    """Of the cross-entropy of W sin(3 x): (softmax - one-hot) W, times 3 cos(3 x)."""
    shifted = np.exp(logits(x) - logits(x).max())
    return np.asarray((shifted / shifted.sum() - np.eye(4)[label]) @ WEIGHT * 3 * np.cos(3 * x))


LABELS = logits(IMAGES).argmax(1)
TARGETS = (LABELS + RNG.integers(1, 4, 10)) % 4


def in_torch(images: Tensor) -> Tensor:
    return torch.sin(3 * images.flatten(1)) @ torch.from_numpy(WEIGHT).T


def by_hand(row: int, options: dict[str, Any], decay: float) -> tuple[Floats, int]:
    """One image, alone: where it ends, and how many steps it took."""
    centre, x, momentum = IMAGES[row], IMAGES[row], np.zeros(12)
    goal, sign = (TARGETS[row], -1) if options["targeted"] else (LABELS[row], 1)
    for taken in range(options["steps"]):
        predicted = logits(x).argmax()
        if options["stop_on_success"] and (predicted == TARGETS[row] if options["targeted"] else predicted != LABELS[row]):
            return x, taken
        uphill = sign * slope(x, goal)
        momentum = decay * momentum + uphill / np.abs(uphill).sum()
        if options["norm"] == "linf":
            moved = np.clip(x + options["step_size"] * np.sign(momentum) - centre, -options["epsilon"], options["epsilon"])
        else:
            moved = x + options["step_size"] * momentum / np.linalg.norm(momentum) - centre
            moved *= min(1, options["epsilon"] / np.linalg.norm(moved))
        x = np.clip(centre + moved, 0, 1)
    return x, options["steps"]


def attack(options: dict[str, Any], rows: list[int]) -> tuple[Floats, Ints]:
    """The family's own attack, in float64, on some of the images at once."""
    kind, typed = family(options["family"]), parse_options("x", AttackSpec(**options))
    targets = torch.from_numpy(TARGETS[rows]) if kind.targeted(typed) else None
    draws = ImageRandom(0, "attack/x", [str(row) for row in rows])
    images = torch.from_numpy(IMAGES[rows]).view(-1, 3, 2, 2)
    outcome = kind.attack(in_torch, images, torch.from_numpy(LABELS[rows]), targets, typed, draws)
    return outcome.images.flatten(1).numpy(), outcome.steps.numpy()


@pytest.mark.parametrize("stop", [False, True], ids=["all steps", "stopping"])
@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize(("name", "epsilon", "size"), [("linf", 0.12, 0.02), ("l2", 0.4, 0.05)])
@pytest.mark.parametrize(("kind", "decay"), [("mim", 0.9), ("bim", 0.0)], ids=["mim", "bim"])
def test_the_recursion_by_hand(kind: str, decay: float, name: str, epsilon: float, size: float, targeted: bool, stop: bool) -> None:
    options: dict[str, Any] = {"family": kind, "norm": name, "epsilon": epsilon, "step_size": size, "steps": 12}
    options |= {"targeted": targeted, "stop_on_success": stop, **({"decay": decay} if kind == "mim" else {})}
    got, steps = attack(options, list(range(10)))
    expected, taken = zip(*(by_hand(row, options, decay) for row in range(10)), strict=True)
    np.testing.assert_allclose(got, np.stack(expected), atol=1e-9)
    np.testing.assert_array_equal(steps, taken)
    assert len(set(taken)) > 2 if stop else set(taken) == {12}, "images should finish at different times"


def test_momentum_changes_the_path_and_follows_its_image() -> None:
    """Images that leave the batch take their momentum along: each ends where it ends alone."""
    options: dict[str, Any] = {"family": "mim", "norm": "linf", "epsilon": 0.12, "step_size": 0.02, "steps": 12, "decay": 1.0}
    options |= {"targeted": True, "stop_on_success": True}
    whole, steps = attack(options, list(range(10)))
    for row in range(10):
        alone, taken = attack(options, [row])
        np.testing.assert_allclose(alone[0], whole[row], atol=1e-12)
        assert taken[0] == steps[row]
    without, _ = attack({**options, "decay": 0.0}, list(range(10)))
    assert np.abs(without - whole).max() > 0.01


def test_gradients_of_every_size_count_the_same_in_the_momentum() -> None:
    """Divided by their L1 norm even where their squares are 0 in float32; an example without gradient keeps coasting."""
    scales = torch.tensor([1.0, 1e-30, 1e30]).view(3, 1, 1, 1)
    calls: list[int] = []

    def slopes(current: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(rows))
        first = torch.tensor([3.0, -1.0, 0.0, 0.0]).view(1, 1, 2, 2) * scales[rows]
        return first if len(calls) == 1 else torch.zeros_like(current), rows[:, None].float()

    momentum = with_momentum(slopes, torch.zeros(3, 1, 2, 2), 0.5)
    images, rows = torch.zeros(3, 1, 2, 2), torch.arange(3)
    one, _ = momentum(images, rows)
    torch.testing.assert_close(one.flatten(1), torch.tensor([[0.75, -0.25, 0, 0]]).expand(3, 4))
    two, logits_met = momentum(images[[2, 0]], torch.tensor([2, 0]))
    torch.testing.assert_close(two, one[[2, 0]] / 2)
    assert logits_met[:, 0].tolist() == [2, 0]


def test_a_broken_gradient_is_not_hidden_by_momentum() -> None:
    images = torch.full((2, 1, 2, 2), 0.5)
    broken = with_momentum(lambda x, rows: (torch.full_like(x, torch.inf), rows[:, None].float()), images, 1.0)
    with pytest.raises(ClassifierError, match="gradient of its logits is not finite"):
        ascend(broken, images, images, norm=norm("linf"), epsilon=0.1, step_size=0.1, steps=1)


PGD = {"norm": "linf", "epsilon": "16/255", "step_size": "4/255", "steps": 10, "targeted": False, "stop_on_success": True}


def test_bim_is_pgd_from_the_image_and_mim_without_momentum_is_bim() -> None:
    data = digits()
    entries: list[dict[str, Any]] = [
        {"family": "pgd", "random_start": False, "restarts": 1, **PGD},
        {"family": "bim", **PGD},
        {"family": "mim", "decay": 0.0, **PGD},
    ]
    pgd, bim, mim = (run(data.model, data.images[:60], data.labels[:60], entry) for entry in entries)
    for other in (bim, mim):
        np.testing.assert_array_equal(other.images, pgd.images)
        np.testing.assert_array_equal(other.steps, pgd.steps)
    assert pgd.success.any()


@pytest.mark.parametrize("decay", [-0.1, "1"])
def test_a_decay_that_there_is_not(decay: object) -> None:
    with pytest.raises(ParamsError, match=r"attacks\.mine\.decay"):
        parse_options("mine", AttackSpec(family="mim", decay=decay, **PGD))
