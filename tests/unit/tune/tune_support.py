"""A project with made activations: three classes, two attacks that shift some neurons, nothing else to compute."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline.artifacts import paths
from pipeline.artifacts.features import CLEAN, feature_output, write_features
from pipeline.artifacts.files import write_json
from pipeline.artifacts.store import ShardStore
from pipeline.fingerprints.features import Features
from pipeline.params.edits import edited
from pipeline.params.root import load_params

PROJECT = Path(__file__).resolve().parents[3]
LAYERS = {"layer1": 40, "layer2": 24}
CHANGES: dict[str, Any] = {
    "activations.layers": LAYERS,
    "fingerprints.layer_weights": {"layer1": 1.0, "layer2": 0.5},
    "fingerprints.fit_attacks": ["fgsm", "pgd"],
    "fingerprints.candidates": 300,
    "fingerprints.block": 300,
    "selection.effect_size": 0.2,
    "selection.min_fingerprints": 30,
    "detectors.joint.draw": 12,
    "detectors.joint.directions": 4,
    "detectors.joint.committees": 20,
    "detectors.likelihood_ratio.draw": 12,
    "detectors.vote.draw": 12,
    "detectors.anomaly.draw": 12,
    "ablation.variants": {},
    "ablation.held_out": "pgd",
    "ablation.looks": 3,
    "ablation.draws": 8,
    "tune.trials": 6,
    "tune.batch": 2,
    "tune.startup": 2,
    "tune.held_out": "pgd",
    "tune.looks": 3,
    "tune.draws": 8,
    "tune.space.k": [2, 4],
    "tune.space.draw": [6, 20],
}


def made_features(rng: np.random.Generator, count: int, attack: str | None) -> Features:
    """Images whose neurons lie around their class's mean; an attack moves them half of the way to another class, and aside."""
    size = sum(LAYERS.values())
    means = np.random.default_rng(0).normal(size=(3, size))
    aside = np.random.default_rng(1 if attack == "fgsm" else 2).normal(size=size)
    labels = rng.integers(3, size=count)
    ids = [f"{number:032x}" for number in rng.integers(2**63, size=count)]
    neurons = means[labels] + rng.normal(size=(count, size))
    no = np.zeros(count, np.bool_)
    if attack is None:
        return Features(ids, labels, labels, labels, no, no, neurons.astype(np.float32))
    success = rng.random(count) < 0.8
    predicted = np.where(success, (labels + 1) % 3, labels)
    neurons += np.where(success[:, None], (means[predicted] - means[labels]) / 2 + 0.5 * aside, 0)
    return Features(ids, labels, labels, predicted, success, no, neurons.astype(np.float32))


def made_project(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Path:
    """Makes the project in a folder and goes there; ``changes`` are params by their dotted keys."""
    for name in ("dvc.yaml", "infra", "pipeline", "presets", "stages"):
        (folder / name).symlink_to(PROJECT / name)
    (folder / "params.yaml").write_text(edited((PROJECT / "presets/digits.yaml").read_text(), CHANGES | changes))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WHORL_PROFILE", "ci")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def made_activations() -> None:
    """The artifact, and the record of the stage that would have made it, here; no neuron of calibrate or test is a number."""
    store, plan = ShardStore(paths.SHARDS / "activations"), {}
    for place, (source, split) in enumerate((s, p) for s in (CLEAN, "fgsm", "pgd", "targeted_iterative") for p in ("fit", "tune")):
        rng = np.random.default_rng(10 + place)
        name = f"{source}.{split}-00000"
        plan[name] = f"{place:064x}"
        output = feature_output(made_features(rng, 300 if split == "fit" else 120, None if source == CLEAN else source))
        store.write(plan[name], output)
    for source, split in ((s, p) for s in (CLEAN, "fgsm", "pgd", "targeted_iterative") for p in ("calibrate", "test")):
        features = made_features(np.random.default_rng(len(plan)), 120, None if source == CLEAN else source)
        name = f"{source}.{split}-00000"
        plan[name] = f"{len(plan):064x}"
        store.write(plan[name], feature_output(replace(features, neurons=np.full_like(features.neurons, np.nan))))
    pool = {layer: np.arange(size) for layer, size in LAYERS.items()}
    write_features(paths.ACTIVATIONS, ("a", "b", "c"), pool, plan, store)
    params = load_params().model_dump(mode="json", include={"activations", "attacks"})
    write_json(paths.record("activations"), {"stage": "activations", "item": None, "params": params, "metrics": {}, "notes": []})


def read_params() -> Any:
    """The params file as plain values."""
    return YAML(typ="safe", pure=True).load(Path("params.yaml").read_text())
