"""Detectors at rest: what was fitted, and their calibration."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.banks import get_bank
from pipeline.artifacts.files import write_arrays, write_json
from pipeline.artifacts.manifest import Artifact, open_artifact, seal
from pipeline.detectors.base import Detector
from pipeline.detectors.conformal import Calibration
from pipeline.detectors.fingerprint import FingerprintDetector
from pipeline.params.detectors import DetectorParams

ARRAYS = "calibration.safetensors"
PLAIN = "detector.json"


@dataclass(frozen=True)
class CalibratedDetector:
    """A detector, its calibration, and the false-alarm rate that it was calibrated for."""

    detector: Detector
    calibration: Calibration
    params: DetectorParams
    alpha: float


def put_detector(folder: Path, params: DetectorParams, calibration: Calibration, alpha: float) -> None:
    """Writes a detector's two files."""
    arrays, plain = calibration.to_arrays()
    write_arrays(folder / ARRAYS, arrays)
    write_json(folder / PLAIN, {"params": params.model_dump(mode="json"), "calibration": plain, "alpha": alpha})


def get_detector(artifact: Artifact, bank: Artifact) -> CalibratedDetector:
    """Reads a detector's two files, and the bank that it draws from."""
    plain = artifact.json(PLAIN)
    params = DetectorParams.model_validate(plain["params"])
    calibration = Calibration.from_arrays(artifact.arrays(ARRAYS), plain["calibration"])
    return CalibratedDetector(FingerprintDetector(get_bank(bank), params.statistic, params.draw), calibration, params, plain["alpha"])


def write_detector(folder: Path, name: str, params: DetectorParams, calibration: Calibration, alpha: float) -> None:
    """Writes the ``detector`` artifact."""
    shutil.rmtree(folder, ignore_errors=True)
    put_detector(folder, params, calibration, alpha)
    seal(folder, kind="detector", stage=f"train_detector@{name}", about={"name": name})


def read_detector(folder: Path, bank: Path) -> CalibratedDetector:
    """The detector of a ``detector`` artifact."""
    return get_detector(open_artifact(folder, "detector"), open_artifact(bank, "bank"))
