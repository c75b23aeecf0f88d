"""How a run on workers ends, and what its shards' signatures know of the machine."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.artifacts.store import ShardStore
from pipeline.distributed import profile, shard_map
from pipeline.errors import WhorlError


@pytest.mark.parametrize("error", ["ActorDiedError", "OutOfMemoryError"])
def test_a_worker_that_died_again_and_again_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    import ray

    def get(_reference: Any) -> None:
        raise getattr(ray.exceptions, error)("x") if error == "OutOfMemoryError" else getattr(ray.exceptions, error)()

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(WhorlError, match=r"^fit-0: its worker died again and again \(out of memory\?\)"):
        shard_map._result(None, shard_map.ShardTask("fit-0", "s", None, 1), ShardStore(tmp_path))


def test_threads_round_on_a_cpu_and_the_device_alone_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def known(cpus: int, gpus: float) -> dict[str, str | int]:
        monkeypatch.setattr(profile, "load_profile", lambda: SimpleNamespace(cpus_per_worker=cpus, gpus_per_worker=gpus))
        return profile.profile_rounding()

    assert known(1, 0) == {"device": "cpu", "threads": 1} != known(2, 0)
    assert known(1, 0.5) == known(2, 0.5) == {"device": "cuda"}


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers", "tasks", "count"),
    [
        (1, 0.0, None, 100, 16),
        (2, 0.0, None, 100, 8),
        (3, 0.0, None, 100, 5),
        (1, 0.0, 4, 100, 4),
        (1, 0.0, None, 3, 3),
        (1, 1.0, None, 100, 2),
        (1, 0.5, None, 100, 4),
        (8, 0.25, None, 100, 2),
        (1, 0.25, 6, 100, 6),
    ],
)
def test_as_many_workers_as_cpus_and_shares_of_gpus_allow(
    monkeypatch: pytest.MonkeyPatch, cpus: int, gpus: float, workers: int | None, tasks: int, count: int
) -> None:
    """Of 16 CPUs and 2 GPUs."""
    monkeypatch.setattr(shard_map, "cluster_resources", lambda: {"CPU": 16.0, "GPU": 2.0})
    room = profile.Profile(workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus, training_cpus=None, max_restarts=0)
    assert shard_map._worker_count(room, tasks) == count


def test_a_cluster_without_room_for_a_worker_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_map, "cluster_resources", lambda: {"CPU": 2.0})
    room = profile.Profile(workers=None, cpus_per_worker=1, gpus_per_worker=0.5, training_cpus=None, max_restarts=0)
    with pytest.raises(WhorlError, match=r"a worker needs 1 CPUs and 0.5 GPUs, where the Ray cluster has 2 and 0; another profile"):
        shard_map._worker_count(room, 1)
