"""What a shard's content depends on, as one hash: code, library versions, params and inputs."""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.artifacts.files import digest
from pipeline.errors import ArtifactError
from pipeline.params.root import read_yaml

LIBRARIES = ("numpy", "pillow", "pyarrow", "safetensors", "scikit-learn", "scipy", "timm", "torch", "torchvision")


def library_versions() -> dict[str, str]:
    """The versions of everything that can change a result."""
    return {"python": platform.python_version(), "machine": platform.machine(), **{name: version(name) for name in LIBRARIES}}


def code_digest(stage: str, dvc_file: Path = Path("dvc.yaml"), **item: str) -> str:
    """The hash of a stage's compute modules, which ``dvc.yaml`` lists as its dependencies (a contract test proves it).

    Args:
        stage: the stage's name, without its item.
        dvc_file: where stages are defined.
        item: what ``${item.KEY}`` in a dependency stands for.
    """
    definition = read_yaml(dvc_file)["stages"].get(stage)
    if definition is None:
        raise ArtifactError(f"{dvc_file}: has no stage {stage!r}, where the stage that is running was expected.")
    deps = definition.get("do", definition).get("deps", [])
    for key, value in item.items():
        deps = [dep.replace(f"${{item.{key}}}", value) for dep in deps]
    modules = sorted(dep for dep in deps if not dep.startswith("artifacts/"))
    return hashlib.sha256(json.dumps({module: digest(dvc_file.parent / module) for module in modules}).encode()).hexdigest()


def signature(stage: str, *, code: str, params: dict[str, Any], inputs: dict[str, str]) -> str:
    """The signature of a shard: equal signatures mean equal bytes on the same hardware."""
    content = {"stage": stage, "code": code, "versions": library_versions(), "params": params, "inputs": inputs}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
