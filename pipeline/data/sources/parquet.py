"""Parquet files in the layout of the Hugging Face Hub."""

import glob
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.sources.base import RawImage, require_classes
from pipeline.errors import DataError
from pipeline.params.data import ParquetSource

_ROWS_AT_ONCE = 64
_MOST_UNNAMED_CLASSES = 100_000


@dataclass(frozen=True, slots=True)
class _Part:
    """The first ``rows`` rows of one file."""

    origin: str
    file: str
    rows: int
    names: tuple[str, ...] | None


class ParquetImages:
    """A struct column ``{bytes, path}`` with the encoded image, and an integer label.

    Class names are those of the label's ``ClassLabel`` in the schema's ``huggingface`` metadata; without them class i is
    called ``str(i)``, up to the largest label. Rows are streamed, so memory holds a few of them and not a file. The labels
    (one narrow column) are read and checked at once.

    Raises:
        DataError: a file or column is missing or of another type, a file is no Parquet, an origin has no row, a label is
            null or out of range, class names differ between files, or there are fewer than two classes.
    """

    def __init__(self, params: ParquetSource) -> None:
        self._image, self._label = params.image_column, params.label_column
        if not params.files:
            raise DataError("data.source.files: names no file, where at least one origin was expected.")
        self._parts = [part for origin in sorted(params.files) for part in _parts(origin, params)]
        self.class_names = _class_names(self._parts, params.label_column)

    def __len__(self) -> int:
        return sum(part.rows for part in self._parts)

    def __iter__(self) -> Iterator[RawImage]:
        for part in self._parts:
            yield from self._images(part)

    def _images(self, part: _Part) -> Iterator[RawImage]:
        row = 0
        # pyarrow's pre-buffering would fetch the columns of all row groups, which is the whole file, before the first batch.
        with _reading(part.file), pq.ParquetFile(part.file, pre_buffer=False) as file:
            # Only the struct's bytes: a path says where the image once was, and is no use here.
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[f"{self._image}.bytes", self._label]):
                (encoded,) = batch.column(self._image).flatten()
                for value, label in zip(encoded, batch.column(self._label), strict=True):
                    if row == part.rows:
                        return
                    yield RawImage(f"{part.file}#{row}", value.as_py() or b"", label.as_py(), part.origin)
                    row += 1


def _parts(origin: str, params: ParquetSource) -> list[_Part]:
    """The origin's files in order, cut off where the limit is reached."""
    parts, left = [], params.limit
    for file in matching_files(origin, params.files[origin]):
        with _reading(file), pq.ParquetFile(file) as opened:
            _check_columns(file, opened.schema_arrow, params)
            rows = opened.metadata.num_rows
            names = _huggingface_names(opened.schema_arrow, params.label_column)
        taken = rows if left is None else min(rows, left)
        left = None if left is None else left - taken
        parts.append(_Part(origin, file, taken, names))
    if not any(part.rows for part in parts):
        raise DataError(f"data.source.files.{origin}: {[part.file for part in parts]} hold no row, where images were expected.")
    return parts


def matching_files(origin: str, patterns: Sequence[str]) -> list[str]:
    """Each pattern's files in sorted order, a file once; a pattern that is a file's very name stands for that file."""
    found: dict[str, None] = {}
    for pattern in patterns:
        names = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
        files = [name for name in names if Path(name).is_file()]
        if not files:
            raise DataError(f"data.source.files.{origin}: {pattern!r} matches no file, where a Parquet file was expected.")
        found |= dict.fromkeys(Path(file).as_posix() for file in files)
    if not found:
        raise DataError(f"data.source.files.{origin}: the list is empty, where at least one Parquet file was expected.")
    return list(found)


def _check_columns(file: str, schema: pa.Schema, params: ParquetSource) -> None:
    for key, column in (("image_column", params.image_column), ("label_column", params.label_column)):
        if column not in schema.names:
            raise DataError(f"{file}: has no column {column!r} (data.source.{key}), where one of {schema.names} was expected.")
    image, label = schema.field(params.image_column).type, schema.field(params.label_column).type
    if not pa.types.is_struct(image) or image.get_field_index("bytes") < 0 or not _is_binary(image.field("bytes").type):
        raise DataError(
            f"{file}: column {params.image_column!r} holds {image}, where a struct with a binary field 'bytes' "
            "(the encoded image) was expected."
        )
    if not pa.types.is_integer(label):
        raise DataError(f"{file}: column {params.label_column!r} holds {label}, where integers, the class numbers, were expected.")


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _huggingface_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """The label's class names as the ``datasets`` library writes them, or None where the schema carries none."""
    try:
        names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _class_names(parts: Sequence[_Part], column: str) -> tuple[str, ...]:
    first = parts[0]
    for part in parts:
        if part.names != first.names:
            raise DataError(f"{part.file}: its class names are {part.names}, where those of {first.file}, {first.names}, were expected.")
    most = len(first.names) if first.names is not None else _MOST_UNNAMED_CLASSES
    largest = max(_check_labels(part.file, column, most) for part in parts)
    names = first.names if first.names is not None else tuple(str(label) for label in range(largest + 1))
    require_classes(first.file, names)
    return names


def _check_labels(file: str, column: str, classes: int) -> int:
    """The file's largest label, -1 where it has no row."""
    with _reading(file), pq.ParquetFile(file) as opened:
        labels = opened.read(columns=[column]).column(column)
    wrong = labels.is_null().to_numpy() if labels.null_count else _out_of_range(labels.to_numpy(), classes)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{file}: row {row} of column {column!r} is {labels[row].as_py()}, where a class number from 0 to {classes - 1} was expected."
        )
    return int(labels.to_numpy().max()) if len(labels) else -1


def _out_of_range(labels: npt.NDArray[np.integer], classes: int) -> npt.NDArray[np.bool_]:
    return (labels < 0) | (labels >= classes)


@contextmanager
def _reading(file: str) -> Iterator[None]:
    """Says which file it was that pyarrow could not read."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{file}: cannot be read ({said}), where an intact Parquet file was expected.") from error
