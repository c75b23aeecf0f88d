"""Fits one detector and calibrates it on ``calibrate``, which is read here for the first and only time."""

from pipeline.artifacts import paths
from pipeline.artifacts.banks import read_bank
from pipeline.artifacts.detectors import write_detector
from pipeline.artifacts.features import CLEAN, FeatureSet
from pipeline.artifacts.records import stage_run
from pipeline.detectors.conformal import Calibration, group_classes
from pipeline.detectors.fingerprint import FingerprintDetector
from pipeline.params.root import load
from pipeline.random import ImageRandom

SECTIONS = ("detectors.{item}", "calibration")


def main(name: str) -> None:
    """Writes ``artifacts/detectors/NAME``."""
    params = load(*(section.format(item=name) for section in SECTIONS))
    given, alpha = params.detectors[name], params.calibration.alpha
    with stage_run("train_detector", params, name) as run:
        features = FeatureSet.open(paths.ACTIVATIONS)
        detector = FingerprintDetector(read_bank(paths.BANK), given.statistic, given.draw)
        clean = features.read_split(CLEAN, "calibrate")
        groups = group_classes(features.predicted(CLEAN, "fit"), len(features.class_names), len(clean), alpha)
        draws = ImageRandom(params.calibration.seed, f"calibrate/{name}", clean.ids)
        calibration = Calibration.fit(detector.scores(clean.neurons, clean.predicted, draws), clean.predicted, groups)
        write_detector(paths.detector(name), name, given, calibration, alpha)
        for group, count in calibration.counts().items():
            if alpha * (count + 1) < 1:
                run.note(f"{name}: calibration group {group} has {count} images, too few to flag anything at {alpha:g}.")
        run.log({f"calibration_images_{group}": count for group, count in calibration.counts().items()})
