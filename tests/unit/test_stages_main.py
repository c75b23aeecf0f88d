"""A stage by name: what is no stage is a sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import WhorlError
from stages import __main__ as runner

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "prepare_environment", lambda: None)
    monkeypatch.setattr(runner, "ensure_checked", lambda: None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no stage is named"),
        (("",), "''"),
        (("nosuch",), "'nosuch'"),
        (("__main__",), "'__main__'"),
        (("../prepare",), "'../prepare'"),
    ],
)
def test_what_is_no_stage_is_a_sentence_that_lists_them(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """In a folder without params: the name is looked at first."""
    command = [sys.executable, "-c", "import sys; from stages.__main__ import main; sys.exit(main(*sys.argv[1:]))", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(PROJECT)})
    assert done.returncode == 2 and done.stdout == "", done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("whorl: ") and said in line and "expected" in line
    stages = {path.stem for path in (PROJECT / "stages").glob("*.py") if not path.stem.startswith("_")}
    assert len(stages) == 14 and all(stage in line for stage in stages)


@pytest.mark.parametrize("arguments", [["-m", "stages"], ["-m", "stages", "nosuch"]])
def test_the_command_itself_says_it(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "train_classifier" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("attack",), "nothing was given"), (("attack", "a", "b"), "a b was given"), (("prepare", "digits"), "digits was given")],
)
def test_too_few_or_too_many_items_are_a_sentence(
    arguments: tuple[str, ...], said: str, prepared: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.main(*arguments) == 2
    assert said in (error := capsys.readouterr().err) and "expected" in error


def test_a_stage_gets_its_item_and_its_error_is_a_sentence(
    prepared: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stages import attack

    seen: list[str] = []

    def good(name: str) -> None:
        seen.append(name)

    def bad(name: str) -> None:
        raise WhorlError(f"{name} is bad.")

    monkeypatch.setattr(attack, "main", good)
    assert runner.main("attack", "fgsm") == 0 and seen == ["fgsm"]
    monkeypatch.setattr(attack, "main", bad)
    assert runner.main("attack", "fgsm") == 2 and capsys.readouterr().err == "whorl: fgsm is bad.\n"
