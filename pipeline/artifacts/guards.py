"""A guard at rest: everything that inspecting an image takes, in one folder that can be copied anywhere."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.banks import ARRAYS as BANK_ARRAYS
from pipeline.artifacts.banks import PLAIN as BANK_PLAIN
from pipeline.artifacts.classifiers import CONFIG, WEIGHTS, load_classifier
from pipeline.artifacts.detectors import COMMITTEES, CalibratedDetector, get_detector
from pipeline.artifacts.detectors import FILES as DETECTOR_FILES
from pipeline.artifacts.features import FeatureSet
from pipeline.artifacts.files import write_arrays, write_bytes, write_json
from pipeline.artifacts.manifest import Artifact, open_artifact, seal
from pipeline.classifiers.activations import NEURONS
from pipeline.classifiers.model import Classifier
from pipeline.errors import ArtifactError
from pipeline.params.data import ImageFormat
from pipeline.params.evaluation import DrawsKind

POOL = "pool.safetensors"
ABOUT = "guard.json"
CARD = "README.md"
PUBLISHED, PRIVATE = "publish", "whorl guard build"
"""What makes a guard: the stage, or the command for one with a bank of one's own."""
_TAKEN = {"classifier": (WEIGHTS, CONFIG), "bank": (BANK_ARRAYS, BANK_PLAIN), "detector": DETECTOR_FILES}


@dataclass(frozen=True)
class StoredGuard:
    """A guard's parts, checked and ready."""

    classifier: Classifier
    pool: dict[str, npt.NDArray[np.int64]]
    detector: CalibratedDetector
    class_names: tuple[str, ...]
    format: ImageFormat
    draws: DrawsKind


Put = Callable[[Path], None]
"""Writes some of a guard's files into a folder."""


def copies(parts: Mapping[str, Path]) -> Put:
    """What copies the files that a guard takes from finished artifacts: ``classifier``, ``bank`` and ``detector``, or some of them.

    Raises:
        ArtifactError: an artifact is missing or unfinished.
    """
    artifacts = {kind: open_artifact(folder, kind) for kind, folder in parts.items()}

    def put(folder: Path) -> None:
        for kind, artifact in artifacts.items():
            for name in _TAKEN[kind]:
                if name in artifact.files or name != COMMITTEES:  # not every detector has any; all else is asked for, and missed
                    write_bytes(folder / name, artifact.path(name).read_bytes())

    return put


def write_guard(
    folder: Path,
    puts: Iterable[Put],
    features: FeatureSet,
    *,
    format: ImageFormat,
    draws: DrawsKind,
    promise: str | None,
    card: str,
    stage: str,
) -> None:
    """Brings the parts of a guard together in one sealed folder.

    Args:
        folder: where to; replaced where it exists.
        puts: what writes the files of classifier, bank and detector.
        features: the activations that it was fitted on, for their pool and their classes.
        format: what the images must be like.
        draws: which draws it uses; the key of keyed ones is no part of it.
        promise: why the false-alarm promise is void; None where it holds.
        card: what a person should know, in Markdown.
        stage: what makes it, ``PUBLISHED`` or ``PRIVATE``.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for put in puts:
        put(folder)
    write_arrays(folder / POOL, features.pool)
    about: dict[str, Any] = {
        "neurons": NEURONS,
        "layers": list(features.layout.layers),
        "class_names": list(features.class_names),
        "format": format.model_dump(mode="json"),
        "draws": draws,
        "promise_void": promise,
    }
    write_json(folder / ABOUT, about)
    write_bytes(folder / CARD, card.encode())
    seal(folder, kind="guard", stage=stage, about={})


class _Private(Artifact):
    """A private guard, of which DVC knows nothing."""

    @property
    def remedy(self) -> str:
        """The command that brings it back."""
        return f"`{PRIVATE}`, with the same key and the same activations, makes the same again."


def read_guard(folder: Path) -> StoredGuard:
    """Reads and checks a guard's folder."""
    artifact = open_artifact(folder, "guard")
    if artifact.stage == PRIVATE:
        artifact = _Private(**vars(artifact))
    artifact.verify()
    about, pool = artifact.json(ABOUT), artifact.arrays(POOL)
    if "draws" not in about:
        raise ArtifactError(f"{folder / ABOUT}: says nothing of draws, where fresh or keyed was expected; run `dvc repro publish`.")
    if (made := about.get("neurons", 1)) != NEURONS:
        raise ArtifactError(
            f"{folder / ABOUT}: its bank was fitted to neurons of kind {made}, where {NEURONS} was expected: what layers' names mean "
            "has changed since. Make it again, from `make repro` on."
        )
    return StoredGuard(
        load_classifier(artifact),
        {layer: pool[layer] for layer in about["layers"]},
        get_detector(artifact, artifact),
        tuple(about["class_names"]),
        ImageFormat.model_validate(about["format"]),
        about["draws"],
    )
