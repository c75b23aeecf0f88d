"""The authors' package, fingerprints-armor, on the arrays and the index sets that it is given.

Its wheel cannot be imported as it is: its modules lie at the top but import one another from a package ``src`` whose logger is
not in the wheel. That logger is all that its fingerprints need of it, so a stand-in is handed to the import.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pandas as pd

PACKAGE = "fingerprints-armor"
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Numbers:
    """What was fitted of F fingerprints, all (F,): means and deviations on clean and on attacked images, and |Cohen's d|."""

    mu0: Floats
    sd0: Floats
    mu1: Floats
    sd1: Floats
    effect: Floats


class Armor:
    """Their detector of one class, with its calls under our names.

    Args:
        clean: (n, D) activations of clean images.
        attacked: (n, D) activations of attacked ones; their own loader stores the clean ones again in their place.
        k: neurons in a fingerprint.
    """

    def __init__(self, clean: npt.NDArray[np.floating], attacked: npt.NDArray[np.floating], k: int) -> None:
        self.clean, self.attacked, self.k = pd.DataFrame(clean), pd.DataFrame(attacked), k
        self._class = _fingerprints().SingleClassFingerprintsArmor

    def fit(self, count: int, p_value: float, effect_size: float) -> Any:
        """Samples ``count`` fingerprints, fits them and keeps the significant ones of a large enough effect, as their ``fit`` does."""
        found = self._class(self.k)
        found.fit(self.clean, self.attacked, count, p_value_threshold=p_value, min_effect_size=effect_size)
        return found


def numbers(fitted: Any) -> Numbers:
    """What they fitted of the fingerprints that they kept."""
    found, effect = fitted._fingerprints, fitted._compute_abs_d_effect_size
    columns = [(*each.original_stats, *each.adversarial_stats, effect(each)) for each in found]
    return Numbers(*np.array(columns, np.float64).reshape(-1, 5).T)


def index_sets(fitted: Any) -> npt.NDArray[np.int32]:
    """The columns of the fingerprints that they kept, (F, k)."""
    return np.array([each.selected_activations for each in fitted._fingerprints], np.int32)


def image_scores(fitted: Any) -> tuple[Floats, Floats]:
    """Scores of the clean and of the attacked images, (n, F) each."""
    sides = (np.stack([getattr(each, side) for each in fitted._fingerprints], axis=1) for side in ("original_means", "adversarial_means"))
    clean, attacked = (side.astype(np.float64) for side in sides)
    return clean, attacked


@contextmanager
def replayed(sets: npt.NDArray[np.int32]) -> Iterator[None]:
    """Hands their sampler these index sets, (F, k), one a fingerprint, in place of its own draws."""
    rows = iter(sets)

    def choice(_columns: object, _size: int, replace: bool) -> npt.NDArray[np.int32]:
        return next(rows)

    with patch.object(np.random, "choice", choice):
        yield


def _fingerprints() -> Any:
    """Their module, imported with a stand-in for the logger that it expects."""
    logger = ModuleType("src.logger_config")
    logger.get_logger = logging.getLogger  # type: ignore[attr-defined]
    with patch.dict(sys.modules, {"src": ModuleType("src"), "src.logger_config": logger}):
        return import_module("fingerprints_armor.fingerprints")
