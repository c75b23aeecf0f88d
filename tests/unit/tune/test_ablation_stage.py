"""The ablation stage on made activations, in this process: what it measures, what it reuses, and what it says of a variant that fails."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML
from tune_support import made_activations, made_project

from pipeline.artifacts import paths
from pipeline.artifacts.features import FeatureSet
from pipeline.artifacts.files import read_json
from pipeline.artifacts.store import ShardStore
from pipeline.distributed.shard_map import ShardTask
from pipeline.params.edits import edit
from pipeline.params.root import load_params
from pipeline.tune.bench import Bench, setting_of
from stages import ablation as stage

VARIANTS: dict[str, Any] = {
    "few": {"detector.directions": 1, "detector.draw": 4},
    "same": {"detector.draw": 12},
    "one_layer": {"fingerprints.layer_weights": {"layer2": 0.0}},
    "refused": {"fingerprints.candidates": 20},
    "too_narrow": {"detector.draw": 3},
    "drawn_whole": {"detector.draw": 30},
    "of_no_layer": {"fingerprints.layer_weights": {"layer9": 1.0}},
}
MEASURED = ("unchanged", "few", "same", "one_layer")
Run = Callable[[], dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, list[str]]:
    """Runs the stage without Ray; and the variants that were computed, as they come."""
    made_project(tmp_path, monkeypatch, **{"ablation.variants": VARIANTS})
    made_activations()
    computed: list[str] = []

    def shard_map(build: Any, tasks: list[ShardTask[Any]], store: ShardStore, *, title: str) -> None:
        missing = [task for task in tasks if store.about(task.signature) is None]
        work = build() if missing else None
        for task in missing:
            computed.append(task.name)
            store.write(task.signature, work(task.payload))

    monkeypatch.setattr(stage, "shard_map", shard_map)

    def once() -> dict[str, Any]:
        stage.main()
        return {"metrics": read_json(paths.METRICS / "ablation.json"), "notes": read_json(paths.record("ablation"))["notes"]}

    return once, computed


def test_every_variant_is_measured_as_a_search_measures_a_trial(run: tuple[Run, list[str]]) -> None:
    """The params file's own objectives come from another road: the bench itself, as trial 0 of a search."""
    metrics = run[0]()["metrics"]
    bench = Bench(FeatureSet.open(paths.ACTIVATIONS), setting_of(load_params(), "ablation"))
    trial = bench.try_point({}, None)["objectives"]
    for measure in ("fitted", "unseen", "after_looks", "cost"):
        assert metrics[f"unchanged.{measure}"] == pytest.approx(trial[measure])
    assert metrics["unchanged.false_alarms"] == pytest.approx(bench.try_point({}, None)["figures"]["false_alarms"])
    assert metrics["few.cost"] < metrics["unchanged.cost"] and metrics["few.fitted"] != metrics["unchanged.fitted"]
    assert metrics["few.fitted_change"] == pytest.approx(metrics["few.fitted"] - metrics["unchanged.fitted"])
    assert metrics["few.fitted_change_low"] < metrics["few.fitted_change"] < metrics["few.fitted_change_high"]
    assert metrics["same.fitted_change"] == 0 and metrics["same.fitted_change_low"] is None
    assert metrics["one_layer.unseen_change"] == pytest.approx(metrics["one_layer.unseen"] - metrics["unchanged.unseen"])


def test_rows_give_every_figure_again(run: tuple[Run, list[str]]) -> None:
    metrics, rows = run[0]()["metrics"], pq.read_table(paths.ABLATION).to_pandas()
    assert set(rows["variant"]) == set(MEASURED)
    clean = rows[rows["attack"] == "clean"].groupby("variant")["flagged"].mean()
    assert all(metrics[f"{variant}.false_alarms"] == pytest.approx(clean[variant]) for variant in MEASURED)
    rows = rows[rows["attack"] != "clean"]
    sent = rows[rows["fit"] == "fitted"].groupby(["variant", "attack"])[["caught", "sent"]].sum()
    for variant, looked in (sent["caught"] / sent["sent"]).groupby("variant").mean().items():
        assert metrics[f"{variant}.after_looks"] == pytest.approx(looked)
    means = rows.groupby(["variant", "fit", "attack"])["flagged"].mean().groupby(["variant", "fit"]).mean()
    for (variant, fit), value in means.items():
        assert metrics[f"{variant}.{fit}"] == pytest.approx(value)
    # pgd is left out of the other fit, and is new to it, as is what was never fitted.
    assert set(rows[rows["fit"] == "fitted"]["attack"]) == {"fgsm", "pgd"}
    assert set(rows[rows["fit"] == "unseen"]["attack"]) == {"pgd", "targeted_iterative"}


def test_a_variant_that_cannot_be_made_is_a_note_and_the_others_stand(run: tuple[Run, list[str]]) -> None:
    found = run[0]()
    said = dict(note.removeprefix("Ablation: the variant ").split(" ", 1) for note in found["notes"])
    assert set(said) == set(VARIANTS) - set(MEASURED) == set(VARIANTS) - {key.split(".")[0] for key in found["metrics"]}
    assert said["refused"].startswith("could not be made: ") and "does not go with the params as they are: " in said["too_narrow"]
    assert "directions is 4, where at most draw, 3" in said["too_narrow"]
    assert "draw is 30 of a bank that may hold as few as 30" in said["drawn_whole"]
    assert "['layer9'] are not there, where some of ['layer1', 'layer2'] were expected" in said["of_no_layer"]


def test_only_what_changed_is_computed_again(run: tuple[Run, list[str]]) -> None:
    once, computed = run
    before = once()["metrics"]
    assert computed == [*MEASURED, "refused"]
    computed.clear()
    edit({"ablation.variants": {**VARIANTS, "few": {"detector.draw": 5}}, "tune.trials": 7, "tune.seed": 5})
    assert once()["metrics"]["same.fitted"] == before["same.fitted"] and computed == ["few"]


def test_where_nothing_can_be_measured_the_chain_goes_on_with_a_note(run: tuple[Run, list[str]]) -> None:
    edit({"ablation.held_out": "square"})
    found = run[0]()
    assert found["metrics"] == {} and "no attack is of family 'square'" in found["notes"][0] and run[1] == []
    edit({"ablation.held_out": "pgd", "calibration.alpha": 0.01})  # the halves of tune are too small for that
    found = run[0]()
    assert found["metrics"] == {} and "with fewer no image can ever be flagged" in found["notes"][-1]
    assert len(pq.read_table(paths.ABLATION)) == 0


def test_without_variants_nothing_is_read(run: tuple[Run, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    edit({"ablation.variants": {}})
    monkeypatch.setattr(stage, "setting_of", lambda *_: pytest.fail("looked at"))
    assert run[0]() == {"metrics": {}, "notes": []}


def test_the_order_of_attacks_changes_no_byte(run: tuple[Run, list[str]]) -> None:
    """Whether their shards are computed in the new order, or found as they were computed in the old one."""
    once, computed = run
    once()
    first, attacks = paths.ABLATION.read_bytes(), load_params().model_dump(mode="json")["attacks"]
    edit({"fingerprints.fit_attacks": ["fgsm", "pgd"]})
    Path("params.yaml").write_text(reordered(Path("params.yaml").read_text(), list(reversed(attacks))))
    computed.clear()
    once()
    assert not computed and paths.ABLATION.read_bytes() == first
    shutil.rmtree(paths.SHARDS / "ablation")
    once()
    assert computed and paths.ABLATION.read_bytes() == first


def reordered(text: str, attacks: list[str]) -> str:
    """The params file with its attacks in another order."""
    yaml, written = YAML(), io.StringIO()
    content = yaml.load(text)
    content["attacks"] = {name: content["attacks"][name] for name in attacks}
    yaml.dump(content, written)
    return written.getvalue()
