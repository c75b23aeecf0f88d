"""Trains the classifier to guard on the ``train`` split, or adopts the user's own."""

import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

from pipeline.artifacts import paths
from pipeline.artifacts.classifiers import classifier_config, seal_classifier, write_classifier
from pipeline.artifacts.files import write_json
from pipeline.artifacts.images import ImageSet
from pipeline.artifacts.manifest import open_artifact
from pipeline.artifacts.records import stage_run
from pipeline.artifacts.signature import code_digest, signature
from pipeline.artifacts.store import ShardStore
from pipeline.classifiers.adopt import adopt
from pipeline.classifiers.training import TrainingResult, TrainingSet
from pipeline.classifiers.zoo import build_untrained
from pipeline.distributed.profile import load_profile, profile_device
from pipeline.distributed.runtime import cluster_cpus, ray_session
from pipeline.distributed.training import train_classifier
from pipeline.outside import note_outside
from pipeline.params.classifier import AdoptedClassifier, TrainedClassifier
from pipeline.params.root import load
from pipeline.progress import progress

SECTIONS = ("classifier",)


def main() -> None:
    """Writes the ``classifier`` artifact."""
    params = load(*SECTIONS)
    with stage_run("train_classifier", params) as run:
        images = ImageSet.open(paths.DATA)
        channels = images.format.channels
        if isinstance(params.classifier, AdoptedClassifier):
            state, history = adopt(params.classifier, len(images.class_names), channels).state_dict(), []
        else:
            result = train(params.classifier, len(images.class_names), channels)
            state, history = result.best_state, [asdict(record) for record in result.history]
            run.log({"epochs": len(history), "best_epoch": result.best_epoch, **_best(result)})
        shutil.rmtree(paths.CLASSIFIER, ignore_errors=True)
        write_classifier(paths.CLASSIFIER, state, classifier_config(params.classifier, images.class_names, channels))
        write_json(paths.CLASSIFIER / "history.json", history)
        seal_classifier(paths.CLASSIFIER)
        note_outside("train_classifier", params)


def train(params: TrainedClassifier, classes: int, channels: int) -> TrainingResult:
    """Trains by Ray Train; every worker reads the images and builds the same network for itself."""
    profile, images = load_profile(), open_artifact(paths.DATA, "data")
    inputs = {file: images.sha256(file) for file in images.files if file.startswith(("train-", "tune-"))}
    lock = ShardStore(paths.TRAINING).locked()  # where dvc is killed, its training goes on
    with progress("train: epochs", params.epochs) as advance, lock, ray_session():
        cpus = profile.training_cpus or max(1, cluster_cpus() // params.workers)
        # The number of threads changes the rounding, so a training with another number is not gone on with.
        known = {**params.model_dump(mode="json"), "threads": cpus, "device": profile_device()}
        signed = signature("train_classifier", code=code_digest("train_classifier"), params=known, inputs=inputs)
        return train_classifier(
            partial(training_inputs, Path.cwd()),
            partial(build_untrained, params, classes, channels),
            params,
            storage=paths.TRAINING / signed,
            gpu=profile.gpus_per_worker > 0,
            cpus=cpus,
            on_epoch=lambda record, _: advance(1),
        )


def training_inputs(root: Path) -> tuple[TrainingSet, TrainingSet]:
    """The ``train`` and ``tune`` splits."""
    images = ImageSet.open(root / paths.DATA)
    train_batch, tune_batch = (images.read_split(split) for split in ("train", "tune"))
    return TrainingSet(train_batch.images, train_batch.labels), TrainingSet(tune_batch.images, tune_batch.labels)


def _best(result: TrainingResult) -> dict[str, float | int | None]:
    best = result.history[result.best_epoch - 1]  # epochs count from 1
    return {"tune_loss": best.tune_loss, "tune_accuracy": best.tune_accuracy, "train_accuracy": best.train_accuracy}
