"""``whorl repro``: one ``dvc repro`` on one Ray head."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.artifacts import paths
from pipeline.checks import ensure_checked
from pipeline.distributed.environment import prepare_environment
from pipeline.distributed.runtime import ray_session
from pipeline.outside import changed_stages
from pipeline.params.root import Params, load_params


def run_repro(targets: list[str], *, force: bool) -> int:
    """Runs ``dvc repro``; returns its exit status.

    What DVC cannot see is done here: stages whose inputs outside the project have changed run again, and the data sets of
    attacks, and detectors, that are no longer in the params are removed.
    """
    prepare_environment()
    params = load_params()
    ensure_checked()
    _remove_orphans(params)
    changed = changed_stages(params)
    if not (force or changed or targets) and _dvc("status", "--quiet") == 0:
        print("Everything is up to date with params.yaml; nothing was run.")
        return 0
    with ray_session() as address:
        os.environ["RAY_ADDRESS"] = address
        for stage in changed:
            print(f"What {stage} reads from outside the project has changed.")
            # With --single-item: what depends on it runs below, and only where its result is another.
            if status := _dvc("repro", "--force", "--single-item", stage):
                return status
        return _dvc("repro", *(["--force"] if force else []), *targets)


def _dvc(*arguments: str) -> int:
    # The environment's own bin folder first: stages are run as `python -m stages`.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return subprocess.call([sys.executable, "-m", "dvc", *arguments], env={**os.environ, "PATH": path})


def _remove_orphans(params: Params) -> None:
    kept = {
        paths.ATTACKS: set(params.attacks),
        paths.DETECTORS: set(params.detectors),
        paths.RECORDS / "attack": {f"{name}.json" for name in params.attacks},
        paths.RECORDS / "train_detector": {f"{name}.json" for name in params.detectors},
    }
    for folder, names in kept.items():
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in names and path.name != ".gitignore":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
