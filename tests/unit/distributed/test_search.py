"""Suggestions and the order of trials, without Ray: the same trials however they are computed."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.studies import Trial
from pipeline.detectors.design import Point
from pipeline.distributed.search import Plan, suggest
from pipeline.evaluation.pareto import OBJECTIVES
from pipeline.params.root import load_params
from pipeline.params.tune import TuneParams

TUNE = load_params(Path(__file__).resolve().parents[3] / "presets" / "digits.yaml").tune
LAYERS = {"layer1": [0, 1, 2, 4], "layer2": [0, 2, 4], "logits": [0, 1]}


def _small(**changes: object) -> TuneParams:
    return TuneParams.model_validate({**TUNE.model_dump(), "trials": 18, "batch": 4, "startup": 4, **changes})


def _made(number: int, point: Point | None) -> Trial:
    """A trial whose objectives are a function of its point; some fail."""
    at = point or {"k.layer1": 4, "draw": 40, "shrinkage": 0.1, "effect_size": 0.5, "pooling": 0.5}
    if number and at["k.layer1"] == 1:
        return Trial(number, dict(at), {}, {}, {}, "too few fingerprints")
    shares = [1 - abs(at["shrinkage"] - 0.3), at["effect_size"], at["pooling"]]
    objectives = dict(zip(OBJECTIVES, [*shares, float((1 + at["k.layer1"]) * at["draw"])], strict=True))
    return Trial(number, None if point is None else dict(point), {}, objectives, {}, None)


def _run(
    params: TuneParams, workers: int, seed: int, kill_after: int | None = None, done: dict[int, Trial] | None = None
) -> dict[int, Trial]:
    """Runs a plan with so many workers, which finish in a random order; stops after some trials."""
    rng, plan = np.random.default_rng(seed), Plan(params, LAYERS, dict(done or {}))
    running: list[tuple[int, Point | None]] = []
    finished = 0
    while plan.missing and finished != kill_after:
        while len(running) < workers and (following := plan.next()) is not None:
            running.append(following)
        assert running, "nothing runs, yet something is missing: the search would hang"
        number, point = running.pop(int(rng.integers(len(running))))
        plan.done[number] = _made(number, point)
        finished += 1
    return plan.done


def _sorted(done: dict[int, Trial]) -> list[Trial]:
    return [done[number] for number in sorted(done)]


@pytest.fixture(scope="module")
def alone() -> list[Trial]:
    return _sorted(_run(_small(), workers=1, seed=0))


def test_a_plan_makes_each_trial_once_and_the_params_file_first(alone: list[Trial]) -> None:
    assert [trial.number for trial in alone] == list(range(18)) and alone[0].point is None
    assert len({str(trial.point) for trial in alone}) > 12


@pytest.mark.parametrize("workers", [2, 4, 7])
def test_the_trials_are_the_same_whatever_the_workers_and_their_order(alone: list[Trial], workers: int) -> None:
    assert _sorted(_run(_small(), workers, seed=workers)) == alone


@pytest.mark.parametrize("killed", [0, 1, 3, 6, 17])
def test_a_search_that_was_killed_goes_on_to_the_same_trials(alone: list[Trial], killed: int) -> None:
    done = _run(_small(), 3, seed=killed, kill_after=killed)
    assert len(done) == killed
    assert _sorted(_run(_small(), 2, seed=9, done=done)) == alone


def test_more_trials_go_on_with_the_same_search(alone: list[Trial]) -> None:
    first = _run(_small(trials=10), 2, seed=1)
    assert _sorted(first) == alone[:10]
    assert _sorted(_run(_small(), 2, seed=2, done=first)) == alone


def test_another_seed_gives_other_points_and_earlier_trials_matter(alone: list[Trial]) -> None:
    assert suggest(_small(), LAYERS, [], 0) != suggest(_small(seed=1), LAYERS, [], 0)
    late, changed = (
        suggest(_small(), LAYERS, alone, 3),
        [Trial(t.number, t.point, {}, {name: -value for name, value in t.objectives.items()}, {}, t.problem) for t in alone],
    )
    assert suggest(_small(), LAYERS, list(reversed(alone)), 3) == late
    assert suggest(_small(), LAYERS, alone[:13], 3) == late, "trials of this batch and later ones are not looked at"
    assert suggest(_small(), LAYERS, changed, 3) != late


def test_suggestions_keep_to_the_bounds(alone: list[Trial]) -> None:
    space = TUNE.space
    for point in (trial.point for trial in alone if trial.point):
        for name in ("draw", "directions", "shrinkage", "effect_size"):
            low, high = getattr(space, name)
            assert low <= point[name] <= high
        assert point["prefer"] in space.prefer and point["pooling"] in space.pooling
        assert all(point[f"k.{layer}"] in sizes for layer, sizes in LAYERS.items())


def test_a_plan_with_a_fault_is_over() -> None:
    plan = Plan(_small(), LAYERS, {})
    assert not plan.over
    plan.fault = "no room"
    assert plan.over
