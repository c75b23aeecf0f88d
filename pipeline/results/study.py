"""A search at rest, as the page of ablations tells it."""

from typing import Any

from pipeline.artifacts import paths
from pipeline.artifacts.studies import Study, Trial
from pipeline.distributed.importance import importances
from pipeline.errors import ArtifactError, WhorlError
from pipeline.evaluation.results.ablation import AblationInputs
from pipeline.evaluation.results.effects import TrialRow
from pipeline.params.root import Params
from pipeline.params.tune import SpaceParams
from pipeline.tune.command import PROPOSAL, identity, on_front, propose, read_proposal, study_of, worked

FIRST = "trials/00000.json"
"""The params file as it stood: without it there is nothing to compare with."""


def find_study(name: str | None) -> Study | None:
    """The study of a name, or else the newest (by its latest trial); None where there is none.

    Raises:
        ArtifactError: there is none of that name with a finished trial.
    """
    if name is not None:
        study = study_of(name)
        if not (study.folder / FIRST).is_file():
            raise ArtifactError(
                f"{study.folder / FIRST}: there is no such file, where a study's first trial was expected; "
                f"`whorl tune fingerprints --study {name}` makes it."
            )
        return study
    found = [Study(path.parent) for path in paths.STUDIES.glob("*/study.json") if (path.parent / FIRST).is_file()]
    return max(found, key=lambda study: (_latest(study), study.folder.name), default=None)


def _latest(study: Study) -> float:
    return max(path.stat().st_mtime for path in (study.folder / "trials").glob("*.json"))


def ablation_inputs(study: Study, params: Params) -> AblationInputs:
    """What is told of a study; ``params`` is the params file as it is now.

    Raises:
        WhorlError: the params file as it stood when the search began could not be built.
    """
    trials, made = worked(study), study.identity
    tune = made["tune"]
    finished = (study.folder / PROPOSAL).is_file()
    chosen = int(read_proposal(study)["trial"]) if finished else propose(trials, params.tune.cost_limit)
    name = made["detector"]["name"]
    return AblationInputs(
        study=study.folder.name,
        seed=int(tune["seed"]),
        rows=[_row(trial, name) for trial in trials.values()],
        failed=len(study.trials()) - len(trials),
        layers=list(trials[0].params["fingerprints.layer_weights"]),
        front=on_front(trials),
        chosen=chosen,
        importance=importances(SpaceParams.model_validate(tune["space"], strict=False), list(trials.values())),
        held_out=tune["held_out"],
        looks=tune["looks"],
        alpha=made["alpha"],
        note=" ".join(_notes(study, params, finished)) or None,
    )


def _notes(study: Study, params: Params, finished: bool) -> list[str]:
    notes = [] if finished else ["The search is not finished."]
    try:
        study.require(identity(params))
    except WhorlError:
        notes.append("It was made with other params than the run beside it.")
    return notes


def _row(trial: Trial, detector: str) -> TrialRow:
    values = trial.params
    k, weights = values["fingerprints.k"], values["fingerprints.layer_weights"]
    inside = [layer for layer, weight in weights.items() if weight]
    settings: dict[str, Any] = {
        **{key: values[f"detectors.{detector}.{key}"] for key in ("draw", "directions", "shrinkage", "pooling")},
        **{key: values[f"selection.{key}"] for key in ("effect_size", "prefer")},
    }
    return TrialRow(trial.number, {layer: k[layer] if isinstance(k, dict) else k for layer in inside}, settings, trial.objectives)
