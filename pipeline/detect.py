"""``whorl detect``: the guard on image files and folders."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.data.decode import Unusable, decode
from pipeline.guard import Guard, Inspection
from pipeline.progress import progress

CLEAN, FLAGGED, ERROR = 0, 1, 2


def detect_files(paths: list[Path], guard_folder: Path, *, as_json: bool, batch_size: int) -> int:
    """Inspects image files and those in folders; prints a table, or a JSON object a line.

    A file that cannot be inspected is said on standard error; the others are inspected all the same.

    Returns:
        0 where every image is clean, 1 where one is flagged, 2 where a file could not be inspected or there was none.
    """
    guard, problems = Guard.load(guard_folder), list[str]()
    found: list[tuple[Path, Inspection]] = []
    files = list(_files(paths, problems))
    with progress("detect: images", len(files)) as advance:
        for start in range(0, len(files), batch_size):
            usable, pixels = [], []
            for path in files[start : start + batch_size]:
                try:
                    pixels.append(decode(path.read_bytes(), guard.format))
                    usable.append(path)
                except (OSError, Unusable) as error:
                    problems.append(f"{path}: {error}, where an image was expected.")
            if pixels:
                inspections = guard.inspect(np.stack(pixels).transpose(0, 2, 3, 1), batch_size=batch_size)
                found += zip(usable, inspections, strict=True)
            advance(len(files[start : start + batch_size]))
    _print(found, as_json)
    if not files and not problems:
        problems.append(f"{', '.join(map(str, paths))}: there is no image file, where at least one was expected.")
    for problem in problems:
        print(f"whorl: {problem}", file=sys.stderr)
    flagged = any(inspection.flagged for _, inspection in found)
    return ERROR if problems else FLAGGED if flagged else CLEAN


def _files(paths: list[Path], problems: list[str]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        elif path.exists():
            yield path
        else:
            problems.append(f"{path}: there is no such file or folder, where images were expected.")


def _print(found: list[tuple[Path, Inspection]], as_json: bool) -> None:
    if as_json:
        for path, inspection in found:
            print(json.dumps({"path": str(path), **inspection.to_json()}))
        return
    table = Table("image", "label", "probability", "p-value", "verdict")
    for path, inspection in found:
        style = "bold red" if inspection.flagged else ""
        cells = (inspection.label_name, f"{inspection.probability:.3f}", f"{inspection.p_value:.4f}", inspection.verdict)
        table.add_row(str(path), *cells, style=style)
    Console().print(table)
