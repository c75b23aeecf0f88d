"""What a bench counts as unseen, and what a study is of, on made activations and without Ray."""

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from tune_support import PROJECT, made_activations, made_project

from pipeline.artifacts import paths
from pipeline.artifacts.features import FeatureSet
from pipeline.params.root import load_params
from pipeline.tune.bench import Bench, setting_of
from pipeline.tune.command import CODE, provenance


@pytest.mark.parametrize(
    "family, unseen",
    [
        ("confidence_ifgsm", ["pgd", "targeted_iterative"]),
        ("fgsm", ["pgd"]),
        ("pgd", ["pgd", "targeted_iterative"]),
    ],
)
def test_an_attack_is_unseen_where_none_of_its_family_is_fitted(
    family: str, unseen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fgsm and pgd are fitted and pgd is held out; the third attack is evaluated only, and of one family or another."""
    made_project(tmp_path, monkeypatch)
    made_activations()
    setting = setting_of(load_params())
    families = {"fgsm": "fgsm", "pgd": "pgd", "targeted_iterative": family}
    bench = Bench(FeatureSet.open(paths.ACTIVATIONS), replace(setting, families=families))
    assert (bench.known, bench.unseen) == (["fgsm", "pgd"], unseen)


def test_a_study_of_other_code_is_another_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each module that decides on the trials is changed in turn, and so is one that only shows them."""
    made_project(tmp_path, monkeypatch)
    made_activations()
    (tmp_path / "pipeline").unlink()
    shutil.copytree(PROJECT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    features = FeatureSet.open(paths.ACTIVATIONS)
    seen = [provenance(features)]
    for module in ("pipeline/tune/show.py", *CODE, "pipeline/detectors/building.py"):
        with Path(module).open("a") as file:
            file.write("# changed\n")
        seen.append(provenance(features))
    assert seen[0] == seen[1]
    assert all(before != after for before, after in pairwise(seen[1:]))
