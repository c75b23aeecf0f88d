"""From activations to verdicts in a made world: every part together, and the promise at its end."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import betabinom
from world_support import selection_params

from pipeline.detectors.building import Stream, build_bank, build_detector, calibrate
from pipeline.detectors.committee import CommitteeDetector
from pipeline.detectors.conformal import Calibration, group_classes
from pipeline.evaluation.metrics import evaluate_table
from pipeline.fingerprints.assembly import assemble
from pipeline.fingerprints.bank import Bank
from pipeline.fingerprints.candidates import block_moments, concatenate
from pipeline.fingerprints.features import CLEAN, Features, Layout, group_name
from pipeline.fingerprints.likelihood import StatisticName
from pipeline.fingerprints.sampling import sample_index_sets
from pipeline.fingerprints.selection import select
from pipeline.params.detectors import CommitteeDetectorParams, FingerprintDetectorParams
from pipeline.params.evaluation import EvaluationParams
from pipeline.params.fingerprints import FingerprintParams
from pipeline.random import ImageRandom, generator

LAYOUT, CLASSES, ATTACKS = Layout(("early", "late"), (0, 80, 140)), 4, ("fgsm", "pgd")
SHARES = np.array([0.4, 0.35, 0.22, 0.03])  # class 3 is too rare for a bank or a calibration group of its own
SELECTION = selection_params(effect_size=0.5, bank_size=300, min_clean=60, min_attacked=30, min_fingerprints=50)
EVALUATION = EvaluationParams(alphas=(0.01, 0.05), seeds=(0, 1), confidence=0.95, bootstrap=100, bootstrap_seed=0)


@dataclass(frozen=True)
class World:
    """Neurons that follow the class, and that an attack moves towards its target but not to where that class's own images lie."""

    centres: np.ndarray
    trace: np.ndarray

    def split(self, name: str, count: int) -> dict[str, Features]:
        rng = generator(0, "world", name)
        ids = [f"{name}{number:08d}" for number in range(count)]
        labels = rng.choice(CLASSES, count, p=SHARES)
        clean = np.where(rng.random(count) < 0.9, labels, (labels + 1) % CLASSES)
        none = np.zeros(count, np.bool_)
        noise = rng.normal(size=(count, LAYOUT.size))
        found = {CLEAN: Features(ids, labels, clean, clean, none, none, (self.centres[clean] + noise).astype(np.float32))}
        for attack in ATTACKS:
            skipped = clean != labels
            success = ~skipped & (rng.random(count) < 0.7)
            predicted = np.where(success, (labels + rng.integers(1, CLASSES, count)) % CLASSES, clean)
            # A failed attack leaves its trace too: counted as an attack it would blur what an attack to a class looks like.
            neurons = self.centres[predicted] + noise + self.trace * np.where(skipped, 0, np.where(success, 1, -1))[:, None]
            found[attack] = Features(ids, labels, clean, predicted, success, skipped, neurons.astype(np.float32))
        return found


def world() -> World:
    rng = np.random.default_rng(0)
    return World(rng.normal(size=(CLASSES, LAYOUT.size)), rng.normal(0, 0.6, LAYOUT.size))


def fitted_bank(fit: dict[str, Features]) -> Bank:
    selected = {}
    for label in (*range(CLASSES), None):
        blocks = []
        for block in range(2):
            rng = generator(0, "sample", group_name(label), str(block))
            indices, layer = sample_index_sets(rng, LAYOUT, 8, 300, {"early": 1.0, "late": 1.0})
            blocks.append(block_moments(indices, layer, fit.items(), group_class=label, attacks=ATTACKS))
        rng = generator(0, "select", group_name(label))
        selected[group_name(label)] = select(concatenate(blocks), ATTACKS, SELECTION, rng)
    return assemble(selected, LAYOUT, CLASSES, SELECTION)


@dataclass(frozen=True)
class Made:
    """The splits of one world, and what is learnt from ``fit``."""

    fit: dict[str, Features]
    calibrate: dict[str, Features]
    test: dict[str, Features]
    bank: Bank
    class_group: dict[int, str]


@pytest.fixture(scope="module")
def made() -> Made:
    fit, calibrate, test = (world().split(name, count) for name, count in (("fit", 1500), ("calibrate", 600), ("test", 600)))
    return Made(fit, calibrate, test, fitted_bank(fit), group_classes(fit[CLEAN].predicted, CLASSES, 600, 0.05))


COMMITTEE = CommitteeDetectorParams(
    kind="committee", layer_weights=None, draw=20, committees=50, directions=4, shrinkage=0.1, pooling=0.5, mistakes=True, seed=0
)


def stream(fit: dict[str, Features]) -> Stream:
    return lambda sources: [(source, fit[source]) for source in sources]


def score_splits(made: Made, statistic: StatisticName | Literal["joint"]) -> tuple[pa.Table, Calibration]:
    params = COMMITTEE if statistic == "joint" else FingerprintDetectorParams(kind="fingerprint", statistic=statistic, draw=20)
    detector = build_detector(stream(made.fit), made.bank, params, ATTACKS)
    clean = made.calibrate[CLEAN]
    draws = ImageRandom(0, f"calibrate/{statistic}", clean.ids)
    calibration = Calibration.fit(detector.scores(clean.neurons, clean.predicted, draws), clean.predicted, made.class_group)
    parts = []
    for seed in EVALUATION.seeds:
        for attack, rows in made.test.items():
            scores = detector.scores(rows.neurons, rows.predicted, ImageRandom(seed, f"evaluate/{statistic}", rows.ids))
            p_value, group = calibration.p_values(scores, rows.predicted)
            columns = dict(id=rows.ids, label=rows.labels, clean_predicted=rows.clean_predicted, predicted=rows.predicted)
            columns |= dict(success=rows.success, score=scores, p_value=p_value, group=group.tolist())
            count = len(rows)
            parts.append(pa.table(dict(detector=[statistic] * count, attack=[attack] * count, seed=[seed] * count) | columns))
    return pa.concat_tables(parts), calibration


def test_a_rare_class_shares_the_pooled_bank_and_group(made: Made) -> None:
    assert [made.bank.names[group] for group in made.bank.class_group] == ["0", "1", "2", "pooled"]
    assert list(made.bank.pooled_reasons) == [3]
    assert made.class_group[3] == "pooled" and made.class_group[0] == "0"


@pytest.mark.parametrize(("statistic", "floor"), [("joint", 0.95), ("likelihood_ratio", 0.9), ("vote", 0.9), ("anomaly", 0.6)])
def test_attacks_are_found_and_false_alarms_stay_within_the_law(
    made: Made, statistic: StatisticName | Literal["joint"], floor: float
) -> None:
    table, calibration = score_splits(made, statistic)
    figures = evaluate_table(table, EVALUATION)
    for attack in ATTACKS:
        auroc, found = figures[f"{statistic}.{attack}.auroc"], figures[f"{statistic}.{attack}.tpr_at_5"]
        alarms = figures[f"{statistic}.clean.fpr_at_5"]
        assert auroc is not None and found is not None and alarms is not None
        assert auroc > floor and found > 2 * alarms
    rows = table.to_pylist()
    for seed in EVALUATION.seeds:
        for group, n in calibration.counts().items():
            p = np.array([row["p_value"] for row in rows if (row["attack"], row["seed"], row["group"]) == (CLEAN, seed, group)])
            for alpha in EVALUATION.alphas:
                flagged, k = int((p <= alpha).sum()), math.floor(alpha * (n + 1))
                tail = betabinom.sf(flagged - 1, len(p), k, n + 1 - k) if k else float(flagged == 0)
                assert tail > 0.001 / (2 * 4 * 2 * len(calibration.groups))


def test_with_clean_activations_in_the_attacked_ones_place_nothing_is_selected(made: Made) -> None:
    """What the authors' package stores; a selection that kept anything of it would not look at the attack."""
    clean = made.fit[CLEAN].neurons
    swapped = {name: Features(f.ids, f.labels, f.clean_predicted, f.predicted, f.success, f.skipped, clean) for name, f in made.fit.items()}
    indices, layer = sample_index_sets(np.random.default_rng(0), LAYOUT, 8, 500, {"early": 1.0, "late": 1.0})
    for fit, some in ((swapped, False), (made.fit, True)):
        block = block_moments(indices, layer, fit.items(), group_class=None, attacks=ATTACKS)
        kept = select(block, ATTACKS, SELECTION, np.random.default_rng(0)).reasons.get("kept", 0)
        assert (kept > 0) == some


def test_calibration_groups_hold_the_images_of_calibrate_and_no_others(made: Made) -> None:
    _, calibration = score_splits(made, "likelihood_ratio")
    predicted = made.calibrate[CLEAN].predicted
    assert sum(calibration.counts().values()) == len(predicted)
    for group, count in calibration.counts().items():
        assert count == sum(made.class_group[int(label)] == group for label in predicted)


def test_a_bank_built_in_memory_is_the_one_built_step_by_step(made: Made) -> None:
    params = FingerprintParams(seed=0, k=8, layer_weights={"early": 1.0, "late": 1.0}, candidates=600, block=300, fit_attacks=ATTACKS)
    bank = build_bank(stream(made.fit), LAYOUT, CLASSES, params, SELECTION)
    assert bank.names == made.bank.names and (bank.class_group == made.bank.class_group).all()
    candidates = [generator(0, "fingerprints", "1", str(block)) for block in range(2)]
    sampled = np.concatenate([sample_index_sets(rng, LAYOUT, 8, 300, params.layer_weights)[0] for rng in candidates])
    kept = {tuple(row) for row in bank.groups["1"].indices.tolist()}
    assert kept and kept <= {tuple(row) for row in sampled.tolist()}


def test_a_committee_s_members_are_of_the_predicted_class_s_group(made: Made) -> None:
    detector = build_detector(stream(made.fit), made.bank, COMMITTEE, ATTACKS)
    assert isinstance(detector, CommitteeDetector)
    test = made.test[CLEAN]
    which = detector.choose(test.predicted, ImageRandom(0, "x", test.ids))
    group = made.bank.class_group[test.predicted]
    members = detector.committees.members[which]
    assert (members >= made.bank.starts[group][:, None]).all() and (members < made.bank.starts[group + 1][:, None]).all()
    assert all(len(set(row)) == COMMITTEE.draw for row in members.tolist())
    for label in range(3):  # six hundred images, so nearly every one of fifty committees is met
        assert len(set(which[test.predicted == label].tolist())) > 30


def test_a_committee_has_of_every_layer_what_its_weights_say(made: Made) -> None:
    params = COMMITTEE.model_copy(update={"layer_weights": {"early": 1.0, "late": 3.0}})
    found = build_detector(stream(made.fit), made.bank, params, ATTACKS)
    assert isinstance(found, CommitteeDetector)
    layers = made.bank.fingerprints.layer[found.committees.members]
    assert {tuple(np.bincount(row, minlength=2)) for row in layers} == {(5, 15)}


def test_calibrating_reads_clean_images_alone_and_fixes_the_groups_from_fit(made: Made) -> None:
    detector, clean = build_detector(stream(made.fit), made.bank, COMMITTEE, ATTACKS), made.calibrate[CLEAN]
    draws = ImageRandom(0, "calibrate/joint", clean.ids)
    calibration = calibrate(detector, clean, made.fit[CLEAN].predicted, CLASSES, 0.05, draws)
    expected, _ = Calibration.fit(detector.scores(clean.neurons, clean.predicted, draws), clean.predicted, made.class_group).to_arrays()
    assert all((calibration.to_arrays()[0][name] == array).all() for name, array in expected.items())
