"""A committee detector with one thing changed at a time: what each change does on ``tune``, by designs fitted anew on ``fit``."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts import paths
from pipeline.artifacts.features import CLEAN, FeatureSet
from pipeline.artifacts.files import read_table, write_json, write_table
from pipeline.artifacts.records import StageRun, stage_run
from pipeline.artifacts.signature import code_digest, signature
from pipeline.artifacts.store import ShardOutput, ShardStore
from pipeline.detectors.design import Design, inspection_cost
from pipeline.detectors.variants import variants
from pipeline.distributed.shard_map import ShardTask, Work, shard_map
from pipeline.errors import WhorlError
from pipeline.evaluation.ablation import Shares, change_of_share, mean_share
from pipeline.evaluation.objectives import Drawn, caught_and_sent, cross_fitted
from pipeline.params.ablation import UNCHANGED
from pipeline.params.evaluation import EvaluationParams
from pipeline.params.root import Params, load
from pipeline.tune.bench import Bench, Setting, setting_of

SECTIONS = ("ablation", "attacks", "calibration", "detectors", "evaluation", "fingerprints", "selection")
FITTED, UNSEEN = "fitted", "unseen"
"""The fits of a variant: on all attacks of the fit; and without a family, measured on what is then new."""
_SHARES = ("flagged", "sent", "caught")
ROWS = pa.schema([*((name, pa.string()) for name in ("fit", "attack", "id")), *((name, pa.float64()) for name in _SHARES)])
"""Of one variant: a row a fit and image of ``tune`` that counts (every clean one, and every success), with the share of draws that
flags it, the chance that an attacker who looks first sends it, and that it is sent and then flagged."""
NAME = pa.field("variant", pa.string())


def main() -> None:
    """Writes how often every variant flags each image, and what its change did."""
    params = load(*SECTIONS)
    with stage_run("ablation", params) as run:
        tables, metrics = measured(params, run) if params.ablation.variants else ([], {})
        write_table(paths.ABLATION, pa.concat_tables([ROWS.insert(0, NAME).empty_table(), *tables]))
        write_json(paths.METRICS / "ablation.json", metrics)
        run.log(metrics)


def measured(params: Params, run: StageRun) -> tuple[list[pa.Table], dict[str, float | None]]:
    """The rows of all variants, and all figures; none, and a note, where the design as it is cannot be measured."""
    try:
        setting = setting_of(params, "ablation")
    except WhorlError as error:
        run.note(f"Ablation: nothing could be measured: {error}")
        return [], {}
    layout, done = FeatureSet.open(paths.ACTIVATIONS).layout, dict[str, pa.Table]()
    designs, refused = variants(setting.base, params.ablation.variants, layout.neurons)
    for name, said in refused.items():
        run.note(f"Ablation: the variant {name} does not go with the params as they are: {said}")
    store, tasks = ShardStore((paths.SHARDS / "ablation").resolve()), plan(designs, setting)
    with store.locked():
        shard_map(partial(shard_variant, Path.cwd(), setting), tasks, store, title="ablation: variants")
        for task in tasks:
            folder, about = store.read(task.name, task.signature)
            if not (said := about["problem"]):
                done[task.name] = read_table(folder / "rows.parquet")
            elif task.name != UNCHANGED:
                run.note(f"Ablation: the variant {task.name} could not be made: {said}")
            else:
                run.note(f"Ablation: nothing could be measured: {said}")
                break
        store.keep(task.signature for task in tasks)
    metrics: dict[str, float | None] = {}
    found = {name: shares(rows) for name, rows in done.items()}
    for name in done:
        metrics |= figures(name, found[name], found[UNCHANGED], params.evaluation)
        metrics[f"{name}.cost"] = float(inspection_cost(designs[name]))
    return [rows.add_column(0, NAME, pa.array([name] * len(rows), pa.string())) for name, rows in done.items()], metrics


def plan(designs: dict[str, Design], setting: Setting) -> list[ShardTask[Design]]:
    """A task a variant."""
    features, code = FeatureSet.open(paths.ACTIVATIONS), code_digest("ablation")
    inputs = features.inputs([CLEAN, *setting.families], ["fit", "tune"])
    shared = {
        "alpha": setting.alpha,
        "families": dict(setting.families),
        "trial": setting.tune.model_dump(mode="json", include={"seed", "held_out", "looks", "draws"}),
        # Decides on the attacks that are measured.
        "fit_attacks": list(setting.base.fingerprints.fit_attacks),
    }
    tasks = []
    for name, design in designs.items():
        known: dict[str, Any] = {**shared, "design": {part: section.model_dump(mode="json") for part, section in vars(design).items()}}
        tasks.append(ShardTask(name, signature("ablation", code=code, params=known, inputs=inputs), design, 1))
    return tasks


def shard_variant(root: Path, setting: Setting) -> Work[Design]:
    """The function that builds and measures one variant; the activations are read once a worker."""
    try:
        bench = Bench(FeatureSet.open(root / paths.ACTIVATIONS), setting)
    except WhorlError as error:
        said = str(error)
        return lambda _: refused(said)

    def compute(design: Design) -> ShardOutput:
        try:
            fits = {FITTED: bench.drawn(design), UNSEEN: bench.drawn(design.without(setting.held))}
        except WhorlError as error:
            return refused(str(error))
        tested = {FITTED: [CLEAN, *sorted(bench.known)], UNSEEN: sorted(bench.unseen)}
        rows = [
            row_table(fit, source, bench.images[source].ids, drawn[source], drawn[CLEAN], setting)
            for fit, drawn in fits.items()
            for source in tested[fit]
        ]
        return ShardOutput(tables={"rows": pa.concat_tables(rows)}, about={"problem": ""})

    return compute


def refused(said: str) -> ShardOutput:
    """The output of a variant that cannot be made."""
    return ShardOutput(tables={"rows": ROWS.empty_table()}, about={"problem": said})


def row_table(fit: str, source: str, ids: list[str], images: Drawn, clean: Drawn, setting: Setting) -> pa.Table:
    """The rows of one fit of a variant and one source."""
    flags = cross_fitted(images, clean) <= setting.alpha
    caught, sent = caught_and_sent(flags, setting.tune.looks)
    same = {"fit": [fit] * len(ids), "attack": [source] * len(ids), "id": ids}
    return pa.table({**same, "flagged": flags.mean(axis=(0, 1)), "sent": sent, "caught": caught}, schema=ROWS)


def figures(
    name: str, mine: Mapping[str, Mapping[str, Shares]], base: Mapping[str, Mapping[str, Shares]], params: EvaluationParams
) -> dict[str, float | None]:
    """Every share of a variant (see ``shares``), and what its change did to it, flat: means over attacks."""
    flat: dict[str, float | None] = {}
    for measure, now in mine.items():
        flat |= mean_share(now, params).named(f"{name}.{measure}")
        if name != UNCHANGED:
            flat |= change_of_share(now, base[measure], params).named(f"{name}.{measure}_change")
    return flat


def shares(rows: pa.Table) -> dict[str, dict[str, Shares]]:
    """Measure to source to the share: ``fitted``, ``unseen``, ``after_looks`` (of what is sent, 1 where nothing is), ``false_alarms``."""
    frame = rows.to_pydict()
    fits, sources = (np.array(frame[name], object) for name in ("fit", "attack"))
    numbers = {name: np.array(frame[name], np.float64) for name in _SHARES}
    found: dict[str, dict[str, Shares]] = {FITTED: {}, UNSEEN: {}, "after_looks": {}, "false_alarms": {}}
    for fit, source in dict.fromkeys(zip(frame["fit"], frame["attack"], strict=True)):
        mine = np.flatnonzero((fits == fit) & (sources == source))
        ids, flagged = [frame["id"][row] for row in mine], numbers["flagged"][mine]
        found["false_alarms" if source == CLEAN else fit][source] = Shares(ids, flagged, np.ones(len(ids)))
        if fit == FITTED and source != CLEAN:
            found["after_looks"][source] = Shares(ids, numbers["caught"][mine], numbers["sent"][mine], empty=1.0)
    return found
