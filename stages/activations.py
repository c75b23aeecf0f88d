"""Keeps a fixed random pool of neurons of every clean and attacked image; only shards that are new are computed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.artifacts import paths
from pipeline.artifacts.adversarial import AdversarialSet
from pipeline.artifacts.classifiers import read_classifier
from pipeline.artifacts.features import CLEAN, attacked_features, clean_features, feature_output, write_features
from pipeline.artifacts.images import ImageSet
from pipeline.artifacts.manifest import open_artifact
from pipeline.artifacts.records import stage_run
from pipeline.artifacts.signature import code_digest, signature
from pipeline.artifacts.store import ShardOutput, ShardStore
from pipeline.classifiers.activations import activations, choose_neurons, layer_sizes
from pipeline.classifiers.model import freeze, to_float
from pipeline.distributed.profile import profile_device, profile_rounding
from pipeline.distributed.shard_map import ShardTask, shard_map
from pipeline.params.activations import ActivationParams
from pipeline.params.root import load

SECTIONS = ("activations", "attacks")
CLEAN_SPLITS = ("fit", "tune", "calibrate", "test")
ATTACKED_SPLITS = ("fit", "tune", "test")


@dataclass(frozen=True)
class Shard:
    """What a worker needs to know of a shard."""

    source: str
    name: str


def main() -> None:
    """Writes the ``activations`` artifact."""
    params = load(*SECTIONS)
    with stage_run("activations", params) as run:
        images, pool, store = ImageSet.open(paths.DATA), draw_pool(params.activations), ShardStore(paths.SHARDS / "activations")
        tasks = list(plan(params.activations, list(params.attacks), images, pool))
        with store.locked():
            shard_map(
                partial(shard_activations, Path.cwd(), profile_device(), params.activations, pool),
                tasks,
                store,
                title="activations: images",
            )
            write_features(paths.ACTIVATIONS, images.class_names, pool, {task.name: task.signature for task in tasks}, store)
        run.log({"images": sum(task.size for task in tasks), **{f"neurons_{layer}": len(chosen) for layer, chosen in pool.items()}})


def draw_pool(params: ActivationParams) -> dict[str, npt.NDArray[np.int64]]:
    """The neurons to keep: layer to their places in the flattened layer."""
    format = ImageSet.open(paths.DATA).format
    sizes = layer_sizes(read_classifier(paths.CLASSIFIER), list(params.layers), (format.channels, format.height, format.width))
    return choose_neurons(sizes, params.layers, params.seed)


def plan(
    params: ActivationParams, attacks: list[str], images: ImageSet, pool: dict[str, npt.NDArray[np.int64]]
) -> Iterator[ShardTask[Shard]]:
    """A task a shard of clean images, and one a shard of each attack's."""
    code, classifier = code_digest("activations"), open_artifact(paths.CLASSIFIER, "classifier")
    known: dict[str, Any] = {
        **profile_rounding(),
        "activations": params.model_dump(mode="json"),
        "pool": {layer: chosen.tolist() for layer, chosen in pool.items()},
    }
    weights = {file: classifier.sha256(file) for file in classifier.files}

    def task(source: str, shard: str, inputs: dict[str, str]) -> ShardTask[Shard]:
        signed = signature("activations", code=code, params={**known, "source": source}, inputs={**weights, **inputs})
        return ShardTask(f"{source}.{shard}", signed, Shard(source, shard), images.rows(shard))

    for split in CLEAN_SPLITS:
        yield from (task(CLEAN, shard, {"images": images.sha256(shard)}) for shard in images.shards(split))
    for name in attacks:
        adversarial = AdversarialSet.open(paths.attack(name))
        for split in ATTACKED_SPLITS:
            yield from (task(name, shard, adversarial.inputs(shard)) for shard in adversarial.shards(split))


def shard_activations(
    root: Path, device: str, params: ActivationParams, pool: dict[str, npt.NDArray[np.int64]]
) -> Callable[[Shard], ShardOutput]:
    """Loads the classifier once; returns the function that computes a shard."""
    classifier = freeze(read_classifier(root / paths.CLASSIFIER)).to(device)
    width = sum(len(chosen) for chosen in pool.values())

    def forward(images: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        batches = (images[start : start + params.batch_size] for start in range(0, len(images), params.batch_size))
        logits, neurons = zip(*(activations(classifier, stored_floats(batch), pool) for batch in batches), strict=True)
        return np.concatenate(logits), np.concatenate(neurons)

    def compute(shard: Shard) -> ShardOutput:
        if shard.source == CLEAN:
            batch = ImageSet.open(root / paths.DATA).read(shard.name)
            logits, neurons = forward(batch.images)
            return feature_output(clean_features(batch.ids, batch.labels, logits, neurons))
        adversarial = AdversarialSet.open(root / paths.attack(shard.source))
        return feature_output(attacked_features(adversarial, shard.name, lambda images: forward(images)[1], width))

    return compute


def stored_floats(images: npt.NDArray[Any]) -> torch.Tensor:
    """Stored images as the model takes them; data sets that asked for floats are floats already."""
    return to_float(images) if images.dtype == np.uint8 else torch.from_numpy(images)
