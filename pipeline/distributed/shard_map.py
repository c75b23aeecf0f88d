"""One task a shard, on a pool of Ray actors; finished shards are kept whatever happens to the rest."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pipeline.artifacts.store import ShardOutput, ShardStore, full_disk
from pipeline.distributed.profile import Profile, load_profile
from pipeline.distributed.runtime import cluster_resources, ray_session
from pipeline.errors import WhorlError
from pipeline.progress import progress

Payload = TypeVar("Payload")
Work = Callable[[Payload], ShardOutput]

STOPPING = 10.0
"""Seconds that workers have to be gone once they are stopped."""


@dataclass(frozen=True)
class ShardTask(Generic[Payload]):
    """One shard to make.

    Args:
        name: the shard's name in the artifact.
        signature: what its content depends on.
        payload: what the worker's function gets.
        size: how much of the progress bar it is worth.
    """

    name: str
    signature: str
    payload: Payload
    size: int


def shard_map(build: Callable[[], Work[Payload]], tasks: list[ShardTask[Payload]], store: ShardStore, *, title: str) -> None:
    """Makes every shard that the store does not hold yet.

    A killed worker is started again and its shard redone; each worker writes its own finished shards, so memory in the
    driver does not grow with them.

    Args:
        build: called once in each worker, returns the function that makes a shard; picklable.
        tasks: the plan.
        store: where shards go; the caller holds its lock.
        title: what the progress bar says.

    Raises:
        WhorlError: what a worker raised, that there was no room for a shard, or that a worker died more often than the profile
            allows.
    """
    store = ShardStore(store.root.resolve())  # a worker's current folder may be another
    store.sweep()
    missing = [task for task in tasks if store.about(task.signature) is None]
    total = sum(task.size for task in tasks)
    with progress(title, total, finished=total - sum(task.size for task in missing)) as advance:
        if missing:
            try:
                with ray_session():
                    for done in _run(build, missing, store, load_profile()):
                        advance(done.size)
            finally:
                store.sweep()  # a worker that was stopped amid a shard leaves what it had begun


def _run(
    build: Callable[[], Work[Payload]], tasks: list[ShardTask[Payload]], store: ShardStore, profile: Profile
) -> Iterator[ShardTask[Payload]]:
    import ray

    actor: Any = ray.remote(
        num_cpus=profile.cpus_per_worker,
        num_gpus=profile.gpus_per_worker,
        max_restarts=profile.max_restarts,
        max_task_retries=profile.max_restarts,
    )(_Worker)
    workers = [actor.remote(build, store, profile) for _ in range(_worker_count(profile, len(tasks)))]
    waiting, running = list(reversed(tasks)), dict[Any, tuple[Any, ShardTask[Payload]]]()
    try:
        for worker in workers:
            task = waiting.pop()
            running[worker.run.remote(task)] = (worker, task)
        while running:
            ready, _ = ray.wait(list(running), num_returns=1)
            worker, task = running.pop(ready[0])
            _result(ready[0], task, store)
            yield task
            if waiting:
                following = waiting.pop()
                running[worker.run.remote(following)] = (worker, following)
    finally:
        for worker in workers:
            ray.kill(worker)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=STOPPING)


def _worker_count(profile: Profile, tasks: int) -> int:
    resources = cluster_resources()
    room = resources.get("CPU", 1) // profile.cpus_per_worker
    if profile.gpus_per_worker:
        room = min(room, resources.get("GPU", 0) // profile.gpus_per_worker)
    if room < 1:
        raise WhorlError(
            f"infra/profiles: a worker needs {profile.cpus_per_worker} CPUs and {profile.gpus_per_worker:g} GPUs, where the Ray cluster "
            f"has {resources.get('CPU', 0):g} and {resources.get('GPU', 0):g}; another profile was expected (WHORL_PROFILE)."
        )
    return int(min(tasks, room, profile.workers or room))


def _result(reference: Any, task: ShardTask[Any], store: ShardStore) -> None:
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, WhorlError):
            raise error.cause from None
        if said := full_disk(error.cause, _where(error.cause) or store.root):
            raise said from error
        raise
    except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
        raise WhorlError(
            f"{task.name}: its worker died again and again (out of memory?), where it was expected to finish; "
            "what was finished is kept, and the same command goes on from there."
        ) from error


def _where(error: BaseException) -> Path | None:
    """The folder of the file that an error names: what a worker could not write need not be a shard."""
    file = getattr(error, "filename", None)
    return Path(os.fsdecode(file)).parent if isinstance(file, str | bytes) else None


class _Worker:
    """An actor: builds its function once, then makes and writes one shard a call."""

    def __init__(self, build: Callable[[], Work[Any]], store: ShardStore, profile: Profile) -> None:
        import torch

        torch.set_num_threads(profile.cpus_per_worker)
        self.store, self.build = store, build
        self.work: Work[Any] | None = None

    def run(self, task: ShardTask[Any]) -> None:
        # Built here, not above: an error in an actor's constructor reaches the driver without its sentence.
        self.work = self.work or self.build()
        self.store.write(task.signature, self.work(task.payload))
