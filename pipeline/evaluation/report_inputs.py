"""What is told of a run, by the report, the guard's card and the pages of results: plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.evaluation.ablation_study import AblationStudy
from pipeline.evaluation.game_headline import Size
from pipeline.evaluation.hardening_study import HardeningStudy
from pipeline.evaluation.studies import PromiseStudy, TransferStudy


@dataclass(frozen=True)
class GalleryItem:
    """One attacked test image and what the guard made of it.

    Attributes:
        clean: (C, H, W) uint8, C 1 or 3.
        attacked: of the same shape.
        attack: its name.
        label: true class, an index of the class names.
        clean_predicted: the classifier's class for ``clean``.
        predicted: the classifier's class for ``attacked``.
        p_value: of ``attacked``, in (0, 1].
        flagged: whether the p-value is at most the promised rate.
    """

    clean: npt.NDArray[np.uint8]
    attacked: npt.NDArray[np.uint8]
    attack: str
    label: int
    clean_predicted: int
    predicted: int
    p_value: float
    flagged: bool


@dataclass(frozen=True)
class GameInputs:
    """What the report prints of the game.

    Attributes:
        cells: a mapping a cell: defender, draw, committees, bank, knowledge, attacker, attack, budget, and what ``game.summarise`` gives.
        headline: flat values, as ``game_headline.headline`` gives them.
        detector: the one that played.
        own: its size.
        looks: R of the filtering attacker in the headline.
        bound: of the attackers who descend or search, as ``game_verdict.bound_text`` has it.
        tries: how often an image is sent again.
        queries: how often an image is asked about.
    """

    cells: Sequence[Mapping[str, Any]]
    headline: Mapping[str, float | None]
    detector: str
    own: Size
    looks: int
    bound: str
    tries: int
    queries: int


@dataclass(frozen=True)
class ReportInputs:
    """Everything that the report prints.

    Attributes:
        params: the params file, nested; ``evaluation.alphas`` and ``evaluation.confidence`` are read.
        versions: library to version.
        commit: of the code.
        class_names: by class index.
        classifier: what to say of it, in order; a key with ``_low`` and ``_high`` beside it is a share with its interval.
        promise: None where the false-alarm promise holds, else a sentence why it is void.
        metrics: flat values, ``<detector>.<attack or clean>.<metric>``, in [0, 1]; None where undefined.
        attacks: a mapping an attack: attack, family, images (of the test split), skipped (wrong when clean), successes,
            mean_linf and mean_l2 (over successes, pixel units of [0, 1]), target_reached (a count; None where untargeted).
        scores: a row per (detector, attack, image, seed).
        history: a mapping an epoch as ``training_curves`` takes it; None where the classifier was adopted.
        kept: class name (or ``pooled``) to layer to fingerprints kept.
        pooled: class name to why it uses the pooled bank.
        calibration: detector to group (a class index or ``pooled``) to calibration images.
        quarantine: a mapping a file: key, origin, label, reason, detail.
        counts: split to images.
        gallery: in the order of printing.
        alpha: the promised false-alarm rate.
        guard_detector: the detector that the guard uses.
        timings: stage to seconds; empty where unknown.
        notes: sentences.
        transfer: the detector on attacks that its fit never saw; None where that was not studied.
        hardened: the detector with survivors folded back into its fit; None where that was not studied.
        ablated: the detector with one thing changed at a time; None where that was not studied.
        redrawn: the promise over redrawn splits and under corruptions; None where that was not studied.
        game: against attackers who know the guard.
    """

    params: Mapping[str, Any]
    versions: Mapping[str, str]
    commit: str
    class_names: Sequence[str]
    classifier: Mapping[str, Any]
    promise: str | None
    metrics: Mapping[str, float | None]
    attacks: Sequence[Mapping[str, Any]]
    scores: pa.Table
    history: Sequence[Mapping[str, Any]] | None
    kept: Mapping[str, Mapping[str, int]]
    pooled: Mapping[str, str]
    calibration: Mapping[str, Mapping[str, int]]
    quarantine: Sequence[Mapping[str, Any]]
    counts: Mapping[str, int]
    gallery: Sequence[GalleryItem]
    alpha: float
    guard_detector: str
    timings: Mapping[str, float]
    notes: Sequence[str]
    transfer: TransferStudy | None
    hardened: HardeningStudy | None
    ablated: AblationStudy | None
    redrawn: PromiseStudy | None
    game: GameInputs
