"""Hardening: folds the attacked images that got past a detector back into its fit, and says what each round gains and costs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.artifacts import paths
from pipeline.artifacts.banks import read_bank
from pipeline.artifacts.detectors import CalibratedDetector
from pipeline.artifacts.features import CLEAN, FeatureSet
from pipeline.artifacts.files import read_table, write_json, write_table
from pipeline.artifacts.hardening import FIGURES, read_looked, read_survivors, refused_output, survivors_output, tested_output
from pipeline.artifacts.manifest import open_artifact
from pipeline.artifacts.records import StageRun, stage_run
from pipeline.artifacts.signature import code_digest, signature
from pipeline.artifacts.store import ShardOutput, ShardStore
from pipeline.detectors.building import calibrate
from pipeline.detectors.refit import Recipe, with_committees
from pipeline.distributed.shard_map import ShardTask, shard_map
from pipeline.errors import WhorlError
from pipeline.evaluation.hardening import Measured, areas, counted, round_figures
from pipeline.evaluation.metrics import evaluate_table
from pipeline.game.hardening import Survivors, hardened, survivors_of
from pipeline.params.evaluation import EvaluationParams
from pipeline.params.root import Params, load
from pipeline.params.studies import HardeningParams
from pipeline.random import ImageRandom

SECTIONS = ("attacks", "calibration", "detectors", "evaluation", "fingerprints", "hardening", "selection")


@dataclass(frozen=True)
class Setting:
    """What a worker needs to know: the same for all rounds.

    Attributes:
        recipe: how a detector is made.
        hardening: the section.
        attacks: all that are tested.
        seed: of the draws that the calibration images meet.
        seeds: of the draws of the evaluation.
    """

    recipe: Recipe
    hardening: HardeningParams
    attacks: tuple[str, ...]
    seed: int
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """A part's survivors in one round, or that round's detector.

    Attributes:
        round: 0 is the detector as the chain fits it.
        part: of the ``fit`` images that is judged; None for the round's detector.
        earlier: folders of the survivors that are fitted, round by round.
    """

    round: int
    part: int | None
    earlier: tuple[tuple[Path, ...], ...]

    def survivors(self) -> list[Survivors]:
        """Round by round, what the folders hold."""
        return [[batch for folder in folders for batch in read_survivors(folder)] for folders in self.earlier]


Rounds = list[list[ShardTask[Step]]]
"""The tasks whose survivors each round folds back, from the first round on."""


def main() -> None:
    """Writes the figures of every round."""
    params = load(*SECTIONS)
    with stage_run("hardening", params) as run:
        setting, store = setting_of(params), ShardStore((paths.SHARDS / "hardening").resolve())
        with store.locked():
            searched = search(setting, store, run)
            folded = [tasks for tasks in searched if any(counts(store, tasks).values())]
            tested = [plan(setting, store, number, None, folded[:number]) for number in range(len(folded) + 1)]
            shard_map(partial(shard_tested, Path.cwd(), setting), tested, store, title="hardening: rounds")
            figures = measured(setting, store, folded, tested, params.evaluation, run)
            store.keep(task.signature for task in [*tested, *(task for tasks in searched for task in tasks)])
        write_table(paths.HARDENING, pa.Table.from_pylist([figure.row() for figure in figures], schema=FIGURES))
        metrics = {key: value for figure in figures for key, value in figure.named().items()}
        write_json(paths.METRICS / "hardening.json", metrics)
        run.log(metrics)


def setting_of(params: Params) -> Setting:
    """What all rounds share."""
    features, own = FeatureSet.open(paths.ACTIVATIONS), params.hardening
    detector = with_committees(params.detectors[own.detector], own.committees)
    classes, alpha = len(features.class_names), params.calibration.alpha
    recipe = Recipe(features.layout, classes, params.fingerprints, params.selection, own.detector, detector, alpha)
    return Setting(recipe, own, tuple(params.attacks), params.calibration.seed, params.evaluation.seeds)


def search(setting: Setting, store: ShardStore, run: StageRun) -> Rounds:
    """Finds the survivors of every round, a task a part; ends with the first round that has none or cannot be made."""
    rounds: Rounds = []
    for number in range(1, setting.hardening.rounds + 1):
        tasks = [plan(setting, store, number, part, rounds) for part in range(setting.hardening.folds)]
        shard_map(partial(shard_survivors, Path.cwd(), setting), tasks, store, title=f"hardening: survivors of round {number}")
        if said := next((said for task in tasks if (said := store.read(task.name, task.signature)[1]["refused"])), ""):
            run.note(f"Hardening: the survivors of round {number} could not be found, and no further round was made: {said}")
            break
        rounds.append(tasks)
        if not any(counts(store, tasks).values()):
            looks = setting.hardening.looks
            run.note(
                f"Hardening: round {number} found no attacked image that would probably pass {looks} looks; no further round was made."
            )
            break
    return rounds


def counts(store: ShardStore, tasks: list[ShardTask[Step]]) -> dict[str, int]:
    """Attack to its survivors in one round."""
    found = [store.read(task.name, task.signature)[1]["counts"] for task in tasks]
    return {name: sum(part[name] for part in found) for name in found[0]}


def plan(setting: Setting, store: ShardStore, number: int, part: int | None, rounds: Rounds) -> ShardTask[Step]:
    """The task of a part, or of the round's detector, that is fitted on the survivors of some rounds."""
    features, recipe, bank = FeatureSet.open(paths.ACTIVATIONS), setting.recipe, open_artifact(paths.BANK, "bank")
    inputs = features.inputs([CLEAN, *recipe.fingerprints.fit_attacks], ["fit"])
    inputs |= {task.name: task.signature for tasks in rounds for task in tasks}
    if part is None:
        inputs |= features.inputs([CLEAN], ["calibrate"]) | features.inputs([CLEAN, *setting.attacks], ["test"])
        inputs |= {f"bank/{file}": bank.sha256(file) for file in bank.files}
    known: dict[str, Any] = {
        **{key: getattr(recipe, key).model_dump(mode="json") for key in ("fingerprints", "selection", "detector")},
        "hardening": setting.hardening.model_dump(mode="json", exclude={"rounds"}),
        "rest": [recipe.name, recipe.alpha, *([] if part is not None else [setting.seed, *setting.seeds, *setting.attacks])],
        "step": [number, part],
    }
    name = f"round{number}" if part is None else f"round{number}-part{part}"
    signed = signature("hardening", code=code_digest("hardening"), params=known, inputs=inputs)
    step = Step(number, part, tuple(tuple(store.folder(task.signature) for task in tasks) for tasks in rounds))
    return ShardTask(name, signed, step, 1)


def shard_survivors(root: Path, setting: Setting) -> Callable[[Step], ShardOutput]:
    """The function that finds one part's survivors; the images of ``fit`` are read once a worker."""
    features, recipe = FeatureSet.open(root / paths.ACTIVATIONS), setting.recipe
    sources = {name: features.read_split(name, "fit") for name in (CLEAN, *recipe.fingerprints.fit_attacks)}

    def compute(step: Step) -> ShardOutput:
        assert step.part is not None
        try:
            found = survivors_of(sources, step.part, recipe, setting.hardening, step.survivors())
        except WhorlError as error:
            return ShardOutput(about={"counts": {}, "refused": str(error)})
        return survivors_output(found, recipe.layout.size)

    return compute


def shard_tested(root: Path, setting: Setting) -> Callable[[Step], ShardOutput]:
    """The function that fits a round's detector on all of ``fit`` and its survivors, calibrates it, and tests it."""
    features, recipe, bank = FeatureSet.open(root / paths.ACTIVATIONS), setting.recipe, read_bank(root / paths.BANK)
    clean, predicted = features.read_split(CLEAN, "calibrate"), features.predicted(CLEAN, "fit")
    images = {name: list(features.stream([name], "fit")) for name in (CLEAN, *recipe.fingerprints.fit_attacks)}

    def compute(step: Step) -> ShardOutput:
        kept = bank if step.round == 0 or not setting.hardening.reselect else None
        try:
            detector = hardened(
                lambda names: [batch for name in names for batch in images[name]], recipe, step.survivors(), bank=kept, reselect=True
            )
        except WhorlError as error:
            if step.round == 0:
                raise  # the chain itself made this one
            return refused_output(error)
        draws = ImageRandom(setting.seed, f"calibrate/{recipe.name}", clean.ids)
        calibration = calibrate(detector, clean, predicted, recipe.classes, recipe.alpha, draws)
        calibrated = CalibratedDetector(detector, calibration, recipe.detector, recipe.alpha)
        tested = {name: features.read_split(name, "test") for name in (CLEAN, *setting.attacks)}
        return tested_output(step.round, recipe.name, calibrated, tested, setting.seeds)

    return compute


def measured(
    setting: Setting, store: ShardStore, folded: Rounds, tested: list[ShardTask[Step]], params: EvaluationParams, run: StageRun
) -> list[Measured]:
    """All figures, round by round; a round that could not be made has none but its survivors."""
    folders, attacks = [store.read(task.name, task.signature) for task in tested], list(setting.attacks)
    metrics = evaluate_table(pa.concat_tables([read_table(folder / "scores.parquet") for folder, _ in folders]), params)
    figures: list[Measured] = []
    for number, (folder, about) in enumerate(folders):
        if number:
            figures += counted(number, counts(store, folded[number - 1]))
        if about["refused"]:
            run.note(f"Hardening: the detector of round {number} could not be made: {about['refused']}")
            continue
        for source in (CLEAN, *attacks):
            now, before = read_looked(folder, source), read_looked(folders[0][0], source)
            figures += round_figures(number, source, now, before, setting.hardening.looks, params)
        figures += areas(number, metrics, attacks)
    return figures
