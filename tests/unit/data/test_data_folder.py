"""A folder with a class per folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.sources import folder as module
from pipeline.data.sources.folder import ImageFolder
from pipeline.errors import DataError
from pipeline.params.data import FolderSource


def tree(root: Path, *files: str) -> Path:
    """Files whose content is their own name, and folders where the name ends in a slash."""
    for name in files:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
    return root


def opened(**roots: Path) -> ImageFolder:
    return ImageFolder(FolderSource(kind="folder", roots={origin: str(root) for origin, root in roots.items()}))


def test_every_file_of_every_class_comes_in_sorted_order(tmp_path: Path) -> None:
    tree(tmp_path / "b", "dog/2.png", "dog/10.png", "cat/deep/er/x.jpg", "cat/a", "cat/.DS_Store", ".git/config", "README.md", "cat/.hid/z")
    tree(tmp_path / "a", "cat/1.png", "dog/1.png")
    source = opened(train=tmp_path / "b", test=tmp_path / "a")
    assert source.class_names == ("cat", "dog") and len(source) == 6
    found = [(image.origin, image.label, image.encoded.decode(), image.problem) for image in source]
    assert found == [
        ("test", 0, "cat/1.png", None),
        ("test", 1, "dog/1.png", None),
        ("train", 0, "cat/a", None),
        ("train", 0, "cat/deep/er/x.jpg", None),
        ("train", 1, "dog/10.png", None),
        ("train", 1, "dog/2.png", None),
    ]
    assert next(Path(image.key) for image in source) == tmp_path / "a" / "cat" / "1.png"


def test_keys_are_relative_to_the_project_where_the_root_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path / "images", "cat/1.png", "dog/1.png")
    monkeypatch.chdir(tmp_path)
    assert [image.key for image in opened(all=Path("images"))] == ["images/cat/1.png", "images/dog/1.png"]


def test_what_cannot_be_read_is_a_problem_of_that_image_alone(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", "cat/good", "dog/good", "cat/empty")
    (root / "cat/empty").write_bytes(b"")
    (root / "cat/gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(root / "dog/pipe")  # opening it would wait for ever
    found = {Path(image.key).name: (image.encoded, image.problem) for image in opened(all=root) if image.label == 0}
    assert found == {"empty": (b"", None), "gone": (b"", "a broken link"), "good": (b"cat/good", None)}
    assert [(image.encoded, image.problem) for image in opened(all=root)][-1] == (b"", "no regular file")


def test_a_file_that_vanishes_or_is_refused_is_a_problem_with_the_systems_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(all=tree(tmp_path, "cat/1", "dog/1"))
    original = Path.open

    def refused(self: Path, mode: str) -> object:
        if self.parent.name == "cat":
            raise PermissionError(13, "Permission denied")
        return original(self, mode)

    monkeypatch.setattr(Path, "open", refused)
    assert [(image.encoded, image.problem) for image in source] == [(b"", "Permission denied"), (b"dog/1", None)]


def test_a_huge_file_is_read_no_further_than_needed_to_refuse_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "cat/12345678", "dog/1")
    monkeypatch.setattr(module, "MOST_BYTES", 6)
    assert [image.encoded for image in opened(all=tmp_path)] == [b"cat/123", b"dog/1"]


def test_links_to_folders_are_followed_and_a_loop_is_said(tmp_path: Path) -> None:
    elsewhere = tree(tmp_path / "elsewhere", "1.png", "2.png")
    root = tree(tmp_path / "root", "cat/1.png")
    (root / "dog").symlink_to(elsewhere)
    (root / "cat" / "more").symlink_to(elsewhere)
    assert [image.label for image in opened(all=root)] == [0, 0, 0, 1, 1]
    (root / "cat" / "up").symlink_to(root / "cat")
    with pytest.raises(DataError, match=r"cat/up: links back to a folder that holds it"):
        opened(all=root)


def test_a_name_that_is_no_unicode_can_still_be_written_down(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", "cat/1", "dog/1")
    try:
        Path(os.fsdecode(os.fsencode(root) + b"/cat/\xff.png")).write_bytes(b"x")
    except OSError:  # macOS allows no such name
        return
    keys = [image.key for image in opened(all=root)]
    assert json.loads(json.dumps(keys).encode()) == keys and keys[1].endswith("cat/\\xff.png")
    "".join(keys).encode()


Build = Callable[[Path], dict[str, Path]]
REFUSED: list[tuple[Build, str]] = [
    (lambda base: {"all": base / "none"}, r"none \(data.source.roots.all\): there is no such folder"),
    (lambda base: {"all": tree(base, "x") / "x"}, r"x \(data.source.roots.all\): this is no folder"),
    (lambda base: {"all": tree(base / "r", "./")}, r"r \(data.source.roots.all\): holds no folder but nothing at all"),
    (lambda base: {"all": tree(base / "r", "1", "2", "3", "4", ".git/x")}, r"holds no folder but 4 files \(1, 2, 3, ...\)"),
    (lambda base: {"all": tree(base / "r", "1.png")}, r"holds no folder but the file 1.png, where a sub-folder per class"),
    (
        lambda base: {"all": tree(base / "r", "cat/1", "2.png", ".x/1")},
        r"r \(data.source.roots.all\): holds only the class 'cat', where at least 2",
    ),
    (lambda base: {"all": tree(base / "r", "cat/", "dog/", "dog/.hidden")}, r"r \(data.source.roots.all\): its class folders hold no file"),
    (
        lambda base: {"a": tree(base / "a", "cat/1", "dog/1"), "b": tree(base / "b", "cat/1", "eel/1")},
        r"b \(data.source.roots.b\): its class folders differ from those of .*a \(only here: \['eel'\], only there: \['dog'\]\)",
    ),
    (
        lambda base: {"a": tree(base / "a", "cat/1", "dog/1"), "b": tree(base / "b", "cat/", "dog/")},
        r"b \(data.source.roots.b\): its class folders hold no",
    ),
    (lambda base: {}, r"data.source.roots: names no folder"),
]


@pytest.mark.parametrize(("build", "said"), REFUSED)
def test_a_folder_that_cannot_be_a_source_is_refused_with_what_was_found(tmp_path: Path, build: Build, said: str) -> None:
    with pytest.raises(DataError, match=said):
        opened(**build(tmp_path))
