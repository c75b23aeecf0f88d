"""Plays the guard against attackers who know it, on the images of ``test``: what each gets through, and what it pays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.artifacts import paths
from pipeline.artifacts.adversarial import AdversarialSet
from pipeline.artifacts.banks import read_bank
from pipeline.artifacts.features import CLEAN, FeatureSet
from pipeline.artifacts.files import read_table, write_json, write_table
from pipeline.artifacts.games import CELLS, DISJOINT, OWN, PART, PLAYS, SURROGATE, Arena, detector_output, surrogates
from pipeline.artifacts.images import ImageSet
from pipeline.artifacts.manifest import open_artifact
from pipeline.artifacts.matches import Match, Matches, matches_of, quota
from pipeline.artifacts.records import StageRun, stage_run
from pipeline.artifacts.signature import code_digest, signature
from pipeline.artifacts.store import ShardOutput, ShardStore
from pipeline.distributed.shard_map import ShardTask, Work, shard_map
from pipeline.evaluation.game import Play, summarise
from pipeline.evaluation.game_headline import Size, headline
from pipeline.evaluation.metrics import auroc
from pipeline.fingerprints.bank import Bank
from pipeline.game.cells import Cell, Looked, without_the_classifier
from pipeline.game.defenders import rebuilt, surrogate, thinned
from pipeline.game.disjoint import disjoint, shortage
from pipeline.params.detectors import CommitteeDetectorParams
from pipeline.params.fingerprints import FingerprintParams, SelectionParams
from pipeline.params.game import GameParams
from pipeline.params.root import load

SECTIONS = ("attacks", "calibration", "detectors", "evaluation", "fingerprints", "game", "selection")

Floats = npt.NDArray[np.float64]


def main() -> None:
    """Writes the cells of the game and its summary."""
    params = load(*SECTIONS)
    with stage_run("whitebox", params) as run:
        game, own, attacks = params.game, params.detectors[params.game.detector], list(params.attacks)
        assert isinstance(own, CommitteeDetectorParams)
        detectors, chances, matches = (
            ShardStore((paths.SHARDS / f"game-{name}").resolve()) for name in ("detectors", "chances", "matches")
        )
        sizes = possible(game, own, read_bank(paths.BANK), run)
        with detectors.locked(), chances.locked(), matches.locked():
            inputs = fitted(params.game.detector)
            arena = Arena(Path.cwd(), game, params.calibration.alpha, {}, detectors)
            made = plan_detectors(sizes, own, params.fingerprints, params.selection, game, inputs)
            build = partial(shard_detector, arena, sizes, own, params.fingerprints, params.selection)
            shard_map(build, made, detectors, title="whitebox: detectors")
            arena.made.update({task.name: task.signature for task in made})
            tried = plan_tuned(arena, attacks, inputs)
            shard_map(partial(shard_tuned, arena), tried, chances, title="whitebox: fixed draws")
            tuned = {task.payload: read_table(chances.read(task.name, task.signature)[0] / "rows.parquet") for task in tried}
            best = best_static(tuned, attacks, game.statics)
            looked = plan_chances(arena, attacks, best, inputs)
            shard_map(partial(shard_chances, arena, best), looked, chances, title="whitebox: chances")
            known = {task.payload: read_table(chances.read(task.name, task.signature)[0] / "rows.parquet") for task in looked}
            played = plan_matches(arena, attacks, best, own, inputs)
            shard_map(partial(shard_match, arena, best, sizes[OWN]), played, matches, title="whitebox: images")
            plays = [read_table(matches.read(task.name, task.signature)[0] / "rows.parquet") for task in played]
            detectors.keep(task.signature for task in made)
            chances.keep([task.signature for task in tried] + [task.signature for task in looked])
            matches.keep(task.signature for task in played)
        settled = [*cached(known, attacks, sizes, game), *((*found, []) for found in live(plays))]
        rows = [{**asdict(cell), **summarise(play, l2, linf, params.evaluation, without)} for cell, play, l2, linf, without in settled]
        write_table(paths.GAME, pa.Table.from_pylist(rows, schema=CELLS))
        summary = headline(rows, attacks, sizes[OWN], game.headline)
        write_json(paths.METRICS / "game.json", summary)
        run.log(summary)


def possible(game: GameParams, own: CommitteeDetectorParams, bank: Bank, run: StageRun) -> dict[str, Size]:
    """The defender's detectors that the bank allows; of disjoint parts that it does not a note says why."""
    sizes = variants(game, own, int(bank.sizes.max()))
    for name, given in game.disjoint.items():
        if said := shortage(bank, given, own.committees, game.seed):
            run.note(f"Game: the disjoint committees {name} are left out: {said}")
            del sizes[f"{DISJOINT}{name}"]
    return sizes


def variants(game: GameParams, own: CommitteeDetectorParams, largest: int) -> dict[str, Size]:
    """The defender's detectors by name, each with its size: its own, those that differ from it in one thing, and those of disjoint parts.

    Args:
        game: the sizes that are tried.
        own: the guard's own detector.
        largest: fingerprints of the largest group of its bank; a bank of no fewer would be the same one.
    """
    m, t = own.draw, own.committees
    others = [*((draw, t, largest) for draw in game.draws), *((m, committees, largest) for committees in game.committees)]
    others += [(m, t, bank) for bank in game.banks if m < bank < largest]  # a bank of m is drawn whole: nothing would be random
    found = {OWN: Size(m, t, largest), **{"m{}-t{}-b{}".format(*size): Size(*size) for size in others if size != (m, t, largest)}}
    return found | {f"{DISJOINT}{name}": Size(given.draw, t - t % given.count, largest, name) for name, given in game.disjoint.items()}


def fitted(detector: str) -> dict[str, str]:
    """What the defenders are made of: file to hash."""
    parts = (open_artifact(paths.BANK, "bank"), open_artifact(paths.detector(detector), "detector"))
    return {f"{artifact.stage}/{file}": artifact.sha256(file) for artifact in parts for file in artifact.files}


def plan_detectors(
    sizes: Mapping[str, Size],
    own: CommitteeDetectorParams,
    fingerprints: FingerprintParams,
    selection: SelectionParams,
    game: GameParams,
    inputs: Mapping[str, str],
) -> list[ShardTask[str]]:
    """A task a detector that the chain has not made; from the game's seed come the surrogates' banks, smaller banks and parts."""
    features, code = FeatureSet.open(paths.ACTIVATIONS), code_digest("whitebox")
    read = {**inputs, **features.inputs([CLEAN, *fingerprints.fit_attacks], ["fit"])}
    sections = {section.__class__.__name__: section.model_dump(mode="json") for section in (own, fingerprints, selection)}
    known, tasks = {**sections, "seed": game.seed}, []
    for name in (*(name for name in sizes if name != OWN), *surrogates(game)):
        parts = sizes[name].disjoint if name in sizes else ""
        given = {"disjoint": game.disjoint[parts].model_dump(mode="json")} if parts else {}
        tasks.append(ShardTask(name, signature("game-detector", code=code, params={**known, **given, "name": name}, inputs=read), name, 1))
    return tasks


def shard_detector(
    arena: Arena, sizes: Mapping[str, Size], own: CommitteeDetectorParams, fingerprints: FingerprintParams, selection: SelectionParams
) -> Work[str]:
    """The function that makes a detector."""

    def compute(name: str) -> ShardOutput:
        if name.startswith(SURROGATE):
            features, number = arena.features, int(name.removeprefix(SURROGATE))
            classes, seed = len(features.class_names), arena.game.seed
            return detector_output(surrogate(arena.stream, features.layout, classes, own, fingerprints, selection, seed, number))
        m, t, kept, parts = sizes[name]
        if parts:
            given = arena.game.disjoint[parts]
            return detector_output(disjoint(arena.stream, arena.bank, own, fingerprints.fit_attacks, given, arena.game.seed))
        bank = thinned(arena.bank, kept, arena.game.seed, own.layer_weights)
        return detector_output(rebuilt(arena.stream, bank, own, fingerprints.fit_attacks, m, t))

    return compute


def plan_tuned(arena: Arena, attacks: Sequence[str], inputs: Mapping[str, str]) -> list[ShardTask[str]]:
    """A task a source of ``tune``, by which the fixed draw is chosen."""
    features, code = arena.features, code_digest("whitebox")
    tasks = []
    for source in (CLEAN, *attacks):
        known = {"source": source, "seed": arena.game.seed, "statics": arena.game.statics}
        signed = signature("game-tuned", code=code, params=known, inputs={**inputs, **features.inputs([source], ["tune"])})
        tasks.append(ShardTask(f"tuned.{source}", signed, source, features.count(source, "tune")))
    return tasks


def shard_tuned(arena: Arena) -> Work[str]:
    """The function that scores a source of ``tune`` with every fixed draw."""

    def compute(source: str) -> ShardOutput:
        return ShardOutput(tables={"rows": arena.tuned(source)})

    return compute


def best_static(tuned: Mapping[str, pa.Table], attacks: Sequence[str], statics: int) -> int:
    """The fixed draw with the largest AUROC on ``tune``, the mean over attacks; the first of equals, 0 where there is nothing to tell."""
    names, clean, areas = [f"static{number}" for number in range(statics)], tuned[CLEAN], []
    for attack in attacks:
        won = tuned[attack].filter(tuned[attack]["success"])
        found = [auroc(clean[name].to_numpy(), won[name].to_numpy()) for name in names]
        areas += [[area for area in found if area is not None]] if len(won) and len(clean) else []
    return int(np.argmax(np.mean(areas, axis=0))) if areas else 0


def plan_chances(arena: Arena, attacks: Sequence[str], best: int, inputs: Mapping[str, str]) -> list[ShardTask[tuple[str, str]]]:
    """A task a detector and source."""
    features, code = arena.features, code_digest("whitebox")
    tasks = []
    for name in (OWN, *arena.made):
        for source in (CLEAN, *attacks):
            made = {name: arena.made[name]} if name in arena.made else {}
            read = {**inputs, **made, **features.inputs([CLEAN], ["fit", "calibrate"]), **features.inputs([source], ["test"])}
            known = {"detector": name, "source": source, "seed": arena.game.seed, "alpha": arena.alpha, "best": best}
            signed = signature("game-chances", code=code, params=known, inputs=read)
            tasks.append(ShardTask(f"{name}.{source}", signed, (name, source), features.count(source, "test")))
    return tasks


def shard_chances(arena: Arena, best: int) -> Work[tuple[str, str]]:
    """The function that finds how often a detector's draws flag the images of a source."""

    def compute(task: tuple[str, str]) -> ShardOutput:
        name, source = task
        return ShardOutput(tables={"rows": arena.chances(name, source, best)})

    return compute


def plan_matches(
    arena: Arena, attacks: Sequence[str], best: int, own: CommitteeDetectorParams, inputs: Mapping[str, str]
) -> list[ShardTask[Match]]:
    """A task a shard of ``test`` and attacker who needs the classifier."""
    images, classifier, code = ImageSet.open(paths.DATA), open_artifact(paths.CLASSIFIER, "classifier"), code_digest("whitebox")
    weights = {file: classifier.sha256(file) for file in classifier.files}
    calibrated = arena.features.inputs([CLEAN], ["fit", "calibrate"])
    game = arena.game.model_dump(mode="json", exclude={"draws", "committees", "banks", "disjoint", "looks", "statics", "surrogates"})
    known = {"game": game, "alpha": arena.alpha, "best": best, "own": own.model_dump(mode="json")}
    first, tasks = surrogates(arena.game)[0], []
    for shard in images.shards("test"):
        for match in matches_of(shard, attacks, arena.game):
            read = {**inputs, first: arena.made[first], **calibrated, **weights, "images": images.sha256(shard)}
            if match.attacker == "resubmit_changed":
                read |= AdversarialSet.open(paths.attack(match.what)).inputs(shard)
            signed = signature("game-match", code=code, params={**known, **asdict(match)}, inputs=read)
            tasks.append(ShardTask(match.name, signed, match, quota(images, shard, arena.game.images)))
    return tasks


def shard_match(arena: Arena, best: int, own: Size) -> Work[Match]:
    """The function that plays one match."""
    return Matches(arena, best, own).play


def cached(
    known: Mapping[tuple[str, str], pa.Table], attacks: Sequence[str], sizes: Mapping[str, Size], game: GameParams
) -> Iterator[tuple[Cell, Play, Floats, Floats, list[Play]]]:
    """The cells that need no more than the chances: with norms, and the play without each bank that attackers fitted."""
    for attack in (CLEAN, *attacks):
        tables = {name: known[name, attack] for name in (*sizes, *surrogates(game))}
        l2, linf = attack_norms(attack, tables[OWN]["id"].to_pylist())
        for name, size in sizes.items():
            success = tables[name]["success"].to_numpy()
            if attack == CLEAN:
                success = np.ones(len(success), np.bool_)  # clean images are all sent: what is detected of them are false alarms
            chances = {"fresh": tables[name]["fresh"].to_numpy()}
            parts = [tables[name][part].to_numpy() for part in tables[name].column_names if part.startswith(PART)]
            looked = [Looked("bank", "filter", np.stack(parts or [chances["fresh"]]), spread=bool(parts), drawn=False)]
            if name == OWN:
                chances |= {"keyed": tables[name]["keyed"].to_numpy(), "static": tables[name]["static"].to_numpy()}
                fitted_by_attackers = np.stack([tables[each]["fresh"].to_numpy() for each in surrogates(game)])
                looked.append(Looked("algorithm", "filter", fitted_by_attackers, spread=False, drawn=True))
                if game.surrogates > 1:
                    looked.append(Looked("algorithm", "filter_banks", fitted_by_attackers, spread=True, drawn=True))
            cell = Cell("fresh", *size, "nothing", "plain", attack, 0)
            cells = without_the_classifier(cell, success, looked, chances, game, own=name == OWN, clean=attack == CLEAN)
            yield from ((found, play, l2, linf, without) for found, play, without in cells)


def attack_norms(attack: str, ids: Sequence[str]) -> tuple[Floats, Floats]:
    """L2 and maximum norm of an attack's images on ``test``, in the order of ``ids``; 0 for clean images."""
    if attack == CLEAN:
        return np.zeros(len(ids)), np.zeros(len(ids))
    stored, known = AdversarialSet.open(paths.attack(attack)), dict[str, tuple[float, float]]()
    for shard in stored.shards("test"):
        rows = stored.rows(shard)
        known |= dict(zip(rows["id"].to_pylist(), zip(rows["l2"].to_pylist(), rows["linf"].to_pylist(), strict=True), strict=True))
    l2, linf = np.array([known[key] for key in ids], np.float64).reshape(-1, 2).T
    return l2, linf


def live(tables: Sequence[pa.Table]) -> Iterator[tuple[Cell, Play, Floats, Floats]]:
    """The cells that were played image by image, shards joined."""
    table = pa.concat_tables([PLAYS.empty_table(), *tables])
    names = list(Cell.__dataclass_fields__)
    keys = list(zip(*(table[name].to_pylist() for name in names), strict=True))
    for key in dict.fromkeys(keys):
        rows = table.filter(pa.array([found == key for found in keys]))
        columns = {name: rows[name].to_numpy() for name in ("sent", "accepted", "local", "queries", "l2", "linf")}
        l2, linf = columns.pop("l2"), columns.pop("linf")
        yield Cell(*key), Play(**columns), l2, linf
