"""The rounds of the hardening stage: each is handed all earlier survivors, and one without any, or that cannot be made, is the last."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts.hardening import read_survivors, survivors_output
from pipeline.artifacts.records import StageRun
from pipeline.artifacts.store import ShardOutput, ShardStore
from pipeline.distributed.shard_map import ShardTask
from pipeline.fingerprints.features import Features
from stages import hardening as stage

SETTING: Any = SimpleNamespace(hardening=SimpleNamespace(rounds=3, folds=2, looks=8))


def features(*numbers: int) -> Features:
    one, zero = np.ones(len(numbers), np.int64), np.zeros(len(numbers), np.int64)
    neurons = np.array(numbers, np.float32)[:, None] + np.zeros((1, 4), np.float32)
    return Features([f"{number:032x}" for number in numbers], zero, zero, one, one == 1, zero == 1, neurons)


def found(step: stage.Step) -> ShardOutput:
    """Two survivors of one attack in every part, and in part 0 one of another."""
    other = features(step.round) if step.part == 0 else features()
    return survivors_output({"fgsm": other, "pgd": features(10 * step.round, 10 * step.round + 1)}, 4)


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[stage.Rounds, ShardStore, list[str]]]:
    """Runs the search with made outputs, in this process."""

    def plan(setting: Any, store: ShardStore, number: int, part: int, rounds: stage.Rounds) -> ShardTask[stage.Step]:
        earlier = tuple(tuple(store.folder(task.signature) for task in tasks) for tasks in rounds)
        return ShardTask(f"round{number}-part{part}", f"{number}-{part}", stage.Step(number, part, earlier), 1)

    def run(output: Callable[[stage.Step], ShardOutput]) -> tuple[stage.Rounds, ShardStore, list[str]]:
        def shard_map(build: object, tasks: list[ShardTask[stage.Step]], store: ShardStore, *, title: str) -> None:
            for task in tasks:
                store.write(task.signature, output(task.payload))

        monkeypatch.setattr(stage, "plan", plan)
        monkeypatch.setattr(stage, "shard_map", shard_map)
        store, noted = ShardStore(tmp_path), StageRun()
        return stage.search(SETTING, store, noted), store, noted.notes

    return run


def test_survivors_come_back_from_the_store_as_they_went_in(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    store.write("s", survivors_output({"fgsm": features(3, 5), "bim": features(), "pgd": features(4)}, 4))
    back = read_survivors(store.folder("s"))
    assert store.about("s") == {"counts": {"fgsm": 2, "bim": 0, "pgd": 1}, "refused": ""}
    assert [batch.ids for batch in back] == [features(3, 5).ids, features(4).ids]
    assert np.array_equal(back[0].neurons, features(3, 5).neurons) and back[1].success.all()
    store.write("none", survivors_output({"fgsm": features()}, 4))
    assert read_survivors(store.folder("none")) == []


def test_every_round_is_handed_the_survivors_of_all_earlier_ones(search: Any) -> None:
    rounds, store, notes = search(found)
    assert len(rounds) == 3 and not notes
    assert [stage.counts(store, tasks) for tasks in rounds] == [{"fgsm": 1, "pgd": 4}] * 3
    for number, tasks in enumerate(rounds, 1):
        handed = tasks[0].payload.survivors()
        assert [len(survivors) for survivors in handed] == [3] * (number - 1)
        assert [survivors[0].ids for survivors in handed] == [features(earlier).ids for earlier in range(1, number)]


def test_a_round_without_survivors_is_the_last_and_is_noted(search: Any) -> None:
    none = survivors_output({"fgsm": features(), "pgd": features()}, 4)
    rounds, store, notes = search(lambda step: none if step.round == 2 else found(step))
    assert [any(stage.counts(store, tasks).values()) for tasks in rounds] == [True, False]
    assert notes == ["Hardening: round 2 found no attacked image that would probably pass 8 looks; no further round was made."]


def test_a_round_that_cannot_be_made_ends_the_study_and_is_noted(search: Any) -> None:
    refused = ShardOutput(about={"counts": {}, "refused": "The calibrate split has 7 images."})
    rounds, _, notes = search(lambda step: refused if (step.round, step.part) == (2, 1) else found(step))
    assert len(rounds) == 1
    assert notes == [
        "Hardening: the survivors of round 2 could not be found, and no further round was made: The calibrate split has 7 images."
    ]
