"""An attack's generation that nothing can spoil: kills at random moments, damaged shards, a second run, no room."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from integration_support import SMALL, Chain, flip, ray_head

from pipeline.artifacts.store import ShardOutput, ShardStore
from pipeline.distributed.runtime import ray_session
from pipeline.distributed.shard_map import ShardTask, shard_map
from pipeline.errors import ArtifactError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

MANY = {**SMALL, "data.shard_size": 8, "classifier.epochs": 4, "attacks.pgd.steps": 60}
"""Well over a hundred shards of a few images, each of which takes its time."""
KILLS = 20
VICTIMS = ("worker", "driver", "worker", "dvc")
"""In turn. A run goes on without its worker, and with the others it is over: the next kill meets a new one."""
ATTACK = (sys.executable, "-m", "stages", "attack", "pgd")
DVC = ("dvc", "repro", "--single-item", "attack@pgd")
SET, SHARDS = Path("artifacts/attacks/pgd"), Path("artifacts/.work/shards/attack-pgd")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Images and a classifier; nothing attacked yet."""
    chain = Chain.copy(tmp_path_factory.mktemp("prepared"), MANY)
    chain.run("dvc", "repro", "train_classifier")
    return chain


@pytest.fixture(scope="module")
def undisturbed(prepared: Chain, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The same after an attack with which nobody interfered."""
    chain = prepared.clone(tmp_path_factory.mktemp("undisturbed"))
    chain.run(*ATTACK)
    return chain


@pytest.fixture
def cluster(prepared: Chain, tmp_path: Path) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """A Ray head that outlives the drivers which join it; and what they need in their environment."""
    with ray_head(tmp_path, prepared.environment, cpus=2) as (pid, environment):
        yield psutil.Process(pid), environment


def finished(chain: Chain) -> set[str]:
    """The shards that are done."""
    return {path.parent.name for path in (chain.folder / SHARDS).glob("*/record.json")}


def working(above: psutil.Process) -> list[psutil.Process]:
    """The workers below a process that are making a shard right now."""
    found = []
    for process in above.children(recursive=True):
        try:
            if process.cmdline()[:1] == ["ray::_Worker.run"]:
                found.append(process)
        except psutil.Error:
            continue
    return sorted(found, key=lambda process: process.pid)


def start(chain: Chain, command: tuple[str, ...], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """A run in a process group of its own."""
    with (chain.folder / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=chain.folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def wait(condition: Callable[[], bool], run: "subprocess.Popen[bytes]", chain: Chain) -> None:
    """Waits for it, as long as the run is on."""
    deadline = time.monotonic() + 600
    while not condition():
        assert run.poll() is None and time.monotonic() < deadline, (chain.folder / "log").read_text()
        time.sleep(0.005)


def seconds_a_shard(chain: Chain) -> float:
    """How long a worker took for a shard, of the two that worked."""
    ends = sorted(path.stat().st_mtime for path in (chain.folder / SHARDS).glob("*/record.json"))
    return 2 * (ends[-1] - ends[0]) / (len(ends) - 1)


def test_twenty_kills_at_random_moments_change_no_byte(
    prepared: Chain, undisturbed: Chain, cluster: tuple[psutil.Process, dict[str, str]], tmp_path: Path
) -> None:
    """A worker, the driver, and all that belongs to ``dvc`` are killed in turn, 20 times in one attack's generation; after each
    the same command is run again.

    A moment is a number of shards that are done, drawn so that all kills find some left to do, and a part of the time that a
    shard takes, so that it falls into the midst of one.
    """
    chain, draw = prepared.clone(tmp_path / "copy"), random.Random(20)
    total, pace = len(finished(undisturbed)), seconds_a_shard(undisturbed)
    assert total > 6 * KILLS
    head, joined = cluster
    run, above, told = None, head, list[tuple[str, int]]()
    for kill in range(KILLS):
        victim = VICTIMS[kill % len(VICTIMS)]
        if run is None:
            by_dvc = VICTIMS[(kill + 1) % len(VICTIMS)] == "dvc"  # its own Ray goes down with it
            run = start(chain, DVC if by_dvc else ATTACK, chain.environment if by_dvc else joined)
            above = psutil.Process(run.pid) if by_dvc else head
        done = len(finished(chain))
        target = done + int(draw.random() * (total - done) / (KILLS - kill))
        wait(lambda target=target, above=above: len(finished(chain)) >= target and bool(working(above)), run, chain)
        time.sleep(2 * pace * draw.random())
        told.append((victim, len(finished(chain))))
        assert run.poll() is None and told[-1][1] < total, f"over before kill {kill}: {told}"
        run = strike(victim, run, above, draw)
    print(f"{total} shards; killed when so many were done: {told}")
    assert [count for _, count in told] == sorted(count for _, count in told), "what was finished stayed"
    chain.run(*DVC)
    assert chain.hashes(SET) == undisturbed.hashes(SET)
    assert {path.name for path in (chain.folder / SHARDS).iterdir()} == finished(undisturbed) | {".lock"}


def strike(victim: str, run: "subprocess.Popen[bytes]", above: psutil.Process, draw: random.Random) -> "subprocess.Popen[bytes] | None":
    """Kills; returns the run where it goes on."""
    if victim == "worker":
        workers = working(above)
        while not workers:  # each was just between two shards
            assert run.poll() is None
            workers = working(above)
        draw.choice(workers).kill()
        return run
    if victim == "driver":
        run.kill()
    else:
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    return None


def test_damaged_shards_and_leftovers_are_noticed_and_redone_alone(undisturbed: Chain, tmp_path: Path) -> None:
    chain = undisturbed.clone(tmp_path / "copy")
    shards = [chain.folder / SHARDS / name for name in sorted(finished(chain))]
    os.truncate(shards[0] / "arrays.safetensors", 100)
    flip(shards[1] / "rows.parquet")
    record = json.loads((shards[2] / "record.json").read_text())
    record["about"]["succeeded"] += 1
    (shards[2] / "record.json").write_text(json.dumps(record))
    shutil.rmtree(shards[3])
    shutil.copytree(shards[4], shards[3])  # another one's bytes under its name
    for leftover in ("f" * 64, ".building-f"):
        shutil.copytree(shards[5], chain.folder / SHARDS / leftover)
    before = {path: (path / "record.json").stat().st_mtime_ns for path in shards}
    shutil.rmtree(chain.folder / SET)
    chain.run(*ATTACK)
    assert chain.hashes(SET) == undisturbed.hashes(SET)
    assert {path.name for path in (chain.folder / SHARDS).iterdir()} == finished(undisturbed) | {".lock"}
    assert [path for path in shards if (path / "record.json").stat().st_mtime_ns != before[path]] == shards[:4]


def test_a_second_run_on_the_same_output_says_so(prepared: Chain, undisturbed: Chain, tmp_path: Path) -> None:
    chain = prepared.clone(tmp_path / "copy")
    run = start(chain, ATTACK, chain.environment)
    try:
        wait(lambda: bool(finished(chain)), run, chain)
        second = chain.run(*ATTACK, expect=2)
        assert run.poll() is None, "the first was over before the second began"
        assert second.stderr.count("\n") == 1 and "another run is writing these shards" in second.stderr and str(SHARDS) in second.stderr
        assert run.wait(timeout=600) == 0
    finally:
        run.kill()
        run.wait()
    assert chain.hashes(SET) == undisturbed.hashes(SET)


def test_no_room_for_the_artifact_ends_the_command_with_a_sentence(undisturbed: Chain, tmp_path: Path) -> None:
    """All shards are there, and the process may write no file as large as one of theirs."""
    chain = undisturbed.clone(tmp_path / "copy")
    shutil.rmtree(chain.folder / SET)
    largest = max(path.stat().st_size for path in (chain.folder / SHARDS).glob("*/*"))
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (largest - 1, resource.RLIM_INFINITY))
    done = subprocess.run(ATTACK, cwd=chain.folder, env=chain.environment, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith(f"whorl: {SET}: there is no room to write (File too large; ") and "what was finished is kept" in said
    assert finished(chain) == finished(undisturbed) and not (chain.folder / SET).exists()
    chain.run(*ATTACK)
    assert chain.hashes(SET) == undisturbed.hashes(SET)


def test_no_room_for_a_worker_s_shard_is_the_same_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real workers that may write no file of more than 2 MB, and one that finds another folder full."""
    monkeypatch.setenv("WHORL_PROFILE", "ci")
    store = ShardStore(tmp_path / "shards")

    def build(limit: int) -> Callable[[int], ShardOutput]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        def work(size: int) -> ShardOutput:
            if size < 0:
                raise OSError(28, "whatever", "/some/cache/file")
            return ShardOutput({"x": np.random.default_rng(0).integers(0, 256, size, np.uint8)})

        return work

    def make(limit: int, *sizes: int) -> None:
        shard_map(partial(build, limit), [ShardTask(str(size), str(size), size, 1) for size in sizes], store, title="test")

    sentence = r": there is no room to write \(File too large; .* what was finished is kept"
    with ray_session():
        make(2_000_000, 10, 20)
        with pytest.raises(ArtifactError, match=f"^{store.root}{sentence}"):
            make(2_000_000, 10, 20, 4_000_000, 30)
        assert {path.name for path in store.root.iterdir()} - {"30"} == {"10", "20"}  # who was first, nobody knows
        with pytest.raises(ArtifactError, match=r"^/some/cache: there is no room to write \(No space left on device; "):
            make(2_000_000, -1)
        make(resource.RLIM_INFINITY, 10, 20, 4_000_000, 30)
    assert all(store.about(str(size)) is not None for size in (10, 20, 4_000_000, 30))


def test_a_worker_builds_its_work_once_for_all_its_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is built is the model: loading it again for every shard would cost more than many attacks."""
    monkeypatch.setenv("WHORL_PROFILE", "ci")
    store = ShardStore(tmp_path / "store")

    def build(log: Path) -> Callable[[int], ShardOutput]:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return lambda number: ShardOutput({"x": np.full(4, number)})

    with ray_session():
        shard_map(partial(build, tmp_path / "log"), [ShardTask(str(n), str(n), n, 1) for n in range(12)], store, title="test")
    builders = (tmp_path / "log").read_text().split()
    assert 1 <= len(builders) <= 2 and len(set(builders)) == len(builders)
    assert all(store.about(str(number)) is not None for number in range(12))
