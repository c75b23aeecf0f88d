"""docs/add-an-attack.md is true: its file is a family, its row passes, its params entry is read, its equation is its code."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attacks_support import Case, check_guarantees, linear
from ruamel.yaml import YAML

from pipeline.attacks import families as package
from pipeline.attacks.registry import family, family_names, parse_options
from pipeline.params.attacks import AttackSpec
from pipeline.random import ImageRandom

PAGE = Path(__file__).parents[3] / "docs" / "add-an-attack.md"
BLOCKS = re.findall(r"```(python|yaml)\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page's file among the families, for one test."""
    name = "ni_fgsm"
    assert f"`pipeline/attacks/families/{name}.py`" in PAGE.read_text()
    if name in family_names():
        pytest.skip("somebody has followed the page to the letter: its file is among the families, and its own row tests it")
    (tmp_path / f"{name}.py").write_text(BLOCKS[0][1])
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    yield name
    sys.modules.pop(f"{package.__name__}.{name}", None)
    vars(package).pop(name, None)


def test_the_row_passes(documented: str) -> None:
    case = eval(BLOCKS[1][1], {"Case": Case})
    assert case.options["family"] == documented
    for eight_bit in (True, False):
        check_guarantees(case, eight_bit)


def test_the_entry_is_read(documented: str) -> None:
    ((name, entry),) = YAML(typ="safe", pure=True).load(BLOCKS[2][1]).items()
    options = parse_options(name, AttackSpec(**entry))
    assert isinstance(options, family(documented).Options)
    assert options.model_dump()["epsilon"] == 8 / 255


def test_the_equation_is_the_code(documented: str) -> None:
    """Three steps of the paper's recursion in NumPy, on a linear model with the gradient of its cross-entropy by hand."""
    rng = np.random.default_rng(0)
    weight, images = rng.normal(size=(3, 6)), rng.uniform(0.1, 0.9, (5, 6))
    labels, decay, size, epsilon = rng.integers(0, 3, 5), 0.9, 0.04, 0.1
    current, momentum = images.copy(), np.zeros_like(images)
    for _ in range(3):
        logits = (current + size * decay * momentum) @ weight.T
        softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        slope = (softmax - np.eye(3)[labels]) @ weight
        momentum = decay * momentum + slope / np.abs(slope).sum(1, keepdims=True)
        current = np.clip(np.clip(current + size * np.sign(momentum), images - epsilon, images + epsilon), 0, 1)
    entry: dict[str, Any] = {"family": documented, "epsilon": epsilon, "step_size": size, "steps": 3, "decay": decay, "targeted": False}
    outcome = family(documented).attack(
        linear(weight, np.zeros(3)),
        torch.from_numpy(images).view(5, 1, 2, 3),
        torch.from_numpy(labels),
        None,
        parse_options("x", AttackSpec(**entry)),
        ImageRandom(0, "attack/x", list("abcde")),
    )
    np.testing.assert_allclose(outcome.images.flatten(1).numpy(), current, atol=1e-12)


def test_the_table_of_names_is_the_interface() -> None:
    told = re.findall(r"^\| `(\w+)", PAGE.read_text(), re.MULTILINE)
    assert told == ["Options", "targeted", "bound", "attack"]
    assert all(hasattr(family(name), part) for name in family_names() for part in told)
