"""The search on made activations, with Ray and Tune as they are; and what becomes of its proposal."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML
from tune_support import CHANGES, PROJECT, made_activations, made_project, read_params

from pipeline.artifacts import paths
from pipeline.artifacts.features import CLEAN, FeatureSet
from pipeline.artifacts.files import digest
from pipeline.artifacts.studies import Study, Trial
from pipeline.distributed.search import Build, Plan
from pipeline.errors import ArtifactError, ParamsError, WhorlError
from pipeline.params.edits import edit, edited
from pipeline.params.root import load_params
from pipeline.results.study import ablation_inputs, find_study
from pipeline.tracking import RunRecord
from pipeline.tune import command
from pipeline.tune.bench import build_bench, setting_of
from pipeline.tune.command import apply, tune_fingerprints


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a finished study; tests look at copies of it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = made_project(tmp_path_factory.mktemp("tuned"), patch)
        made_activations()
        tune_fingerprints("fingerprints")
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHORL_PROFILE", "ci")
    return tmp_path


def _trials(folder: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted((folder / "artifacts/tune/fingerprints/trials").glob("*.json"))]


def test_a_study_leaves_its_trials_a_table_a_figure_and_a_proposal(project: Path) -> None:
    trials, folder = _trials(project), project / "artifacts/tune/fingerprints"
    assert [trial["number"] for trial in trials] == list(range(6))
    table = pq.read_table(folder / "trials.parquet").to_pylist()
    assert len(table) == 6 and any(row["front"] for row in table)
    assert all(0 <= row[name] <= 1 for row in table for name in ("fitted", "unseen", "after_looks") if row["problem"] is None)
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")
    proposal = YAML(typ="safe").load((folder / "proposal.yaml").read_text())
    assert next(row for row in table if row["number"] == proposal["trial"])["front"]
    untouched = edited((PROJECT / "presets/digits.yaml").read_text(), CHANGES)
    assert (project / "params.yaml").read_text() == untouched and not list(project.glob("*.bak*")), "nothing was changed"


def test_a_real_study_is_told_in_results(project: Path) -> None:
    """Every trial that worked, with the layers and k that it was built with, and shares of importance that sum to 1."""
    study, params = find_study(None), load_params()
    assert study
    inputs, worked = ablation_inputs(study, params), [trial for trial in study.trials() if not trial.problem]
    assert inputs.note is None and [row.number for row in inputs.rows] == [trial.number for trial in worked]
    assert inputs.chosen == YAML(typ="safe").load((study.folder / "proposal.yaml").read_text())["trial"]
    for row, trial in zip(inputs.rows, worked, strict=True):
        weights = trial.params["fingerprints.layer_weights"]
        assert set(row.layers) == {layer for layer, weight in weights.items() if weight} and row.objectives == trial.objectives
        assert row.settings["draw"] == trial.params["detectors.joint.draw"]
    assert all(sum(shares.values()) == pytest.approx(1) for shares in inputs.importance.values())


def test_the_search_touches_no_split_that_is_not_its_own(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where naming a shard of calibrate or test fails, the command and the bench do what they did before; their neurons are no numbers."""
    (before, *_), names = _trials(project), FeatureSet.shards

    def own(features: FeatureSet, source: str, split: str) -> list[str]:
        assert split in ("fit", "tune"), split
        return names(features, source, split)

    monkeypatch.setattr(FeatureSet, "shards", own)
    features = FeatureSet.open(paths.ACTIVATIONS)
    for split in ("calibrate", "test"):
        assert np.isnan(features.read(names(features, CLEAN, split)[0]).neurons).all()
        with pytest.raises(AssertionError, match=split):
            features.read_split(CLEAN, split)
    tune_fingerprints("fingerprints")
    assert build_bench(Path.cwd(), setting_of(load_params()), {})(None)["objectives"] == before["objectives"]


def _search_here(build: Build, plan: Plan, scratch: Path, on_trial: Callable[[Trial, float], None]) -> None:
    """What ``search`` does, in this process."""
    work = build()
    while following := plan.next():
        number, point = following
        plan.done[number] = Trial(number, point and dict(point), **work(point))
        on_trial(plan.done[number], 0.0)


@pytest.mark.parametrize("how", ["edited", "applied"])
def test_more_trials_go_on_from_the_file_that_the_study_began_with(
    how: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside the same study going on unchanged: all files but the name in the proposal are the same, and so is what is recorded."""
    told: list[RunRecord] = []
    monkeypatch.setattr(command, "search", _search_here)
    monkeypatch.setattr(command, "log_run", lambda record, **where: told.append(record))
    edit({"tune.trials": 8})
    shutil.copytree(paths.study("fingerprints"), paths.study("untouched"))
    tune_fingerprints("untouched")
    assert "has changed since" not in capsys.readouterr().out
    if how == "edited":
        edit({"fingerprints.layer_weights": {"layer1": 3.0, "layer2": 0.25}, "detectors.joint.draw": 15})
    else:
        apply("fingerprints", next(trial["number"] for trial in _trials(project) if trial["number"] and trial["problem"] is None))
    tune_fingerprints("fingerprints")
    assert "params.yaml has changed since this study began" in capsys.readouterr().out
    other, folder = paths.study("untouched"), paths.study("fingerprints")
    files = sorted(path.relative_to(folder) for path in (folder / "trials").iterdir())
    assert len(files) == 8
    assert all((folder / name).read_bytes() == (other / name).read_bytes() for name in [*files, "trials.parquet"])
    assert (folder / "proposal.yaml").read_text() == (other / "proposal.yaml").read_text().replace("untouched", "fingerprints")
    assert told[0].params == told[1].params and told[0].identity == told[1].identity
    apply("fingerprints", 0)
    assert read_params()["fingerprints"]["layer_weights"] == CHANGES["fingerprints.layer_weights"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trials_also_after_a_kill(project: Path) -> None:
    """Half of the trials and everything made from them are taken away, as a kill leaves it: the same bytes come back."""
    folder = project / "artifacts/tune/fingerprints"
    files = [*(f"trials/{number:05d}.json" for number in range(6)), "trials.parquet", "pareto.png", "proposal.yaml"]
    before = {name: digest(folder / name) for name in files}
    for name in ("trials/00002.json", "trials/00003.json", "trials/00005.json", *files[6:]):
        (folder / name).unlink()
    tune_fingerprints("fingerprints")
    assert {name: digest(folder / name) for name in files} == before


def test_the_study_is_one_mlflow_run_with_a_child_for_each_trial(project: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project / paths.MLFLOW / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("whorl").experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    worked = [trial for trial in _trials(project) if trial["problem"] is None]
    assert {run.data.tags["whorl.trial"] for run in children} == {str(trial["number"]) for trial in worked}
    assert parent.data.tags["whorl.study"] == "fingerprints"


def test_apply_writes_a_trial_and_keeps_comments_and_the_old_file(project: Path) -> None:
    old = (project / "params.yaml").read_text()
    number = next(trial["number"] for trial in _trials(project) if trial["number"] and trial["problem"] is None)
    apply("fingerprints", number)
    trial, new = Study(paths.study("fingerprints")).trial(number), (project / "params.yaml").read_text()
    for key, value in trial.params.items():
        at = read_params()
        for part in key.split("."):
            at = at[part]
        assert at == value, key
    assert (project / "params.yaml.bak").read_text() == old
    assert [line for line in new.splitlines() if line.startswith("#")] == [line for line in old.splitlines() if line.startswith("#")] != []
    assert len(new.splitlines()) == len(old.splitlines())
    apply("fingerprints", 0)
    assert (project / "params.yaml").read_text() == old, "trial 0 is the file as it was"


def test_apply_without_a_number_writes_the_proposal(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number = YAML(typ="safe").load((project / "artifacts/tune/fingerprints/proposal.yaml").read_text())["trial"]
    apply("fingerprints", None)
    capsys.readouterr()
    apply("fingerprints", number)
    assert "nothing was changed" in capsys.readouterr().out


def test_what_cannot_be_applied_is_a_sentence(project: Path) -> None:
    before = (project / "params.yaml").read_text()
    with pytest.raises(WhorlError, match="has no trial 99, where one from 0 to 5 was expected"):
        apply("fingerprints", 99)
    with pytest.raises(WhorlError, match=r"artifacts/tune/other: there is no study"):
        apply("other", None)
    with pytest.raises(WhorlError, match=r"--study: the name is '../data'"):
        apply("../data", None)
    (project / "artifacts/tune/fingerprints/proposal.yaml").unlink()
    with pytest.raises(WhorlError, match="there is no proposal yet"):
        apply("fingerprints", None)
    assert (project / "params.yaml").read_text() == before


@pytest.mark.parametrize("key, value", [("tune.seed", 5), ("selection.bank_size", 900), ("calibration.alpha", 0.01)])
def test_a_study_of_other_params_is_refused(project: Path, key: str, value: object) -> None:
    edit({key: value})
    for refused in (lambda: apply("fingerprints", None), lambda: tune_fingerprints("fingerprints")):
        with pytest.raises(WhorlError, match=rf"study of other params.*{key.split('.')[1]}"):
            refused()


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("tune.detector", "vote", r"tune.detector: 'vote' is no detector of kind committee, where one of \['joint'\]"),
        ("tune.held_out", "square", r"tune.held_out: no attack is of family 'square'"),
        ("fingerprints.fit_attacks", ["pgd"], r"tune.held_out: every attack of fingerprints.fit_attacks is of family 'pgd'"),
        ("tune.space.draw", [6, 30], r"tune.space.draw: up to 30 of a bank that may hold as few as 30"),
    ],
)
def test_a_tune_section_that_fits_nothing_is_a_sentence(project: Path, key: str, value: object, said: str) -> None:
    edit({key: value})
    with pytest.raises(ParamsError, match=said):
        tune_fingerprints("fingerprints")


def test_activations_that_are_missing_or_of_other_params_are_a_sentence(project: Path) -> None:
    edit({"activations.seed": 1})
    with pytest.raises(ArtifactError, match=r"made with other params \(activations\).*make repro"):
        tune_fingerprints("again")
    shutil.rmtree(project / paths.ACTIVATIONS)
    with pytest.raises(ArtifactError, match="there are no activations yet.*run `make repro`"):
        tune_fingerprints("again")


@pytest.mark.slow
def test_what_a_worker_says_reaches_the_user(project: Path) -> None:
    """Thresholds at 1 % need 99 images in each half of tune, where there are about 60."""
    edit({"calibration.alpha": 0.01})
    with pytest.raises(WhorlError, match=r"the halves of tune have \[\d+, \d+\] images, where at least 99 each were expected"):
        tune_fingerprints("strict")


def test_an_edit_that_would_not_be_valid_changes_nothing(project: Path) -> None:
    before = (project / "params.yaml").read_text()
    with pytest.raises(ParamsError, match="shrinkage"):
        edit({"detectors.joint.shrinkage": 7})
    with pytest.raises(ParamsError, match="has no detectors.other.draw"):
        edit({"detectors.other.draw": 7})
    assert (project / "params.yaml").read_text() == before and not list(project.glob("*.bak*")) and not list(project.glob(".params*"))
