"""Makes the adversarial data set of one attack, a shard a task."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.artifacts import paths
from pipeline.artifacts.adversarial import AdversarialSet, adversarial_output, write_adversarial
from pipeline.artifacts.card import origin_of, render_card
from pipeline.artifacts.classifiers import read_classifier
from pipeline.artifacts.images import ImageSet
from pipeline.artifacts.manifest import open_artifact
from pipeline.artifacts.records import stage_run
from pipeline.artifacts.signature import code_digest, signature
from pipeline.artifacts.store import ShardOutput, ShardStore
from pipeline.attacks.base import AttackOptions
from pipeline.attacks.generate import attack_images
from pipeline.attacks.registry import parse_options
from pipeline.classifiers.folding import for_steps
from pipeline.classifiers.model import freeze
from pipeline.distributed.profile import profile_device, profile_rounding
from pipeline.distributed.shard_map import ShardTask, shard_map
from pipeline.params.attacks import GenerationParams
from pipeline.params.root import load

SECTIONS = ("attacks.{item}", "generation")
SPLITS = ("fit", "tune", "test")
"""``train`` is the classifier's, and ``calibrate`` is never attacked."""


def main(name: str) -> None:
    """Writes ``artifacts/attacks/NAME``."""
    params = load(*(section.format(item=name) for section in SECTIONS))
    options = parse_options(name, params.attacks[name])
    with stage_run("attack", params, name) as run:
        images, store = ImageSet.open(paths.DATA), ShardStore(paths.SHARDS / f"attack-{name}")
        tasks = plan(name, options, params.generation, images)
        build = partial(shard_attack, Path.cwd(), profile_device(), name, options, params.generation)
        with store.locked():
            shard_map(build, tasks, store, title=f"attack {name}: images")
            card = partial(render_card, origin_of(name, options, params.generation, images, open_artifact(paths.CLASSIFIER, "classifier")))
            run.log(write_adversarial(paths.attack(name), name, {task.name: task.signature for task in tasks}, store, card))
        for warning in AdversarialSet.open(paths.attack(name)).warnings:
            run.note(warning)


def plan(name: str, options: AttackOptions, generation: GenerationParams, images: ImageSet) -> list[ShardTask[str]]:
    """A task a shard of the attacked splits."""
    code, classifier = code_digest("attack", family=options.family), open_artifact(paths.CLASSIFIER, "classifier")
    weights = {file: classifier.sha256(file) for file in classifier.files}
    known = {
        **profile_rounding(),
        "name": name,
        "options": options.model_dump(mode="json"),
        "generation": generation.model_dump(mode="json"),
    }
    shards = [shard for split in SPLITS for shard in images.shards(split)]
    return [
        ShardTask(
            shard,
            signature("attack", code=code, params=known, inputs={**weights, "images": images.sha256(shard)}),
            shard,
            images.rows(shard),
        )
        for shard in shards
    ]


def shard_attack(root: Path, device: str, name: str, options: AttackOptions, generation: GenerationParams) -> Callable[[str], ShardOutput]:
    """Loads the classifier once; returns the function that attacks a shard."""
    classifier = freeze(read_classifier(root / paths.CLASSIFIER)).to(device)
    images = ImageSet.open(root / paths.DATA)
    steps_fns = for_steps(classifier, images.format.channels, generation.precision)

    def attack(shard: str) -> ShardOutput:
        batch = images.read(shard)
        attacked = attack_images(
            classifier,
            batch.images,
            batch.labels,
            batch.ids,
            name,
            options,
            seed=generation.seed,
            batch_size=generation.batch_size,
            eight_bit=generation.eight_bit,
            device=device,
            steps_fns=steps_fns,
        )
        return adversarial_output(batch, attacked, images.class_names)

    return attack
