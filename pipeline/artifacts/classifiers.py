"""The classifier artifact: safetensors weights and a timm-style config; nothing is unpickled."""

from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from pipeline.artifacts.files import write_bytes, write_json
from pipeline.artifacts.manifest import Artifact, open_artifact, seal
from pipeline.classifiers.adopt import import_factory, load_into
from pipeline.classifiers.model import Classifier
from pipeline.classifiers.zoo import build_network
from pipeline.errors import ClassifierError
from pipeline.params.classifier import AdoptedClassifier, TrainedClassifier

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def classifier_config(params: TrainedClassifier | AdoptedClassifier, class_names: tuple[str, ...], channels: int) -> dict[str, Any]:
    """What it takes, beside the weights, to build the classifier again."""
    factory = params.factory if isinstance(params, AdoptedClassifier) else None
    return {
        "architecture": params.architecture,
        "factory": factory,
        "factory_version": factory and package_version(factory),
        "num_classes": len(class_names),
        "in_chans": channels,
        "label_names": list(class_names),
        "pretrained_cfg": {"mean": list(params.mean), "std": list(params.std), "input_size": [channels, *params.input_size]},
        "origin": params.kind,
        "unseen": promise_basis(params),
    }


def promise_basis(params: TrainedClassifier | AdoptedClassifier) -> str:
    """``known`` where the images outside ``train`` are unseen by the classifier, ``unknown`` where nobody has said so."""
    return "unknown" if isinstance(params, AdoptedClassifier) and params.unseen == "unknown" else "known"


def package_version(factory: str) -> str:
    """The version of the package behind an import path; ``unknown`` where it is not an installed distribution."""
    package = factory.split(":")[0].split(".")[0]
    try:
        return version(packages_distributions().get(package, [package])[0])
    except PackageNotFoundError:
        return "unknown"


def write_classifier(folder: Path, state: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    """Writes weights (of the whole ``Classifier``) and config into ``folder``."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(state.items())}
    write_bytes(folder / WEIGHTS, save_tensors(tensors))
    write_json(folder / CONFIG, config)


def seal_classifier(folder: Path) -> None:
    """Seals the artifact."""
    seal(folder, kind="classifier", stage="train_classifier", about={})


def read_classifier(folder: Path) -> Classifier:
    """Builds the classifier of a sealed artifact."""
    return load_classifier(open_artifact(folder, "classifier"))


def load_classifier(artifact: Artifact) -> Classifier:
    """Builds a classifier from an artifact's ``model.safetensors`` and ``config.json``.

    Raises:
        ArtifactError: a file does not match the manifest.
        ClassifierError: a factory cannot be imported, comes from another version of its package than the weights,
            or the tensors do not fit.
    """
    config = artifact.json(CONFIG)
    given = config["pretrained_cfg"]
    size = given["input_size"][1], given["input_size"][2]
    if factory := config["factory"]:
        network = import_factory(factory)
        if (found := package_version(factory)) != config["factory_version"]:
            raise ClassifierError(
                f"{artifact.folder}: the package behind {factory!r} has version {found}, where {config['factory_version']} was expected."
            )
    else:
        network = build_network(config["architecture"], config["num_classes"], config["in_chans"], pretrained=False, input_size=size)
    classifier = Classifier(network, tuple(given["mean"]), tuple(given["std"]), size)
    path = artifact.path(WEIGHTS)
    load_into(classifier, load_tensors(path.read_bytes()), str(path))
    return classifier


def void_promise(config: dict[str, Any]) -> str | None:
    """Why the false-alarm promise is void for a classifier; None where it holds."""
    if config["unseen"] == "known":
        return None
    return (
        "Nobody has declared which images the adopted classifier has never seen (classifier.unseen is unknown), so its calibration "
        "images may be ones that it was trained on, and fresh images may be flagged more often than promised."
    )
