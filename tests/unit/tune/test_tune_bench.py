"""What a bench counts as known and as unseen, on made activations and without Ray."""

from dataclasses import replace
from pathlib import Path

import pytest
from tune_support import made_activations, made_project

from pipeline.artifacts import paths
from pipeline.artifacts.features import FeatureSet
from pipeline.params.root import load_params
from pipeline.tune.bench import Bench
from pipeline.tune.command import setting_of


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
