"""Fits a detector and calibrates it on the clean images of ``calibrate``, which nothing else reads."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.artifacts import paths
from pipeline.artifacts.banks import read_bank
from pipeline.artifacts.detectors import CalibratedDetector, write_detector
from pipeline.artifacts.features import CLEAN, FeatureSet
from pipeline.artifacts.files import read_arrays
from pipeline.artifacts.manifest import open_artifact
from pipeline.artifacts.records import stage_run
from pipeline.artifacts.signature import code_digest, signature
from pipeline.artifacts.store import ARRAYS, ShardOutput, ShardStore
from pipeline.detectors.base import Detector
from pipeline.detectors.building import calibrate, factor_group, moments_needed, pooled_moments
from pipeline.detectors.committee import CommitteeDetector
from pipeline.detectors.fingerprint import FingerprintDetector
from pipeline.distributed.shard_map import ShardTask, shard_map
from pipeline.fingerprints.bank import Bank
from pipeline.fingerprints.committees import Committees, Factored
from pipeline.fingerprints.features import stored_as
from pipeline.fingerprints.joint import PooledMoments
from pipeline.params.detectors import CommitteeDetectorParams
from pipeline.params.root import load
from pipeline.random import ImageRandom

SECTIONS = ("detectors.{item}", "calibration")


def main(name: str) -> None:
    """Writes ``artifacts/detectors/NAME``."""
    params = load(*(section.format(item=name) for section in SECTIONS))
    given, alpha = params.detectors[name], params.calibration.alpha
    with stage_run("train_detector", params, name) as run:
        features, bank = FeatureSet.open(paths.ACTIVATIONS), read_bank(paths.BANK)
        detector: Detector
        if isinstance(given, CommitteeDetectorParams):
            detector = CommitteeDetector(bank, fit_committees(name, bank, given, features))
        else:
            detector = FingerprintDetector(bank, given.statistic, given.draw)
        clean = features.read_split(CLEAN, "calibrate")
        draws = ImageRandom(params.calibration.seed, f"calibrate/{name}", clean.ids)
        calibration = calibrate(detector, clean, features.predicted(CLEAN, "fit"), len(features.class_names), alpha, draws)
        write_detector(paths.detector(name), name, CalibratedDetector(detector, calibration, given, alpha))
        for group, count in calibration.counts().items():
            if alpha * (count + 1) < 1:
                run.note(f"{name}: calibration group {group} has {count} images, too few to flag anything at {alpha:g}.")
        run.log({f"calibration_images_{group}": count for group, count in calibration.counts().items()})


def fit_committees(name: str, bank: Bank, params: CommitteeDetectorParams, features: FeatureSet) -> Committees:
    """Gathers the moments of every source, a task each, then draws and factors every group's committees."""
    artifact, code = open_artifact(paths.BANK, "bank"), code_digest("train_detector")
    attacks = list(artifact.about["attacks"])
    moments, groups = ShardStore(paths.SHARDS / "moments"), ShardStore(paths.SHARDS / f"committees-{name}")
    sources = [
        ShardTask(
            source,
            signature("moments", code=code, params={"source": source}, inputs=features.inputs([stored_as(source)], ["fit"])),
            source,
            features.count(stored_as(source), "fit"),
        )
        for source in moments_needed(params, attacks)
    ]
    with moments.locked(), groups.locked():
        shard_map(partial(shard_moments, Path.cwd()), sources, moments, title=f"detector {name}: images")
        known = {task.name: moments.read(task.name, task.signature)[0] / ARRAYS for task in sources}
        inputs = {**{task.name: task.signature for task in sources}, **{file: artifact.sha256(file) for file in artifact.files}}
        plain = params.model_dump(mode="json")
        tasks = [
            ShardTask(group, signature("committees", code=code, params={**plain, "group": group}, inputs=inputs), group, params.committees)
            for group in bank.names
        ]
        build = partial(shard_committees, Path.cwd(), {source: path.resolve() for source, path in known.items()}, params, attacks)
        shard_map(build, tasks, groups, title=f"detector {name}: committees")
        factored = [read_arrays(groups.read(task.name, task.signature)[0] / ARRAYS) for task in tasks]
        moments.keep(task.signature for task in sources)
        groups.keep(task.signature for task in tasks)
    return Committees.join([(arrays.pop("members"), Factored(**arrays)) for arrays in factored], bank.starts, attacks)


def shard_moments(root: Path) -> Callable[[str], ShardOutput]:
    """The function that gathers the moments of one source on ``fit``."""
    features = FeatureSet.open(root / paths.ACTIVATIONS)

    def compute(source: str) -> ShardOutput:
        stream = partial(features.stream, split="fit")
        return ShardOutput(pooled_moments(stream, source, len(features.class_names), features.layout.size).to_arrays())

    return compute


def shard_committees(
    root: Path, known: dict[str, Path], params: CommitteeDetectorParams, attacks: list[str]
) -> Callable[[str], ShardOutput]:
    """The function that draws and factors the committees of one group."""
    bank = read_bank(root / paths.BANK)
    moments = {source: PooledMoments.from_arrays(read_arrays(path)) for source, path in known.items()}

    def compute(group: str) -> ShardOutput:
        members, factored = factor_group(bank, group, params, moments, attacks)
        return ShardOutput({"members": members, **vars(factored)})

    return compute
