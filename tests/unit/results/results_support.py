"""A study at rest with a planted truth, and a project's folder without any run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts import paths
from pipeline.artifacts.studies import Study, Trial
from pipeline.params.root import load_params
from pipeline.tune.command import identity

PROJECT = Path(__file__).resolve().parents[3]


def empty_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The digits' params, and nothing computed."""
    (folder / "presets").symlink_to(PROJECT / "presets")
    (folder / "params.yaml").write_text((PROJECT / "presets/digits.yaml").read_text())
    monkeypatch.chdir(folder)
    return folder


def made_study(name: str = "fingerprints", trials: int = 30) -> Study:
    """A study in which detection rests on whether layer1 is in (0.3 more) and on prefer (0.1 less for random), and else is noise."""
    study, rng, params = Study(paths.study(name)), np.random.default_rng(4), load_params()
    study.begin(identity(params), {})
    for number in range(trials):
        sizes = {layer: int(rng.choice([0, 2, 4])) for layer in ("layer1", "layer2")} | {"layer3": 4}
        prefer, pooling = str(rng.choice(["random", "largest_effect"])), float(rng.choice([0.0, 0.5, 1.0]))
        point = {f"k.{layer}": k for layer, k in sizes.items()} | {"prefer": prefer, "pooling": pooling, **_numbers(rng)}
        found = 0.4 + 0.3 * (sizes["layer1"] > 0) - 0.1 * (prefer == "random") + 0.005 * rng.random()
        objectives = {"fitted": found, "unseen": 0.5 + 0.01 * rng.random(), "after_looks": 0.1, "cost": float(rng.integers(500, 900))}
        if number == 7:
            study.write(Trial(number, point, _params(point, sizes), {}, {}, "the bank has 12 fingerprints, where 30 were expected"), 1.0)
        else:
            figures = {"false_alarms": 0.05}
            study.write(Trial(number, point if number else None, _params(point, sizes), objectives, figures, None), 1.0)
    return study


def _numbers(rng: np.random.Generator) -> dict[str, Any]:
    return {"draw": int(rng.integers(20, 90)), "directions": int(rng.integers(1, 16)), "shrinkage": 0.1, "effect_size": 0.5}


def _params(point: dict[str, Any], sizes: dict[str, int]) -> dict[str, Any]:
    inside = {layer: k for layer, k in sizes.items() if k}
    return {
        "fingerprints.k": inside if len(set(inside.values())) > 1 else next(iter(inside.values())),
        "fingerprints.layer_weights": {layer: float(k > 0) for layer, k in sizes.items()},
        **{f"selection.{key}": point[key] for key in ("effect_size", "prefer")},
        **{f"detectors.joint.{key}": point[key] for key in ("draw", "directions", "shrinkage", "pooling")},
    }
