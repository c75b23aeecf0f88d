"""The promises, really done: reruns, kills and other numbers of workers end in the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from integration_support import SMALL, Chain, ray_head

pytestmark = pytest.mark.slow

LONG = {"attacks.pgd.steps": 150, "data.shard_size": 32}
"""An attack that takes long enough, in enough shards, to be interrupted in the middle."""


def test_another_run_with_one_worker_that_is_killed_ends_in_the_same_bytes(finished: Chain, tmp_path: Path) -> None:
    """A second run, from nothing, in another folder, with one worker where the first had two; an attack's worker is killed."""
    chain = Chain.copy(tmp_path, SMALL, {"WHORL_PROFILE": "one"})
    profile = (chain.folder / "infra/profiles/ci.yaml").read_text().replace("workers: 2", "workers: 1")
    (chain.folder / "infra/profiles/one.yaml").write_text(profile)
    process = _start(chain, "whorl", "repro")
    _wait(lambda: (chain.artifacts / ".work/shards/attack-pgd").is_dir() and bool(_worker_pids(process.pid)), process)
    os.kill(_worker_pids(process.pid)[0], signal.SIGKILL)
    assert process.wait(timeout=900) == 0, (chain.folder / "log").read_text()
    assert chain.hashes() == finished.hashes()


def test_a_cluster_that_was_started_elsewhere_works_on_the_same_files(finished: Chain, tmp_path: Path) -> None:
    """A head whose current folder is another: workers must find and write the project's files all the same."""
    (tmp_path / "elsewhere").mkdir()
    chain = finished.clone(tmp_path / "copy")
    before = chain.hashes(Path("artifacts/attacks/fgsm"))
    with ray_head(tmp_path / "elsewhere", chain.environment, cpus=2) as (_, chain.environment):
        shutil.rmtree(chain.artifacts / ".work/shards/attack-fgsm")
        shutil.rmtree(chain.artifacts / "attacks/fgsm")
        chain.run("python", "-m", "stages", "attack", "fgsm")
        assert chain.hashes(Path("artifacts/attacks/fgsm")) == before
        assert not (tmp_path / "elsewhere/artifacts").exists()


def test_three_and_four_workers_make_the_same_bytes(finished: Chain, tmp_path: Path) -> None:
    """As two did; one is compared above."""
    chain = finished.clone(tmp_path / "copy")
    before = chain.hashes(Path("artifacts/attacks/pgd"))
    with ray_head(tmp_path, chain.environment, cpus=4) as (_, chain.environment):
        for workers in (3, 4):
            profile = (chain.folder / "infra/profiles/ci.yaml").read_text().replace("workers: 2", f"workers: {workers}")
            (chain.folder / f"infra/profiles/of{workers}.yaml").write_text(profile)
            chain.environment["WHORL_PROFILE"] = f"of{workers}"
            shutil.rmtree(chain.artifacts / ".work/shards/attack-pgd")
            shutil.rmtree(chain.artifacts / "attacks/pgd")
            chain.run("python", "-m", "stages", "attack", "pgd")
            assert chain.hashes(Path("artifacts/attacks/pgd")) == before


@pytest.fixture(scope="module")
def prepared(finished: Chain, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A chain with the data and the classifier of a longer attack, which has not been run yet."""
    chain = finished.clone(tmp_path_factory.mktemp("long"))
    chain.change(LONG)
    chain.run("python", "-m", "stages", "prepare")
    shutil.rmtree(chain.artifacts / ".work/shards/attack-pgd")
    shutil.rmtree(chain.artifacts / "attacks/pgd")
    return chain


@pytest.fixture(scope="module")
def undisturbed(prepared: Chain, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the long attack's artifact holds when nobody interferes."""
    chain = prepared.clone(tmp_path_factory.mktemp("undisturbed"))
    chain.run("python", "-m", "stages", "attack", "pgd")
    return chain.hashes(Path("artifacts/attacks/pgd"))


ATTACK = (sys.executable, "-m", "stages", "attack", "pgd")


def _start(chain: Chain, *command: str) -> "subprocess.Popen[bytes]":
    with (chain.folder / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=chain.folder, env=chain.environment, stdout=log, stderr=log)


def _finished_shards(chain: Chain) -> int:
    return len(list((chain.artifacts / ".work/shards/attack-pgd").glob("*/record.json")))


def _wait(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, "it ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _worker_pids(driver: int) -> list[int]:
    """The attack workers of one driver's own Ray cluster, by walking the process tree."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                names[int(folder.name)] = (folder / "cmdline").read_bytes()
            except (OSError, ValueError):
                continue
    mine, grown = {driver}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in mine} - mine
        mine, grown = mine | more, bool(more)
    return [pid for pid in mine if names.get(pid, b"").startswith(b"ray::_Worker")]


@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_worker_changes_no_byte(prepared: Chain, undisturbed: dict[str, str], tmp_path: Path, after: int) -> None:
    chain = prepared.clone(tmp_path / "copy")
    process = _start(chain, *ATTACK)
    _wait(lambda: _finished_shards(chain) >= after and bool(_worker_pids(process.pid)), process)
    os.kill(_worker_pids(process.pid)[0], signal.SIGKILL)
    assert after <= _finished_shards(chain) < len([name for name in undisturbed if name.endswith(".safetensors")])
    assert process.wait(timeout=600) == 0, (chain.folder / "log").read_text()
    assert chain.hashes(Path("artifacts/attacks/pgd")) == undisturbed


def test_a_killed_run_goes_on_where_it_was_and_changes_no_byte(prepared: Chain, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """The driver is killed in the middle; of what was finished one shard is then damaged. The rerun redoes that one alone."""
    chain = prepared.clone(tmp_path / "copy")
    process = _start(chain, *ATTACK)
    _wait(lambda: _finished_shards(chain) >= 3, process)
    process.kill()
    process.wait()
    shards = chain.artifacts / ".work/shards/attack-pgd"
    time.sleep(15)  # Ray's own processes notice that their driver is gone
    kept = sorted(path.parent for path in shards.glob("*/record.json"))
    assert 3 <= len(kept) < len([name for name in undisturbed if name.endswith(".safetensors")])
    os.truncate(kept[0] / "arrays.safetensors", 100)
    before = {path: (path / "record.json").stat().st_mtime_ns for path in kept}
    chain.run("python", "-m", "stages", "attack", "pgd")
    assert chain.hashes(Path("artifacts/attacks/pgd")) == undisturbed
    redone = [path for path in kept if (path / "record.json").stat().st_mtime_ns != before[path]]
    assert redone == [kept[0]]
