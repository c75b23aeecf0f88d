"""Mirrors a finished run into MLflow; the only module that imports mlflow.

A run is either whole or not there: it is looked for by its identity first, built under a lock, marked FINISHED last, and
deleted where anything fails. What is logged are records that the stages left, so a run that came from the cache is told
as fully as one that was computed.
"""

import fcntl
import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.paths import MLFLOW
from pipeline.errors import WhorlError
from pipeline.params.flat import flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

IDENTITY_TAG = "whorl.identity"
VALUE_LIMIT = 6000
"""Characters of a param's value that MLflow stores."""
TAG_LIMIT = 8000
_PARAMS_A_BATCH, _METRICS_A_BATCH = 100, 1000
_SQLITE = "sqlite:///"
Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class DatasetRecord:
    """A set of images that the run read or made.

    Attributes:
        name: such as ``test``.
        digest: of its content (MLflow shows the first 36 characters).
        source: where it comes from, for people.
        counts: what is in it, such as split or class to images.
        context: what the run used it for, such as ``training``.
    """

    name: str
    digest: str
    source: str
    counts: Mapping[str, int]
    context: str


@dataclass(frozen=True)
class StageRecord:
    """What one stage leaves behind.

    Attributes:
        name: of the stage.
        params: its sections of the params file, nested.
        metrics: flat; None and values that are not finite are left out.
        curves: name to (step, value) pairs.
        artifacts: folder in the run (``""`` for its top) to the local files that go there.
        tags: further tags.
        seconds: how long it took when it was computed; None where unknown.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    artifacts: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None


@dataclass(frozen=True)
class RunRecord:
    """A whole run.

    Attributes:
        name: that people see.
        identity: of everything that the run was made from, ``publish`` included; one run is kept for each.
        commit: of the code.
        params: the whole params file, nested.
        metrics: flat; None and values that are not finite are left out.
        curves: name to (step, value) pairs.
        artifacts: folder in the run (``""`` for its top) to local files, such as ``{"": [report], "figures": [...]}``.
        datasets: inputs of the run.
        tags: further tags.
        stages: a child run each, in order.
    """

    name: str
    identity: str
    commit: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    curves: Mapping[str, Curve]
    artifacts: Mapping[str, Sequence[Path]]
    datasets: Sequence[DatasetRecord]
    tags: Mapping[str, str]
    stages: Sequence[StageRecord]


def tracking_uri() -> str:
    """The store that ``MLFLOW_TRACKING_URI`` names, or a sqlite file in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI", f"{_SQLITE}{MLFLOW / 'mlflow.db'}")


def log_run(record: RunRecord, *, uri: str, experiment: str) -> str:
    """Logs a run with a child for each stage, unless a finished one with the same identity is there already.

    Args:
        record: what to log.
        uri: MLflow's tracking URI, ``sqlite:///FILE`` or a server's address.
        experiment: its name; created where it is missing.

    Returns:
        The id of the parent run.

    Raises:
        WhorlError: a file to log is missing, or MLflow refused; no unfinished run stays behind.
    """
    _check_files(record)
    with _locked(uri) as alone:
        client = _open(uri)
        experiment_id = _experiment(client, experiment, uri)
        if finished := _runs(client, experiment_id, record.identity, "FINISHED"):
            return finished[0]
        if alone:
            # Under the lock nobody else is writing, so an unfinished run was left by a process that was killed.
            for status in ("RUNNING", "FAILED"):
                _delete(client, experiment_id, _runs(client, experiment_id, record.identity, status))
        return _log_whole(client, experiment_id, record)


def curves(history: Iterable[Mapping[str, Any]], *, step: str) -> dict[str, list[tuple[int, float]]]:
    """Turns rows such as ``{"epoch": 0, "loss": 2.3}`` into a curve for each other key, at the row's ``step``."""
    turned: dict[str, list[tuple[int, float]]] = {}
    for row in history:
        for key, value in row.items():
            if key != step and value is not None:
                turned.setdefault(key, []).append((int(row[step]), float(value)))
    return turned


def _legal(name: str) -> str:
    """A name that MLflow takes: letters, digits and ``_-. :/``."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def _cut(text: str, limit: int) -> str:
    note = f" … (cut: {len(text)} characters)"
    return text if len(text) <= limit else text[: limit - len(note)] + note


@contextmanager
def _locked(uri: str) -> Iterator[bool]:
    """Holds the lock beside a sqlite file, and says whether there is one; a server does its own locking."""
    if not uri.startswith(_SQLITE):
        yield False
        return
    database = Path(uri.removeprefix(_SQLITE))
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        lock = database.with_name(database.name + ".lock").open("w")
    except OSError as error:
        said = f"{database}: its folder cannot be written ({error.strerror}), where one for MLflow's database was expected."
        raise WhorlError(said) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield True


def _open(uri: str) -> "MlflowClient":
    # MLflow reads these while it is imported.
    for name, value in {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    try:
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WhorlError(f"{uri}: MLflow cannot open this store ({said}), where a sqlite file or a server was expected.") from error
    return client


_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""The UI opens runs and their charts first, where it would otherwise ask for traces of a language model."""


def _experiment(client: "MlflowClient", name: str, uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        files = Path(uri.removeprefix(_SQLITE)).resolve().parent / "mlartifacts" if uri.startswith(_SQLITE) else None
        location = f"{files.as_uri()}/{_legal(name)}" if files else None
        return str(client.create_experiment(name, artifact_location=location, tags=_TRAINING))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _runs(client: "MlflowClient", experiment_id: str, identity: str, status: str) -> list[str]:
    query = f"tags.`{IDENTITY_TAG}` = '{identity}' and attributes.status = '{status}'"
    return [run.info.run_id for run in client.search_runs([experiment_id], query)]


def _delete(client: "MlflowClient", experiment_id: str, parents: Iterable[str]) -> None:
    """Deletes runs and their children, each marked as failed before (MLflow keeps deleted runs until its own clean-up)."""
    for parent in parents:
        children = client.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
        for run_id in (*(child.info.run_id for child in children), parent):
            client.set_terminated(run_id, "FAILED")
            client.delete_run(run_id)


def _log_whole(client: "MlflowClient", experiment_id: str, record: RunRecord) -> str:
    now = _now()
    tags = {
        IDENTITY_TAG: record.identity,
        "mlflow.source.git.commit": record.commit,
        "mlflow.source.name": "dvc repro",
        "mlflow.source.type": "LOCAL",
        **record.tags,
    }
    began = now - round(1000 * sum(stage.seconds or 0 for stage in record.stages))
    parent = client.create_run(experiment_id, began, _texts(tags), record.name).info.run_id
    try:
        _write(client, parent, record.params, record.metrics, record.curves, record.artifacts)
        if record.datasets:
            client.log_inputs(parent, [_input(data) for data in record.datasets])
        for stage in record.stages:
            began = _log_stage(client, experiment_id, parent, stage, began)
        client.set_terminated(parent, "FINISHED", now)
    except BaseException as error:
        _delete(client, experiment_id, [parent])
        if isinstance(error, Exception):
            said = f"MLflow run {record.name}: it could not be logged and was deleted ({error}), where a store that takes it was expected."
            raise WhorlError(said) from error
        raise
    return str(parent)


def _log_stage(client: "MlflowClient", experiment_id: str, parent: str, stage: StageRecord, began: int) -> int:
    """Logs a child run and returns when it ended (in ms), which is when the next one began."""
    ended = began + round(1000 * (stage.seconds or 0))
    tags = {"mlflow.parentRunId": parent, "whorl.stage": stage.name, **stage.tags}
    child = client.create_run(experiment_id, began, _texts(tags), stage.name).info.run_id
    metrics = {**stage.metrics, "seconds": stage.seconds}
    _write(client, child, stage.params, metrics, stage.curves, stage.artifacts)
    client.set_terminated(child, "FINISHED", ended)
    return ended


def _write(
    client: "MlflowClient",
    run_id: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, float | None],
    series: Mapping[str, Curve],
    artifacts: Mapping[str, Sequence[Path]],
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    flat = {_legal(key): value for key, value in flatten(params)}
    for part in _batches([Param(key, _cut(value, VALUE_LIMIT)) for key, value in flat.items()], _PARAMS_A_BATCH):
        client.log_batch(run_id, params=part)
    if cut := [key for key, value in flat.items() if len(value) > VALUE_LIMIT]:
        client.log_batch(run_id, tags=[RunTag("whorl.cut_params", _cut(", ".join(cut), TAG_LIMIT))])
    points = [(key, value, 0) for key, value in metrics.items()]
    points += [(key, value, step) for key, pairs in series.items() for step, value in pairs]
    now = _now()
    logged = [Metric(_legal(key), float(value), now, step) for key, value, step in points if value is not None and math.isfinite(value)]
    for batch in _batches(logged, _METRICS_A_BATCH):
        client.log_batch(run_id, metrics=batch)
    for folder, files in artifacts.items():
        for file in files:
            client.log_artifact(run_id, str(file), folder or None)


def _input(data: DatasetRecord) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source, profile = json.dumps({"source": data.source, "digest": data.digest}), json.dumps(dict(data.counts))
    dataset = Dataset(data.name, data.digest[:36], "local", source, profile=profile)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", data.context)])


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _texts(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: _cut(value, TAG_LIMIT) for key, value in tags.items()}


def _check_files(record: RunRecord) -> None:
    owners: list[RunRecord | StageRecord] = [record, *record.stages]
    for owner in owners:
        for files in owner.artifacts.values():
            for file in files:
                if not file.is_file():
                    raise WhorlError(f"{file}: there is no such file, where one to log for {owner.name} was expected.")


def _now() -> int:
    return time.time_ns() // 1_000_000
