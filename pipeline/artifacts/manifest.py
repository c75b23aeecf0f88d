"""Artifacts with a manifest: which files there are, their hashes, and what rebuilds them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.artifacts.files import Arrays, digest, read_arrays, read_json, read_table, write_json
from pipeline.errors import ArtifactError

MANIFEST = "manifest.json"


def seal(folder: Path, *, kind: str, stage: str, about: dict[str, Any]) -> None:
    """Writes the manifest of everything in ``folder``; the artifact is complete once it is there.

    Args:
        folder: the artifact's folder, all files written.
        kind: what it is, checked by readers (``data``, ``attack``, ...).
        stage: the DVC stage that makes it, named in the message about a damaged file.
        about: further facts for readers; JSON.
    """
    files = {str(path.relative_to(folder)): _entry(path) for path in _files(folder)}
    write_json(folder / MANIFEST, {"kind": kind, "stage": stage, "files": files, "about": about})


@dataclass(frozen=True)
class Artifact:
    """A sealed artifact; every file is compared with its hash before it is read."""

    folder: Path
    stage: str
    files: dict[str, dict[str, Any]]
    about: dict[str, Any]

    def path(self, name: str) -> Path:
        """The path of a file whose content matches the manifest; raises ArtifactError where it does not."""
        path = self.folder / name
        if name not in self.files:
            raise ArtifactError(
                f"{path}: the manifest does not list this file, where one of {len(self.files)} files was expected. {self.remedy}"
            )
        if not path.is_file():
            raise ArtifactError(f"{path}: this file is missing, where SHA-256 {self.sha256(name)} was expected. {self.remedy}")
        if (found := digest(path)) != self.sha256(name):
            raise ArtifactError(
                f"{path}: its SHA-256 is {found}, where {self.sha256(name)} was expected: the file was altered. {self.remedy}"
            )
        return path

    def sha256(self, name: str) -> str:
        """The hash that the manifest gives for a file."""
        return str(self.files[name]["sha256"])

    def arrays(self, name: str) -> Arrays:
        """The arrays of a safetensors file."""
        return read_arrays(self.path(name))

    def table(self, name: str) -> pa.Table:
        """A Parquet file as a table."""
        return read_table(self.path(name))

    def json(self, name: str) -> Any:
        """A JSON file's content."""
        return read_json(self.path(name))

    def verify(self) -> None:
        """Compares every file with its hash."""
        for name in self.files:
            self.path(name)

    @property
    def remedy(self) -> str:
        """The commands that bring the artifact back."""
        return (
            f"`dvc checkout --force {self.folder}` restores it from the cache, `dvc repro --force --single-item {self.stage}` rebuilds it."
        )


def open_artifact(folder: Path, kind: str) -> Artifact:
    """Opens a sealed artifact; raises ArtifactError where it is missing, unfinished or of another kind."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{path}: there is no such file, where a finished {kind} artifact was expected; `dvc repro` makes it.")
    content = read_json(path)
    try:
        found, artifact = content["kind"], Artifact(folder, content["stage"], content["files"], content["about"])
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: this is no manifest, where a {kind} artifact's was expected; `dvc repro` makes it.") from error
    if found != kind:
        raise ArtifactError(f"{path}: describes a {found!r} artifact, where {kind!r} was expected.")
    return artifact


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def _entry(path: Path) -> dict[str, Any]:
    return {"sha256": digest(path), "bytes": path.stat().st_size}
