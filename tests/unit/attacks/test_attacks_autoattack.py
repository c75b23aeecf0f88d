"""AutoAttack's standard ensemble: what it is made of, who is passed on, what is kept, and that it beats each of its members."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from attacks_support import digits
from torch import Tensor

from pipeline.attacks.base import Outcome
from pipeline.attacks.families import autoattack
from pipeline.attacks.geometry import norm
from pipeline.attacks.registry import family, parse_options
from pipeline.errors import ClassifierError
from pipeline.params.attacks import AttackSpec
from pipeline.random import ImageRandom

ENTRY: dict[str, Any] = {"family": "autoattack", "norm": "linf", "epsilon": 0.1, "steps": 8, "queries": 40, "target_classes": 3}
STAGES = ["apgd_ce", "apgd_dlr_targeted", "fab", "square"]


def options(**changes: Any) -> autoattack.Options:
    parsed = parse_options("x", AttackSpec(**{**ENTRY, **changes}))
    assert isinstance(parsed, autoattack.Options)
    return parsed


def test_the_members_are_the_standard_ones() -> None:
    """The settings of the authors' standard version, written out."""
    ball = {"norm": "l2", "epsilon": 0.5}
    apgd = {**ball, "family": "apgd", "steps": 100, "restarts": 1, "rho": 0.75, "stop_on_success": True}
    standard = {
        "apgd_ce": {**apgd, "loss": "ce", "target_classes": None},
        "apgd_dlr_targeted": {**apgd, "loss": "dlr_targeted", "target_classes": 9},
        "fab": {**ball, "family": "fab", "steps": 100, "restarts": 1, "target_classes": 9, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9},
        "square": {**ball, "family": "square", "queries": 5000, "p_init": 0.8, "schedule": 10000, "targeted": False},
    }
    members = autoattack.members(options(**ball, steps=100, queries=5000, target_classes=9))
    assert list(members) == list(standard) == STAGES
    assert {name: member.model_dump() for name, member in members.items()} == standard


class Staged:
    """The ensemble with members that do as they are told, on a model that says what it is asked.

    An image is three pixels: a tenth of its label, and two that the model takes for an error where one is above 0.55.
    ``told[stage][id]`` is what that member makes of the last two.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, told: dict[str, dict[str, tuple[float, float]]]) -> None:
        self.told, self.asked = told, list[int]()
        self.given: list[tuple[str, str]] = []
        monkeypatch.setattr(autoattack, "FAMILIES", {name: self._family(name) for name in autoattack.FAMILIES})

    def _family(self, name: str) -> Any:
        real = family(name)
        return SimpleNamespace(Options=real.Options, bound=real.bound, attack=self._attack)

    def _attack(self, logits_fn: Any, images: Tensor, labels: Tensor, targets: Tensor | None, member: Any, draws: ImageRandom) -> Outcome:
        stage = draws.purpose.removeprefix("attack/mine/")
        assert targets is None and draws.seed == 3 and member == autoattack.members(options())[stage]
        assert torch.equal((images[:, 0, 0, 0] * 10).round().long(), labels)
        self.given.append((stage, "".join(draws.ids)))
        moved = images.clone()
        moved[:, 0, 0, 1:] = torch.tensor([self.told[stage][key] for key in draws.ids])
        return Outcome(moved, torch.full((len(images),), 10 ** STAGES.index(stage)))

    def model(self, images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.asked.append(len(images))
        wrong = (images[:, 0, 0, 1:] > 0.55).any(1)
        return torch.eye(4)[((images[:, 0, 0, 0] * 10).round().long() + wrong) % 4]

    def run(self, clean: dict[str, tuple[float, float]]) -> Outcome:
        labels = torch.arange(len(clean)) % 4
        images = torch.cat([labels[:, None] / 10, torch.tensor(list(clean.values()))], 1).view(-1, 1, 1, 3)
        return autoattack.attack(self.model, images, labels, None, options(), ImageRandom(3, "attack/mine", list(clean)))


def test_each_member_gets_those_that_the_model_still_gets_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """``c`` is fooled by FAB inside the ball; ``d`` only outside, where the model is wrong about what may not be returned."""
    no, yes = (0.52, 0.5), (0.58, 0.5)
    told = {
        "apgd_ce": {"a": yes, "b": no, "c": no, "d": no, "e": no},
        "apgd_dlr_targeted": {"b": yes, "c": no, "d": no, "e": no},
        "fab": {"c": yes, "d": (0.9, 0.5), "e": no},
        "square": {"d": (0.5, 0.6), "e": (0.51, 0.49)},
    }
    staged = Staged(monkeypatch, told)
    outcome = staged.run({"a": (0.5, 0.5), "b": (0.5, 0.5), "c": (0.5, 0.5), "d": (0.4, 0.5), "e": (0.5, 0.5)})
    assert staged.given == list(zip(STAGES, ["abcde", "bcde", "cde", "de"], strict=True))
    # One image to count the classes, then what each member but the last returned.
    assert staged.asked == [1, 5, 4, 3]
    np.testing.assert_allclose(outcome.images[:, 0, 0, 1:], [yes, yes, yes, told["square"]["d"], told["square"]["e"]], rtol=1e-6)
    assert outcome.steps.tolist() == [1, 11, 111, 1111, 1111]


def test_nobody_left_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    staged = Staged(monkeypatch, {"apgd_ce": {"a": (0.6, 0.5), "b": (0.58, 0.5)}})
    outcome = staged.run({"a": (0.5, 0.5), "b": (0.5, 0.5)})
    assert staged.given == [("apgd_ce", "ab")] and staged.asked == [1, 2] and outcome.steps.tolist() == [1, 1]


@pytest.mark.parametrize("classes", [2, 3])
def test_too_few_classes_are_said_before_any_step(classes: int) -> None:
    asked: list[int] = []

    def logits_fn(images: Tensor) -> Tensor:
        asked.append(len(images))
        return images.flatten(1)[:, :classes]

    with pytest.raises(ClassifierError, match=f"it has {classes} classes, where at least 4 were expected by the targeted DLR loss"):
        autoattack.attack(
            logits_fn, torch.full((5, 1, 2, 2), 0.5), torch.zeros(5, dtype=torch.int64), None, options(), ImageRandom(0, "x", list("abcde"))
        )
    assert asked == [1]


def correct_digits(count: int) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor, list[str]]:
    data = digits()
    images, labels = torch.from_numpy(data.images).float() / 255, torch.from_numpy(data.labels)
    with torch.no_grad():
        rows = (data.model(images).argmax(1) == labels).nonzero()[:count, 0]
    return data.model, images[rows], labels[rows], [data.ids[row] for row in rows.tolist()]


@pytest.mark.parametrize(("name", "epsilon"), [("linf", 0.08), ("l2", 0.45)])
def test_the_ensemble_succeeds_wherever_a_member_does(name: str, epsilon: float) -> None:
    """On the same draws, and one step, so that no member finds all there is; FAB succeeds where its point is inside the ball."""
    model, images, labels, ids = correct_digits(60)
    settings = options(norm=name, epsilon=epsilon, steps=1)

    def succeeded(outcome: Outcome) -> Tensor:
        with torch.no_grad():
            wrong = model(outcome.images).argmax(1) != labels
        return wrong & (norm(settings.norm).distance(outcome.images, images) <= epsilon * (1 + 1e-6))

    together = succeeded(autoattack.attack(model, images, labels, None, settings, ImageRandom(1, "x", ids)))
    alone = {
        stage: succeeded(family(member.family).attack(model, images, labels, None, member, ImageRandom(1, f"x/{stage}", ids)))
        for stage, member in autoattack.members(settings).items()
    }
    for one in alone.values():
        assert together[one].all() and 0 < one.sum() < together.sum()


def test_an_example_is_attacked_alike_in_any_batch() -> None:
    model, images, labels, ids = correct_digits(24)
    settings = options(epsilon=0.08)
    together = autoattack.attack(model, images, labels, None, settings, ImageRandom(1, "x", ids))
    rows = [17, 3, 8, 20, 1]
    some = autoattack.attack(model, images[rows], labels[rows], None, settings, ImageRandom(1, "x", [ids[row] for row in rows]))
    np.testing.assert_allclose(some.images, together.images[rows], atol=1e-5)
    assert torch.equal(some.steps, together.steps[rows]) and len(set(some.steps.tolist())) > 2
