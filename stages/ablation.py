"""The guard's detector with one thing changed at a time: what each change does on ``tune``, by designs fitted anew on ``fit``."""

from collections.abc import Mapping
from dataclasses import dataclass
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
from pipeline.distributed.shard_map import ShardTask, Work, shard_map
from pipeline.errors import WhorlError
from pipeline.evaluation.ablation import Flagged, change_of_detection, mean_detection
from pipeline.evaluation.objectives import Drawn, detection_figures, flagged_shares, mean_of
from pipeline.params.ablation import UNCHANGED, varied
from pipeline.params.evaluation import EvaluationParams
from pipeline.params.root import Params, load
from pipeline.tune.bench import Bench, Setting, setting_of

SECTIONS = ("ablation", "attacks", "calibration", "detectors", "evaluation", "fingerprints", "selection", "tune")
FITTED, UNSEEN = "fitted", "unseen"
"""The fits of a variant: on all attacks of the fit; and without a family, measured on what is then new."""
ROWS = pa.schema([("fit", pa.string()), ("attack", pa.string()), ("id", pa.string()), ("flagged", pa.float64())])
"""Of one variant: a row a fit and attacked image of ``tune``, with the share of draws that flags it."""
NAME = pa.field("variant", pa.string())


@dataclass(frozen=True)
class Variant:
    """A design under a name."""

    name: str
    design: Design


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
        setting = setting_of(params)
    except WhorlError as error:
        run.note(f"Ablation: nothing could be measured: {error}")
        return [], {}
    store, tasks = ShardStore((paths.SHARDS / "ablation").resolve()), plan(variants(setting, params), setting)
    with store.locked():
        shard_map(partial(shard_variant, Path.cwd(), setting), tasks, store, title="ablation: variants")
        done = {task.name: store.read(task.name, task.signature) for task in tasks}
        tables = {name: read_table(folder / "rows.parquet") for name, (folder, _) in done.items()}
        store.keep(task.signature for task in tasks)
    if said := done[UNCHANGED][1]["problem"]:
        run.note(f"Ablation: nothing could be measured: {said}")
        return [], {}
    metrics: dict[str, float | None] = {}
    for name, (_, about) in done.items():
        if about["problem"]:
            run.note(f"Ablation: the variant {name} could not be made: {about['problem']}")
            continue
        metrics |= figures(name, tables[name], tables[UNCHANGED], params.evaluation)
        metrics |= {f"{name}.{measure}": value for measure, value in about["figures"].items()}
    return [rows.add_column(0, NAME, pa.array([name] * len(rows), pa.string())) for name, rows in tables.items()], metrics


def variants(setting: Setting, params: Params) -> list[Variant]:
    """The design as it is, and every variant."""
    base = setting.base
    changed = {
        name: Design(*varied((base.fingerprints, base.selection, base.detector), of)) for name, of in params.ablation.variants.items()
    }
    return [Variant(name, design) for name, design in {UNCHANGED: base, **changed}.items()]


def plan(made: list[Variant], setting: Setting) -> list[ShardTask[Variant]]:
    """A task a variant."""
    features, code, tune = FeatureSet.open(paths.ACTIVATIONS), code_digest("ablation"), setting.tune
    sources = [CLEAN, *setting.families]
    inputs = features.inputs(sources, ["fit", "tune"])
    shared = {
        "alpha": setting.alpha,
        "families": dict(setting.families),
        "tune": tune.model_dump(mode="json", include={"seed", "held_out", "looks", "draws"}),
        # Decides on the attacks that are measured, whatever a variant is fitted on.
        "fit_attacks": list(setting.base.fingerprints.fit_attacks),
    }
    tasks = []
    for variant in made:
        design = {name: section.model_dump(mode="json") for name, section in vars(variant.design).items()}
        known: dict[str, Any] = {**shared, "design": design}
        tasks.append(ShardTask(variant.name, signature("ablation", code=code, params=known, inputs=inputs), variant, 1))
    return tasks


def shard_variant(root: Path, setting: Setting) -> Work[Variant]:
    """The function that builds and measures one variant; the activations are read once a worker."""
    try:
        bench = Bench(FeatureSet.open(root / paths.ACTIVATIONS), setting)
    except WhorlError as error:
        said = str(error)
        return lambda _: refused(said)

    def compute(variant: Variant) -> ShardOutput:
        try:
            fits = {FITTED: bench.drawn(variant.design), UNSEEN: bench.drawn(variant.design.without(setting.held))}
        except WhorlError as error:
            return refused(str(error))
        tested = {FITTED: bench.known, UNSEEN: bench.unseen}
        rows = [
            row_table(fit, attack, bench.images[attack].ids, drawn[attack], drawn[CLEAN], setting.alpha)
            for fit, drawn in fits.items()
            for attack in tested[fit]
        ]
        of = {name: found for name, found in fits[FITTED].items() if name != CLEAN}
        found = detection_figures(fits[FITTED][CLEAN], of, setting.alpha, setting.tune.looks)
        about = {
            "false_alarms": found["false_alarms"],
            "after_looks": mean_of(found, bench.known, "after_looks"),
            "auroc": mean_of(found, bench.known, "auroc"),
            "cost": float(inspection_cost(variant.design)),
        }
        return ShardOutput(tables={"rows": pa.concat_tables(rows)}, about={"problem": "", "figures": about})

    return compute


def refused(said: str) -> ShardOutput:
    """The output of a variant that cannot be made."""
    return ShardOutput(tables={"rows": ROWS.empty_table()}, about={"problem": said, "figures": {}})


def row_table(fit: str, attack: str, ids: list[str], images: Drawn, clean: Drawn, alpha: float) -> pa.Table:
    """The rows of one fit of a variant and one attack."""
    same = {name: [value] * len(ids) for name, value in (("fit", fit), ("attack", attack))}
    return pa.table({**same, "id": ids, "flagged": flagged_shares(images, clean, alpha)}, schema=ROWS)


def figures(name: str, rows: pa.Table, base: pa.Table, params: EvaluationParams) -> dict[str, float | None]:
    """Detection by both fits, with what the change did to it, flat."""
    flat: dict[str, float | None] = {}
    for fit in (FITTED, UNSEEN):
        now = flagged_by(rows, fit)
        flat |= mean_detection(now, params).named(f"{name}.{fit}")
        if name != UNCHANGED:
            flat |= change_of_detection(now, flagged_by(base, fit), params).named(f"{name}.{fit}_change")
    return flat


def flagged_by(rows: pa.Table, fit: str) -> Mapping[str, Flagged]:
    """Attack to its images, as one fit flags them."""
    frame = rows.select(["fit", "attack", "id", "flagged"]).to_pydict()
    fits, attacks = np.array(frame["fit"], object), np.array(frame["attack"], object)
    found = {}
    for attack in dict.fromkeys(attacks[fits == fit]):
        mine = np.flatnonzero((fits == fit) & (attacks == attack))
        found[str(attack)] = Flagged([frame["id"][row] for row in mine], np.array(frame["flagged"])[mine])
    return found
