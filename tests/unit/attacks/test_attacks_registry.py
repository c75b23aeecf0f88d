"""Options of an attack: typed by its family's file, and every mistake a sentence with its key."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.attacks import families as package
from pipeline.attacks.registry import families, family, family_names, parse_options
from pipeline.errors import ParamsError
from pipeline.params.attacks import AttackSpec

FGSM: dict[str, Any] = {"family": "fgsm", "norm": "linf", "epsilon": 0.1, "targeted": False}
CONFIDENCE: dict[str, Any] = {"family": "confidence_ifgsm", "epsilon": 0.2, "step_size": 0.01, "confidence": 0.7, "steps": 60}


def test_families_are_the_files() -> None:
    assert set(families()) == set(family_names()) >= {"fgsm", "pgd", "confidence_ifgsm"}
    with pytest.raises(KeyError):
        family("no_such_family")


def test_a_file_that_families_share_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = family_names()
    (tmp_path / "_shared.py").touch()
    (tmp_path / "another.py").touch()
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert set(family_names()) == {*before, "another"}


def test_options_are_typed_and_fractions_read() -> None:
    options = parse_options("mine", AttackSpec(**{**FGSM, "epsilon": "8/255"}))
    assert options.model_dump() == {"family": "fgsm", "norm": "linf", "epsilon": 8 / 255, "targeted": False}
    assert parse_options("mine", AttackSpec(**CONFIDENCE)).model_dump() == CONFIDENCE


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({**FGSM, "epsilon": -0.1}, ["attacks.mine.epsilon", "-0.1", "greater than or equal to 0 was expected"]),
        ({**FGSM, "epsilon": 8}, ["attacks.mine.epsilon", "the value is 8", "such as 8/255"]),
        ({**FGSM, "epsilon": "8/0"}, ["attacks.mine.epsilon", "'8/0'"]),
        ({**FGSM, "epsilon": float("nan")}, ["attacks.mine.epsilon", "nan", "finite"]),
        ({**FGSM, "norm": "l1"}, ["attacks.mine.norm", "'l1'", "'linf' or 'l2' was expected"]),
        ({**FGSM, "targeted": "no"}, ["attacks.mine.targeted", "'no'", "boolean"]),
        ({**FGSM, "steps": 3}, ["attacks.mine.steps", "unknown", "3"]),
        ({"family": "fgsm", "norm": "linf", "targeted": False}, ["attacks.mine.epsilon", "missing"]),
        ({**CONFIDENCE, "confidence": 1.0}, ["attacks.mine.confidence", "1.0", "less than 1 was expected"]),
        ({**CONFIDENCE, "steps": 0}, ["attacks.mine.steps", "0", "greater than 0 was expected"]),
        ({**FGSM, "family": "fgms"}, ["attacks.mine.family", "'fgms'", "one of apgd, autoattack", "confidence_ifgsm", "pgd, square"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_is_a_sentence(spec: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ParamsError) as caught:
        parse_options("mine", AttackSpec(**spec))
    said = str(caught.value)
    assert "\n" not in said and said.startswith("params.yaml: ") and said.endswith(".")
    assert all(part in said for part in expected), said


def test_every_mistake_has_its_own_sentence() -> None:
    with pytest.raises(ParamsError) as caught:
        parse_options("mine", AttackSpec(**{**FGSM, "epsilon": -1.0, "norm": "l1"}))
    assert len(str(caught.value).splitlines()) == 2
