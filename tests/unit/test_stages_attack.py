"""What a shard of attacked images depends on: everything that its content follows from, and nothing else."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.attacks.registry import parse_options
from pipeline.params.attacks import AttackSpec, GenerationParams
from stages import attack as stage

FGSM = {"family": "fgsm", "norm": "linf", "epsilon": "8/255", "targeted": False}
GENERATION = GenerationParams(seed=0, batch_size=64, eight_bit=True, precision="float32")


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Shard to signature, of the plan with some of it changed."""

    def plan(**changed: Any) -> dict[str, str]:
        given: dict[str, Any] = {"name": "fgsm", "options": {}, "generation": {}, "weights": "w", "images": "i", "code": "c", "threads": 1}
        given |= changed
        classifier = SimpleNamespace(files=["model"], sha256=lambda _: given["weights"])
        monkeypatch.setattr(stage, "open_artifact", lambda *_: classifier)
        monkeypatch.setattr(stage, "code_digest", lambda _, family: f"{given['code']} of {family}")
        monkeypatch.setattr(stage, "profile_rounding", lambda: {"device": "cpu", "threads": given["threads"]})
        images: Any = SimpleNamespace(
            shards=lambda split: [f"{split}-0", f"{split}-1"], sha256=lambda shard: f"{given['images']} in {shard}", rows=lambda _: 5
        )
        options = parse_options(given["name"], AttackSpec(**{**FGSM, **given["options"]}))
        tasks = stage.plan(given["name"], options, GENERATION.model_copy(update=given["generation"]), images)
        assert all(task.name == task.payload and task.size == 5 for task in tasks)
        return {task.name: task.signature for task in tasks}

    return plan


def test_the_splits_that_are_attacked_each_shard_once(planned: Callable[..., dict[str, str]]) -> None:
    first = planned()
    assert list(first) == [f"{split}-{number}" for split in ("fit", "tune", "test") for number in (0, 1)]
    assert planned() == first and len(set(first.values())) == 6


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "other"},
        {"options": {"epsilon": "4/255"}},
        {"options": {"norm": "l2"}},
        {"options": {"targeted": True}},
        {"generation": {"seed": 1}},
        {"generation": {"batch_size": 32}},
        {"generation": {"eight_bit": False}},
        {"generation": {"precision": "bfloat16"}},
        {"weights": "others"},
        {"images": "others"},
        {"code": "newer"},
        {"threads": 2},
    ],
    ids=str,
)
def test_another_shard_for_whatever_changes_its_content(planned: Callable[..., dict[str, str]], changed: dict[str, Any]) -> None:
    assert not set(planned().values()) & set(planned(**changed).values())
