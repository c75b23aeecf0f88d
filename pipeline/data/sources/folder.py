"""A folder with a sub-folder per class."""

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.data.sources.base import MOST_BYTES, RawImage, require_classes
from pipeline.errors import DataError
from pipeline.params.data import FolderSource


class ImageFolder:
    """Every file below ``ROOT/CLASS/``, at any depth, is taken for an image of that class.

    Classes and files come in sorted order. Names that start with a dot are skipped, and so are files that lie directly
    in a root, which have no class. Links are followed.

    Raises:
        DataError: a root is no folder, holds no image, has fewer than two class folders, or other classes than the
            first root.
    """

    def __init__(self, params: FolderSource) -> None:
        origins = sorted(params.roots)
        folders = {origin: _class_folders(origin, Path(params.roots[origin])) for origin in origins}
        _require_same_classes(params, {origin: [folder.name for folder in folders[origin]] for origin in origins})
        self.class_names = tuple(_text(folder.name) for folder in folders[origins[0]])
        self._files = [
            (origin, label, file) for origin in origins for label, folder in enumerate(folders[origin]) for file in files_below(folder)
        ]
        for origin in origins:
            if not any(file[0] == origin for file in self._files):
                raise DataError(f"{_where(origin, params.roots[origin])}: its class folders hold no file, where images were expected.")

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[RawImage]:
        for origin, label, file in self._files:
            encoded, problem = _read(file)
            yield RawImage(_text(file.as_posix()), encoded, label, origin, problem)


def _class_folders(origin: str, root: Path) -> list[Path]:
    where = _where(origin, root)
    if not root.is_dir():
        found = "this is no folder" if root.exists() else "there is no such folder"
        raise DataError(f"{where}: {found}, where one with a sub-folder per class was expected.")
    entries = _entries(root)
    folders = [entry for entry in entries if entry.is_dir()]
    if not folders:
        raise DataError(f"{where}: holds no folder but {_some(entries)}, where a sub-folder per class was expected.")
    require_classes(where, [_text(folder.name) for folder in folders])
    return folders


def _require_same_classes(params: FolderSource, classes: dict[str, list[str]]) -> None:
    if not classes:
        raise DataError("data.source.roots: names no folder, where at least one was expected.")
    first, *others = classes
    for origin in others:
        if classes[origin] != classes[first]:
            extra = sorted(set(classes[origin]) - set(classes[first]))
            lacking = sorted(set(classes[first]) - set(classes[origin]))
            raise DataError(
                f"{_where(origin, params.roots[origin])}: its class folders differ from those of {params.roots[first]} "
                f"(only here: {_text(str(extra))}, only there: {_text(str(lacking))}), where the same classes were expected."
            )


def files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Every file below a folder, hidden ones left out, in sorted order; links are followed.

    Raises:
        DataError: a folder cannot be listed, or links form a loop.
    """
    real = folder.resolve()
    if real in above:
        raise DataError(f"{_text(folder.as_posix())}: links back to a folder that holds it, where folders without a loop were expected.")
    for entry in _entries(folder):
        if entry.is_dir():
            yield from files_below(entry, (*above, real))
        else:
            yield entry


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        where = _text(folder.as_posix())
        raise DataError(f"{where}: cannot be listed ({error.strerror}), where a readable folder was expected.") from error


def _read(file: Path) -> tuple[bytes, str | None]:
    """The file's bytes (none where it cannot be read, with the reason); never waits on a pipe or a device."""
    try:
        if not file.is_file():
            return b"", "a broken link" if file.is_symlink() else "no regular file"
        with file.open("rb") as stream:
            return stream.read(MOST_BYTES + 1), None
    except OSError as error:
        return b"", error.strerror or type(error).__name__


def _where(origin: str, root: Path | str) -> str:
    return f"{root} (data.source.roots.{origin})"


def _some(entries: list[Path]) -> str:
    if not entries:
        return "nothing at all"
    names = ", ".join(_text(entry.name) for entry in entries[:3])
    return f"{len(entries)} files ({names}{', ...' if len(entries) > 3 else ''})" if len(entries) > 1 else f"the file {names}"


def _text(name: str) -> str:
    """A file's name as valid Unicode: bytes that are none are shown escaped, or no Parquet or JSON could hold them."""
    return os.fsencode(name).decode(errors="backslashreplace")
