"""The shard store: shards finished in any order, by any worker, across kills, and linked into an artifact when all are there.

A shard lives in a folder named by its signature, so one from other params, other code or another plan is never taken for it;
it is renamed into place whole, and its record holds its files' hashes, so a truncated or altered one is noticed and redone.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
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
            place = self.folder(signature)
            if place.exists():
                shutil.rmtree(place)
            os.replace(building, place)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def gather(self, plan: Mapping[str, str], out: Path) -> dict[str, dict[str, Any]]:
        """Copies every shard of the plan (name to signature) into ``out`` as ``NAME.ENDING`` and removes leftovers from the store.

        Returns:
            name to the shard's facts, in the plan's order.

        Raises:
            ArtifactError: a shard of the plan is missing or damaged.
        """
        facts = {}
        out.mkdir(parents=True, exist_ok=True)
        for name, signature in plan.items():
            if (about := self.about(signature)) is None:
                raise ArtifactError(
                    f"{self.folder(signature)}: shard {name} is missing or damaged, where a finished one was expected; run again."
                )
            facts[name] = about
            for path in sorted(self.folder(signature).iterdir()):
                if path.name != RECORD:
                    # Copied, not linked: DVC moves what is in `out` into its cache, which must not share bytes with this store.
                    shutil.copyfile(path, out / f"{name}.{path.name}")
        self._remove_leftovers(set(plan.values()))
        return facts

    def _remove_leftovers(self, signatures: set[str]) -> None:
        for path in self.root.iterdir():
            if path.is_dir() and path.name not in signatures:
                shutil.rmtree(path, ignore_errors=True)
