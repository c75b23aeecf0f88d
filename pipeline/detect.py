"""``whorl detect``: the guard on image files and folders."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.data.decode import Unusable, decode
from pipeline.data.sources.base import MOST_BYTES
from pipeline.data.sources.folder import files_below
from pipeline.errors import DataError
from pipeline.guard import Guard, Inspection
from pipeline.params.data import ImageFormat
from pipeline.progress import progress

CLEAN, FLAGGED, ERROR = 0, 1, 2


def detect_files(paths: list[Path], guard_folder: Path, *, as_json: bool, batch_size: int) -> int:
    """Inspects image files and those in folders; prints a table, or a JSON object a line.

    A file that is named is always inspected. In a folder, at any depth, those are whose extension is one of Pillow's; hidden files
    and folders are left out. A file that cannot be inspected is said on standard error; the others are inspected all the same.

    Returns:
        0 where every image is clean, 1 where one is flagged, 2 where a file could not be inspected or there was none.
    """
    guard, problems = Guard.load(guard_folder), list[str]()
    found: list[tuple[Path, Inspection]] = []
    files = list(_files(paths, problems))
    with progress("detect: images", len(files)) as advance:
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            found += _inspected(guard, batch, problems)
            advance(len(batch))
    _print(found, as_json)
    if not files and not problems:
        problems.append(f"{', '.join(map(_shown, paths))}: there is no image file, where at least one was expected.")
    for problem in problems:
        print(f"whorl: {problem}", file=sys.stderr)
    flagged = any(inspection.flagged for _, inspection in found)
    return ERROR if problems else FLAGGED if flagged else CLEAN


def _files(paths: list[Path], problems: list[str]) -> Iterator[Path]:
    extensions = Image.registered_extensions()
    for path in paths:
        try:
            if path.is_dir():
                yield from (file for file in files_below(path) if file.suffix.lower() in extensions)
            else:
                yield path
        except DataError as error:
            problems.append(_printable(str(error)))
        except OSError as error:
            problems.append(f"{_shown(path)}: cannot be looked at ({error.strerror}), where an image or a folder was expected.")


def _inspected(guard: Guard, paths: list[Path], problems: list[str]) -> list[tuple[Path, Inspection]]:
    usable: list[Path] = []
    pixels: list[npt.NDArray[np.uint8]] = []
    for path in paths:
        try:
            pixels.append(decode(_read(path, guard.format), guard.format))
            usable.append(path)
        except Unusable as error:
            problems.append(f"{_shown(path)}: cannot be inspected ({error}), where an image was expected.")
        except OSError as error:
            problems.append(f"{_shown(path)}: cannot be read ({error.strerror or error}), where an image file was expected.")
    if not pixels:
        return []
    return list(zip(usable, guard.inspect(np.stack(pixels).transpose(0, 2, 3, 1), batch_size=len(pixels)), strict=True))


def _read(path: Path, format: ImageFormat) -> bytes:
    """A regular file's bytes; never waits on a pipe or a device, and never reads more than the format allows and one byte."""
    if path.exists() and not path.is_file():
        raise OSError("no regular file")
    most = min(format.max_bytes, MOST_BYTES)
    with path.open("rb") as stream:
        encoded = stream.read(most + 1)
    if len(encoded) > most:  # said here, since only a part of it was read
        raise Unusable("oversized", f"more than {most} bytes, where at most {most} were expected")
    return encoded


def _print(found: list[tuple[Path, Inspection]], as_json: bool) -> None:
    if as_json:
        for path, inspection in found:
            print(json.dumps({"path": str(path), **inspection.to_json()}))
        return
    table = Table()
    for heading in ("image", "label", "probability", "p-value", "verdict"):
        table.add_column(heading, overflow="fold")
    for path, inspection in found:
        style = "bold red" if inspection.flagged else ""
        cells = (inspection.label_name, f"{inspection.probability:.3f}", f"{inspection.p_value:.4f}", inspection.verdict)
        # As Text: Rich would take brackets in a plain string for its markup.
        table.add_row(Text(_shown(path)), *(Text(_printable(cell)) for cell in cells), style=style)
    Console().print(table)


def _shown(path: Path) -> str:
    return _printable(str(path))


def _printable(text: str) -> str:
    """With what no terminal should be sent (control characters, bytes that are no Unicode) escaped."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
