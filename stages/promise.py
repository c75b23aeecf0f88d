"""The false-alarm promise: over redrawn splits, each with a bank, a detector and a calibration of its own; and under mild corruptions."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.artifacts import paths
from pipeline.artifacts.classifiers import read_classifier
from pipeline.artifacts.detectors import read_detector
from pipeline.artifacts.features import CLEAN, FeatureSet, clean_features, join
from pipeline.artifacts.files import read_table, write_json, write_table
from pipeline.artifacts.images import ImageSet
from pipeline.artifacts.manifest import open_artifact
from pipeline.artifacts.records import StageRun, stage_run
from pipeline.artifacts.scores import renamed, score_table
from pipeline.artifacts.signature import code_digest, signature
from pipeline.artifacts.store import ShardOutput, ShardStore
from pipeline.classifiers.activations import activations
from pipeline.classifiers.model import freeze, to_float
from pipeline.data.corruptions import corrupt
from pipeline.data.redraw import ROLES, redraw
from pipeline.detectors.refit import Recipe, redrawn_flags, with_committees
from pipeline.distributed.profile import profile_device, profile_rounding
from pipeline.distributed.shard_map import ShardTask, shard_map
from pipeline.errors import WhorlError
from pipeline.evaluation.metrics import evaluate_table, wilson
from pipeline.evaluation.redraws import SCHEMA, redraw_metrics
from pipeline.params.root import Params, load
from pipeline.params.splits import Fractions

SECTIONS = ("activations", "attacks", "calibration", "detectors", "evaluation", "fingerprints", "promise", "selection", "splits")
NONE = "none"
"""What uncorrupted images are called beside the corrupted ones."""

Metrics = dict[str, float | int | None]


@dataclass(frozen=True)
class Corrupted:
    """A shard of clean test images under one corruption."""

    corruption: str
    level: float
    shard: str


def main() -> None:
    """Writes the counts of the redraws, the scores of the corrupted images, and the metrics of both."""
    params = load(*SECTIONS)
    with stage_run("promise", params) as run:
        redraws, corrupted = redrawn_counts(params, run), corrupted_scores(params)
        write_table(paths.REDRAWS, redraws)
        write_table(paths.CORRUPTED, corrupted)
        metrics = {
            **{f"redrawn.{key}": value for key, value in redraw_metrics(redraws, params.evaluation.confidence).items()},
            **{f"corrupted.{key}": value for key, value in corruption_metrics(corrupted, params).items()},
        }
        write_json(paths.METRICS / "promise.json", metrics)
        run.log(metrics)


def redrawn_counts(params: Params, run: StageRun) -> pa.Table:
    """Redraws the splits, a task a salt."""
    features, name, code = FeatureSet.open(paths.ACTIVATIONS), params.promise.detector, code_digest("promise")
    recipe = Recipe(
        features.layout,
        len(features.class_names),
        params.fingerprints,
        params.selection,
        name,
        with_committees(params.detectors[name], params.promise.committees),
        params.calibration.alpha,
    )
    sources = [CLEAN, *params.attacks]
    known = {
        **{key: getattr(recipe, key).model_dump(mode="json") for key in ("fingerprints", "selection", "detector")},
        "splits": params.splits.model_dump(mode="json"),
        "rest": [name, recipe.alpha, list(params.evaluation.alphas), sources],
    }
    images = ImageSet.open(paths.DATA)
    inputs = features.inputs(sources, ROLES) | {shard: images.sha256(shard) for split in ROLES for shard in images.shards(split)}
    tasks = [
        ShardTask(str(seed), signature("promise", code=code, params={**known, "seed": seed}, inputs=inputs), seed, 1)
        for seed in params.promise.split_seeds
    ]
    store = ShardStore(paths.SHARDS / "redraws")
    work = partial(shard_redraw, Path.cwd(), recipe, sources, params.splits.origins, params.evaluation.alphas)
    with store.locked():
        shard_map(work, tasks, store, title="promise: redraws")
        done = [store.read(task.name, task.signature) for task in tasks]
        tables = [read_table(folder / "rows.parquet") for folder, _ in done]
        store.keep(task.signature for task in tasks)
    for task, (_, about) in zip(tasks, done, strict=True):
        if about["refused"]:
            run.note(f"Promise: the redraw with the salt {task.name} could not be made, and counts in no figure: {about['refused']}")
    return pa.concat_tables(tables)


def shard_redraw(
    root: Path, recipe: Recipe, names: list[str], fractions: dict[str, Fractions], alphas: tuple[float, ...]
) -> Callable[[int], ShardOutput]:
    """The function that redraws once; all features are read once a worker."""
    features, origins = FeatureSet.open(root / paths.ACTIVATIONS), dict(image_origins(ImageSet.open(root / paths.DATA)))
    sources = {name: join([features.read_split(name, split) for split in ROLES], features.layout.size) for name in names}

    def compute(seed: int) -> ShardOutput:
        try:
            counted = redrawn_flags(sources, redraw(origins, seed, fractions), recipe, alphas, seed)
        except WhorlError as error:
            return ShardOutput(tables={"rows": SCHEMA.empty_table()}, about={"refused": str(error)})
        rows = [{"seed": seed, **asdict(count)} for count in counted]
        return ShardOutput(tables={"rows": pa.Table.from_pylist(rows, schema=SCHEMA)}, about={"refused": ""})

    return compute


def image_origins(images: ImageSet) -> Iterator[tuple[str, str]]:
    """Id and origin of every image that the classifier was not trained on."""
    for split in ROLES:
        for shard in images.shards(split):
            rows = images.artifact.table(f"{shard}.parquet")
            yield from zip(rows.column("id").to_pylist(), rows.column("origin").to_pylist(), strict=True)


def corrupted_scores(params: Params) -> pa.Table:
    """The detector as it is, on the clean images of ``test`` and on the same under every corruption."""
    name, seeds, store = params.promise.detector, params.evaluation.seeds, ShardStore(paths.SHARDS / "corrupted")
    tasks = list(corruption_plan(params))
    build = partial(shard_corrupted, Path.cwd(), profile_device(), params.activations.batch_size, name, seeds)
    with store.locked():
        shard_map(build, tasks, store, title="promise: corrupted images")
        tables = [read_table(store.read(task.name, task.signature)[0] / "rows.parquet") for task in tasks]
        store.keep(task.signature for task in tasks)
    clean = FeatureSet.open(paths.ACTIVATIONS).read_split(CLEAN, "test")
    plain = score_table(name, read_detector(paths.detector(name), paths.BANK), CLEAN, clean, seeds)
    return pa.concat_tables([renamed(plain, NONE), *tables])


def corruption_plan(params: Params) -> Iterator[ShardTask[Corrupted]]:
    """A task a corruption and shard."""
    images, code, name = ImageSet.open(paths.DATA), code_digest("promise"), params.promise.detector
    artifacts = [
        open_artifact(*place) for place in ((paths.CLASSIFIER, "classifier"), (paths.BANK, "bank"), (paths.detector(name), "detector"))
    ]
    inputs = {f"{artifact.stage}/{file}": artifact.sha256(file) for artifact in artifacts for file in artifact.files}
    inputs["pool"] = FeatureSet.open(paths.ACTIVATIONS).artifact.sha256("pool.safetensors")
    for corruption, level in params.promise.corruptions.model_dump().items():
        for shard in images.shards("test"):
            known: dict[str, Any] = {"corruption": corruption, "level": level, "detector": name, "seeds": list(params.evaluation.seeds)}
            known |= {**profile_rounding(), "batch_size": params.activations.batch_size}
            signed = signature("corrupted", code=code, params=known, inputs={**inputs, "images": images.sha256(shard)})
            yield ShardTask(f"{corruption}.{shard}", signed, Corrupted(corruption, level, shard), images.rows(shard))


def shard_corrupted(root: Path, device: str, batch_size: int, name: str, seeds: tuple[int, ...]) -> Callable[[Corrupted], ShardOutput]:
    """Loads classifier and detector once; returns the function that corrupts a shard and scores it."""
    classifier = freeze(read_classifier(root / paths.CLASSIFIER)).to(device)
    detector, pool = read_detector(root / paths.detector(name), root / paths.BANK), FeatureSet.open(root / paths.ACTIVATIONS).pool

    def forward(images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        logits, neurons = zip(*(activations(classifier, to_float(batch), pool) for batch in batches), strict=True)
        return np.concatenate(logits), np.concatenate(neurons)

    def compute(task: Corrupted) -> ShardOutput:
        batch = ImageSet.open(root / paths.DATA).read(task.shard)
        logits, neurons = forward(corrupt(task.corruption, batch.images, task.level, batch.ids))
        images = clean_features(batch.ids, batch.labels, logits, neurons)
        # A corrupted image is a clean one to every figure: nobody attacked it.
        return ShardOutput(tables={"rows": renamed(score_table(name, detector, CLEAN, images, seeds), task.corruption)})

    return compute


def corruption_metrics(scores: pa.Table, params: Params) -> Metrics:
    """False alarms, all and on what is still right, and accuracy, for each corruption and for ``none``."""
    measured = evaluate_table(scores, params.evaluation)
    metrics: Metrics = {key.replace(".clean.", "."): value for key, value in measured.items()}
    for name in (NONE, *params.promise.corruptions.model_dump()):
        right, images = (int(metrics[f"{name}.{key}"] or 0) for key in ("images_correct_only", "images"))
        metrics |= wilson(right, images, params.evaluation.confidence).named(f"{name}.accuracy")
    return metrics
