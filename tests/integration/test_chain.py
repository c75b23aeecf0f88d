"""What a person gets at the end of a run, looked at in a small real one."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from integration_support import Chain
from PIL import Image
from scipy.stats import betabinom, rankdata

from pipeline import private
from pipeline.artifacts.images import ImageSet
from pipeline.guard import Guard
from pipeline.keys import rotate_draw_key
from pipeline.params.root import load_params


def _json(chain: Chain, name: str) -> Any:
    return json.loads((chain.artifacts / name).read_text())


@pytest.fixture(scope="module")
def scores(finished: Chain) -> Any:
    return pq.read_table(finished.artifacts / "reports/scores.parquet").to_pandas()


def test_scores_have_a_row_per_detector_attack_image_and_seed(finished: Chain, scores: Any) -> None:
    assert not scores.duplicated(["detector", "attack", "id", "seed"]).any()
    assert set(scores.attack) == {"clean", "fgsm", "pgd"} and set(scores.detector) == {"joint", "likelihood_ratio", "anomaly"}
    attacked = scores[scores.attack != "clean"]
    assert (attacked.clean_predicted == attacked.label).all()
    assert (attacked.success == (attacked.predicted != attacked.label)).all()
    assert ((scores.p_value > 0) & (scores.p_value <= 1)).all()
    test = set(ImageSet.open(finished.artifacts / "data").read_split("test").ids)
    clean = scores[scores.attack == "clean"].groupby(["detector", "seed"])
    assert len(clean) == 6 and all(set(rows.id) == test for _, rows in clean)


def test_clean_images_that_the_classifier_gets_wrong_are_counted_alike(finished: Chain, scores: Any) -> None:
    """Misclassified clean images are valid inputs: they stay in the scores, and every file says the same number of them."""
    detection, classifier = (_json(finished, f"reports/metrics/{name}.json") for name in ("detection", "classifier"))
    for (detector, _), rows in scores[scores.attack == "clean"].groupby(["detector", "seed"]):
        wrong = int((rows.predicted != rows.label).sum())
        assert (rows.predicted == rows.clean_predicted).all() and not rows.success.any()
        assert len(rows) == classifier["images"] == detection[f"{detector}.clean.images"]
        assert wrong == detection[f"{detector}.clean.images"] - detection[f"{detector}.clean.images_correct_only"]
        assert classifier["accuracy"] == pytest.approx(1 - wrong / len(rows), abs=1e-12)


def test_every_split_is_disjoint_and_calibrate_is_never_attacked(finished: Chain, scores: Any) -> None:
    images = ImageSet.open(finished.artifacts / "data")
    ids = {split: set(images.read_split(split).ids) for split in ("train", "fit", "tune", "calibrate", "test")}
    assert sum(map(len, ids.values())) == len(set.union(*ids.values())) == 1797
    assert set(scores.id) == ids["test"]
    for attack in ("fgsm", "pgd"):
        stored = {
            key
            for path in (finished.artifacts / "attacks" / attack).glob("*.rows.parquet")
            for key in pq.read_table(path)["id"].to_pylist()
        }
        assert stored == ids["fit"] | ids["tune"] | ids["test"]


def test_figures_follow_from_the_scores_alone(finished: Chain, scores: Any) -> None:
    """AUROC by ranks, detection and false alarms by counting: derived here again, from the table."""
    metrics = _json(finished, "reports/metrics/detection.json")
    for detector in ("joint", "likelihood_ratio", "anomaly"):
        for attack in ("fgsm", "pgd"):
            areas, caught, alarms = [], [], []
            for seed in (0, 1):
                rows = scores[(scores.detector == detector) & (scores.seed == seed)]
                clean, hits = rows[rows.attack == "clean"], rows[(rows.attack == attack) & rows.success]
                ranks = rankdata([*clean.score, *hits.score])[len(clean) :]
                areas.append((ranks.sum() - len(hits) * (len(hits) + 1) / 2) / (len(clean) * len(hits)))
                caught.append((hits.p_value <= 0.05).mean())
                alarms.append((clean.p_value <= 0.05).mean())
            name = f"{detector}.{attack}"
            assert metrics[f"{name}.auroc"] == pytest.approx(np.mean(areas), abs=1e-12)
            assert metrics[f"{name}.tpr_at_5"] == pytest.approx(np.mean(caught), abs=1e-12)
            assert metrics[f"{detector}.clean.fpr_at_5"] == pytest.approx(np.mean(alarms), abs=1e-12)
            assert metrics[f"{name}.auroc_low"] <= metrics[f"{name}.auroc"] <= metrics[f"{name}.auroc_high"]


def test_p_values_are_a_group_s_calibration_ranks(finished: Chain, scores: Any) -> None:
    counts = _json(finished, "reports/calibration.json")
    for (detector, group), rows in scores.groupby(["detector", "group"]):
        n = counts[detector][group]
        ranks = rows.p_value * (n + 1)
        assert np.allclose(ranks, np.rint(ranks)) and ranks.min() >= 1 and ranks.max() <= n + 1
    assert all(sum(groups.values()) == ImageSet.open(finished.artifacts / "data").count("calibrate") for groups in counts.values())


def test_the_detectors_detect(finished: Chain) -> None:
    """Far above chance on attacks that they were fitted on: a broken likelihood or a swapped sign would not be."""
    metrics = _json(finished, "reports/metrics/detection.json")
    for detector in ("joint", "likelihood_ratio"):
        assert metrics[f"{detector}.pgd.auroc"] > 0.75 and metrics[f"{detector}.fgsm.auroc"] > 0.75
        assert metrics[f"{detector}.clean.fpr_at_5"] < 0.15


def test_a_refit_on_all_attacks_is_the_detector_itself(finished: Chain) -> None:
    """So the other rows of the transfer table differ from the published figures by what was left out, and by nothing else."""
    detection, transfer, promise = (_json(finished, f"reports/metrics/{name}.json") for name in ("detection", "transfer", "promise"))
    whole = {key.removeprefix("all."): value for key, value in transfer.items() if key.startswith("all.")}
    assert whole == {key.split(".", 1)[1]: value for key, value in detection.items() if key.startswith("joint.")}
    assert {key.split(".")[0] for key in transfer} <= {"all", "without_fgsm", "without_pgd", "only_fgsm", "only_pgd"}
    assert promise["corrupted.none.fpr_at_5"] == detection["joint.clean.fpr_at_5"] and promise["redrawn.redraws"] == 3


def test_hardening_starts_from_the_detector_itself_and_measures_every_round(finished: Chain) -> None:
    detection, hardened = (_json(finished, f"reports/metrics/{name}.json") for name in ("detection", "hardening"))
    for attack in ("fgsm", "pgd"):
        for end in ("", "_low", "_high"):
            assert hardened[f"round0.{attack}.auroc{end}"] == detection[f"joint.{attack}.auroc{end}"]
    rows = pq.read_table(finished.artifacts / "reports/hardening.parquet").to_pandas()
    flat = {f"round{row.round}.{row.attack}.{row.measure}": row.value for row in rows.itertuples()}
    assert flat.keys() <= hardened.keys() and all(hardened[key] == value for key, value in flat.items())
    notes = _json(finished, "records/hardening.json")["notes"]
    assert set(rows["round"]) == {0, 1} or (set(rows["round"]) == {0} and any("Hardening: " in note for note in notes))
    assert all(0 < hardened[f"round{number}.clean.flagged"] < 0.2 for number in set(rows["round"]))


def test_stored_attacks_keep_their_bound_and_their_flags(finished: Chain) -> None:
    from safetensors.numpy import load_file

    images = ImageSet.open(finished.artifacts / "data")
    for attack in ("fgsm", "pgd"):
        folder = finished.artifacts / "attacks" / attack
        for shard in images.shards("test"):
            clean = images.read(shard).images.astype(int)
            stored = load_file(folder / f"{shard}.arrays.safetensors")["images"]
            rows = pq.read_table(folder / f"{shard}.rows.parquet").to_pandas()
            assert stored.dtype == np.uint8
            assert np.abs(stored.astype(int) - clean).max() <= math.floor(0.2 * 255)
            assert (stored[rows.skipped] == clean[rows.skipped]).all() and not rows.success[rows.skipped].any()


def test_the_guard_inspects_arrays_tensors_and_pictures_alike(finished: Chain) -> None:
    import torch

    guard = Guard.load(finished.artifacts / "guard")
    pixels = ImageSet.open(finished.artifacts / "data").read_split("test").images[:40]
    as_array = guard.inspect(pixels.transpose(0, 2, 3, 1))
    as_tensor = guard.inspect(torch.from_numpy(pixels).float() / 255)
    as_pictures = guard.inspect([Image.fromarray(image[0]) for image in pixels])
    for other in (as_tensor, as_pictures):
        assert [one.label for one in as_array] == [one.label for one in other]
        assert np.allclose([one.probability for one in as_array], [one.probability for one in other])
    assert all(0 < one.p_value <= 1 and one.flagged == (one.p_value <= guard.alpha) for one in as_array)


def test_the_guard_draws_afresh_at_every_call(finished: Chain) -> None:
    guard = Guard.load(finished.artifacts / "guard")
    image = ImageSet.open(finished.artifacts / "data").read_split("test").images[:1].transpose(0, 2, 3, 1)
    assert len({guard.inspect(image)[0].p_value for _ in range(30)}) > 1
    np.random.seed(0)
    first = [guard.inspect(image)[0].p_value for _ in range(30)]
    np.random.seed(0)
    assert [guard.inspect(image)[0].p_value for _ in range(30)] != first


def test_a_guard_says_which_draws_it_uses_and_can_be_told(finished: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WHORL_DRAW_KEY", raising=False)
    monkeypatch.setenv("WHORL_DRAW_KEY_FILE", str(tmp_path / "draw.key"))
    folder = finished.artifacts / "guard"
    images = ImageSet.open(finished.artifacts / "data").read_split("test").images[:40].transpose(0, 2, 3, 1)
    assert (
        json.loads((folder / "guard.json").read_text())["draws"] == "fresh"
        and "The draws are **fresh**" in (folder / "README.md").read_text()
    )
    Guard.load(folder).inspect(images)
    assert not (tmp_path / "draw.key").exists(), "fresh draws need no key"
    first = Guard.load(folder, draws="keyed").inspect(images)
    assert Guard.load(folder, draws="keyed").inspect(images) == first, "a guard loaded again has the same key"
    written = [path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()]
    assert not any((tmp_path / "draw.key").read_bytes().strip() in content for content in written)
    rotate_draw_key()
    assert Guard.load(folder, draws="keyed").inspect(images) != first


def test_an_altered_guard_is_refused(finished: Chain, tmp_path: Path) -> None:
    import shutil

    from pipeline.errors import ArtifactError

    folder = tmp_path / "guard"
    shutil.copytree(finished.artifacts / "guard", folder)
    content = bytearray((folder / "bank.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "bank.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"bank\.safetensors: its SHA-256 is .*dvc"):
        Guard.load(folder)


def test_detect_says_by_its_status_what_it_found(finished: Chain, tmp_path: Path) -> None:
    """0 where all are clean, 1 where one is flagged, 2 where a file is none; the good ones are inspected all the same."""
    from safetensors.numpy import load_file

    clean, attacked = tmp_path / "clean", tmp_path / "attacked"
    clean.mkdir(), attacked.mkdir()
    images = ImageSet.open(finished.artifacts / "data")
    for row, image in enumerate(images.read_split("train").images[:3]):
        Image.fromarray(image[0]).save(clean / f"{row}.png")
    shard = images.shards("test")[0]
    folder = finished.artifacts / "attacks" / "pgd"
    rows = pq.read_table(folder / f"{shard}.rows.parquet").to_pandas()
    for row in np.flatnonzero(rows.success)[:30]:
        Image.fromarray(load_file(folder / f"{shard}.arrays.safetensors")["images"][row][0]).save(attacked / f"{row}.png")
    done = finished.run("whorl", "detect", "--json", str(attacked), expect=1)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 30 and {"path", "label", "label_name", "probability", "p_value", "flagged", "verdict"} == set(lines[0])
    done = finished.run("whorl", "detect", str(clean), expect=None)
    assert done.returncode == (1 if "attack" in done.stdout.split("verdict")[1] else 0)
    (clean / "broken.png").write_bytes(b"\x89PNG nothing")
    done = finished.run("whorl", "detect", "--json", str(clean), expect=2)
    assert "broken.png" in done.stderr and len(done.stdout.splitlines()) == 3


def test_the_report_is_one_file_that_needs_no_network(finished: Chain) -> None:
    page = (finished.artifacts / "reports/report.html").read_text()
    assert not any(word in page for word in ("<script", "<link", 'src="http', "url(http", "@import"))
    for heading in ("fgsm", "pgd", "joint", "likelihood_ratio", "anomaly", "AUROC"):
        assert heading in page


def test_its_results_can_be_committed_and_quote_its_metrics(finished: Chain, tmp_path: Path) -> None:
    """Two calls write the same bytes; the guard's row of an attack is the metrics' own, and no place on this machine is told."""
    folder, found = tmp_path / "results" / "small", []
    for _ in range(2):
        assert "files were written" in finished.run("whorl", "results", str(folder)).stdout
        # Without the date: the two calls may be on either side of midnight.
        found.append({path.name: re.sub(rb"20\d\d-\d\d-\d\d", b"today", path.read_bytes()) for path in folder.iterdir()})
    written = found[1]
    assert written == found[0] and all(len(content) < 200_000 for name, content in written.items() if name.endswith(".png"))
    metrics, text = _json(finished, "reports/metrics/detection.json"), written["detection.md"].decode().replace("\N{NO-BREAK SPACE}", " ")
    guard = text.split("## joint (the guard uses this one)")[1].split("\n## ")[0]
    for attack in ("fgsm", "pgd"):
        area, low, high = (metrics[f"joint.{attack}.auroc{end}"] for end in ("", "_low", "_high"))
        assert f"| {attack} | {metrics[f'joint.{attack}.images']:.0f} | {area:.3f} ({low:.3f} to {high:.3f}) |" in guard
        found = next(line for line in guard.splitlines() if line.startswith(f"| {attack} |")).split(" | ")[5]
        assert float(found.split(" %")[0]) == pytest.approx(100 * metrics[f"joint.{attack}.tpr_at_5"], abs=0.051)
    pages = [content.decode() for name, content in written.items() if name.endswith((".md", ".csv"))]
    assert not any(str(place) in page for page in pages for place in (finished.folder, tmp_path, Path.home()))
    done = finished.run("whorl", "results", "artifacts/results", expect=2)
    assert "lies inside artifacts" in done.stderr and "Traceback" not in done.stderr


def test_false_alarms_are_no_more_than_conformal_calibration_allows(finished: Chain, scores: Any) -> None:
    """With n calibration images the number flagged among m fresh ones is beta-binomial, BB(m, k, n + 1 - k), k = floor(alpha (n + 1))."""
    counts = _json(finished, "reports/calibration.json")
    cells = list(scores[scores.attack == "clean"].groupby(["detector", "seed", "group"]))
    for (detector, _, group), rows in cells:
        n = counts[detector][group]
        for alpha in (0.01, 0.05):
            flagged, k = int((rows.p_value <= alpha).sum()), math.floor(alpha * (n + 1))
            tail = betabinom.sf(flagged - 1, len(rows), k, n + 1 - k) if k else float(flagged == 0)
            assert tail * 2 * len(cells) > 0.001, f"{detector}: {flagged} of {len(rows)} flagged at {alpha}, n = {n}"


def test_mlflow_holds_one_complete_run_with_a_child_per_stage(finished: Chain) -> None:
    code = """
import json
from mlflow import MlflowClient
client = MlflowClient(tracking_uri="sqlite:///artifacts/mlflow/mlflow.db")
runs = client.search_runs([client.get_experiment_by_name("whorl").experiment_id])
parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
def files(run, path=None):
    found = []
    for entry in client.list_artifacts(run.info.run_id, path):
        found += files(run, entry.path) if entry.is_dir else [entry.path]
    return found
print(json.dumps({
    "status": [run.info.status for run in runs],
    "parents": len(parents),
    "children": sorted(run.info.run_name for run in runs if "mlflow.parentRunId" in run.data.tags),
    "params": parents[0].data.params, "metrics": parents[0].data.metrics, "tags": parents[0].data.tags,
    "files": files(parents[0]), "inputs": [entry.dataset.name for entry in parents[0].inputs.dataset_inputs],
}))
"""
    said = json.loads(finished.run(sys.executable, "-c", code).stdout.splitlines()[-1])
    assert said["parents"] == 1 and set(said["status"]) == {"FINISHED"}
    stages = ["activations", "attack@fgsm", "attack@pgd", "evaluate", "prepare", "promise", "sample_fingerprints", "select_fingerprints"]
    stages += ["ablation", "hardening", "transfer", "whitebox"]
    assert said["children"] == sorted(
        [*stages, "train_classifier", "train_detector@anomaly", "train_detector@joint", "train_detector@likelihood_ratio"]
    )
    assert said["params"]["attacks.pgd.steps"] == "5" and said["params"]["splits.split_seed"] == "0"
    metrics = _json(finished, "reports/metrics/detection.json")
    assert said["metrics"]["detection.likelihood_ratio.pgd.auroc"] == pytest.approx(metrics["likelihood_ratio.pgd.auroc"])
    assert "report.html" in said["files"] and set(said["inputs"]) == {"train", "fit", "tune", "calibrate", "test"}
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=finished.folder, capture_output=True, text=True, check=True).stdout.strip()
    assert said["tags"]["mlflow.source.git.commit"].startswith(head) and len(said["tags"]["whorl.digest"]) == 64


def test_a_private_guard_is_made_as_the_stages_make_theirs(finished: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the public seeds in the place of the key's it has the same bank, committees and calibration, byte for byte."""
    monkeypatch.chdir(finished.folder)
    params = load_params()
    seeds = {
        "bank/fingerprints": params.fingerprints.seed,
        "bank/committees": params.detectors["joint"].seed,  # type: ignore[union-attr]
        "bank/calibration": params.calibration.seed,
    }
    monkeypatch.setattr(private, "derive_seed", lambda key, purpose: seeds[purpose])
    private.build_guard(tmp_path / "bank.key", tmp_path / "guard")
    mine, published = (sorted(folder.iterdir()) for folder in (tmp_path / "guard", finished.artifacts / "guard"))
    assert [path.name for path in mine] == [path.name for path in published]
    differ = {path.name for path, other in zip(mine, published, strict=True) if path.read_bytes() != other.read_bytes()}
    assert differ == {"README.md", "manifest.json"}
