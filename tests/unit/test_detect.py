"""``whorl detect``: which files it inspects, how it shows them, and its exit status. The guard is a small one of the tests' own."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import cli
from pipeline.detect import detect_files
from pipeline.errors import GuardError
from pipeline.guard import Guard, Inspection
from pipeline.params.data import ImageFormat

FORMAT = ImageFormat(channels=3, height=8, width=8, resize=False, convert=("L",), max_pixels=1000, max_bytes=2000)


class Dark:
    """A guard that flags an image whose first sign is below 100."""

    def __init__(self, label_name: str = "a") -> None:
        self.format, self.label_name, self.batches = FORMAT, label_name, list[int]()

    def inspect(self, images: Any, *, batch_size: int) -> list[Inspection]:
        assert images.dtype == np.uint8 and images.shape[1:] == (8, 8, 3)
        self.batches.append(len(images))
        return [Inspection(0, self.label_name, 0.5, 0.01 if image[0, 0, 0] < 100 else 0.9, bool(image[0, 0, 0] < 100)) for image in images]


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Dark:
    dark = Dark()
    monkeypatch.setattr(Guard, "load", lambda *_: dark)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return dark


def _picture(path: str, value: int = 200, **options: Any) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value,) * 3).save(file, **options)
    return file


def _detect(*paths: str | Path, as_json: bool = False, batch_size: int = 2) -> int:
    return detect_files([Path(path) for path in paths], Path("guard"), as_json=as_json, batch_size=batch_size)


@pytest.mark.usefixtures("guard")
@pytest.mark.parametrize("name", ["dir[/y].png", "im[a]/x.png", "[red]x.png", ":smile:.png", "[link=x]y[/link].png", "a b\\[c].png"])
def test_a_name_is_shown_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _detect(_picture(name)) == 0
    assert name in capsys.readouterr().out


@pytest.mark.parametrize("label", ["[/b]", "[i]cat", "c[a]t"])
def test_a_label_is_shown_as_it_is(guard: Dark, label: str, capsys: pytest.CaptureFixture[str]) -> None:
    guard.label_name = label
    assert _detect(_picture("x.png")) == 0
    assert label in capsys.readouterr().out


@pytest.mark.usefixtures("guard")
def test_a_name_that_is_no_text_is_shown_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    image = _picture("x.png").read_bytes()
    for name in (b"\xff.png", b"\x1b[2J.png"):
        Path(os.fsdecode(name)).write_bytes(image)
        assert _detect(os.fsdecode(name)) == 0
    out = capsys.readouterr().out
    assert "\\udcff.png" in out and "\\x1b[2J.png" in out and "\x1b[2J" not in out


def test_no_sign_of_a_long_name_is_lost(guard: Dark, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    name = "".join(chr(ord("a") + place % 26) for place in range(90))
    assert _detect(_picture(f"{name}.png")) == 0
    rows = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert "".join(rows) == f"{name}.png"


@pytest.mark.usefixtures("guard")
def test_the_status_says_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    clean, dark = _picture("clean.png"), _picture("dark.png", 9)
    broken = Path("broken.png")
    broken.write_bytes(b"nothing")
    assert _detect(clean) == 0
    assert _detect(clean, dark) == 1
    assert _detect(clean, broken, dark) == 2
    out = capsys.readouterr()
    assert out.err.count("whorl: broken.png: cannot be inspected (unreadable") == 1 and out.out.count("dark.png") == 2
    assert _detect("absent.png") == 2
    assert "absent.png: cannot be read (No such file" in capsys.readouterr().err


def test_json_is_a_line_an_image_in_batches(guard: Dark, capsys: pytest.CaptureFixture[str]) -> None:
    files = [_picture(f"{row}.png", 50 * row) for row in range(5)]
    assert _detect(*files, as_json=True) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == [str(file) for file in files] and guard.batches == [2, 2, 1]
    assert [line["flagged"] for line in lines] == [True, True, False, False, False]


@pytest.mark.usefixtures("guard")
def test_what_is_no_image_by_its_name_is_skipped_in_a_folder_and_inspected_where_it_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    _picture("all/a.png"), _picture("all/deep/B.JPG"), _picture("all/.hidden.png"), _picture("all/.git/c.png")
    for name in ("notes.txt", "README", "labels.csv", "x.png.md5"):
        (Path("all") / name).write_text("no image")
    (Path("all") / "unnamed").write_bytes(_picture("all/a.png").read_bytes())
    assert _detect("all", as_json=True) == 0
    out = capsys.readouterr()
    assert [json.loads(line)["path"] for line in out.out.splitlines()] == ["all/a.png", "all/deep/B.JPG"] and "whorl:" not in out.err
    assert _detect("all/unnamed", as_json=True) == 0
    assert "all/unnamed" in capsys.readouterr().out
    assert _detect("all/notes.txt") == 2 and "all/notes.txt" in capsys.readouterr().err
    Path("all/broken.png").write_text("no image")
    assert _detect("all") == 2 and "all/broken.png" in capsys.readouterr().err


@pytest.mark.usefixtures("guard")
def test_a_folder_without_an_image_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    Path("none[/x]").mkdir(parents=True)
    (Path("none[/x]") / "notes.txt").write_text("")
    assert _detect("none[/x]") == 2
    assert "none[/x]: there is no image file" in capsys.readouterr().err


@pytest.mark.usefixtures("guard")
def test_no_more_of_a_file_is_read_than_is_allowed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    picture = _picture("x.png").read_bytes()
    Path("just.png").write_bytes(picture + b"\0" * (FORMAT.max_bytes - len(picture)))
    with Path("large.png").open("wb") as file:  # a sparse file: a terabyte on no disk
        file.write(picture)
        file.truncate(2**40)
    sizes: list[int] = []
    opened = Path.open

    class Counting(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            sizes.append(-1 if size is None else size)
            return super().read(size)

    monkeypatch.setattr(Path, "open", lambda self, *given: Counting(self) if self.suffix == ".png" else opened(self, *given))
    assert _detect("just.png", "large.png") == 2
    assert sizes == [FORMAT.max_bytes + 1] * 2
    assert "whorl: large.png: cannot be inspected (oversized: more than 2000 bytes" in (error := capsys.readouterr().err)
    assert "just.png" not in error


@pytest.mark.usefixtures("guard")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [os.mkfifo, lambda name: os.symlink("/dev/null", name)], ids=["pipe", "device"])
def test_what_is_no_regular_file_is_never_read(make: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    Path("all").mkdir()
    make("all/x.png")
    for given in ("all/x.png", "all"):
        assert _detect(given) == 2
        assert "all/x.png: cannot be read (no regular file)" in capsys.readouterr().err


def _command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["whorl", "detect", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize("error", [RuntimeError("a bug"), BrokenPipeError(32, "a bug"), MemoryError("a bug")])
def test_an_unexpected_exception_is_status_2_with_its_traceback(
    error: Exception, guard: Dark, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(guard, "inspect", fail)
    assert _command(monkeypatch, str(_picture("x.png"))) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said and f"{type(error).__name__}: " in said and "a bug" in said


def test_the_command_s_status(guard: Dark, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise GuardError("a sentence.")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    assert _command(monkeypatch, str(_picture("x.png"))) == 0
    assert _command(monkeypatch, str(_picture("dark.png", 9))) == 1
    monkeypatch.setattr(guard, "inspect", stop)
    assert _command(monkeypatch, "x.png") == 130
    monkeypatch.setattr(guard, "inspect", refuse)
    capsys.readouterr()
    assert _command(monkeypatch, "x.png") == 2
    assert "whorl: a sentence.\n" in (error := capsys.readouterr().err) and "Traceback" not in error
