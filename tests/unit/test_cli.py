"""The command, as far as it needs no run."""

import subprocess
import sys
from pathlib import Path

import pytest

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
    assert done.returncode == 0 and all(name in done.stdout for name in ("repro", "check", "preset", "detect", "ui"))


def test_a_preset_replaces_the_params_and_keeps_the_old_ones(project: Path) -> None:
    assert _whorl("preset", cwd=project).stdout.split() == ["cifar10", "digits", "imagefolder", "mnist"]
    assert _whorl("preset", "mnist", cwd=project).returncode == 0
    assert (project / "params.yaml").read_text() == (PROJECT / "presets/mnist.yaml").read_text()
    assert (project / "params.yaml.bak").read_text() == "mine: 1\n"
    done = _whorl("preset", "imagenet", cwd=project)
    assert done.returncode == 2 and "'imagenet'" in done.stderr and "cifar10" in done.stderr


def test_check_says_what_is_wrong_with_status_2(project: Path) -> None:
    done = _whorl("check", cwd=project)
    assert done.returncode == 2 and "mine" in done.stderr and "Traceback" not in done.stderr
    (project / "params.yaml").write_text((PROJECT / "presets/digits.yaml").read_text())
    assert _whorl("check", cwd=project).returncode == 0


def test_detect_without_a_guard_is_a_sentence_with_status_2(project: Path) -> None:
    done = _whorl("detect", "nothing.png", cwd=project)
    assert done.returncode == 2 and "artifacts/guard" in done.stderr and "Traceback" not in done.stderr
