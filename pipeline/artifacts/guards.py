"""A guard at rest: everything that inspecting an image takes, in one folder that can be copied anywhere."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.banks import ARRAYS as BANK_ARRAYS
from pipeline.artifacts.banks import PLAIN as BANK_PLAIN
from pipeline.artifacts.classifiers import CONFIG, WEIGHTS, load_classifier
from pipeline.artifacts.detectors import FILES as DETECTOR_FILES
from pipeline.artifacts.detectors import CalibratedDetector, get_detector
from pipeline.artifacts.features import FeatureSet
from pipeline.artifacts.files import write_arrays, write_bytes, write_json
from pipeline.artifacts.manifest import open_artifact, seal
from pipeline.classifiers.model import Classifier
from pipeline.errors import ArtifactError
from pipeline.params.data import ImageFormat
from pipeline.params.evaluation import DrawsKind

POOL = "pool.safetensors"
ABOUT = "guard.json"
CARD = "README.md"


@dataclass(frozen=True)
class StoredGuard:
    """A guard's parts, checked and ready."""

    classifier: Classifier
    pool: dict[str, npt.NDArray[np.int64]]
    detector: CalibratedDetector
    class_names: tuple[str, ...]
    format: ImageFormat
    draws: DrawsKind


def write_guard(folder: Path, parts: dict[str, Path], *, format: ImageFormat, draws: DrawsKind, promise: str | None, card: str) -> None:
    """Copies the parts of a guard into one sealed folder.

    Args:
        folder: where to; replaced where it exists.
        parts: the artifacts ``classifier``, ``bank``, ``detector`` and ``activations`` (for its pool).
        format: what the images must be like.
        draws: which draws it uses; the key of keyed ones is no part of it.
        promise: why the false-alarm promise is void; None where it holds.
        card: what a person should know, in Markdown.
    """
    shutil.rmtree(folder, ignore_errors=True)
    classifier, bank, detector = (open_artifact(parts[kind], kind) for kind in ("classifier", "bank", "detector"))
    for artifact, names in (
        (classifier, (WEIGHTS, CONFIG)),
        (bank, (BANK_ARRAYS, BANK_PLAIN)),
        (detector, tuple(name for name in DETECTOR_FILES if name in detector.files)),
    ):
        for name in names:
            write_bytes(folder / name, artifact.path(name).read_bytes())
    features = FeatureSet.open(parts["activations"])
    write_arrays(folder / POOL, features.pool)
    about: dict[str, Any] = {
        "layers": list(features.layout.layers),
        "class_names": list(features.class_names),
        "format": format.model_dump(mode="json"),
        "draws": draws,
        "promise_void": promise,
    }
    write_json(folder / ABOUT, about)
    write_bytes(folder / CARD, card.encode())
    seal(folder, kind="guard", stage="publish", about={})


def read_guard(folder: Path) -> StoredGuard:
    """Reads and checks a guard's folder."""
    artifact = open_artifact(folder, "guard")
    artifact.verify()
    about, pool = artifact.json(ABOUT), artifact.arrays(POOL)
    if "draws" not in about:
        raise ArtifactError(f"{folder / ABOUT}: says nothing of draws, where fresh or keyed was expected; run `dvc repro publish`.")
    return StoredGuard(
        load_classifier(artifact),
        {layer: pool[layer] for layer in about["layers"]},
        get_detector(artifact, artifact),
        tuple(about["class_names"]),
        ImageFormat.model_validate(about["format"]),
        about["draws"],
    )
