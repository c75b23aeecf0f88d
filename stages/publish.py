"""Hands over what the run made: the guard, the report, and one complete MLflow run with a child per stage."""

import hashlib
import json
import shutil

from pipeline.artifacts import paths
from pipeline.artifacts.checkout import LOCK, commit, dirty
from pipeline.artifacts.classifiers import CONFIG
from pipeline.artifacts.features import FeatureSet
from pipeline.artifacts.files import read_json, write_bytes
from pipeline.artifacts.guards import PUBLISHED, copies, write_guard
from pipeline.artifacts.images import ImageSet
from pipeline.artifacts.manifest import open_artifact
from pipeline.artifacts.records import plain_params, read_record
from pipeline.artifacts.reports import Stages, gather_report, label, timings, upstream_stages
from pipeline.artifacts.signature import code_digest, signature
from pipeline.errors import ArtifactError
from pipeline.evaluation.card import render_card
from pipeline.evaluation.figures import to_png
from pipeline.evaluation.report import render_report
from pipeline.evaluation.report_figures import run_figures
from pipeline.evaluation.report_inputs import ReportInputs
from pipeline.params.root import Params, load, read_yaml
from pipeline.tracking import DatasetRecord, RunRecord, StageRecord, curves, log_run, tracking_uri

SECTIONS = ("attacks", "calibration", "detectors", "evaluation", "publish")


def main() -> None:
    """Writes ``artifacts/guard``, the report and its figures, and logs the run."""
    params = load(*SECTIONS)
    inputs = gather_report(params, commit())
    write_bytes(paths.REPORT, render_report(inputs).encode())
    write_figures(inputs)
    put = copies({"classifier": paths.CLASSIFIER, "bank": paths.BANK, "detector": paths.detector(params.publish.detector)})
    card = render_card(inputs, open_artifact(paths.CLASSIFIER, "classifier").json(CONFIG), str(paths.GUARD))
    write_guard(
        paths.GUARD,
        [put],
        FeatureSet.open(paths.ACTIVATIONS),
        format=ImageSet.open(paths.DATA).format,
        draws=params.publish.draws,
        promise=inputs.promise,
        card=card,
        stage=PUBLISHED,
    )
    log_run(run_record(params, inputs), uri=tracking_uri(), experiment=params.publish.experiment)


def write_figures(inputs: ReportInputs) -> None:
    """The report's figures as files of their own."""
    shutil.rmtree(paths.FIGURES, ignore_errors=True)
    for name, figure in run_figures(inputs).items():
        write_bytes(paths.FIGURES / f"{name}.png", to_png(figure))


def upstream_digest(stages: Stages) -> str:
    """The digest of the entries of ``dvc.lock`` before ``publish``: what the run is made of."""
    if not LOCK.is_file():
        raise ArtifactError(f"{LOCK}: there is no such file, where the record of the stages before publish was expected; run `dvc repro`.")
    names, locked = [label(stage, item) for stage, item in stages], read_yaml(LOCK)["stages"]
    if missing := [name for name in names if name not in locked]:
        raise ArtifactError(f"{LOCK}: has no entries for {missing}, where one for each stage before publish was expected; run `dvc repro`.")
    entries = {name: locked[name] for name in names}
    return hashlib.sha256(json.dumps(entries, sort_keys=True, default=str).encode()).hexdigest()


def run_record(params: Params, inputs: ReportInputs) -> RunRecord:
    """The run as MLflow is to show it, from the records that the stages left, cached or not."""
    stages, images = upstream_stages(params), ImageSet.open(paths.DATA)
    metrics = {
        f"{name}.{key}": value
        for name in ("classifier", "attacks", "detection", "transfer", "promise", "hardening", "ablation", "game")
        for key, value in read_json(paths.METRICS / f"{name}.json").items()
    }
    history = curves(inputs.history or [], step="epoch")
    source = json.dumps(inputs.params["data"]["source"], sort_keys=True)
    data = [
        DatasetRecord(
            split,
            hashlib.sha256("".join(images.sha256(shard) for shard in images.shards(split)).encode()).hexdigest(),
            source,
            {"images": count},
            split,
        )
        for split, count in inputs.counts.items()
    ]
    seconds, upstream = timings(stages), upstream_digest(stages)
    return RunRecord(
        name=f"{inputs.classifier['network']} on {inputs.params['data']['source']['kind']}",
        identity=signature("publish", code=code_digest("publish"), params=plain_params(params), inputs={"upstream": upstream}),
        commit=inputs.commit,
        params=inputs.params,
        metrics=metrics,
        curves={f"training.{name}": curve for name, curve in history.items()},
        artifacts={
            "": [paths.REPORT],
            "figures": sorted(paths.FIGURES.iterdir()),
            "scores": [
                paths.SCORES,
                paths.CALIBRATION,
                paths.TRANSFER,
                paths.REDRAWS,
                paths.CORRUPTED,
                paths.HARDENING,
                paths.ABLATION,
                paths.GAME,
            ],
            "metrics": sorted(paths.METRICS.iterdir()),
            "guard": [paths.GUARD / "README.md", paths.GUARD / "manifest.json"],
        },
        datasets=data,
        tags={
            "whorl.digest": upstream,
            "whorl.dirty": str(dirty()).lower(),
            "whorl.guard_detector": inputs.guard_detector,
            "whorl.promise": inputs.promise or "holds",
        },
        stages=[stage_record(stage, item, seconds.get(label(stage, item)), history) for stage, item in stages],
    )


def stage_record(stage: str, item: str | None, seconds: float | None, history: dict[str, list[tuple[int, float]]]) -> StageRecord:
    """One stage's child run."""
    record = read_record(stage, item)
    return StageRecord(
        name=label(stage, item),
        params=record["params"],
        metrics=record["metrics"],
        curves=history if stage == "train_classifier" else {},
        artifacts={"": [paths.record(stage, item)]},
        seconds=seconds,
    )
