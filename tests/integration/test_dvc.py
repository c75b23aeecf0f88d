"""DVC as a user meets it: figures, differences and experiments."""

import json
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from integration_support import Chain, flip


@pytest.fixture(scope="module")
def chain(finished: Chain, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A copy of the finished chain, committed with its lock, that these tests may change."""
    chain = finished.clone(tmp_path_factory.mktemp("dvc"))
    chain.run("git", "add", "-A")
    chain.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "ran")
    return chain


def test_a_repeated_repro_does_nothing_and_logs_nothing(chain: Chain) -> None:
    database = chain.artifacts / "mlflow/mlflow.db"
    before, hashes = database.stat().st_mtime_ns, chain.hashes()
    start = time.monotonic()
    done = chain.run("dvc", "repro")
    assert "Running stage" not in done.stdout and "up to date" in done.stdout
    assert "nothing was run" in chain.repro().stdout
    assert database.stat().st_mtime_ns == before and chain.hashes() == hashes
    print(f"both took {time.monotonic() - start:.1f} s")


@pytest.mark.slow
def test_metrics_and_params_are_dvc_s_too_and_an_experiment_runs_only_what_it_changes(chain: Chain) -> None:
    shown = json.loads(chain.run("dvc", "metrics", "show", "--json").stdout)
    detection = shown[""]["data"]["artifacts/reports/metrics/detection.json"]["data"]
    assert detection == json.loads((chain.artifacts / "reports/metrics/detection.json").read_text())
    done = chain.run("dvc", "exp", "run", "-S", "evaluation.seeds=[5]")
    ran = [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]
    assert ran[-1] == "publish" and set(ran) == {"evaluate", "transfer", "promise", "hardening", "ablation", "whitebox", "publish"}, (
        done.stdout
    )
    changed = json.loads(chain.run("dvc", "params", "diff", "--json").stdout)["params.yaml"]
    assert list(changed) == ["evaluation.seeds"] or all(key.startswith("evaluation.seeds") for key in changed)
    difference = json.loads(chain.run("dvc", "metrics", "diff", "--json").stdout)
    assert any("auroc" in key for key in difference["artifacts/reports/metrics/detection.json"])


def test_what_is_no_longer_in_the_params_is_removed(chain: Chain) -> None:
    """Leftovers of an attack that is gone would still be part of what later stages depend on."""
    (chain.artifacts / "attacks" / "old").mkdir()
    (chain.artifacts / "attacks" / "old" / "manifest.json").write_text("{}")
    (chain.artifacts / "records" / "attack" / "old.json").write_text("{}")
    chain.repro()
    assert not (chain.artifacts / "attacks" / "old").exists() and not (chain.artifacts / "records/attack/old.json").exists()


def test_bad_params_stop_before_any_work(chain: Chain) -> None:
    before = chain.hashes()
    chain.change({"attacks.fgsm.epsilon": -1.0})
    done = chain.repro(expect=2)
    assert done.stderr.strip().count("\n") == 0 and "attacks.fgsm.epsilon" in done.stderr and "-1.0" in done.stderr
    assert chain.hashes() == before
    alone = chain.run("dvc", "repro", expect=None)
    assert alone.returncode != 0 and "attacks.fgsm.epsilon" in alone.stderr and "Traceback" not in alone.stderr
    # DVC itself takes a stage's outputs away before it runs the stage; put right, all is restored and nothing computed again.
    chain.change({"attacks.fgsm.epsilon": 0.2})
    assert "Running stage" not in chain.run("dvc", "repro").stdout
    assert chain.hashes() == before


def test_a_corrupted_input_of_the_workers_is_named_too(finished: Chain, tmp_path: Path) -> None:
    """What a worker finds wrong when it starts reaches the user as the same sentence."""
    chain = finished.clone(tmp_path / "copy")
    path = chain.artifacts / "classifier/model.safetensors"
    flip(path)
    shutil.rmtree(chain.artifacts / ".work/shards/attack-fgsm")
    done = chain.run("python", "-m", "stages", "attack", "fgsm", expect=2)
    assert "model.safetensors" in done.stderr and "SHA-256" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_another_published_detector_is_another_mlflow_run(finished: Chain, tmp_path: Path) -> None:
    chain = finished.clone(tmp_path / "copy")
    chain.change({"publish.detector": "anomaly"})
    done = chain.repro()
    assert [line for line in done.stdout.splitlines() if line.startswith("Running stage")] == ["Running stage 'publish':"]
    with sqlite3.connect(chain.artifacts / "mlflow/mlflow.db") as database:
        tags = database.execute("select value from tags where key = 'whorl.guard_detector' order by value").fetchall()
        digests = database.execute("select distinct value from tags where key = 'whorl.digest'").fetchall()
    assert tags == [("anomaly",), ("joint",)] and len(digests) == 1


def test_a_corrupted_artifact_is_named_with_the_command_that_rebuilds_it(finished: Chain, tmp_path: Path) -> None:
    chain = finished.clone(tmp_path / "copy")
    path = chain.artifacts / "bank/bank.safetensors"
    flip(path)
    done = chain.run("python", "-m", "stages", "train_detector", "anomaly", expect=2)
    assert (
        "bank.safetensors" in done.stderr
        and "SHA-256" in done.stderr
        and "dvc repro --force" in done.stderr
        and "Traceback" not in done.stderr
    )
