"""What stages read from outside the project, where DVC does not look: image files, checkpoints, a user's own package.

A stage notes what it read when it ends; ``whorl repro`` compares, and runs a stage again whose inputs have changed. Changes no
result, so it is no dependency of a stage.
"""

import hashlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.artifacts import paths
from pipeline.artifacts.files import read_json, write_json
from pipeline.data.sources.folder import files_below
from pipeline.data.sources.parquet import matching_files
from pipeline.errors import WhorlError
from pipeline.params.classifier import AdoptedClassifier
from pipeline.params.data import DigitsSource, FolderSource, ParquetSource
from pipeline.params.root import Params

State = dict[str, Any]


def note_outside(stage: str, params: Params) -> None:
    """Notes what a stage has just read; ``params`` has the sections that the stage loads."""
    write_json(_path(stage), STATES[stage](params))


def changed_stages(params: Params) -> list[str]:
    """The stages whose artifact is there and whose inputs outside the project are not those it was made from."""
    return [stage for stage, state in STATES.items() if (MADE[stage] / "manifest.json").is_file() and _noted(stage) != state(params)]


def _noted(stage: str) -> State | None:
    try:
        noted: State = read_json(_path(stage))
    except WhorlError:
        return None
    return noted


def _path(stage: str) -> Path:
    return paths.WORK / "outside" / f"{stage}.json"


def _images(params: Params) -> State:
    match params.data.source:
        case DigitsSource():
            return {}
        case ParquetSource(files=files):
            found = [Path(file) for origin, patterns in files.items() for file in matching_files(origin, patterns)]
        case FolderSource(roots=roots):
            found = [file for root in roots.values() for file in files_below(Path(root))]
    return {str(file): _stat(file) for file in sorted(set(found))}


def _classifier(params: Params) -> State:
    given = params.classifier
    if not isinstance(given, AdoptedClassifier):
        return {}
    state: State = {} if given.checkpoint is None else {given.checkpoint: _stat(Path(given.checkpoint))}
    if given.factory:
        state[given.factory] = _module_hash(given.factory.split(":")[0])
    return state


def _stat(file: Path) -> list[int] | None:
    try:
        return [file.stat().st_size, file.stat().st_mtime_ns]
    except OSError:
        return None


def _module_hash(module: str) -> str | None:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest() if spec and spec.origin and Path(spec.origin).is_file() else None


STATES: dict[str, Callable[[Params], State]] = {"prepare": _images, "train_classifier": _classifier}
MADE = {"prepare": paths.DATA, "train_classifier": paths.CLASSIFIER}
