"""Profiles: how much of which machine a run may use. They are no params, for they change no result but for how it is rounded."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from pipeline.errors import ParamsError
from pipeline.params.base import Positive, Section
from pipeline.params.messages import sentences
from pipeline.params.root import read_yaml

FOLDER = Path("infra/profiles")


class Profile(Section):
    """``infra/profiles/NAME.yaml``."""

    workers: Positive | None
    """Workers of a stage at most; null takes as many as the cluster has room for."""
    cpus_per_worker: Positive
    """CPUs that a worker reserves, and threads that it computes with."""
    gpus_per_worker: Annotated[float, Field(ge=0)]
    """GPUs that a worker reserves; a fraction lets several share one, 0 computes on the CPU."""
    training_cpus: Positive | None
    """CPUs that a training worker reserves and computes with; null divides the cluster's among the training workers."""
    max_restarts: Annotated[int, Field(ge=0)]
    """How often a killed worker is started again."""


def profile_device() -> str:
    """Where workers compute: ``cuda`` where the profile reserves a GPU for them, else ``cpu``."""
    return "cuda" if load_profile().gpus_per_worker else "cpu"


def profile_rounding() -> dict[str, str | int]:
    """What the last bits of a forward pass depend on: the device, and on a CPU the threads. Part of the signature of such shards."""
    profile = load_profile()
    return {"device": "cuda"} if profile.gpus_per_worker else {"device": "cpu", "threads": profile.cpus_per_worker}


def load_profile() -> Profile:
    """The profile that ``WHORL_PROFILE`` names (``local`` where it is unset); raises ParamsError where it is no profile."""
    path = FOLDER / f"{os.environ.get('WHORL_PROFILE', 'local')}.yaml"
    content = read_yaml(path)
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        raise ParamsError("\n".join(sentences(path, content, error))) from error
