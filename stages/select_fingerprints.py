"""Selects, class by class, the candidates that tell attacked from clean, and joins them into the bank."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.artifacts import paths
from pipeline.artifacts.banks import read_selected, selected_output, write_bank
from pipeline.artifacts.candidates import CandidateSet
from pipeline.artifacts.features import FeatureSet
from pipeline.artifacts.records import stage_run
from pipeline.artifacts.signature import code_digest, signature
from pipeline.artifacts.store import ShardOutput, ShardStore
from pipeline.distributed.shard_map import ShardTask, shard_map
from pipeline.fingerprints.assembly import assemble
from pipeline.fingerprints.features import POOLED
from pipeline.fingerprints.selection import select
from pipeline.params.fingerprints import SelectionParams
from pipeline.params.root import load
from pipeline.random import generator

SECTIONS = ("fingerprints", "selection")


def main() -> None:
    """Writes the ``bank`` artifact."""
    params = load(*SECTIONS)
    with stage_run("select_fingerprints", params) as run:
        features, store = FeatureSet.open(paths.ACTIVATIONS), ShardStore(paths.SHARDS / "selected")
        tasks = plan(params.selection, params.fingerprints.seed)
        with store.locked():
            shard_map(
                partial(shard_selection, Path.cwd(), params.selection, params.fingerprints.seed), tasks, store, title="select: classes"
            )
            selected = {task.name: read_selected(store, task.name, task.signature) for task in tasks}
            store.keep(task.signature for task in tasks)
        bank = assemble(selected, features.layout, len(features.class_names), params.selection)
        write_bank(paths.BANK, bank, selected, params.fingerprints.fit_attacks)
        run.log({"fingerprints": len(bank.fingerprints), "groups": len(bank.names), "pooled_classes": len(bank.pooled_reasons)})
        below = selected[POOLED].reasons.get("kept_below_cut", 0)
        if bank.pooled_reasons and below:
            run.note(f"{below} of the pooled bank's {len(selected[POOLED].fingerprints)} fingerprints do not pass the cuts: too few did.")
        alone = sum(not selected[name].cross_fitted for name in bank.names)
        if params.selection.cross_fit is not None and alone:
            run.note(
                f"The fingerprints of {alone} of {len(bank.names)} groups keep the moments of the images that chose them: a half has fewer "
                f"than selection.cross_fit, {params.selection.cross_fit}, or too few of an attack."
            )
        for label, reason in bank.pooled_reasons.items():
            run.note(f"Class {features.class_names[label]} uses the pooled bank: {reason}.")


def plan(params: SelectionParams, seed: int) -> list[ShardTask[str]]:
    """A task a group."""
    candidates, code = CandidateSet.open(paths.CANDIDATES), code_digest("select_fingerprints")
    known = {**params.model_dump(mode="json"), "seed": seed}
    return [
        ShardTask(
            group, signature("select_fingerprints", code=code, params={**known, "group": group}, inputs=candidates.inputs(group)), group, 1
        )
        for group in candidates.groups
    ]


def shard_selection(root: Path, params: SelectionParams, seed: int) -> Callable[[str], ShardOutput]:
    """The function that selects for one group."""
    candidates = CandidateSet.open(root / paths.CANDIDATES)

    def compute(group: str) -> ShardOutput:
        block = candidates.read(group)
        return selected_output(select(block, sorted(block.halves[0].attacked), params, generator(seed, "selection", group)))

    return compute
