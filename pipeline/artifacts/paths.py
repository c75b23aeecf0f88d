"""The only catalogue of what a run writes.

Covered by the promise of byte-identical reruns: everything in ``COVERED``. Excepted: the report (it names the commit and
the stages' timings), the work folder and MLflow's files.
"""

from pathlib import Path

ROOT = Path("artifacts")
DATA = ROOT / "data"
CLASSIFIER = ROOT / "classifier"
ATTACKS = ROOT / "attacks"
ACTIVATIONS = ROOT / "activations"
CANDIDATES = ROOT / "candidates"
BANK = ROOT / "bank"
DETECTORS = ROOT / "detectors"
RECORDS = ROOT / "records"
REPORTS = ROOT / "reports"
SCORES = REPORTS / "scores.parquet"
CALIBRATION = REPORTS / "calibration.json"
GAME = REPORTS / "game.parquet"
TRANSFER = REPORTS / "transfer.parquet"
REDRAWS = REPORTS / "redraws.parquet"
CORRUPTED = REPORTS / "corrupted.parquet"
HARDENING = REPORTS / "hardening.parquet"
ABLATION = REPORTS / "ablation.parquet"
METRICS = REPORTS / "metrics"
FIGURES = REPORTS / "figures"
REPORT = REPORTS / "report.html"
GUARD = ROOT / "guard"

COVERED = (
    DATA,
    CLASSIFIER,
    ATTACKS,
    ACTIVATIONS,
    CANDIDATES,
    BANK,
    DETECTORS,
    RECORDS,
    SCORES,
    CALIBRATION,
    GAME,
    TRANSFER,
    REDRAWS,
    CORRUPTED,
    HARDENING,
    ABLATION,
    METRICS,
    FIGURES,
    GUARD,
)

WORK = ROOT / ".work"
"""Shards under construction, timings and other notes to ourselves: never read by a result, safe to delete."""
SHARDS = WORK / "shards"
TIMINGS = WORK / "timings"
CHECKED = WORK / "checked.json"
TRAINING = WORK / "training"
SEARCHES = WORK / "tune"
MLFLOW = ROOT / "mlflow"
STUDIES = ROOT / "tune"
"""Searches and what they propose: the user's own, no part of a run."""


def attack(name: str) -> Path:
    """The adversarial data set of one attack."""
    return ATTACKS / name


def detector(name: str) -> Path:
    """One detector with its calibration."""
    return DETECTORS / name


def study(name: str) -> Path:
    """One search with its trials."""
    return STUDIES / name


def record(stage: str, item: str | None = None) -> Path:
    """The record that a stage leaves."""
    return RECORDS / stage / f"{item}.json" if item else RECORDS / f"{stage}.json"


def timing(stage: str, item: str | None = None) -> Path:
    """How long a stage took when it last ran here."""
    return TIMINGS / f"{stage}{'@' + item if item else ''}.json"
