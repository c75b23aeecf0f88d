"""The shard store: shards finished in any order, by any worker, across kills, and linked into an artifact when all are there.

A shard lives in a folder named by its signature, so one from other params, other code or another plan is never taken for it;
it is renamed into place whole, and its record holds its files' hashes and its own, so a truncated or altered one is noticed and
redone.
"""

import errno
import fcntl
import hashlib
import json
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
ARRAYS = "arrays.safetensors"
BUILDING = ".building-"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a full disk, a spent quota and a file size limit are called."""


def full_disk(error: BaseException | None, folder: Path) -> ArtifactError | None:
    """The sentence for an error that says there is no room left; None where ``error`` is anything else.

    Args:
        error: what was raised; the message of ``files.py`` has the system's own error as its cause.
        folder: where something was to be written.
    """
    if isinstance(error, ArtifactError):
        error = error.__cause__
    if not isinstance(error, OSError) or error.errno not in FULL:
        return None
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free / 2**20
    return ArtifactError(
        f"{folder}: there is no room to write ({os.strerror(error.errno)}; {free:,.0f} MiB of its disk are free), where some was expected; "
        "what was finished is kept, and with room made the same command goes on from there."
    )


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Says a full disk in a sentence."""
    try:
        yield
    except (OSError, ArtifactError) as error:
        if said := full_disk(error, folder):
            raise said from error
        raise


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
        with _room(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / ".lock").open("w")
        with file:
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
            intact = (
                record["signature"] == signature
                and record["seal"] == _seal(record)
                and all(digest(folder / name) == expected for name, expected in record["files"].items())
            )
        except (ArtifactError, OSError, KeyError, TypeError, AttributeError):
            return None
        return record["about"] if intact else None

    def write(self, signature: str, output: ShardOutput) -> None:
        """Writes a shard beside its place and renames it in, whole; raises ArtifactError where there is no room for it."""
        building = self.root / f"{BUILDING}{uuid4().hex}"
        try:
            with _room(self.root):
                building.mkdir(parents=True)
                self._fill(building, signature, output)
                if not self._put(building, signature):
                    shutil.rmtree(self.folder(signature), ignore_errors=True)
                    if not self._put(building, signature):
                        raise ArtifactError(
                            f"{self.folder(signature)}: is damaged and cannot be removed, where a folder of one's own was expected."
                        )
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _fill(self, building: Path, signature: str, output: ShardOutput) -> None:
        tables = {f"{name}.parquet": table for name, table in output.tables.items()}
        if output.arrays:
            write_arrays(building / ARRAYS, output.arrays)
        for name, table in tables.items():
            write_table(building / name, table)
        # What was meant to be there, not what is: the next run may have swept away what a worker that outlived its driver had begun.
        files = {name: digest(building / name) for name in sorted([*([ARRAYS] if output.arrays else []), *tables])}
        record = {"signature": signature, "files": files, "about": output.about}
        write_json(building / RECORD, {**record, "seal": _seal(record)})

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
            ArtifactError: a shard of the plan is missing or damaged, or there is no room for them in ``out``.
        """
        shutil.rmtree(out, ignore_errors=True)
        try:
            with _room(out):
                out.mkdir(parents=True)
                facts = {name: self._copy(name, signature, out) for name, signature in plan.items()}
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            raise
        self.keep(plan.values())
        return facts

    def _copy(self, name: str, signature: str, out: Path) -> dict[str, Any]:
        folder, about = self.read(name, signature)
        for file, expected in read_json(folder / RECORD)["files"].items():
            # Copied, not linked: DVC moves what is in `out` into its cache, which must not share bytes with this store.
            shutil.copyfile(folder / file, out / f"{name}.{file}")
            if (found := digest(out / f"{name}.{file}")) != expected:
                raise ArtifactError(f"{out / f'{name}.{file}'}: its SHA-256 is {found}, where that of the shard, {expected}, was expected.")
        return about

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

    def sweep(self) -> None:
        """Removes what writers that were killed had begun; the caller holds the lock, and no writer of its own is at work."""
        for path in self.root.glob(f"{BUILDING}*"):
            shutil.rmtree(path, ignore_errors=True)


def _seal(record: Mapping[str, Any]) -> str:
    """The hash of everything that a record says."""
    content = json.loads(json.dumps({key: record[key] for key in ("signature", "files", "about")}))  # as it is read back
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
