"""A search on Ray Tune with Optuna: batches of suggestions, each of which rests on all earlier batches and on nothing else.

A suggestion is a function of the seed, the batch's number and the trials before it. So how many workers there are, in which
order they finish and how often the search was killed change nothing, and no state of a sampler has to be stored (Tune and
Optuna would pickle it). Ray and Optuna are imported inside the functions, after the session has prepared the environment.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.studies import Trial
from pipeline.detectors.design import LAYER, Point
from pipeline.distributed.environment import environment
from pipeline.distributed.profile import Profile, load_profile
from pipeline.distributed.runtime import cluster_cpus, ray_session
from pipeline.errors import WhorlError
from pipeline.evaluation.pareto import COST, OBJECTIVES
from pipeline.params.tune import SpaceParams, TuneParams
from pipeline.random import generator

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from ray.tune import Trainable
    from ray.tune.search import Searcher

Build = Callable[[], Callable[[Point | None], dict[str, Any]]]
Layers = Mapping[str, Sequence[int]]
ENVIRONMENT = {
    # Its own signal handler would finish the search on Ctrl-C as if it were complete.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The new output prints however silent it is told to be.
    "RAY_AIR_NEW_OUTPUT": "0",
}

_DIED = (
    "Trial {number}: its worker failed again and again, where it was expected to finish; what was finished is kept, and the same "
    "command goes on from there."
)


def search_versions() -> dict[str, str]:
    """The versions of what makes suggestions."""
    return {name: version(name) for name in ("optuna", "ray")}


def distributions(space: SpaceParams, layers: Layers) -> "dict[str, BaseDistribution]":
    """The search space as Optuna has it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    return {
        **{f"{LAYER}{layer}": CategoricalDistribution(sizes) for layer, sizes in layers.items()},
        "draw": IntDistribution(*space.draw),
        "directions": IntDistribution(*space.directions, log=True),
        "shrinkage": FloatDistribution(*space.shrinkage, log=True),
        "pooling": CategoricalDistribution(space.pooling),
        "effect_size": FloatDistribution(*space.effect_size),
        "prefer": CategoricalDistribution(space.prefer),
    }


def suggest(params: TuneParams, layers: Layers, trials: Sequence[Trial], batch: int) -> dict[int, Point]:
    """The points of one batch: its trials' numbers, from 1 + batch * ``params.batch`` on, each with its point.

    Args:
        params: the ``tune`` section.
        layers: each with the k that it may have (see ``choices``).
        trials: finished ones; all of the earlier batches must be among them, and no other is looked at.
        batch: its number, from 0.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    first = 1 + batch * params.batch
    space, seed = distributions(params.space, layers), int(generator(params.seed, "tune", str(batch)).integers(2**32))
    study = optuna.create_study(
        directions=["minimize" if name == COST else "maximize" for name in OBJECTIVES],
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=params.startup, multivariate=True, constant_liar=True),
    )
    for trial in sorted(trials, key=lambda trial: trial.number):
        if trial.point is not None and trial.number < first:
            study.add_trial(_told(trial, space))
    return {first + place: study.ask(space).params for place in range(params.batch)}


def _told(trial: Trial, space: "dict[str, BaseDistribution]") -> Any:
    import optuna

    state = optuna.trial.TrialState.FAIL if trial.problem else optuna.trial.TrialState.COMPLETE
    values = None if trial.problem else [trial.objectives[name] for name in OBJECTIVES]
    return optuna.trial.create_trial(state=state, params=dict(trial.point or {}), distributions=space, values=values)


@dataclass
class Plan:
    """Which trials are still to be made, batch by batch."""

    params: TuneParams
    layers: Layers
    done: dict[int, Trial]
    fault: str | None = None
    """Why the search cannot go on."""

    def __post_init__(self) -> None:
        self.queue: list[tuple[int, Point | None]] = [] if 0 in self.done else [(0, None)]
        self.batch = 0

    @property
    def missing(self) -> int:
        """How many trials are not finished."""
        return sum(number not in self.done for number in range(self.params.trials))

    def next(self) -> tuple[int, Point | None] | None:
        """The next trial; None where those of the batch have to finish first, or where there is none left."""
        while not self.queue and (first := 1 + self.batch * self.params.batch) < self.params.trials:
            if any(number not in self.done for number in range(1, first)):
                return None
            lacking = [n for n in range(first, min(first + self.params.batch, self.params.trials)) if n not in self.done]
            points = suggest(self.params, self.layers, list(self.done.values()), self.batch) if lacking else {}
            self.queue = [(n, points[n]) for n in lacking]
            self.batch += 1
        return self.queue.pop(0) if self.queue else None

    @property
    def over(self) -> bool:
        """Whether every trial has been handed out, or none should be any more."""
        return bool(self.fault) or (not self.queue and 1 + self.batch * self.params.batch >= self.params.trials)


def search(build: Build, plan: Plan, scratch: Path, on_trial: Callable[[Trial, float], None]) -> None:
    """Runs the trials that a plan still lacks on Ray Tune, each a call of the function that ``build`` makes once a worker.

    Args:
        build: picklable; the function takes a point (None for number 0) and returns ``params``, ``objectives``, ``figures`` and
            ``problem``, as in ``Trial``. A WhorlError ends the search.
        plan: what is finished, and what is to come.
        scratch: a folder for Tune's own files, which nothing reads.
        on_trial: called here with each finished trial and its seconds.

    Raises:
        WhorlError: a worker raised it, or died more often than the profile allows.
    """
    profile = load_profile()
    shutil.rmtree(scratch, ignore_errors=True)
    with environment(ENVIRONMENT), ray_session():
        from ray import tune

        searcher = _searcher(plan, on_trial)
        resources = {"cpu": profile.cpus_per_worker, "gpu": profile.gpus_per_worker}
        results = tune.Tuner(
            tune.with_resources(_trainable(build, profile.cpus_per_worker), resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=plan.missing, reuse_actors=True, max_concurrent_trials=_workers(profile, plan)
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=str(scratch.resolve()),
                failure_config=tune.FailureConfig(max_failures=profile.max_restarts),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()
    shutil.rmtree(scratch, ignore_errors=True)
    if plan.fault:
        raise WhorlError(plan.fault) from next(iter(results.errors), None)


def _workers(profile: Profile, plan: Plan) -> int:
    return max(1, min(profile.workers or plan.params.batch, plan.params.batch, cluster_cpus() // profile.cpus_per_worker))


def _searcher(plan: Plan, on_trial: Callable[[Trial, float], None]) -> "Searcher":
    """Hands out the plan's trials, and keeps what comes back."""
    from ray.tune.search import Searcher

    class Batches(Searcher):
        def __init__(self) -> None:
            super().__init__()
            self.running: dict[str, tuple[int, Point | None]] = {}

        def suggest(self, trial_id: str) -> Any:
            if plan.over:
                return Searcher.FINISHED
            if (following := plan.next()) is None:
                return None
            self.running[trial_id] = following
            number, point = following
            return {"number": number, "point": json.dumps(point)}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            number, point = self.running.pop(trial_id)
            if error or not result or "made" not in result:
                plan.fault = plan.fault or (result or {}).get("fault") or _DIED.format(number=number)
                return
            plan.done[number] = Trial(number, None if point is None else dict(point), **json.loads(result["made"]))
            on_trial(plan.done[number], result["seconds"])

        def save(self, checkpoint_path: str) -> None:
            Path(checkpoint_path).touch()  # nothing: a search goes on from its finished trials

        def restore(self, checkpoint_path: str) -> None:
            raise NotImplementedError("a search goes on from its finished trials")

    return Batches()


def _trainable(build: Build, threads: int) -> "type[Trainable]":
    """The class of Tune's actors: one builds its function at its first trial and keeps it for all others."""
    from ray.tune import Trainable

    class OnBench(Trainable):
        def setup(self, config: Mapping[str, Any]) -> None:
            self.work: Callable[[Point | None], dict[str, Any]] | None = None

        def reset_config(self, new_config: Mapping[str, Any]) -> bool:
            return True  # Tune has set self.config

        def step(self) -> dict[str, Any]:
            import torch

            torch.set_num_threads(threads)
            start = monotonic()
            try:
                self.work = self.work or build()
                made = json.dumps(self.work(json.loads(self.config["point"])))
            except WhorlError as error:  # returned, not raised: raised, it would be tried again
                return {"fault": str(error), "done": True}
            return {"made": made, "seconds": monotonic() - start, "done": True}

    return OnBench
