"""A project with an untrained classifier, images of ``calibrate``, and the activations that are really its own."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from pipeline.artifacts import paths
from pipeline.artifacts.classifiers import classifier_config, seal_classifier, write_classifier
from pipeline.artifacts.features import CLEAN, clean_features, feature_output, write_features
from pipeline.artifacts.files import write_json
from pipeline.artifacts.images import ImageSet, write_images
from pipeline.artifacts.store import ShardStore
from pipeline.classifiers.activations import activations
from pipeline.classifiers.cifar_resnet import cifar_resnet20
from pipeline.classifiers.model import Classifier, freeze, to_float
from pipeline.data.prepare import Prepared, PreparedImage
from pipeline.fingerprints.features import Features
from pipeline.params.edits import edited
from pipeline.params.root import load_params

PROJECT = Path(__file__).resolve().parents[2]
NAMES = ("a", "b", "c")
POOL = {"layer1": np.arange(40), "layer3": np.arange(24)}
CHANGES: dict[str, Any] = {
    "activations.layers": {layer: len(chosen) for layer, chosen in POOL.items()},
    "fingerprints.layer_weights": {"layer1": 1.0, "layer3": 0.5},
    "fingerprints.fit_attacks": ["fgsm", "pgd"],
    "fingerprints.candidates": 500,
    "fingerprints.block": 300,
    "fingerprints.seed": 40961,
    "selection.effect_size": 0.2,
    "selection.false_discovery_rate": 0.05,
    "selection.min_fingerprints": 30,
    "selection.bank_size": 60,
    "detectors.joint.draw": 12,
    "detectors.joint.directions": 4,
    "detectors.joint.committees": 20,
    "detectors.likelihood_ratio.draw": 12,
    "detectors.vote.draw": 12,
    "detectors.anomaly.draw": 12,
    "tune.space.draw": [6, 20],
}
Pixels = npt.NDArray[np.uint8]


def made_pixels(seed: int, count: int) -> Pixels:
    """Images (N, 1, 8, 8) of noise, each brighter in one of three places."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 180, (count, 1, 8, 8))
    for row, place in enumerate(rng.integers(3, size=count)):
        pixels[row, :, 2 * place : 2 * place + 3] += 75
    return pixels.astype(np.uint8)


def made_classifier(seed: int) -> Classifier:
    """An untrained ResNet-20 whose classes are about as frequent as each other."""
    torch.manual_seed(seed)
    network = cifar_resnet20(len(NAMES), 1)
    classifier = freeze(Classifier(network, (0.305,), (0.376,), (8, 8)))
    with torch.no_grad():
        network.fc.bias -= classifier(to_float(made_pixels(5, 200))).median(0).values
    return classifier


def write_made_classifier(seed: int) -> Classifier:
    """The classifier artifact."""
    classifier = made_classifier(seed)
    write_classifier(paths.CLASSIFIER, classifier.state_dict(), classifier_config(load_params().classifier, NAMES, 1))  # type: ignore[arg-type]
    seal_classifier(paths.CLASSIFIER)
    return classifier


def made_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the project in a folder and goes there: all that ``whorl guard build`` reads, as the stages would have left it."""
    monkeypatch.chdir(folder)
    (folder / "params.yaml").write_text(edited((PROJECT / "presets/digits.yaml").read_text(), CHANGES))
    params, classifier = load_params(), write_made_classifier(0)
    prepared = Prepared([_image(number, pixels) for number, pixels in enumerate(made_pixels(1, 150))], [], [], NAMES)
    write_images(paths.DATA, prepared, params.data.image, 100)
    store, plan = ShardStore(paths.SHARDS / "activations"), {}
    for name, features in made_features(classifier):
        plan[name] = f"{len(plan):064x}"
        store.write(plan[name], feature_output(features))
    write_features(paths.ACTIVATIONS, NAMES, POOL, plan, store)
    made = params.model_dump(mode="json", include={"activations", "attacks"})
    write_json(paths.record("activations"), {"stage": "activations", "item": None, "params": made, "metrics": {}, "notes": []})


def made_features(classifier: Classifier) -> list[tuple[str, Features]]:
    """Shard to its features: clean images, and those of two attacks that turn an image over, which may or may not succeed."""
    images, found = ImageSet.open(paths.DATA), []
    for shard in images.shards("calibrate"):
        batch = images.read(shard)
        found.append((f"{CLEAN}.{shard}", clean_features(batch.ids, batch.labels, *activations(classifier, to_float(batch.images), POOL))))
    pixels, no = made_pixels(2, 240), np.zeros(240, np.bool_)
    ids = [f"{number:032x}" for number in range(1000, 1240)]
    logits, neurons = activations(classifier, to_float(pixels), POOL)
    clean = logits.argmax(1).astype(np.int64)
    found.append((f"{CLEAN}.fit-00000-of-00001", clean_features(ids, clean, logits, neurons)))
    for name, attacked in (("fgsm", 255 - pixels), ("pgd", np.roll(pixels, 4, 2))):
        logits, neurons = activations(classifier, to_float(attacked), POOL)
        predicted = logits.argmax(1).astype(np.int64)
        found.append((f"{name}.fit-00000-of-00001", Features(ids, clean, clean, predicted, predicted != clean, no, neurons)))
    return found


def _image(number: int, pixels: Pixels) -> PreparedImage:
    stream = io.BytesIO()
    Image.fromarray(pixels[0]).save(stream, "PNG")
    return PreparedImage(f"{number:032x}", number % 3, "calibrate", "digits", str(number), stream.getvalue(), "png")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, by its relative name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
