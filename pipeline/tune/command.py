"""``whorl tune``: searches for a better committee detector and proposes what it found; writes the params file only when told to."""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from pipeline.artifacts import paths
from pipeline.artifacts.checkout import commit
from pipeline.artifacts.current import open_activations
from pipeline.artifacts.features import CLEAN, FeatureSet
from pipeline.artifacts.files import digest, write_bytes, write_table
from pipeline.artifacts.signature import code_digest, library_versions
from pipeline.artifacts.store import ShardStore
from pipeline.artifacts.studies import Study, Trial, trial_table
from pipeline.distributed.environment import prepare_environment
from pipeline.distributed.search import Plan, search, search_versions
from pipeline.errors import ParamsError, WhorlError
from pipeline.evaluation.figures import to_png
from pipeline.evaluation.pareto import COST, DETECTION, OBJECTIVES, choose, front
from pipeline.evaluation.pareto_figure import pareto_figure
from pipeline.params.edits import edit
from pipeline.params.root import Params, load_params
from pipeline.progress import progress
from pipeline.tracking import DatasetRecord, RunRecord, StageRecord, log_run, tracking_uri
from pipeline.tune.bench import Setting, build_bench, design_of, layer_choices, setting_of
from pipeline.tune.show import print_proposal

RULE = f"on the Pareto front, the best mean of {', '.join(DETECTION)} at no more than {{limit:g}} times the cost of trial 0"
PROPOSAL, TABLE, FIGURE = "proposal.yaml", "trials.parquet", "pareto.png"
FREE = ("k", "layer_weights", "effect_size", "prefer", "draw", "directions", "shrinkage", "pooling")
"""What a search may change, and so is no part of what it is a search of."""
UNTOLD = ("trials", "cost_limit")
"""Of ``tune``: more trials go on with the same search, and the limit only chooses among them."""

STAGES = ("sample_fingerprints", "select_fingerprints", "train_detector")
"""The stages whose work a trial does."""
CODE = (
    "pipeline/detectors/design.py",
    "pipeline/detectors/trials.py",
    "pipeline/distributed/search.py",
    "pipeline/evaluation/bootstrap.py",
    "pipeline/evaluation/estimates.py",
    "pipeline/evaluation/metrics.py",
    "pipeline/evaluation/objectives.py",
    "pipeline/evaluation/pareto.py",
    "pipeline/evaluation/score_table.py",
    "pipeline/evaluation/transfer.py",
    "pipeline/params/evaluation.py",
    "pipeline/params/tune.py",
    "pipeline/tune/bench.py",
)
"""What else decides on the trials: which are suggested, and how they are measured (a contract test proves it)."""


def tune_fingerprints(name: str) -> None:
    """Makes, or goes on with, a study; proposes, prints and records what it found."""
    prepare_environment()
    params, study = load_params(), study_of(name)
    searched(params)  # before the study begins
    features = open_activations(params, "a search")
    with ShardStore(study.folder).locked():
        study.begin({**identity(params), **provenance(features)}, design_of(params).values(params.tune.detector))
        params = as_begun(params, study)
        setting = searched(params)
        plan = Plan(params.tune, layer_choices(features.layout, params.tune), {trial.number: trial for trial in study.trials()})
        run(plan, study, setting)
        trials = worked(study)
        chosen = trials[propose(trials, params.tune.cost_limit)]
        write_results(study, trials, chosen, params)
    log_run(run_record(params, study, trials, chosen, features), uri=tracking_uri(), experiment=params.publish.experiment)
    print_proposal(study.folder, list(trials.values()), on_front(trials), chosen, changes(trials[0].params, chosen.params))


def apply(name: str, number: int | None) -> None:
    """Writes a trial's params (by default the proposed one's) into the params file, and keeps the old file."""
    params, study = load_params(), study_of(name)
    study.require(identity(params))
    if number is None:
        number = int(read_proposal(study)["trial"])
    trial = study.trial(number)
    wanted = changes(design_of(params).values(params.tune.detector), trial.params)
    if not wanted:
        print(f"params.yaml has the params of trial {number} already; nothing was changed.")
        return
    if kept := edit({key: new for key, (_, new) in wanted.items()}):
        print(f"The old params.yaml is kept as {kept}.")
    for key, (old, new) in wanted.items():
        print(f"{key}: {old} is now {new}")
    print("`make repro` rebuilds what that changes.")


def study_of(name: str) -> Study:
    """The study of a name; raises WhorlError where that is no name for a folder."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise WhorlError(f"--study: the name is {name!r}, where letters, digits, and _ . - inside were expected.")
    return Study(paths.study(name))


def as_begun(params: Params, study: Study) -> Params:
    """The params as they stood when the study began, which its trial 0 and all its points rest on; says where they have changed since."""
    name, design = params.tune.detector, design_of(params)
    begun = design.at(study.base, name)
    if begun != design:
        print(
            "params.yaml has changed since this study began, which goes on from the file as it was then: trial 0, `now` below. "
            "`--study NAME` begins one from the file as it is."
        )
    detectors = {**params.detectors, name: begun.detector}
    return params.model_copy(update={"fingerprints": begun.fingerprints, "selection": begun.selection, "detectors": detectors})


def searched(params: Params) -> Setting:
    """What every trial shares.

    Raises:
        ParamsError: the section ``tune`` does not fit the others. Not asked of a run, which may do without a search.
    """
    if said := params.selection.drawn_whole([params.tune.space.draw[1]]):
        raise ParamsError(f"params.yaml: tune.space.draw: up to {said}.")
    return setting_of(params)


def identity(params: Params) -> dict[str, Any]:
    """The params that a study is of: all that it reads, but what it searches."""
    name = params.tune.detector
    plain = params.model_dump(mode="json", include={"activations", "attacks", "fingerprints", "selection", "tune"})
    plain["detector"] = design_of(params).detector.model_dump(mode="json")
    bare = {section: {key: value for key, value in values.items() if key not in FREE} for section, values in plain.items()}
    bare["tune"] = {key: value for key, value in plain["tune"].items() if key not in UNTOLD}
    return {**bare, "detector": {"name": name, **bare["detector"]}, "alpha": params.calibration.alpha}


def provenance(features: FeatureSet) -> dict[str, Any]:
    """The images and the code that a study is of."""
    code = {**{stage: code_digest(stage) for stage in STAGES}, **{module: digest(Path(module)) for module in CODE}}
    sources = list(features.artifact.about["shards"])
    inputs = hashlib.sha256(json.dumps(features.inputs(sources, ("fit", "tune")), sort_keys=True).encode()).hexdigest()
    return {"code": code, "inputs": inputs, "versions": {**library_versions(), **search_versions()}}


def run(plan: Plan, study: Study, setting: Setting) -> None:
    """Makes the trials that are missing."""
    total = plan.params.trials
    with progress("tune: trials", total, finished=total - plan.missing) as advance:

        def keep(trial: Trial, seconds: float) -> None:
            study.write(trial, seconds)
            advance(1)

        if plan.missing:
            search(partial(build_bench, Path.cwd(), setting, plan.layers), plan, paths.SEARCHES, keep)


def worked(study: Study) -> dict[int, Trial]:
    """The trials that worked; raises WhorlError where the params file's own did not."""
    trials = {trial.number: trial for trial in study.trials()}
    if said := trials[0].problem:
        raise WhorlError(
            f"{study.folder}: params.yaml as it stands cannot be built ({said}), where something to compare with was expected."
        )
    return {number: trial for number, trial in trials.items() if not trial.problem}


def _values(trials: Mapping[int, Trial]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([[trial.objectives[name] for name in OBJECTIVES] for trial in trials.values()])


def on_front(trials: Mapping[int, Trial]) -> set[int]:
    """The numbers of the trials on the Pareto front."""
    return {number for number, yes in zip(trials, front(_values(trials)), strict=True) if yes}


def propose(trials: Mapping[int, Trial], limit: float) -> int:
    """The number of the trial to propose; ``limit`` is in inspection costs of trial 0, the params file as it stands."""
    return choose(_values(trials), list(trials), limit * trials[0].objectives[COST])


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key to old and new value, where they differ."""
    return {key: (old.get(key), value) for key, value in new.items() if old.get(key) != value}


def write_results(study: Study, trials: Mapping[int, Trial], chosen: Trial, params: Params) -> None:
    """Writes the table of trials, the Pareto front and the proposal."""
    best = on_front(trials)
    write_table(study.folder / TABLE, trial_table(study.trials(), best))
    write_bytes(study.folder / FIGURE, to_png(pareto_figure(list(trials), _values(trials), best, chosen.number)))
    proposal = {
        "study": study.folder.name,
        "trial": chosen.number,
        "rule": RULE.format(limit=params.tune.cost_limit),
        "changes": {key: {"from": old, "to": new} for key, (old, new) in changes(trials[0].params, chosen.params).items()},
        "objectives": {"now": trials[0].objectives, "proposed": chosen.objectives},
    }
    text = StringIO()
    YAML().dump(proposal, text)
    write_bytes(study.folder / PROPOSAL, f"# Nothing is changed by this file: `whorl tune apply` does that.\n{text.getvalue()}".encode())


def read_proposal(study: Study) -> dict[str, Any]:
    """What the study proposes; raises WhorlError where it is not finished."""
    path = study.folder / PROPOSAL
    if not path.is_file():
        raise WhorlError(
            f"{path}: there is no proposal yet, where that of a finished study was expected; `whorl tune fingerprints` goes on."
        )
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(path.read_text())
    return content


def run_record(params: Params, study: Study, trials: Mapping[int, Trial], chosen: Trial, features: FeatureSet) -> RunRecord:
    """The study as MLflow is to show it: a child run a trial, failed ones left out."""
    seconds, made = study.seconds(), {**study.identity, "trials": len(trials)}
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    best = on_front(trials)
    tags = {"mlflow.source.name": "whorl tune fingerprints", "whorl.study": study.folder.name, "whorl.proposed_trial": str(chosen.number)}
    return RunRecord(
        name=f"tune {params.tune.detector}: {study.folder.name}",
        identity=digest,
        commit=commit(),
        params=params.model_dump(mode="json", include={"activations", "fingerprints", "selection", "detectors", "tune", "calibration"}),
        metrics={**chosen.objectives, "trials": len(trials), **{f"now.{key}": value for key, value in trials[0].objectives.items()}},
        curves={name: [(number, trial.objectives[name]) for number, trial in trials.items()] for name in OBJECTIVES},
        artifacts={"": [study.folder / PROPOSAL, study.folder / TABLE], "figures": [study.folder / FIGURE]},
        datasets=[_dataset(features, split) for split in ("fit", "tune")],
        tags=tags,
        stages=[
            StageRecord(
                name=f"trial {number}",
                params=trial.params,
                metrics={**trial.objectives, **trial.figures},
                tags={"whorl.stage": "tune", "whorl.trial": str(number), "whorl.front": str(number in best).lower()},
                seconds=seconds.get(number),
            )
            for number, trial in trials.items()
        ],
    )


def _dataset(features: FeatureSet, split: str) -> DatasetRecord:
    digest = hashlib.sha256(json.dumps(features.inputs([CLEAN], [split]), sort_keys=True).encode()).hexdigest()
    return DatasetRecord(split, digest, str(paths.ACTIVATIONS), {"images": features.count(CLEAN, split)}, split)
