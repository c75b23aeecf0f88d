"""The shard store: shards finished in any order, by any worker, across kills, and linked into an artifact when all are there.

A shard lives in a folder named by its signature, so one from other params, other code or another plan is never taken for it;
it is renamed into place whole, and its record holds its files' hashes, so a truncated or altered one is noticed and redone.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa

from pipeline.artifacts.files import Arrays, digest, read_json, write_arrays, write_json, write_table
from pipeline.errors import ArtifactError

RECORD = "record.json"


@dataclass(frozen=True)
class ShardOutput:
    """What a worker computed for one shard."""

    arrays: Arrays = field(default_factory=dict)
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    """Facts for the driver (counts, norms); JSON."""


@dataclass(frozen=True)
class ShardStore:
    """The shards of one artifact under construction.

    Args:
        root: the folder of this artifact's shards.
    """

    root: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the store for one run; raises ArtifactError where another run, on this machine, holds it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ArtifactError(f"{self.root}: another run is writing these shards; wait for it, or stop it, and run again.") from error
            yield

    def folder(self, signature: str) -> Path:
        """Where a shard lives."""
        return self.root / signature

    def about(self, signature: str) -> dict[str, Any] | None:
        """The facts of a finished, undamaged shard, or None where it has to be made."""
        folder = self.folder(signature)
        try:
            record = read_json(folder / RECORD)
            intact = record["signature"] == signature and all(
                digest(folder / name) == expected for name, expected in record["files"].items()
            )
        except (ArtifactError, OSError, KeyError, TypeError, AttributeError):
            return None
        return record["about"] if intact else None

    def write(self, signature: str, output: ShardOutput) -> None:
        """Writes a shard beside its place and renames it in, whole."""
        building = self.root / f".building-{uuid4().hex}"
        building.mkdir(parents=True)
        try:
            if output.arrays:
                write_arrays(building / "arrays.safetensors", output.arrays)
            for name, table in output.tables.items():
                write_table(building / f"{name}.parquet", table)
            files = {path.name: digest(path) for path in sorted(building.iterdir())}
            write_json(building / RECORD, {"signature": signature, "files": files, "about": output.about})
            while not self._put(building, signature):
                shutil.rmtree(self.folder(signature), ignore_errors=True)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _put(self, building: Path, signature: str) -> bool:
        """Renames a shard into its place; False where a damaged one is in the way.

        A worker that outlived its killed driver may have put the same shard there: then that one stays.
        """
        try:
            os.rename(building, self.folder(signature))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return self.about(signature) is not None
        return True

    def gather(self, plan: Mapping[str, str], out: Path) -> dict[str, dict[str, Any]]:
        """Copies every shard of the plan (name to signature) into ``out`` as ``NAME.ENDING``.

        What was in ``out``, and leftovers of other plans in the store, are removed.

        Returns:
            name to the shard's facts, in the plan's order.

        Raises:
            ArtifactError: a shard of the plan is missing or damaged.
        """
        facts = {}
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        for name, signature in plan.items():
            folder, facts[name] = self.read(name, signature)
            for path in sorted(folder.iterdir()):
                if path.name != RECORD:
                    # Copied, not linked: DVC moves what is in `out` into its cache, which must not share bytes with this store.
                    shutil.copyfile(path, out / f"{name}.{path.name}")
        self.keep(plan.values())
        return facts

    def read(self, name: str, signature: str) -> tuple[Path, dict[str, Any]]:
        """The folder and the facts of a finished shard; raises ArtifactError where it is missing or damaged."""
        if (about := self.about(signature)) is None:
            raise ArtifactError(
                f"{self.folder(signature)}: shard {name} is missing or damaged, where a finished one was expected; run again."
            )
        return self.folder(signature), about

    def keep(self, signatures: Iterable[str]) -> None:
        """Removes everything but these shards: those of other plans, and what killed writers left."""
        signatures = set(signatures)
        for path in self.root.iterdir():
            if path.is_dir() and path.name not in signatures:
                shutil.rmtree(path, ignore_errors=True)
