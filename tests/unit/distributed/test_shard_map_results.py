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
