"""The shard store: whole shards, damage noticed, leftovers removed, a full disk said, one run at a time."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.artifacts import store as stores
from pipeline.artifacts.signature import signature as sign
from pipeline.artifacts.store import ShardOutput, ShardStore, full_disk
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


@pytest.mark.parametrize("name", ["arrays.safetensors", "rows.parquet", "record.json"])
def test_no_bit_can_flip_and_no_byte_be_lost_unnoticed(store: ShardStore, name: str) -> None:
    """All through every file of a shard. The last byte of the record is a line break, which says nothing."""
    store.write(SIGNATURE, _output())
    path = store.folder(SIGNATURE) / name
    whole = path.read_bytes()
    for place in range(0, len(whole.rstrip(b"\n")), 3):
        for damaged in (*(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :] for bit in (1, 2, 64)), whole[:place]):
            path.write_bytes(damaged)
            assert store.about(SIGNATURE) is None, place
    path.write_bytes(whole)
    assert store.about(SIGNATURE) == {"images": 3}


def test_facts_come_back_as_json_has_them(store: ShardStore) -> None:
    about = {"counts": {10: 1, 9: 2}, "share": 0.1 + 0.2, "pair": (1, 2), "none": None}
    store.write(SIGNATURE, ShardOutput(about=about))
    assert store.about(SIGNATURE) == {"counts": {"10": 1, "9": 2}, "share": 0.1 + 0.2, "pair": [1, 2], "none": None}


SIGNED = {"code": "c", "params": {"epsilon": 0.1}, "inputs": {"images": "i"}}


@pytest.mark.parametrize("change", [{"code": "d"}, {"params": {"epsilon": 0.2}}, {"inputs": {"images": "j"}}, {"inputs": {}}])
def test_another_code_other_params_and_other_inputs_are_another_shard(store: ShardStore, change: dict[str, object]) -> None:
    ours, other = sign("attack", **SIGNED), sign("attack", **{**SIGNED, **change})  # type: ignore[arg-type]
    store.write(ours, _output())
    assert store.about(ours) is not None and store.about(other) is None
    store.folder(ours).rename(store.folder(other))  # even where somebody puts it there
    assert store.about(other) is None


def test_writers_of_the_same_shard_at_once_all_succeed(store: ShardStore) -> None:
    """As when a worker outlives its killed driver and the next run makes the same shard: real processes, many times."""
    code = f"""
from pathlib import Path
import numpy as np
from pipeline.artifacts import store as stores
from pipeline.artifacts.signature import signature as sign
from pipeline.artifacts.store import ShardOutput, ShardStore, full_disk
for _ in range(60):
    ShardStore(Path({str(store.root)!r})).write({SIGNATURE!r}, ShardOutput({{"x": np.zeros(3)}}))
"""
    writers = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [("", 0)] * 3
    assert store.about(SIGNATURE) == {} and [path.name for path in store.root.iterdir()] == [SIGNATURE]


def test_what_is_swept_away_under_a_writer_s_hands_is_no_shard(store: ShardStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that outlived its driver is half through when the next run sweeps."""
    write = stores.write_table

    def swept(path: Path, table: pa.Table) -> None:
        store.sweep()
        write(path, table)

    with monkeypatch.context() as patched:
        patched.setattr(stores, "write_table", swept)
        with pytest.raises((ArtifactError, OSError)):
            store.write(SIGNATURE, _output())
    assert store.about(SIGNATURE) is None and not list(store.root.glob(".building-*"))
    store.write(SIGNATURE, _output())
    assert store.about(SIGNATURE) is not None


def test_what_is_damaged_on_its_way_into_the_artifact_is_no_artifact(
    store: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(SIGNATURE, _output())
    copy = shutil.copyfile

    def damaged(source: Path, target: Path) -> None:
        copy(source, target)
        _flip(target)

    monkeypatch.setattr(shutil, "copyfile", damaged)
    with pytest.raises(ArtifactError, match="where that of the shard, .* was expected"):
        store.gather({"fit-0": SIGNATURE}, tmp_path / "out")
    assert not (tmp_path / "out").exists() and store.about(SIGNATURE) is not None


def test_leftovers_of_other_plans_are_removed(store: ShardStore, tmp_path: Path) -> None:
    for signature in ("old", SIGNATURE):
        store.write(signature, _output())
    (store.root / ".building-x").mkdir()
    store.gather({"fit-0": SIGNATURE}, tmp_path / "out")
    assert [path.name for path in store.root.iterdir() if path.is_dir()] == [SIGNATURE]


def test_of_a_larger_plan_nothing_is_left_in_the_artifact(store: ShardStore, tmp_path: Path) -> None:
    plan = {f"fit-{number}": str(number) for number in range(3)}
    for name in plan.values():
        store.write(name, _output())
    store.gather(plan, tmp_path / "out")
    (store.folder("1") / "stray.txt").write_text("put here by somebody")
    assert list(store.gather({"fit-0": "1"}, tmp_path / "out")) == ["fit-0"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fit-0.arrays.safetensors", "fit-0.rows.parquet"]
    assert [path.name for path in store.root.iterdir()] == ["1"]


def test_only_what_was_begun_is_swept_away(store: ShardStore) -> None:
    store.sweep()
    store.write("a", _output())
    (store.root / ".building-x").mkdir()
    (store.root / ".building-x" / "arrays.safetensors").write_bytes(b"half")
    store.sweep()
    assert [path.name for path in store.root.iterdir()] == ["a"]


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
import pyarrow as pa
from pipeline.artifacts.store import ShardOutput, ShardStore
from pipeline.errors import ArtifactError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
store, noise = ShardStore(Path(sys.argv[1])), np.random.default_rng(0).integers(0, 256, 300_000, np.uint8)
outputs = {"arrays": ShardOutput({"x": noise}), "rows": ShardOutput({}, {"rows": pa.table({"x": noise})})}
store.write("small", ShardOutput({"x": noise[:1000]}))
try:
    if sys.argv[2] in outputs:
        store.write("large", outputs[sys.argv[2]])
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.write("large", outputs["arrays"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        store.gather({"a": "small", "b": "large"}, Path(sys.argv[2]))
except ArtifactError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("what", ["arrays", "rows"])
def test_no_room_for_a_shard_is_one_sentence_and_what_was_finished_stays(store: ShardStore, what: str) -> None:
    """The system really refuses to write: a process that may write no file of more than 100 kB."""
    done = subprocess.run([sys.executable, "-c", LIMITED, str(store.root), what], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr == "" and done.stdout.count("\n") == 1, done.stdout + done.stderr
    assert (
        done.stdout.startswith(f"{store.root}: there is no room to write (File too large; ") and "MiB of its disk are free" in done.stdout
    )
    assert "what was finished is kept" in done.stdout and "the same command goes on" in done.stdout
    assert [path.name for path in store.root.iterdir()] == ["small"] and store.about("small") == {}


def test_no_room_for_the_artifact_leaves_no_half_of_it_and_every_shard(store: ShardStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", LIMITED, str(store.root), str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout.startswith(f"{out}: there is no room to write"), done.stdout + done.stderr
    assert not out.exists() and {path.name for path in store.root.iterdir()} == {"small", "large"}
    assert set(store.gather({"a": "small", "b": "large"}, out)) == {"a", "b"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_a_spent_quota_and_a_size_limit_are_no_room(tmp_path: Path, number: int) -> None:
    said = full_disk(OSError(number, "whatever"), tmp_path / "not" / "there")
    assert said is not None and str(said).startswith(f"{tmp_path / 'not' / 'there'}: there is no room to write ({os.strerror(number)}; ")


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), ArtifactError("damaged"), ValueError("no"), None])
def test_other_errors_are_left_alone(tmp_path: Path, error: BaseException | None) -> None:
    assert full_disk(error, tmp_path) is None


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
