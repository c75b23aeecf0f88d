"""Which params of a finished search matter: functional analysis of variance by Optuna, from the trials alone."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipeline.artifacts.studies import Trial
from pipeline.detectors.design import LAYER
from pipeline.distributed.search import distributions
from pipeline.evaluation.pareto import COST, OBJECTIVES
from pipeline.params.tune import SpaceParams

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

FEWEST = 4
"""Trials below which nothing is said: Optuna halves them to find an interaction."""


def importances(space: SpaceParams, trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
    """Objective to param to its share of the objective's variance (Hutter, Hoos and Leyton-Brown, ICML 2014), summing to 1.

    Args:
        space: that was searched.
        trials: finished ones; those that failed, and the params file's own, are left out.

    Returns:
        Nothing for an objective that is the same in every trial, and nothing at all below ``FEWEST`` trials. The forest behind it is
        seeded: the same trials give the same shares.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    searched = [trial for trial in trials if trial.point is not None and not trial.problem]
    if len(searched) < FEWEST:
        return {}
    layers = sorted({name.removeprefix(LAYER) for trial in searched for name in trial.point or {} if name.startswith(LAYER)})
    known = distributions(space, {layer: [0, *space.k] for layer in layers})
    study = optuna.create_study(directions=["minimize" if name == COST else "maximize" for name in OBJECTIVES])
    for trial in searched:
        values = [trial.objectives[name] for name in OBJECTIVES]
        study.add_trial(optuna.trial.create_trial(params=dict(trial.point or {}), distributions=known, values=values))
    found = {}
    for at, name in enumerate(OBJECTIVES):
        if len({trial.objectives[name] for trial in searched}) > 1:
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            shares = optuna.importance.get_param_importances(study, evaluator=evaluator, target=_objective(at))
            found[name] = {param: float(share) for param, share in shares.items()}
    return found


def _objective(at: int) -> "Callable[[FrozenTrial], float]":
    return lambda trial: float(trial.values[at])
