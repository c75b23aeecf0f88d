"""A small real chain: a copy of the project with smaller params, run by its own command, once for all tests that look at it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.artifacts.files import digest
from pipeline.artifacts.paths import COVERED
from pipeline.artifacts.paths import ROOT as ARTIFACTS

PROJECT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {
    "data.shard_size": 128,
    "splits.origins": {"digits": {"train": 0.35, "fit": 0.20, "tune": 0.05, "calibrate": 0.20, "test": 0.20}},
    "classifier.epochs": 8,
    "attacks": {
        "fgsm": {"family": "fgsm", "norm": "linf", "epsilon": 0.2, "targeted": False},
        "pgd": {
            "family": "pgd",
            "norm": "linf",
            "epsilon": 0.2,
            "step_size": 0.05,
            "steps": 5,
            "random_start": True,
            "restarts": 1,
            "targeted": True,
            "stop_on_success": False,
        },
    },
    "fingerprints.candidates": 600,
    "fingerprints.k": 8,
    "fingerprints.block": 300,
    "fingerprints.fit_attacks": ["fgsm", "pgd"],
    "selection.effect_size": 0.5,
    "selection.min_fingerprints": 30,
    "detectors": {
        "joint": {
            "kind": "committee",
            "layer_weights": None,
            "draw": 20,
            "committees": 20,
            "directions": 10,
            "shrinkage": 0.1,
            "pooling": 0.2,
            "mistakes": True,
            "seed": 0,
        },
        "likelihood_ratio": {"kind": "fingerprint", "statistic": "likelihood_ratio", "draw": 20},
        "anomaly": {"kind": "fingerprint", "statistic": "anomaly", "draw": 20},
    },
    "ablation.variants": {},
    "transfer.committees": 20,
    "hardening.rounds": 1,
    "hardening.committees": 20,
    "hardening.reselect": True,
    "promise.committees": 10,
    "promise.split_seeds": [1, 2, 3],
    "game.draws": [6],
    "game.committees": [10],
    "game.banks": [25],
    "game.disjoint": {"two_banks": {"draw": 8, "parts": 2}},
    "game.statics": 2,
    "game.surrogates": 2,
    "game.looks": [1, 8],
    "game.tries": 3,
    "game.images": 8,
    "game.queries": 4,
    "game.descend.steps": 3,
    "game.descend.samples": 2,
    "evaluation.bootstrap": 200,
    "evaluation.seeds": [0, 1],
}


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


@contextmanager
def ray_head(folder: Path, environment: Mapping[str, str], cpus: int) -> Iterator[tuple[int, dict[str, str]]]:
    """A Ray head started in a folder, which outlives the drivers that join it: its process id, and their environment."""
    environment = {**environment, "RAY_AUTH_TOKEN": "0" * 64, "RAY_AUTH_MODE": "token"}
    code = f"""
import ray, sys
context = ray.init(address="local", num_cpus={cpus}, include_dashboard=False, log_to_driver=False)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""
    head = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert head.stdout is not None
        yield head.pid, {**environment, "RAY_ADDRESS": head.stdout.readline().strip()}
    finally:
        head.kill()
        head.wait()


def flip(path: Path) -> None:
    """Alters one bit of a file, which DVC may have made read-only."""
    content = bytearray(path.read_bytes())
    content[-3] ^= 8
    path.chmod(0o644)
    path.write_bytes(content)


class Chain:
    """A copy of the project in a folder of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        # The copy's own modules come first; the profile has two workers, however many CPUs there are.
        own = {"PATH": path, "PYTHONPATH": str(folder), "WHORL_PROFILE": "ci"}
        dropped = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_URI")
        self.environment = {**{key: value for key, value in os.environ.items() if key not in dropped}, **own, **(environment or {})}

    @classmethod
    def copy(cls, folder: Path, changes: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> "Chain":
        """Copies what git would commit, with changed params, into a repository of its own."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=PROJECT, capture_output=True, check=True, text=True
        ).stdout
        for name in filter(None, listed.split("\0")):
            if (PROJECT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(PROJECT / name, folder / name)
        (folder / "dvc.lock").unlink(missing_ok=True)
        chain = cls(folder, environment)
        shutil.copyfile(folder / "presets" / "digits.yaml", folder / "params.yaml")
        chain.change(changes)
        for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "copy"]):
            subprocess.run(["git", *command], cwd=folder, check=True)
        return chain

    def clone(self, folder: Path, environment: Mapping[str, str] | None = None) -> "Chain":
        """A copy of this chain as it stands, artifacts and caches included."""
        shutil.copytree(self.folder, folder, symlinks=True, dirs_exist_ok=True)
        return Chain(folder, environment)

    def hashes(self, *under: Path) -> dict[str, str]:
        """File to SHA-256 of everything that the promise of byte-identical reruns covers, or of the paths given."""
        files = [path for root in (under or COVERED) for path in _files(self.folder / root)]
        assert files, f"nothing below {under or COVERED}"
        return {str(path.relative_to(self.folder)): digest(path) for path in files}

    def change(self, changes: Mapping[str, Any]) -> None:
        """Changes params, given by their dotted keys."""
        yaml, path = YAML(), self.folder / "params.yaml"
        content = yaml.load(path.read_text())
        for dotted, value in changes.items():
            *parents, last = dotted.split(".")
            section = content
            for parent in parents:
                section = section[parent]
            section[last] = value
        with path.open("w") as file:
            yaml.dump(content, file)

    def run(self, *command: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Runs a command in the copy; its status must be the expected one (None: any)."""
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False)
        assert expect is None or done.returncode == expect, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def repro(self, *arguments: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """``whorl repro``."""
        return self.run("whorl", "repro", *arguments, expect=expect)

    @property
    def artifacts(self) -> Path:
        """What the chain has written."""
        return self.folder / ARTIFACTS
