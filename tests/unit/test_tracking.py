"""Tracking: one whole run or none, whatever fails; read back through MLflow's own client from one sqlite file."""

import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import tracking
from pipeline.errors import WhorlError
from pipeline.tracking import DatasetRecord, RunRecord, StageRecord, curves, log_run


def _log(uri: str, experiment: str, record: RunRecord, answers: Any) -> None:
    try:
        answers.put(log_run(record, uri=uri, experiment=experiment))
    except BaseException as error:
        answers.put(repr(error))


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """The module's one database, made by two processes that log the same run at once, and what each was told."""
    folder = tmp_path_factory.mktemp("store")
    uri, context = f"sqlite:///{folder}/new folder/mlflow.db", multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [context.Process(target=_log, args=(uri, "whorl raced", _record(folder), answers)) for _ in range(2)]
    for process in processes:
        process.start()
    said = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(30)
    return uri, said


@pytest.fixture(scope="module")
def store(raced: tuple[str, list[str]]) -> str:
    """Its address."""
    return raced[0]


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> Iterator[str]:
    """An experiment of its own for each test."""
    yield f"whorl {request.node.name}"


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    """A run whose files lie in the test's own folder."""
    return _record(tmp_path)


def _record(tmp_path: Path) -> RunRecord:
    """A run of two stages with 250 params, 2,600 curve points and a few files."""
    for name in ("report.html", "roc.svg", "record.json"):
        (tmp_path / name).write_text(f"<p>{name}</p>")
    many = {f"key{i}": i for i in range(250)}
    stages = [
        StageRecord("prepare", params={"data": {"limit": None}}, metrics={"images": 1797}, seconds=2.5),
        StageRecord(
            "train_classifier",
            params={"classifier": {"epochs": 20}},
            curves={"tune_loss": [(0, 1.0), (1, 0.5)]},
            artifacts={"record": [tmp_path / "record.json"]},
            tags={"cached": "yes"},
        ),
    ]
    return RunRecord(
        name="digits",
        identity="d1",
        commit="c0ffee",
        params={"many": many, "attacks": {"fgsm": {"epsilon": 0.15, "targeted": False}}, "long": "x" * 9000, "odd[key]": "é"},
        metrics={"vote.fgsm.auroc": 0.75, "vote.pgd.auroc": None, "bad": float("nan")},
        curves={"train_loss": [(step, 1 / (step + 1)) for step in range(2600)]},
        artifacts={"": [tmp_path / "report.html"], "figures": [tmp_path / "roc.svg"]},
        datasets=[DatasetRecord("test", "f" * 64, "handwritten digits", {"0": 36, "1": 40}, "evaluation")],
        tags={"whorl.preset": "digits"},
        stages=stages,
    )


def _client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _runs(uri: str, experiment: str) -> list[Any]:
    client = _client(uri)
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else list(client.search_runs([found.experiment_id]))


def test_everything_is_there(store: str, experiment: str, record: RunRecord, tmp_path: Path) -> None:
    client, run_id = _client(store), log_run(record, uri=store, experiment=experiment)
    run = client.get_run(run_id)
    assert client.get_experiment(run.info.experiment_id).tags["mlflow.experimentKind"] == "custom_model_development"
    assert run.info.status == "FINISHED" and run.info.run_name == "digits"
    assert len(run.data.params) == 254
    assert run.data.params["many.key249"] == "249"
    assert run.data.params["attacks.fgsm.targeted"] == "false"
    assert run.data.params["odd_key_"] == "é"
    assert len(run.data.params["long"]) == 6000 and run.data.params["long"].endswith("x … (cut: 9000 characters)")
    assert run.data.tags["whorl.cut_params"] == "long"
    assert run.data.tags["mlflow.source.git.commit"] == "c0ffee" and run.data.tags["whorl.preset"] == "digits"
    assert run.data.metrics == {"vote.fgsm.auroc": 0.75, "train_loss": pytest.approx(1 / 2600)}
    points = client.get_metric_history(run_id, "train_loss")
    assert sorted((point.step, point.value) for point in points) == record.curves["train_loss"]
    assert {file.path for folder in (None, "figures") for file in client.list_artifacts(run_id, folder)} == {
        "report.html",
        "figures",
        "figures/roc.svg",
    }
    assert Path(client.download_artifacts(run_id, "report.html", str(tmp_path / "."))).read_text() == "<p>report.html</p>"


def test_inputs_are_there(store: str, experiment: str, record: RunRecord) -> None:
    (given,) = _client(store).get_run(log_run(record, uri=store, experiment=experiment)).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("test", "f" * 36)
    assert json.loads(given.dataset.profile) == {"0": 36, "1": 40}
    assert json.loads(given.dataset.source) == {"source": "handwritten digits", "digest": "f" * 64}
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "evaluation")]


def test_each_stage_is_a_child_with_its_own_records(store: str, experiment: str, record: RunRecord) -> None:
    client, parent = _client(store), log_run(record, uri=store, experiment=experiment)
    children = {run.info.run_name: run for run in _runs(store, experiment) if run.data.tags.get("mlflow.parentRunId") == parent}
    assert set(children) == {"prepare", "train_classifier"} and len(_runs(store, experiment)) == 3
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    assert children["prepare"].data.metrics == {"images": 1797, "seconds": 2.5}
    assert children["prepare"].info.end_time - children["prepare"].info.start_time == 2500
    trained = children["train_classifier"]
    assert trained.data.params == {"classifier.epochs": "20"} and trained.data.tags["cached"] == "yes"
    assert [(p.step, p.value) for p in client.get_metric_history(trained.info.run_id, "tune_loss")] == [(0, 1.0), (1, 0.5)]
    assert [file.path for file in client.list_artifacts(trained.info.run_id, "record")] == ["record/record.json"]


def test_the_same_identity_is_logged_once_and_another_again(store: str, experiment: str, record: RunRecord) -> None:
    first = log_run(record, uri=store, experiment=experiment)
    assert log_run(replace(record, metrics={"changed": 1.0}), uri=store, experiment=experiment) == first
    assert len(_runs(store, experiment)) == 3
    assert log_run(replace(record, identity="d2"), uri=store, experiment=experiment) != first
    assert len(_runs(store, experiment)) == 6


@pytest.mark.parametrize("failure", [RuntimeError("disk full"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_failure_leaves_nothing_and_the_next_try_is_whole(
    store: str, experiment: str, record: RunRecord, failure: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(tracking, "_input", fail)
        with pytest.raises(WhorlError if isinstance(failure, Exception) else KeyboardInterrupt, match="disk full|^$"):
            log_run(record, uri=store, experiment=experiment)
    assert _runs(store, experiment) == []
    assert _client(store).get_run(log_run(record, uri=store, experiment=experiment)).info.status == "FINISHED"


def test_what_a_killed_process_left_is_cleared_and_another_identity_is_not(store: str, experiment: str, record: RunRecord) -> None:
    client = _client(store)
    other = log_run(replace(record, identity="d2", stages=()), uri=store, experiment=experiment)
    number = client.get_experiment_by_name(experiment).experiment_id
    left = client.create_run(number, tags={tracking.IDENTITY_TAG: record.identity}).info.run_id
    child = client.create_run(number, tags={"mlflow.parentRunId": left}).info.run_id
    mine = log_run(record, uri=store, experiment=experiment)
    kept = {run.info.run_id for run in _runs(store, experiment)}
    assert {other, mine} <= kept and not {left, child} & kept and len(kept) == 4


def test_a_missing_file_is_named_before_anything_is_logged(store: str, experiment: str, record: RunRecord, tmp_path: Path) -> None:
    broken = replace(record, stages=[StageRecord("evaluate", artifacts={"": [tmp_path / "absent.json"]})])
    with pytest.raises(WhorlError, match=r"absent\.json: there is no such file, where one to log for evaluate was expected"):
        log_run(broken, uri=store, experiment=experiment)
    assert _client(store).get_experiment_by_name(experiment) is None


def test_a_deleted_experiment_is_used_again(store: str, experiment: str, record: RunRecord) -> None:
    client = _client(store)
    log_run(record, uri=store, experiment=experiment)
    client.delete_experiment(client.get_experiment_by_name(experiment).experiment_id)
    again = log_run(replace(record, identity="d3"), uri=store, experiment=experiment)
    assert client.get_run(again).info.status == "FINISHED"


def test_processes_at_once_on_a_fresh_file_make_one_run(raced: tuple[str, list[str]]) -> None:
    uri, said = raced
    assert said[0] == said[1]
    assert [run.info.run_id for run in _runs(uri, "whorl raced") if tracking.IDENTITY_TAG in run.data.tags] == said[:1]
    assert len(_runs(uri, "whorl raced")) == 3


@pytest.mark.parametrize("uri", ["nonsense://somewhere", "sqlite:////proc/none/mlflow.db"])
def test_a_store_that_cannot_be_opened_is_one_sentence(uri: str, record: RunRecord) -> None:
    with pytest.raises(WhorlError, match=r"expected\.$") as caught:
        log_run(record, uri=uri, experiment="none")
    assert "\n" not in str(caught.value)


def test_telemetry_is_off(store: str) -> None:
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert store and is_telemetry_disabled()


def test_curves_skip_what_is_not_known() -> None:
    rows = [{"epoch": 0, "loss": 2.0, "rate": None}, {"epoch": 3, "loss": 1, "rate": 0.1}]
    assert curves(rows, step="epoch") == {"loss": [(0, 2.0), (3, 1.0)], "rate": [(3, 0.1)]}
