"""Byte-stable files, written whole or not at all."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from pipeline.errors import ArtifactError

Arrays = dict[str, npt.NDArray[Any]]


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    """Writes under a temporary name, syncs, and renames: a reader sees the old file or the whole new one."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    _replace(path, write)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON with sorted keys, so that equal content is equal bytes."""
    write_bytes(path, (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Reads JSON; a file that is missing or no JSON raises ArtifactError."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: there is no such file, where a JSON file was expected.") from error
    except ValueError as error:
        raise ArtifactError(f"{path}: this is no JSON ({error}), where a JSON file was expected.") from error


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes safetensors without metadata, which is byte-stable (with several metadata keys it is not)."""
    write_bytes(path, save_safetensors({name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}))


def read_arrays(path: Path) -> Arrays:
    """Reads every array of a safetensors file."""
    try:
        return load_safetensors(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: this cannot be read ({error}), where a safetensors file was expected.") from error


def write_table(path: Path, table: pa.Table) -> None:
    """Writes Parquet with a fixed codec and no statistics that depend on the writer's threads."""

    def write(temporary: Path) -> None:
        pq.write_table(table, temporary, compression="zstd", compression_level=3, store_schema=True)

    _replace(path, write)


def read_table(path: Path) -> pa.Table:
    """Reads a Parquet file."""
    try:
        return pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{path}: this cannot be read ({error}), where a Parquet file was expected.") from error


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ArtifactError(f"{path}: could not be written ({error.strerror or error}); what was finished before is kept.") from error
    finally:
        temporary.unlink(missing_ok=True)
