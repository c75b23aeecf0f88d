"""``whorl tune`` on the small chain: killed, gone on with, the same as undisturbed, and applied."""

import json
import os
import shutil
import signal
import subprocess
import time
from typing import Any

import pyarrow.parquet as pq
import pytest
from integration_support import SMALL, Chain

from pipeline.artifacts import paths

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
STUDY = paths.study("fingerprints")
DETECTOR = {**SMALL["detectors"]["joint"], "draw": 12, "committees": 40, "directions": 4, "pooling": 0.5}
CHANGES: dict[str, Any] = {
    "ablation.held_out": "pgd",
    "ablation.draws": 10,
    "ablation.variants": {"independent": {"detector.shrinkage": 1.0}},
    "detectors": {**SMALL["detectors"], "joint": DETECTOR},
    "fingerprints.k": 4,
    "tune.trials": 5,
    "tune.batch": 2,
    "tune.startup": 2,
    "tune.held_out": "pgd",
    "tune.draws": 10,
    "tune.space.draw": [8, 20],
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A chain as far as its activations, and a study with which nobody interfered."""
    chain = Chain.copy(tmp_path_factory.mktemp("tune"), {**SMALL, **CHANGES})
    chain.repro("ablation")
    said = chain.run("whorl", "tune", "fingerprints").stdout
    assert "Pareto front" in said and "whorl tune apply" in said
    return chain


def test_the_ablation_measures_every_variant_beside_the_detector_as_it_is(undisturbed: Chain) -> None:
    reports = undisturbed.artifacts / "reports"
    metrics, rows = json.loads((reports / "metrics/ablation.json").read_text()), pq.read_table(reports / "ablation.parquet").to_pandas()
    assert set(rows["variant"]) == {key.split(".")[0] for key in metrics} == {"unchanged", "independent"}
    assert set(rows[rows["fit"] == "unseen"]["attack"]) == {"pgd"} and rows["flagged"].between(0, 1).all()
    means = rows[rows["attack"] != "clean"].groupby(["variant", "fit", "attack"])["flagged"].mean().groupby(["variant", "fit"]).mean()
    assert all(metrics[f"{variant}.{fit}"] == pytest.approx(value) for (variant, fit), value in means.items())


def test_a_search_that_is_killed_goes_on_to_the_same_bytes(undisturbed: Chain, tmp_path_factory: pytest.TempPathFactory) -> None:
    chain = undisturbed.clone(tmp_path_factory.mktemp("killed"))
    files = [STUDY / name for name in ("trials", "trials.parquet", "pareto.png", "proposal.yaml")]
    before = chain.hashes(*files)
    shutil.rmtree(chain.folder / STUDY)
    command = ["whorl", "tune", "fingerprints"]
    said, finished = chain.folder / "said.txt", chain.folder / STUDY / "trials"
    with said.open("w") as file:
        driver = subprocess.Popen(command, cwd=chain.folder, env=chain.environment, start_new_session=True, stdout=file, stderr=file)
    while driver.poll() is None and len(list(finished.glob("*.json"))) < 2:
        time.sleep(0.1)
    assert driver.poll() is None, f"it ended before it could be killed:\n{said.read_text()}"
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    kept = len(list(finished.glob("*.json")))
    assert 2 <= kept < 5
    assert f"{kept} of 5 were there already" in chain.run(*command).stderr
    assert chain.hashes(*files) == before


def test_the_proposal_is_valid_params_and_the_detector_can_be_trained(undisturbed: Chain, tmp_path_factory: pytest.TempPathFactory) -> None:
    chain = undisturbed.clone(tmp_path_factory.mktemp("applied"))
    worked = [json.loads(path.read_text()) for path in sorted((chain.folder / STUDY / "trials").glob("*.json"))]
    number = next(trial["number"] for trial in worked if trial["number"] and trial["problem"] is None)
    said = chain.run("whorl", "tune", "apply", "--trial", str(number)).stdout
    assert "is now" in said and (chain.folder / "params.yaml.bak").is_file()
    chain.run("whorl", "check")
    chain.repro("train_detector@joint")
    assert "nothing was changed" in chain.run("whorl", "tune", "apply", "--trial", str(number)).stdout


def test_without_activations_it_says_what_to_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    chain = Chain.copy(tmp_path_factory.mktemp("empty"), {**SMALL, **CHANGES})
    done = chain.run("whorl", "tune", "fingerprints", expect=2)
    assert "make repro" in done.stderr and "Traceback" not in done.stderr
