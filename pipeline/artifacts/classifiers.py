"""The classifier artifact: safetensors weights and a timm-style config; nothing is unpickled."""

import hashlib
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
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
    """``known`` where the images outside ``train`` are unseen by the classifier, ``unknown`` where nobody can say so."""
    if isinstance(params, AdoptedClassifier):
        return "unknown" if params.unseen == "unknown" else "known"
    return "unknown" if params.pretrained else "known"


def package_version(factory: str) -> str:
    """What tells one version of the code behind an import path from another; imports none of it.

    Returns:
        The version of the installed distribution that the package belongs to; where it belongs to none, ``sha256:`` and the
        hash of the module's source file (of that file alone, not of what it imports).

    Raises:
        ClassifierError: it belongs to no distribution, and there is no such module or no file of it.
    """
    module = factory.split(":")[0]
    package = module.split(".")[0]
    try:
        return version(packages_distributions().get(package, [package])[0])
    except (PackageNotFoundError, ValueError):  # the latter for an empty name
        return f"sha256:{hashlib.sha256(_source(factory, module)).hexdigest()}"


def _source(factory: str, module: str) -> bytes:
    spec = _found(module)
    if spec is None:
        raise ClassifierError(f"classifier.factory: {factory!r}: there is no module {module!r}, where an importable one was expected.")
    try:
        return Path(spec.origin or "").read_bytes()
    except OSError as error:
        raise ClassifierError(
            f"classifier.factory: {factory!r}: the module {module!r} has no file that can be read ({spec.origin}), where its source was "
            "expected."
        ) from error


def _found(module: str) -> ModuleSpec | None:
    """Where a module is; ``find_spec`` alone would import the packages above it."""
    top, *below = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):  # the latter for an empty name
        return None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for part in below:
        spec = PathFinder.find_spec(part, folders)
        folders = [str(Path(folder) / part) for folder in folders]
    return spec


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
        ClassifierError: a factory cannot be imported, comes from another version of its package (or of its module, where that
            belongs to no installed package) than the weights, or the tensors do not fit.
    """
    config = artifact.json(CONFIG)
    given = config["pretrained_cfg"]
    size = given["input_size"][1], given["input_size"][2]
    if factory := config["factory"]:
        if (found := package_version(factory)) != config["factory_version"]:  # before any of its code runs
            raise ClassifierError(
                f"{artifact.folder}: the code behind {factory!r} has version {found}, where {config['factory_version']} was expected."
            )
        network = import_factory(factory)
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
    who = (
        "The classifier was trained from pretrained weights, and nobody knows which images those have seen"
        if config["origin"] == "train"
        else "Nobody has declared which images the adopted classifier has never seen (classifier.unseen is unknown)"
    )
    return f"{who}, so its calibration images may be among them, and fresh images may be flagged more often than promised."
