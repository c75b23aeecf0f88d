"""Detectors at rest: what was fitted, and their calibration."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.artifacts.banks import get_bank
from pipeline.artifacts.files import write_arrays, write_json
from pipeline.artifacts.manifest import Artifact, open_artifact, seal
from pipeline.detectors.base import Detector
from pipeline.detectors.committee import CommitteeDetector
from pipeline.detectors.conformal import Calibration
from pipeline.detectors.fingerprint import FingerprintDetector
from pipeline.fingerprints.bank import Bank
from pipeline.fingerprints.committees import Committees
from pipeline.params.detectors import CommitteeDetectorParams, DetectorParams

ARRAYS = "calibration.safetensors"
COMMITTEES = "committees.safetensors"
"""Only of a detector with committees."""
PLAIN = "detector.json"
FILES = (ARRAYS, COMMITTEES, PLAIN)


@dataclass(frozen=True)
class CalibratedDetector:
    """A detector, its calibration, and the false-alarm rate that it was calibrated for."""

    detector: Detector
    calibration: Calibration
    params: DetectorParams
    alpha: float


def put_detector(folder: Path, detector: CalibratedDetector) -> None:
    """Writes a detector's files."""
    arrays, calibration = detector.calibration.to_arrays()
    plain = {"params": detector.params.model_dump(mode="json"), "calibration": calibration, "alpha": detector.alpha}
    if isinstance(detector.detector, CommitteeDetector):
        write_arrays(folder / COMMITTEES, detector.detector.committees.to_arrays())
        plain["attacks"] = list(detector.detector.committees.attacks)
    write_arrays(folder / ARRAYS, arrays)
    write_json(folder / PLAIN, plain)


def get_detector(artifact: Artifact, bank: Artifact) -> CalibratedDetector:
    """Reads a detector's files, and the bank that it draws from."""
    plain = artifact.json(PLAIN)
    params: DetectorParams = TypeAdapter(DetectorParams).validate_python(plain["params"], strict=False)
    calibration = Calibration.from_arrays(artifact.arrays(ARRAYS), plain["calibration"])
    return CalibratedDetector(_detector(artifact, get_bank(bank), params, plain), calibration, params, plain["alpha"])


def _detector(artifact: Artifact, bank: Bank, params: DetectorParams, plain: dict[str, Any]) -> Detector:
    if isinstance(params, CommitteeDetectorParams):
        return CommitteeDetector(bank, Committees.from_arrays(artifact.arrays(COMMITTEES), plain["attacks"]))
    return FingerprintDetector(bank, params.statistic, params.draw)


def write_detector(folder: Path, name: str, detector: CalibratedDetector) -> None:
    """Writes the ``detector`` artifact."""
    shutil.rmtree(folder, ignore_errors=True)
    put_detector(folder, detector)
    seal(folder, kind="detector", stage=f"train_detector@{name}", about={"name": name})


def read_detector(folder: Path, bank: Path) -> CalibratedDetector:
    """The detector of a ``detector`` artifact."""
    return get_detector(open_artifact(folder, "detector"), open_artifact(bank, "bank"))
