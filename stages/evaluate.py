"""Measures every detector on every attack, on the images of ``test``: no choice is made after this."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from pipeline.artifacts import paths
from pipeline.artifacts.adversarial import AdversarialSet, summary
from pipeline.artifacts.detectors import read_detector
from pipeline.artifacts.features import CLEAN, FeatureSet
from pipeline.artifacts.files import read_table, write_json, write_table
from pipeline.artifacts.manifest import open_artifact
from pipeline.artifacts.records import stage_run
from pipeline.artifacts.scores import score_table
from pipeline.artifacts.signature import code_digest, signature
from pipeline.artifacts.store import ShardOutput, ShardStore
from pipeline.distributed.shard_map import ShardTask, shard_map
from pipeline.evaluation.metrics import evaluate_table, wilson
from pipeline.params.evaluation import EvaluationParams
from pipeline.params.root import load

SECTIONS = ("attacks", "detectors", "evaluation")

Metrics = dict[str, float | int | None]


@dataclass(frozen=True)
class Cell:
    """One detector on one source of images."""

    detector: str
    source: str


def main() -> None:
    """Writes the scores, the calibration's counts and the metrics."""
    params = load(*SECTIONS)
    with stage_run("evaluate", params) as run:
        detectors, store = list(params.detectors), ShardStore(paths.SHARDS / "scores")
        tasks = list(plan(detectors, [CLEAN, *params.attacks], params.evaluation))
        with store.locked():
            shard_map(partial(shard_scores, Path.cwd(), params.evaluation), tasks, store, title="evaluate: images")
            tables = [read_table(store.read(task.name, task.signature)[0] / "rows.parquet") for task in tasks]
            store.keep(task.signature for task in tasks)
        scores = pa.concat_tables(tables)
        write_table(paths.SCORES, scores)
        write_json(paths.CALIBRATION, {name: read_detector(paths.detector(name), paths.BANK).calibration.counts() for name in detectors})
        run.log(measure(scores, list(params.attacks), params.evaluation))


def plan(detectors: list[str], sources: list[str], params: EvaluationParams) -> Iterator[ShardTask[Cell]]:
    """A task a detector and source."""
    features, bank, code = FeatureSet.open(paths.ACTIVATIONS), open_artifact(paths.BANK, "bank"), code_digest("evaluate")
    for name in detectors:
        detector = open_artifact(paths.detector(name), "detector")
        fitted = {f"{artifact.stage}/{file}": artifact.sha256(file) for artifact in (bank, detector) for file in artifact.files}
        for source in sources:
            known = {"detector": name, "source": source, "seeds": list(params.seeds)}
            signed = signature("evaluate", code=code, params=known, inputs={**fitted, **features.inputs([source], ["test"])})
            yield ShardTask(f"{name}.{source}", signed, Cell(name, source), features.count(source, "test"))


def shard_scores(root: Path, params: EvaluationParams) -> Callable[[Cell], ShardOutput]:
    """The function that scores one cell."""
    features = FeatureSet.open(root / paths.ACTIVATIONS)

    def compute(cell: Cell) -> ShardOutput:
        detector = read_detector(root / paths.detector(cell.detector), root / paths.BANK)
        images = features.read_split(cell.source, "test")
        return ShardOutput(tables={"rows": score_table(cell.detector, detector, cell.source, images, params.seeds)})

    return compute


def measure(scores: pa.Table, attacks: list[str], params: EvaluationParams) -> Metrics:
    """Writes the metrics of classifier, attacks and detectors; returns them all."""
    clean = FeatureSet.open(paths.ACTIVATIONS).read_split(CLEAN, "test")
    right = int((clean.predicted == clean.labels).sum())
    accuracy = wilson(right, len(clean), params.confidence)
    classifier: Metrics = {"images": len(clean), **accuracy.named("accuracy")}
    strength = {f"{name}.{key}": value for name in attacks for key, value in attack_metrics(name, params.confidence).items()}
    detection = evaluate_table(scores, params)
    for name, metrics in (("classifier", classifier), ("attacks", strength), ("detection", detection)):
        write_json(paths.METRICS / f"{name}.json", metrics)
    return {**{f"classifier.{key}": value for key, value in classifier.items()}, **strength, **detection}


def attack_metrics(name: str, confidence: float) -> Metrics:
    """How an attack fared on ``test``: counts, rates with intervals, mean norms of its successes."""
    metrics = summary(AdversarialSet.open(paths.attack(name)).facts("test"))
    rate = wilson(int(metrics["succeeded"] or 0), int(metrics["attacked"] or 0), confidence)
    return {**metrics, **rate.named("success_rate")}
