"""``whorl results`` around a made-up run: what it writes, what it refuses, and what it says where something is missing."""

import csv
import os
import re
from pathlib import Path

import fake_report_run as fake
import numpy as np
import pytest
from results_support import empty_project, made_study

from pipeline.artifacts import paths
from pipeline.artifacts.files import write_json
from pipeline.artifacts.manifest import MANIFEST
from pipeline.artifacts.reports import upstream_stages
from pipeline.errors import ArtifactError, WhorlError
from pipeline.params.edits import edit
from pipeline.params.root import load_params
from pipeline.results import command
from pipeline.results.machine import processor
from pipeline.results.run import METRICS, commands, require_run, run_facts
from pipeline.results.study import ablation_inputs, find_study

TARGET = Path("docs/results/made")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_project(tmp_path, monkeypatch)


@pytest.fixture
def made(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project with a run that is there because it is said to be."""
    table = fake.score_table(images=60, attacks={"fgsm": 1.6, "pgd": 5.5})
    inputs = fake.report_inputs(scores=table, metrics=fake.metric_values(table), attacks=fake.attack_rows()[:2])
    monkeypatch.setattr(command, "require_run", lambda params: None)
    monkeypatch.setattr(command, "gather_report", lambda params, commit: inputs)
    return project


def _written(folder: Path) -> dict[str, bytes]:
    """File to content without the date: the tests may run at midnight."""
    return {path.name: re.sub(rb"20\d\d-\d\d-\d\d", b"today", path.read_bytes()) for path in folder.iterdir()}


def test_pages_tables_and_figures_are_written_and_again_the_same(made: Path) -> None:
    made_study()
    command.write_results(TARGET, None)
    first = _written(TARGET)
    pages = {f"{page}.md" for page in ("README", "detection", "transfer", "promise", "game", "hardening", "ablation")}
    names = ("ablation", "detection", "frontier", "hardening", "promise", "randomness", "roc", "scores", "transfer", "pareto")
    figures = {f"{name}.png" for name in names}
    assert set(first) == pages | figures | {"game.csv", "trials.csv"}
    assert all(len(content) < 200_000 and content.startswith(b"\x89PNG") for name, content in first.items() if name in figures)
    for name in pages:
        text = first[name].decode()
        links = [part.split(")")[0] for part in text.split("](")[1:]]
        assert set(links) <= set(first), name
        assert str(made) not in text and "/home" not in text
    command.write_results(TARGET, None)
    assert _written(TARGET) == first


def test_every_round_of_hardening_is_a_table_with_all_attacks_and_both_false_alarms(made: Path) -> None:
    command.write_results(TARGET, None)
    text, study = (TARGET / "hardening.md").read_text(), fake.hardening_study()
    assert text.count("\n## ") == len(study.rounds)
    for number in study.rounds:
        part = text.split(f"## Round {number}")[1].split("\n## ")[0]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| ")]
        assert {len(row) for row in rows} == {8}
        cells = {row[0]: row[1:] for row in rows[2:-2]}
        assert list(cells) == list(study.attacks)
        for attack, found in cells.items():
            for place, measure in enumerate(("detected", "detected_after_looks", "accepted", "detected_evenly", "accepted_evenly")):
                rate = study.of(number, attack, measure)
                assert rate is not None and found[place] == f"{rate.text} ({rate.interval})"
        assert rows[0][2] == f"detected after {study.looks} looks" and rows[0][3].startswith("accepted after")
        assert rows[-2][1].startswith(str(study.of(number, "clean", "flagged").text))


def test_every_variant_is_in_the_table_of_ablations_with_what_it_changes(made: Path) -> None:
    command.write_results(TARGET, None)
    text = (TARGET / "ablation.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    assert {len(row) for row in rows} == {9} and [row[0] for row in rows[2:]] == ["unchanged", "linear", "other seeds", "half the draw"]
    assert rows[3][1] == "detector.pooling 1.0, detector.directions 1" and rows[3][3] == "−20.0 points, −22.0 to −18.0"


def test_every_cell_of_the_game_is_in_its_table(made: Path) -> None:
    command.write_results(TARGET, None)
    rows, cells = list(csv.DictReader((TARGET / "game.csv").open())), fake.game_cells()
    assert len(rows) == len(cells)
    for row, cell in zip(rows, cells, strict=True):
        assert row["attack"] == cell["attack"] and float(row["accepted"]) == pytest.approx(cell["accepted"], rel=1e-5)
        assert (row["detected"] == "") == (cell["detected"] is None)


def test_without_a_study_the_page_says_how_to_make_one_and_old_files_go(made: Path) -> None:
    TARGET.mkdir(parents=True)
    (TARGET / "trials.csv").write_text("old")
    (TARGET / "kept.txt").write_text("the user's own")
    command.write_results(TARGET, None)
    assert "whorl tune fingerprints" in (TARGET / "ablation.md").read_text()
    assert not (TARGET / "trials.csv").exists() and (TARGET / "kept.txt").read_text() == "the user's own"


@pytest.mark.parametrize("where", ["artifacts", "artifacts/reports/results", "docs/../artifacts/x", "."])
def test_it_writes_neither_among_the_artifacts_nor_over_another_s_page(made: Path, where: str) -> None:
    Path("README.md").write_text("# The project's own\n")
    with pytest.raises(ArtifactError, match="README.md: was not written" if where == "." else "lies inside artifacts"):
        command.write_results(Path(where), None)
    assert Path("README.md").read_text() == "# The project's own\n" and not Path("game.csv").exists()


def test_a_file_in_the_folder_s_place_is_a_sentence(made: Path) -> None:
    Path("taken").write_text("")
    with pytest.raises(ArtifactError, match="taken: is a file, where a folder"):
        command.write_results(Path("taken"), None)


def _everything_is_there() -> None:
    """Files of every artifact that results rest on, empty, and records of the params file."""
    params = load_params()
    plain = params.model_dump(mode="json")
    sections = {"attack": ("generation",), "train_detector": ("calibration",), "evaluate": ("attacks", "evaluation"), "prepare": ("data",)}
    for stage, item in upstream_stages(params):
        known = {section: plain[section] for section in sections.get(stage, ())}
        if stage == "attack":
            known["attacks"] = {item: plain["attacks"][item]}
        write_json(paths.record(stage, item), {"stage": stage, "item": item, "params": known, "metrics": {}, "notes": []})
    for folder in (paths.DATA, paths.CLASSIFIER, paths.BANK, *(paths.attack(name) for name in params.attacks)):
        write_json(folder / MANIFEST, {})
    for path in (paths.SCORES, paths.CALIBRATION, paths.REDRAWS, paths.GAME, *(paths.METRICS / f"{name}.json" for name in METRICS)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


MISSING = [
    "data/manifest.json",
    "attacks/pgd/manifest.json",
    "records/whitebox.json",
    "reports/scores.parquet",
    "reports/metrics/game.json",
]


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_named_with_the_command_that_makes_it(project: Path, name: str) -> None:
    _everything_is_there()
    require_run(load_params())
    (project / "artifacts" / name).unlink()
    with pytest.raises(ArtifactError, match=rf"^artifacts/{name}: there is no such file.*`make repro` makes it\.$"):
        command.write_results(TARGET, None)
    assert not TARGET.exists()


@pytest.mark.parametrize(("key", "value", "record"), [("attacks.pgd.steps", 3, "attack/pgd"), ("evaluation.bootstrap", 5, "evaluate")])
def test_a_run_of_other_params_is_refused(project: Path, key: str, value: int, record: str) -> None:
    _everything_is_there()
    edit({key: value})
    with pytest.raises(ArtifactError, match=rf"{record}.json: made with other params \({key.split('.')[0]}\)"):
        require_run(load_params())


def test_the_commands_name_a_preset_where_the_params_are_one_s(project: Path) -> None:
    assert commands(load_params()) == ["whorl preset digits", "make repro"]
    edit({"evaluation.bootstrap": 77})
    assert commands(load_params()) == ["make repro"]


def test_a_stage_without_a_timing_was_restored_from_the_cache(project: Path) -> None:
    write_json(paths.timing("attack", "pgd"), {"seconds": 4.5})
    facts = run_facts(TARGET, load_params())
    assert facts.name == "made" and facts.stages["attack@pgd"] == 4.5 and facts.stages["prepare"] is None
    assert facts.cores >= 1 and facts.processor


def test_the_processor_is_named_as_the_kernel_names_it(tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor : 0\nmodel name\t: Some CPU: 9 GHz\nmodel name\t: Another\n")
    assert processor(listing) == "Some CPU: 9 GHz" and processor(tmp_path / "none")


def test_the_newest_study_is_taken_unless_one_is_named(project: Path) -> None:
    assert find_study(None) is None
    for age, name in enumerate(("newest", "older", "oldest")):
        study = made_study(name, 3)
        for path in study.folder.rglob("*.json"):
            os.utime(path, (2_000_000_000 - age * 100,) * 2)
    (paths.STUDIES / "begun").mkdir()
    (paths.STUDIES / "begun/study.json").write_text("{}")
    found, named = find_study(None), find_study("oldest")
    assert found and named and found.folder.name == "newest" and named.folder.name == "oldest"
    with pytest.raises(ArtifactError, match=r"artifacts/tune/begun/trials/00000.json.*whorl tune fingerprints --study begun"):
        find_study("begun")
    with pytest.raises(WhorlError, match="--study"):
        find_study("../data")


def test_a_study_is_told_as_it_is(project: Path) -> None:
    study = made_study()
    inputs = ablation_inputs(study, load_params())
    assert [row.number for row in inputs.rows] == [number for number in range(30) if number != 7] and inputs.failed == 1
    assert inputs.note == "The search is not finished." and inputs.layers == ["layer1", "layer2", "layer3"]
    for row, trial in zip(inputs.rows, [trial for trial in study.trials() if not trial.problem], strict=True):
        point = trial.point or {}
        assert row.objectives == trial.objectives
        assert not point or row.layers == {key[2:]: k for key, k in point.items() if key.startswith("k.") and k}
    shares = inputs.importance["fitted"]
    assert sum(shares.values()) == pytest.approx(1) and max(shares, key=lambda name: shares[name]) == "k.layer1"
    assert "after_looks" not in inputs.importance, "it is the same in every trial"
    assert ablation_inputs(study, load_params()) == inputs
    edit({"generation.precision": "float32", "tune.draws": 20})
    changed = ablation_inputs(study, load_params()).note
    assert changed and "other params" in changed


def test_too_few_trials_have_no_importance(project: Path) -> None:
    assert ablation_inputs(made_study("few", 3), load_params()).importance == {}


def test_a_front_is_that_of_all_objectives(project: Path) -> None:
    inputs = ablation_inputs(made_study(), load_params())
    values = np.array([[row.objectives["fitted"], row.objectives["unseen"], -row.objectives["cost"]] for row in inputs.rows])
    beaten = [bool(((values >= mine).all(1) & (values > mine).any(1)).any()) for mine in values]
    best = {row.number for row, worse in zip(inputs.rows, beaten, strict=True) if not worse}
    assert inputs.front == best and inputs.chosen in best
