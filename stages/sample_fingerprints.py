"""Samples candidate fingerprints for every class and gathers their moments on clean and attacked images of ``fit``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.artifacts import paths
from pipeline.artifacts.candidates import write_candidates
from pipeline.artifacts.features import CLEAN, FeatureSet
from pipeline.artifacts.records import stage_run
from pipeline.artifacts.signature import code_digest, signature
from pipeline.artifacts.store import ShardOutput, ShardStore
from pipeline.distributed.shard_map import ShardTask, shard_map
from pipeline.fingerprints.candidates import block_moments
from pipeline.fingerprints.features import group_name
from pipeline.fingerprints.sampling import sample_block
from pipeline.params.fingerprints import FingerprintParams
from pipeline.params.root import load

SECTIONS = ("fingerprints",)


@dataclass(frozen=True)
class Block:
    """Some candidates of one class, or (None) of the pooled group."""

    group_class: int | None
    number: int
    count: int


def main() -> None:
    """Writes the ``candidates`` artifact."""
    params = load(*SECTIONS)
    with stage_run("sample_fingerprints", params) as run:
        classes, store = len(FeatureSet.open(paths.ACTIVATIONS).class_names), ShardStore(paths.SHARDS / "candidates")
        tasks = list(plan(params.fingerprints, classes))
        with store.locked():
            shard_map(partial(shard_moments, Path.cwd(), params.fingerprints), tasks, store, title="sample: candidates")
            write_candidates(paths.CANDIDATES, {task.name: task.signature for task in tasks}, store)
        run.log({"candidates": sum(task.size for task in tasks)})


def plan(params: FingerprintParams, classes: int) -> Iterator[ShardTask[Block]]:
    """A task a (class, block), and the blocks of the pooled group."""
    features, code = FeatureSet.open(paths.ACTIVATIONS), code_digest("sample_fingerprints")
    inputs = features.inputs([CLEAN, *params.fit_attacks], ["fit"])
    for group_class in (*range(classes), None):
        for number, start in enumerate(range(0, params.candidates, params.block)):
            block = Block(group_class, number, min(params.block, params.candidates - start))
            name = f"{group_name(group_class)}-{number:05d}"
            signed = signature("sample_fingerprints", code=code, params={**params.model_dump(mode="json"), "shard": name}, inputs=inputs)
            yield ShardTask(name, signed, block, block.count)


def shard_moments(root: Path, params: FingerprintParams) -> Callable[[Block], ShardOutput]:
    """The function that samples a block and streams over all features of ``fit``, in the order of their shards."""
    features = FeatureSet.open(root / paths.ACTIVATIONS)

    def compute(block: Block) -> ShardOutput:
        indices, layer = sample_block(params, features.layout, block.group_class, block.number, block.count)
        stream = features.stream([CLEAN, *params.fit_attacks], "fit")
        return ShardOutput(block_moments(indices, layer, stream, group_class=block.group_class, attacks=params.fit_attacks).to_arrays())

    return compute
