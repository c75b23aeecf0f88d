"""Does a second worker pay, and does the driver's memory stay flat however many images are attacked?

The product's own attack stage, as a command, on images made here: its shards on one and on two Ray workers of one CPU each, taking
turns; and the driver's peak resident memory on few and on many images. ``python benchmarks/scale.py --help`` has the options.
Linux alone (it reads ``/proc``).
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import Entry, Pair, add_output_options, conditions, keep, median_spread, publish, row
from ruamel.yaml import YAML

from pipeline.artifacts import paths
from pipeline.artifacts.classifiers import classifier_config, seal_classifier, write_classifier
from pipeline.artifacts.files import read_json
from pipeline.artifacts.images import write_images
from pipeline.classifiers.model import Classifier, freeze, to_float
from pipeline.classifiers.zoo import build_untrained
from pipeline.data.decode import encode_png
from pipeline.data.identity import image_id
from pipeline.data.prepare import Prepared, PreparedImage
from pipeline.params.classifier import TrainedClassifier
from pipeline.params.root import load_params

QUESTION = "Does generation scale with workers, and the driver's memory not with images?"
PROJECT = Path(__file__).resolve().parents[1]
NAME = "scale"
CLASSES = tuple(map(str, range(10)))
PGD = {
    "family": "pgd",
    "norm": "linf",
    "epsilon": "8/255",
    "step_size": "2/255",
    "steps": 10,
    "random_start": True,
    "restarts": 1,
    "targeted": False,
    "stop_on_success": False,
}
FGSM = {"family": "fgsm", "norm": "linf", "epsilon": "8/255", "targeted": False}
DRIVER = f"""
from pathlib import Path
from pipeline.distributed.environment import prepare_environment
prepare_environment()
import ray
from stages.attack import main
Path("/proc/self/clear_refs").write_text("5")
main({NAME!r})
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) / 1024)
"""
"""The stage's driver, and then the most that it had in memory, in MiB: since its imports, whose own peak could hide what follows."""


@dataclass(frozen=True)
class Run:
    """One run of the stage.

    Attributes:
        workers: that made the shards.
        ends: of each shard, in order: when it was done, and its images.
        seconds: of the whole command.
        peak: the driver's peak resident memory since its imports, in MiB.
    """

    workers: int
    ends: list[tuple[float, int]]
    seconds: float
    peak: float

    @property
    def rate(self) -> float:
        """Images a second, from the moment when as many shards were done as there are workers (and models loaded) to the last."""
        return sum(count for _, count in self.ends[self.workers :]) / (self.ends[-1][0] - self.ends[self.workers - 1][0])

    @property
    def whole(self) -> float:
        """Images a second of the whole command, with all that it starts."""
        return sum(count for _, count in self.ends) / self.seconds


def main() -> None:
    """Runs both parts and publishes their table."""
    chosen = _options()
    entries: list[Entry] = []
    if "workers" in chosen.only:
        entries += workers(chosen)
    if "memory" in chosen.only:
        keep("scale", _caption(chosen), entries, chosen)
        entries += memory(chosen)
    publish("scale", _caption(chosen), entries, chosen)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_output_options(parser)
    parser.add_argument("--only", nargs="+", choices=("workers", "memory"), default=["workers", "memory"], help="the parts to run")
    parser.add_argument("--images", type=int, default=4096, help="images that one and two workers attack")
    parser.add_argument("--few", type=int, default=5_000, help="images of the smaller run of the memory part")
    parser.add_argument("--many", type=int, default=50_000, help="images of the larger one")
    parser.add_argument("--rounds", type=int, default=6, help="runs on one and on two workers each")
    parser.add_argument("--memory-rounds", type=int, default=2, help="runs on few and on many images each")
    return parser.parse_args()


def _caption(chosen: argparse.Namespace) -> str:
    return f"""{QUESTION} `python -m stages attack` on random 32x32 RGB images, in shards; {os.cpu_count()} CPUs, a thread a worker.
{conditions()}.

Workers: PGD-10 L∞ 8/255 on an untrained ResNet-20, {chosen.images} images in shards of 128; ours is two workers, the peer one.
Memory: FGSM on the same network at 8x8, shards of 500; ours is the driver's peak with {chosen.many} images, the peer that with
{chosen.few}. Ratios are medians over rounds of the paired ratio, with the 95 % interval of that median by order statistics (below 6
rounds its extremes)."""


def workers(chosen: argparse.Namespace) -> list[Entry]:
    """Two workers against one, in turns."""
    with TemporaryDirectory() as folder:
        project = make_project(Path(folder), PGD, side=32, count=chosen.images, shard_size=128)
        runs = _alternate({1: (project, 1), 2: (project, 2)}, chosen.rounds, chosen.images)
    case, two, one = "two workers, one worker", runs[2], runs[1]
    return [
        _entry(f"generation: {case}", "images/s", [run.rate for run in two], [run.rate for run in one], "wanted: 1.7"),
        _entry(f"the whole command: {case}", "images/s", [run.whole for run in two], [run.whole for run in one], "with Ray's start"),
    ]


def memory(chosen: argparse.Namespace) -> list[Entry]:
    """The driver on many images against few, in turns."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "few").mkdir()
        (Path(folder) / "many").mkdir()
        few = make_project(Path(folder) / "few", FGSM, side=8, count=chosen.few, shard_size=500)
        many = make_project(Path(folder) / "many", FGSM, side=8, count=chosen.many, shard_size=500)
        runs = _alternate({chosen.few: (few, 2), chosen.many: (many, 2)}, chosen.memory_rounds, None)
    case = f"driver's peak memory: {chosen.many} images, {chosen.few} images"
    return [_entry(case, "MiB", [run.peak for run in runs[chosen.many]], [run.peak for run in runs[chosen.few]], "flat: 1")]


def _entry(case: str, unit: str, ours: list[float], peer: list[float], note: str) -> Entry:
    values: Pair = (float(np.median(ours)), float(np.median(peer)))
    return Entry(row(QUESTION, case, values, unit, median_spread(np.array(ours) / np.array(peer))), note)


def _alternate(contestants: dict[int, tuple[Path, int]], rounds: int, images: int | None) -> dict[int, list[Run]]:
    """Every contestant once a round; every second round runs backwards. Nothing is kept from run to run."""
    runs: dict[int, list[Run]] = {key: [] for key in contestants}
    for number in range(rounds):
        for key in list(contestants)[:: 1 if number % 2 == 0 else -1]:
            project, count = contestants[key]
            runs[key].append(run_stage(project, count, images or key))
            print(f"round {number + 1} of {rounds}, {key}: {runs[key][-1].seconds:.1f} s, {runs[key][-1].peak:.0f} MiB", file=sys.stderr)
    return runs


def make_project(folder: Path, attack: dict[str, Any], *, side: int, count: int, shard_size: int) -> Path:
    """A project whose images and classifier are made here, and whose code is ours.

    Args:
        folder: empty.
        attack: the params of the one attack.
        side: pixels of what the network sees; a smaller one costs less.
        count: images, all of ``test``, each labelled as the classifier sees it, so that all are attacked.
        shard_size: images a shard, on average.
    """
    for name in ("pipeline", "stages", "dvc.yaml"):
        (folder / name).symlink_to(PROJECT / name)
    yaml, profiles = YAML(), folder / "infra/profiles"
    profiles.mkdir(parents=True)
    for workers in (1, 2):
        settings = {"workers": workers, "cpus_per_worker": 1, "gpus_per_worker": 0, "training_cpus": None, "max_restarts": 3}
        yaml.dump(settings, profiles / f"{workers}.yaml")
    content = yaml.load((PROJECT / "presets/cifar10.yaml").read_text())
    content["attacks"], content["fingerprints"]["fit_attacks"] = {NAME: attack}, [NAME]
    content["classifier"]["input_size"] = [side, side]
    yaml.dump(content, folder / "params.yaml")
    params = load_params(folder / "params.yaml")
    assert isinstance(params.classifier, TrainedClassifier)
    classifier = freeze(build_untrained(params.classifier, len(CLASSES), 3))
    write_classifier(folder / paths.CLASSIFIER, classifier.state_dict(), classifier_config(params.classifier, CLASSES, 3))
    seal_classifier(folder / paths.CLASSIFIER)
    write_images(folder / paths.DATA, _images(classifier, count), params.data.image, shard_size)
    return folder


def _images(classifier: Classifier, count: int) -> Prepared:
    """Random pictures, coarse and with noise on top, as photographs are."""
    random, images = np.random.default_rng(0), list[PreparedImage]()
    for first in range(0, count, 1000):
        some = min(1000, count - first)
        coarse = random.integers(32, 224, (some, 3, 8, 8)).repeat(4, 2).repeat(4, 3)
        pixels = (coarse + random.integers(-16, 17, coarse.shape)).astype(np.uint8)
        with torch.inference_mode():
            labels = classifier(to_float(pixels)).argmax(1).tolist()
        for number, (picture, label) in enumerate(zip(pixels, labels, strict=True), first):
            key = image_id(picture)
            images.append(PreparedImage(key, label, "test", "test", str(number), encode_png(picture), "png"))
    return Prepared(sorted(images, key=lambda image: image.id), [], [], CLASSES)


def run_stage(project: Path, workers: int, images: int) -> Run:
    """Runs the attack from nothing."""
    shards = project / paths.SHARDS / f"attack-{NAME}"
    shutil.rmtree(shards, ignore_errors=True)
    own = {"PYTHONPATH": str(project), "WHORL_PROFILE": str(workers), "OMP_NUM_THREADS": "1"}
    environment = {**{key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}, **own}
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", DRIVER], cwd=project, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    whole = time.perf_counter() - began
    ends = sorted((path.stat().st_mtime, int(read_json(path)["about"]["images"])) for path in shards.glob("*/record.json"))
    assert sum(count for _, count in ends) == images
    return Run(workers, ends, whole, float(done.stdout.split()[-1]))


if __name__ == "__main__":
    main()
