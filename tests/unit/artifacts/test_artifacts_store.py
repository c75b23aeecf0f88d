"""The shard store: whole shards, damage noticed, leftovers removed, one run at a time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.artifacts.store import ShardOutput, ShardStore
from pipeline.errors import ArtifactError

SIGNATURE = "a" * 64


def _output(value: int = 0) -> ShardOutput:
    return ShardOutput({"x": np.full((3, 2), value, np.float32)}, {"rows": pa.table({"id": ["p", "q", "r"]})}, {"images": 3})


@pytest.fixture
def store(tmp_path: Path) -> ShardStore:
    return ShardStore(tmp_path / "store")


def test_a_written_shard_is_there_with_its_facts(store: ShardStore, tmp_path: Path) -> None:
    assert store.about(SIGNATURE) is None
    store.write(SIGNATURE, _output())
    assert store.about(SIGNATURE) == {"images": 3}
    assert store.gather({"fit-0": SIGNATURE}, tmp_path / "out") == {"fit-0": {"images": 3}}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fit-0.arrays.safetensors", "fit-0.rows.parquet"]


def test_equal_content_is_equal_bytes(store: ShardStore) -> None:
    for signature in ("a", "b"):
        store.write(signature, _output())
    for name in ("arrays.safetensors", "rows.parquet"):
        assert (store.folder("a") / name).read_bytes() == (store.folder("b") / name).read_bytes()


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGE = {
    "a flipped bit": lambda folder: _flip(folder / "arrays.safetensors"),
    "a truncated file": lambda folder: os.truncate(folder / "rows.parquet", 10),
    "a missing file": lambda folder: (folder / "rows.parquet").unlink(),
    "an empty record": lambda folder: (folder / "record.json").write_text(""),
    "a record that is a list": lambda folder: (folder / "record.json").write_text("[]"),
    "another shard's record": lambda folder: (folder / "record.json").write_text(
        json.dumps({**json.loads((folder / "record.json").read_text()), "signature": "b" * 64})
    ),
    "no record": lambda folder: (folder / "record.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_noticed_and_the_shard_redone(store: ShardStore, tmp_path: Path, damage: object) -> None:
    store.write(SIGNATURE, _output())
    damage(store.folder(SIGNATURE))  # type: ignore[operator]
    assert store.about(SIGNATURE) is None
    with pytest.raises(ArtifactError, match="fit-0 is missing or damaged"):
        store.gather({"fit-0": SIGNATURE}, tmp_path / "out")
    store.write(SIGNATURE, _output())
    assert store.about(SIGNATURE) == {"images": 3}


def test_writers_of_the_same_shard_at_once_all_succeed(store: ShardStore) -> None:
    """As when a worker outlives its killed driver and the next run makes the same shard: real processes, many times."""
    code = f"""
from pathlib import Path
import numpy as np
from pipeline.artifacts.store import ShardOutput, ShardStore
for _ in range(60):
    ShardStore(Path({str(store.root)!r})).write({SIGNATURE!r}, ShardOutput({{"x": np.zeros(3)}}))
"""
    writers = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [("", 0)] * 3
    assert store.about(SIGNATURE) == {} and [path.name for path in store.root.iterdir()] == [SIGNATURE]


def test_leftovers_of_other_plans_are_removed(store: ShardStore, tmp_path: Path) -> None:
    for signature in ("old", SIGNATURE):
        store.write(signature, _output())
    (store.root / ".building-x").mkdir()
    store.gather({"fit-0": SIGNATURE}, tmp_path / "out")
    assert [path.name for path in store.root.iterdir() if path.is_dir()] == [SIGNATURE]


def test_what_is_gathered_shares_no_bytes_with_the_store(store: ShardStore, tmp_path: Path) -> None:
    store.write(SIGNATURE, _output())
    store.gather({"fit-0": SIGNATURE}, tmp_path / "out")
    _flip(tmp_path / "out" / "fit-0.arrays.safetensors")
    assert store.about(SIGNATURE) is not None


def test_a_second_run_says_so_and_a_killed_one_leaves_no_lock(store: ShardStore) -> None:
    """The lock is a real process's, which is really killed."""
    code = f"""
import sys, time
from pathlib import Path
from pipeline.artifacts.store import ShardStore
with ShardStore(Path({str(store.root)!r})).locked():
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(ArtifactError, match="another run is writing these shards"), store.locked():
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    deadline = time.monotonic() + 10
    while True:
        try:
            with store.locked():
                return
        except ArtifactError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_writer_killed_midway_leaves_nothing_that_counts(store: ShardStore) -> None:
    """A process is killed between writing its files and renaming them in: the shard is simply not there."""
    code = f"""
import os, signal
from pathlib import Path
import numpy as np
from pipeline.artifacts import store as module
module.os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
module.ShardStore(Path({str(store.root)!r})).write({SIGNATURE!r}, module.ShardOutput({{"x": np.zeros(3)}}))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert store.about(SIGNATURE) is None and any(path.name.startswith(".building-") for path in store.root.iterdir())
    store.write(SIGNATURE, _output())
    assert store.about(SIGNATURE) == {"images": 3}
