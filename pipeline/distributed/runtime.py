"""The Ray session of a stage: joins the cluster that ``RAY_ADDRESS`` names, or owns a local one for as long as it works."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.distributed.environment import prepare_environment
from pipeline.errors import WhorlError


@contextmanager
def ray_session() -> Iterator[str]:
    """Joins or starts Ray; yields the cluster's address. What this call started is stopped when the block ends."""
    prepare_environment()
    import ray  # here, not above: it costs seconds, and a stage with nothing to compute needs none of it

    if ray.is_initialized():
        yield str(ray.get_runtime_context().gcs_address)
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    # A cluster that is joined has decided about its dashboard itself.
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=None if address != "local" else False)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        problem = "Ray cannot be started here" if address == "local" else f"RAY_ADDRESS: {address!r} cannot be joined"
        raise WhorlError(f"{problem} ({said}), where a running Ray cluster was expected.") from error
    try:
        yield str(ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()


def cluster_cpus() -> int:
    """The CPUs of the Ray cluster that the session has joined or started."""
    return int(cluster_resources().get("CPU", 1))


def cluster_resources() -> dict[str, float]:
    """Everything that the Ray cluster has, free or not."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources
