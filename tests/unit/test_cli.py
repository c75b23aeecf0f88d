"""The command, as far as it needs no run."""

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

PROJECT = Path(__file__).resolve().parents[2]


def _whorl(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "whorl"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "presets").symlink_to(PROJECT / "presets")
    (tmp_path / "params.yaml").write_text("mine: 1\n")
    return tmp_path


def test_help_names_the_commands(project: Path) -> None:
    done = _whorl("--help", cwd=project)
    assert done.returncode == 0 and all(name in done.stdout for name in ("repro", "check", "preset", "detect", "results", "ui", "key"))


def test_a_preset_replaces_the_params_and_keeps_the_old_ones(project: Path) -> None:
    assert _whorl("preset", cwd=project).stdout.split() == ["cifar10", "digits", "imagefolder", "mnist"]
    assert _whorl("preset", "mnist", cwd=project).returncode == 0
    assert (project / "params.yaml").read_text() == (PROJECT / "presets/mnist.yaml").read_text()
    assert (project / "params.yaml.bak").read_text() == "mine: 1\n"
    assert _whorl("preset", "digits", cwd=project).returncode == 0
    assert [path.name for path in project.glob("*.bak*")] == ["params.yaml.bak"], "an untouched preset needs no copy"
    (project / "params.yaml").write_text("mine: 2\n")
    assert "params.yaml.bak1" in _whorl("preset", "digits", cwd=project).stdout
    assert [(project / f"params.yaml.bak{end}").read_text() for end in ("", "1")] == ["mine: 1\n", "mine: 2\n"]
    done = _whorl("preset", "imagenet", cwd=project)
    assert done.returncode == 2 and "'imagenet'" in done.stderr and "cifar10" in done.stderr


def test_check_says_what_is_wrong_with_status_2(project: Path) -> None:
    done = _whorl("check", cwd=project)
    assert done.returncode == 2 and "mine" in done.stderr and "Traceback" not in done.stderr
    (project / "params.yaml").write_text((PROJECT / "presets/digits.yaml").read_text())
    done = _whorl("check", cwd=project)
    assert done.returncode == 0 and done.stdout == "params.yaml: nothing wrong was found.\n"
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("two_banks: {draw: 60,", "two_banks: {draw: 9999,"))
    done = _whorl("check", cwd=project)
    assert done.returncode == 0 and "game.disjoint.two_banks: would be left out: draw is 9999" in done.stdout
    assert done.stdout.endswith("nothing that would stop a run was found.\n")


def test_detect_without_a_guard_is_a_sentence_with_status_2(project: Path) -> None:
    done = _whorl("detect", "nothing.png", cwd=project)
    assert done.returncode == 2 and "artifacts/guard" in done.stderr and "Traceback" not in done.stderr


def test_results_without_a_run_are_a_sentence_with_status_2(project: Path) -> None:
    (project / "params.yaml").write_text((PROJECT / "presets/digits.yaml").read_text())
    done = _whorl("results", "docs/results/mine", cwd=project)
    assert done.returncode == 2 and "make repro" in done.stderr and "Traceback" not in done.stderr and not (project / "docs").exists()


def test_a_factory_in_the_current_folder_is_found(project: Path) -> None:
    """As ``dvc repro`` finds it, whose stages run as ``python -m``."""
    (project / "mine.py").write_text("def make():\n    raise SystemExit('mine was asked for a network')\n")
    (project / "weights.pth").write_bytes(b"")
    preset = YAML(typ="safe", pure=True).load((PROJECT / "presets/digits.yaml").read_text())
    own = {"kind": "adopt", "architecture": None, "factory": "mine:make", "pretrained": False, "checkpoint": "weights.pth"}
    kept = {key: preset["classifier"][key] for key in ("mean", "std", "input_size")}
    preset["classifier"] = {**own, **kept, "unseen": ["digits"]}
    preset["splits"]["origins"]["digits"] = {"train": 0.0, "fit": 0.4, "tune": 0.1, "calibrate": 0.25, "test": 0.25}
    with (project / "params.yaml").open("w") as file:
        YAML().dump(preset, file)
    done = _whorl("check", cwd=project)
    assert "mine was asked for a network" in done.stderr, done.stderr


def test_a_key_is_rotated_and_not_shown(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project / "mine.key"
    monkeypatch.delenv("WHORL_DRAW_KEY", raising=False)
    monkeypatch.setenv("WHORL_DRAW_KEY_FILE", str(path))
    keys = []
    for _ in range(2):
        done = _whorl("key", "rotate", cwd=project)
        keys.append(path.read_text().strip())
        assert done.returncode == 0 and done.stdout.startswith(f"{path}: ") and keys[-1] not in done.stdout + done.stderr
    assert keys[0] != keys[1] and path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("WHORL_DRAW_KEY", keys[1])
    done = _whorl("key", "rotate", cwd=project)
    assert done.returncode == 2 and "WHORL_DRAW_KEY" in done.stderr and "Traceback" not in done.stderr
    assert keys[1] not in done.stdout + done.stderr and path.read_text().strip() == keys[1]
