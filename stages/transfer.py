"""Unseen attacks: refits a detector without each family of attacks, and on each alone, and tests it on every attack."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pyarrow as pa

from pipeline.artifacts import paths
from pipeline.artifacts.candidates import CandidateSet
from pipeline.artifacts.detectors import CalibratedDetector
from pipeline.artifacts.features import CLEAN, FeatureSet
from pipeline.artifacts.files import read_table, write_json, write_table
from pipeline.artifacts.records import stage_run
from pipeline.artifacts.scores import SCHEMA, renamed, score_table
from pipeline.artifacts.signature import code_digest, signature
from pipeline.artifacts.store import ShardOutput, ShardStore
from pipeline.detectors.building import calibrate, fit_detector, pooled_moments, select_bank
from pipeline.detectors.refit import with_committees
from pipeline.distributed.shard_map import ShardTask, shard_map
from pipeline.errors import WhorlError
from pipeline.evaluation.metrics import evaluate_table
from pipeline.evaluation.transfer import fit_sets
from pipeline.fingerprints.joint import PooledMoments
from pipeline.params.detectors import CalibrationParams, DetectorParams
from pipeline.params.fingerprints import SelectionParams
from pipeline.params.root import Params, load
from pipeline.random import ImageRandom

SECTIONS = ("attacks", "calibration", "detectors", "evaluation", "fingerprints", "selection", "transfer")


@dataclass(frozen=True)
class Refit:
    """What a worker needs to know to refit: the same for all fits.

    Attributes:
        name: the detector's.
        detector: its params.
        attacks: all that are tested.
        seed: of the fingerprints.
        seeds: of the draws of the evaluation.
    """

    name: str
    detector: DetectorParams
    attacks: tuple[str, ...]
    selection: SelectionParams
    calibration: CalibrationParams
    seed: int
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Fit:
    """One fit: its name and its attacks."""

    name: str
    attacks: list[str]


def main() -> None:
    """Writes the scores of every fit and its metrics."""
    params = load(*SECTIONS)
    with stage_run("transfer", params) as run:
        store, tasks = ShardStore(paths.SHARDS / "transfer"), plan(params)
        with store.locked():
            shard_map(partial(shard_fit, Path.cwd(), refit_of(params)), tasks, store, title="transfer: fits")
            done = [store.read(task.name, task.signature) for task in tasks]
            tables = [read_table(folder / "rows.parquet") for folder, _ in done]
            store.keep(task.signature for task in tasks)
        for task, (_, about) in zip(tasks, done, strict=True):
            if about["refused"]:
                run.note(f"Transfer: the fit {task.name} ({', '.join(task.payload.attacks)}) could not be made: {about['refused']}")
        scores = pa.concat_tables(tables)
        write_table(paths.TRANSFER, scores)
        metrics = evaluate_table(scores, params.evaluation)
        write_json(paths.METRICS / "transfer.json", metrics)
        run.log(metrics)


def refit_of(params: Params) -> Refit:
    """What all fits share."""
    name = params.transfer.detector
    detector = with_committees(params.detectors[name], params.transfer.committees)
    return Refit(
        name,
        detector,
        tuple(params.attacks),
        params.selection,
        params.calibration,
        params.fingerprints.seed,
        params.evaluation.seeds,
    )


def plan(params: Params) -> list[ShardTask[Fit]]:
    """A task a fit."""
    features, candidates, code = FeatureSet.open(paths.ACTIVATIONS), CandidateSet.open(paths.CANDIDATES), code_digest("transfer")
    shared = refit_of(params)
    known = {
        "name": shared.name,
        "detector": shared.detector.model_dump(mode="json"),
        "attacks": list(shared.attacks),
        "selection": shared.selection.model_dump(mode="json"),
        "calibration": shared.calibration.model_dump(mode="json"),
        "seed": shared.seed,
        "seeds": list(shared.seeds),
    }
    inputs = {file: sha for group in candidates.groups for file, sha in candidates.inputs(group).items()}
    inputs |= features.inputs([CLEAN], ["fit", "calibrate"]) | features.inputs([CLEAN, *params.attacks], ["test"])
    tasks = []
    for name, attacks in fit_sets(params.fingerprints.fit_attacks, {key: spec.family for key, spec in params.attacks.items()}).items():
        read = inputs | features.inputs(attacks, ["fit"])
        signed = signature("transfer", code=code, params={**known, "fit": name, "fitted": attacks}, inputs=read)
        tasks.append(ShardTask(name, signed, Fit(name, attacks), 1))
    return tasks


def shard_fit(root: Path, shared: Refit) -> Callable[[Fit], ShardOutput]:
    """The function that makes one fit and scores it; what several fits of a worker need is gathered once."""
    features, candidates = FeatureSet.open(root / paths.ACTIVATIONS), CandidateSet.open(root / paths.CANDIDATES)
    classes, size = len(features.class_names), features.layout.size
    clean, fit_predicted = features.read_split(CLEAN, "calibrate"), features.predicted(CLEAN, "fit")

    @cache
    def moments(source: str) -> PooledMoments:
        return pooled_moments(partial(features.stream, split="fit"), source, classes, size)

    def fitted(attacks: list[str]) -> CalibratedDetector:
        bank = select_bank(candidates.read, features.layout, classes, attacks, shared.selection, shared.seed)
        detector = fit_detector(bank, shared.detector, moments, attacks)
        draws = ImageRandom(shared.calibration.seed, f"calibrate/{shared.name}", clean.ids)
        calibration = calibrate(detector, clean, fit_predicted, classes, shared.calibration.alpha, draws)
        return CalibratedDetector(detector, calibration, shared.detector, shared.calibration.alpha)

    def compute(fit: Fit) -> ShardOutput:
        try:
            detector = fitted(fit.attacks)
        except WhorlError as error:
            return ShardOutput(tables={"rows": SCHEMA.empty_table()}, about={"refused": str(error)})
        tested = ((source, features.read_split(source, "test")) for source in (CLEAN, *shared.attacks))
        tables = [renamed(score_table(shared.name, detector, source, images, shared.seeds), fit.name) for source, images in tested]
        return ShardOutput(tables={"rows": pa.concat_tables(tables)}, about={"refused": ""})

    return compute
