"""``whorl guard build``: a guard whose bank nobody else has, selected and calibrated from the cached activations under a key of its own.

Outside DVC and MLflow: no stage, record or run knows of it, and neither the key nor a seed made of it is stored.
"""

import logging
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import paths
from pipeline.artifacts.banks import put_bank
from pipeline.artifacts.classifiers import CONFIG, read_classifier, void_promise
from pipeline.artifacts.current import open_activations
from pipeline.artifacts.detectors import CalibratedDetector, put_detector
from pipeline.artifacts.features import CLEAN, FeatureSet
from pipeline.artifacts.guards import PRIVATE, copies, write_guard
from pipeline.artifacts.images import ImageSet
from pipeline.artifacts.manifest import open_artifact
from pipeline.classifiers.activations import activations
from pipeline.classifiers.model import freeze, to_float
from pipeline.detectors.building import build_bank, build_detector, calibrate, moments_needed
from pipeline.errors import ArtifactError, GuardError
from pipeline.evaluation.private_card import render_private_card
from pipeline.fingerprints.bank import Bank
from pipeline.fingerprints.features import Features, stored_as
from pipeline.keys import KeyFile, derive_seed, draw_key_file
from pipeline.params.detectors import CommitteeDetectorParams, DetectorParams
from pipeline.params.fingerprints import FingerprintParams
from pipeline.params.root import Params, load_params
from pipeline.progress import progress
from pipeline.random import ImageRandom

logger = logging.getLogger("whorl")

COMPARED = 16
"""Images of ``calibrate`` whose cached activations are compared with the classifier's own."""
CLOSE = 0.05
"""The mean difference that rounding on another device may make, in shares of the mean activation; another classifier's is near 1."""


@dataclass(frozen=True, repr=False)
class Recipe:
    """What a private bank is built with: the params file's own params, all seeds replaced by the key's, which nothing shows or stores.

    Attributes:
        fingerprints: with the seed that samples and selects.
        detector: with the seed that draws committees, where it has any.
        calibration_seed: of the draws that the calibration images meet.
    """

    fingerprints: FingerprintParams
    detector: DetectorParams
    calibration_seed: int

    @classmethod
    def of(cls, key: bytes, fingerprints: FingerprintParams, detector: DetectorParams) -> "Recipe":
        """The recipe of a key. Its seeds have 128 bits, more than a params file may hold, so the copies are not validated again."""
        fingerprints = fingerprints.model_copy(update={"seed": derive_seed(key, "bank/fingerprints")})
        if isinstance(detector, CommitteeDetectorParams):
            detector = detector.model_copy(update={"seed": derive_seed(key, "bank/committees")})
        return cls(fingerprints, detector, derive_seed(key, "bank/calibration"))


def build_guard(key_file: Path, out: Path) -> None:
    """Builds and calibrates a private guard, and says where it is.

    Args:
        key_file: the bank key's, made on first use.
        out: the guard's folder; a guard that is there is replaced once the new one is whole.

    Raises:
        GuardError: ``out`` is not for a private guard, or the key's file is in the wrong place.
        KeyFileError: the key cannot be read or made, is open to others than its owner, or is none.
        ArtifactError: the activations are missing, or those of other params or of another classifier.
    """
    folder = free_folder(out)
    check_key_file(key_file, folder)
    params = load_params()
    features, images = open_activations(params, "a private bank"), ImageSet.open(paths.DATA)
    check_classifier(features, images)
    recipe = Recipe.of(KeyFile(key_file).read_or_make(), params.fingerprints, params.detectors[params.publish.detector])
    bank, detector = build(features, params, recipe)
    promise = void_promise(open_artifact(paths.CLASSIFIER, "classifier").json(CONFIG))
    with replaced(folder) as building:
        write_guard(
            building,
            [copies({"classifier": paths.CLASSIFIER}), partial(put_bank, bank=bank), partial(put_detector, detector=detector)],
            features,
            format=images.format,
            draws=params.publish.draws,
            promise=promise,
            card=render_private_card(public_params(params), features.class_names, bank.layout.layers, promise),
            stage=PRIVATE,
        )
    report(out, key_file, bank, detector, features.class_names)


def build(features: FeatureSet, params: Params, recipe: Recipe) -> tuple[Bank, CalibratedDetector]:
    """Selects a bank on ``fit`` and calibrates its detector on the clean images of ``calibrate``; keeps public params."""
    classes, attacks, name = len(features.class_names), recipe.fingerprints.fit_attacks, params.publish.detector
    with progress("private bank: images", passes(features, recipe)) as advance:
        stream = partial(counted, features, advance)
        bank = build_bank(stream, features.layout, classes, recipe.fingerprints, params.selection)
        detector = build_detector(stream, bank, recipe.detector, attacks)
    clean = features.read_split(CLEAN, "calibrate")
    draws = ImageRandom(recipe.calibration_seed, f"calibrate/{name}", clean.ids)
    calibration = calibrate(detector, clean, features.predicted(CLEAN, "fit"), classes, params.calibration.alpha, draws)
    return bank, CalibratedDetector(detector, calibration, params.detectors[name], params.calibration.alpha)


def counted(features: FeatureSet, advance: Callable[[int], None], sources: Sequence[str]) -> Iterator[tuple[str, Features]]:
    """The shards of ``fit``, counted as they are used."""
    for source, part in features.stream(sources, "fit"):
        yield source, part
        advance(len(part.ids))


def passes(features: FeatureSet, recipe: Recipe) -> int:
    """How many images are read in all: every block of every group's candidates sees each once, committees each of their sources."""
    params, detector = recipe.fingerprints, recipe.detector
    blocks = (len(features.class_names) + 1) * math.ceil(params.candidates / params.block)
    read = [CLEAN, *params.fit_attacks] * blocks
    if isinstance(detector, CommitteeDetectorParams):
        read += map(stored_as, moments_needed(detector, params.fit_attacks))
    return sum(features.count(source, "fit") for source in read)


def free_folder(out: Path) -> Path:
    """Where ``out`` really is; raises GuardError where no private guard may be put there."""
    folder = out.resolve()
    if folder.is_relative_to(paths.ROOT.resolve()):
        raise GuardError(f"--out: {out} is inside {paths.ROOT}, which DVC and MLflow keep, where a folder outside of it was expected.")
    if folder.exists() and not (_is_guard(folder) or (folder.is_dir() and not any(folder.iterdir()))):
        raise GuardError(f"--out: {out} exists and is no guard, where a guard to replace, an empty folder or a new name was expected.")
    return folder


def _is_guard(folder: Path) -> bool:
    try:
        open_artifact(folder, "guard")
    except ArtifactError:
        return False
    return True


def check_key_file(key_file: Path, folder: Path) -> None:
    """Raises GuardError where the bank key would lie among artifacts or in the guard's own folder, or is the draw key."""
    real = key_file.resolve()
    for place in (paths.ROOT, folder):
        if real.is_relative_to(place.resolve()):
            raise GuardError(f"--bank-key: {key_file} is inside {place}, where a file that is handed to nobody was expected.")
    if real == draw_key_file().path.resolve():
        raise GuardError(f"--bank-key: {key_file} is the draw key's file, which is rotated by itself, where one of its own was expected.")


def check_classifier(features: FeatureSet, images: ImageSet) -> None:
    """Raises ArtifactError where the cached activations of some calibration images are not those of the classifier, images and pool."""
    shard = next(iter(images.shards("calibrate")), None)
    if shard is None or f"{CLEAN}.{shard}" not in features.shards(CLEAN, "calibrate"):
        same = False
    else:
        batch, cached = images.read(shard), features.read(f"{CLEAN}.{shard}")
        _, neurons = activations(freeze(read_classifier(paths.CLASSIFIER)), to_float(batch.images[:COMPARED]), features.pool)
        stored = cached.neurons[:COMPARED]
        same = batch.ids == cached.ids and bool(np.abs(neurons - stored).mean() <= CLOSE * np.abs(stored).mean())
    if not same:
        raise ArtifactError(
            f"{paths.ACTIVATIONS}: the activations of calibration images are not what {paths.CLASSIFIER} makes of {paths.DATA}; "
            "run `make repro` first."
        )


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A folder to fill, beside ``folder`` and put in its place when it is full; only its owner may open it or a file in it."""
    building, before = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp"), os.umask(0o077)
    try:
        building.mkdir(parents=True)
        yield building
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    except OSError as error:
        raise GuardError(
            f"--out: {folder} cannot be written ({error.strerror or error}), where a folder of one's own was expected."
        ) from error
    finally:
        os.umask(before)
        shutil.rmtree(building, ignore_errors=True)


def public_params(params: Params) -> dict[str, Any]:
    """What the card may say of the params: the sections that the bank was built with, without any seed."""
    name = params.publish.detector
    sections = {
        "fingerprints": params.fingerprints,
        "selection": params.selection,
        f"detectors.{name}": params.detectors[name],
        "calibration": params.calibration,
    }
    return {section: values.model_dump(mode="json", exclude={"seed"}) for section, values in sections.items()}


def report(out: Path, key_file: Path, bank: Bank, detector: CalibratedDetector, class_names: Iterable[str]) -> None:
    """Says what was built, and what it lacks."""
    names = list(class_names)
    for label, reason in bank.pooled_reasons.items():
        logger.warning(f"Class {names[label]} uses the pooled bank: {reason}.")
    counts = detector.calibration.counts()
    for group, count in counts.items():
        if detector.alpha * (count + 1) < 1:
            logger.warning(f"Calibration group {group} has {count} images, too few to flag anything at {detector.alpha:g}.")
    print(
        f"{out}: a private guard of {len(bank.fingerprints)} fingerprints in {len(bank.names)} groups, calibrated on "
        f"{sum(counts.values())} images. The bank is secret as long as this folder and {key_file} are."
    )
