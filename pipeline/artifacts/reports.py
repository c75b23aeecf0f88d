"""Gathers what a report prints from the artifacts and the records of a run."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifacts import paths
from pipeline.artifacts.adversarial import AdversarialSet
from pipeline.artifacts.banks import read_bank
from pipeline.artifacts.classifiers import CONFIG, void_promise
from pipeline.artifacts.files import read_json, read_table
from pipeline.artifacts.images import ImageSet
from pipeline.artifacts.manifest import open_artifact
from pipeline.artifacts.records import read_record
from pipeline.artifacts.signature import library_versions
from pipeline.evaluation.ablation_study import AblationStudy
from pipeline.evaluation.game_headline import Size
from pipeline.evaluation.game_verdict import bound_text
from pipeline.evaluation.hardening_study import HardeningStudy
from pipeline.evaluation.redraws import seed_rates
from pipeline.evaluation.report_inputs import GalleryItem, GameInputs, ReportInputs
from pipeline.evaluation.studies import PromiseStudy, TransferStudy
from pipeline.evaluation.transfer import fit_sets
from pipeline.params.root import Params

Stages = list[tuple[str, str | None]]


def upstream_stages(params: Params) -> Stages:
    """Every stage before ``publish`` with its item, in the order of the chain."""
    return [
        ("prepare", None),
        ("train_classifier", None),
        *(("attack", name) for name in params.attacks),
        ("activations", None),
        ("sample_fingerprints", None),
        ("select_fingerprints", None),
        *(("train_detector", name) for name in params.detectors),
        ("evaluate", None),
        ("transfer", None),
        ("promise", None),
        ("hardening", None),
        ("ablation", None),
        ("whitebox", None),
    ]


def run_params(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The params that the run was made with, as its stages recorded them."""
    whole: dict[str, Any] = {}
    for record in records:
        for section, value in record["params"].items():
            whole[section] = {**whole[section], **value} if section in whole else value
    return whole


def timings(stages: Stages) -> dict[str, float]:
    """Seconds that stages took when they last ran here; those never run here (restored from a cache) are absent."""
    known = ((stage, item, paths.timing(stage, item)) for stage, item in stages)
    return {label(stage, item): read_json(path)["seconds"] for stage, item, path in known if path.is_file()}


def label(stage: str, item: str | None) -> str:
    """A stage as DVC names it."""
    return f"{stage}@{item}" if item else stage


def gather_report(params: Params, commit: str) -> ReportInputs:
    """Everything that the report prints."""
    images, bank, config = ImageSet.open(paths.DATA), read_bank(paths.BANK), open_artifact(paths.CLASSIFIER, "classifier").json(CONFIG)
    stages = upstream_stages(params)
    records = [read_record(stage, item) for stage, item in stages]
    names, scores = images.class_names, read_table(paths.SCORES)
    known = {str(label): name for label, name in enumerate(names)}
    own = {section: value for section, value in params.model_dump(mode="json", include={"publish"}, warnings=False).items()}
    return ReportInputs(
        params={**run_params(records), **own},
        versions=library_versions(),
        commit=commit,
        class_names=names,
        classifier=_classifier(config),
        promise=void_promise(config),
        metrics=read_json(paths.METRICS / "detection.json"),
        attacks=[_attack(name, params) for name in params.attacks],
        scores=scores,
        history=open_artifact(paths.CLASSIFIER, "classifier").json("history.json") or None,
        kept={known.get(group, group): layers for group, layers in bank.kept().items()},
        pooled={names[label]: reason for label, reason in bank.pooled_reasons.items()},
        calibration=read_json(paths.CALIBRATION),
        quarantine=images.artifact.json("quarantine.json"),
        counts=images.artifact.about["counts"],
        gallery=list(gallery(params, images, scores)),
        alpha=params.calibration.alpha,
        guard_detector=params.publish.detector,
        timings=timings(stages),
        notes=[note for record in records for note in record["notes"]],
        transfer=_transfer(run_params(records)),
        hardened=_hardened(run_params(records)),
        ablated=_ablated(run_params(records)),
        redrawn=_redrawn(run_params(records)),
        game=_game(run_params(records), int(bank.sizes.max())),
    )


def _transfer(known: dict[str, Any]) -> TransferStudy:
    families = {name: str(spec["family"]) for name, spec in known["attacks"].items()}
    fits = fit_sets(known["fingerprints"]["fit_attacks"], families)
    return TransferStudy(known["transfer"]["detector"], fits, families, read_json(paths.METRICS / "transfer.json"))


def _hardened(known: dict[str, Any]) -> HardeningStudy:
    own = known["hardening"]
    return HardeningStudy(
        own["detector"], own["looks"], own["reselect"], list(known["attacks"]), read_json(paths.METRICS / "hardening.json")
    )


def _ablated(known: dict[str, Any]) -> AblationStudy:
    own = known["ablation"]
    return AblationStudy(own["detector"], own["variants"], own["held_out"], own["looks"], read_json(paths.METRICS / "ablation.json"))


def _redrawn(known: dict[str, Any]) -> PromiseStudy:
    study, redraws = known["promise"], read_table(paths.REDRAWS)
    own = known["detectors"][study["detector"]].get("committees")
    return PromiseStudy(
        study["detector"],
        None if own is None else min(own, study["committees"]),
        study["corruptions"],
        {alpha: seed_rates(redraws, alpha) for alpha in known["evaluation"]["alphas"]},
        read_json(paths.METRICS / "promise.json"),
    )


def _game(params: dict[str, Any], largest: int) -> GameInputs:
    game = params["game"]
    own = params["detectors"][game["detector"]]
    return GameInputs(
        cells=read_table(paths.GAME).to_pylist(),
        headline=read_json(paths.METRICS / "game.json"),
        detector=game["detector"],
        own=Size(own["draw"], own["committees"], largest),
        looks=game["headline"],
        bound=bound_text(game["descend"]["norm"], game["descend"]["epsilon"]),
        tries=game["tries"],
        queries=game["queries"],
    )


def _classifier(config: dict[str, Any]) -> dict[str, Any]:
    accuracy = read_json(paths.METRICS / "classifier.json")
    return {
        "network": config["architecture"] or config["factory"],
        "origin": "trained here" if config["origin"] == "train" else "the user's own",
        "test_images": accuracy["images"],
        **{key: accuracy[key] for key in ("accuracy", "accuracy_low", "accuracy_high")},
    }


def _attack(name: str, params: Params) -> dict[str, Any]:
    facts, metrics = AdversarialSet.open(paths.attack(name)).facts("test"), read_json(paths.METRICS / "attacks.json")
    return {
        "attack": name,
        "family": params.attacks[name].family,
        "images": facts.get("images", 0),
        "skipped": facts.get("images", 0) - facts.get("attacked", 0),
        "successes": facts.get("succeeded", 0),
        "mean_linf": metrics[f"{name}.mean_linf"],
        "mean_l2": metrics[f"{name}.mean_l2"],
        "target_reached": facts["target_reached"] if facts.get("aimed") else None,
    }


def gallery(params: Params, images: ImageSet, scores: pa.Table) -> Iterator[GalleryItem]:
    """The first successes of each attack on ``test``, by image id: chosen by nobody, the missed ones among them."""
    seed, alpha = params.evaluation.seeds[0], params.calibration.alpha
    mine = scores.filter(pc.and_(pc.equal(scores["detector"], params.publish.detector), pc.equal(scores["seed"], seed)))
    for name in params.attacks:
        hits = mine.filter(pc.and_(pc.equal(mine["attack"], name), mine["success"])).sort_by("id").slice(0, params.publish.gallery)
        stored = _stored(name, images, set(hits["id"].to_pylist()))
        for row in hits.to_pylist():
            clean, attacked = stored[row["id"]]
            classes = {key: row[key] for key in ("label", "clean_predicted", "predicted")}
            yield GalleryItem(clean, attacked, name, **classes, p_value=row["p_value"], flagged=row["p_value"] <= alpha)


def _stored(name: str, images: ImageSet, wanted: set[str]) -> dict[str, tuple[Any, Any]]:
    """Image id to the clean and the attacked image, as bytes."""
    adversarial, found = AdversarialSet.open(paths.attack(name)), dict[str, tuple[Any, Any]]()
    for shard in adversarial.shards("test"):
        ids = adversarial.rows(shard)["id"].to_pylist()
        if wanted.isdisjoint(ids):
            continue
        clean, attacked = images.read(shard).images, adversarial.images(shard)
        attacked = attacked if attacked.dtype == np.uint8 else np.rint(attacked * 255).astype(np.uint8)
        found |= {key: (clean[row], attacked[row]) for row, key in enumerate(ids) if key in wanted}
    return found
