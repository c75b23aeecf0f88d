"""What many redraws of the splits say together of the false-alarm promise."""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation.estimates import UNDEFINED, Estimate
from pipeline.evaluation.metrics import percent, wilson

SCHEMA = pa.schema(
    [
        ("seed", pa.int64()),
        ("source", pa.string()),
        ("group", pa.string()),
        ("alpha", pa.float64()),
        ("images", pa.int64()),
        ("flagged", pa.int64()),
    ]
)
"""A row per (redraw, source, calibration group, rate): how many test images there were, and how many were flagged."""
CLEAN, EVERY = "clean", "all"

Metrics = dict[str, float | None]


def mean_rate(flagged: Sequence[int], images: Sequence[int], confidence: float) -> Estimate:
    """The mean over redraws of the share that was flagged, with Student's interval over the redraws, kept within [0, 1].

    Given the images, redraws are independent, so the interval is one for the mean over all redraws of these very images,
    however much they overlap. For other images it would be too narrow. Where all redraws agree, which would claim certainty,
    it is Wilson's over the images of the smallest one instead.

    Args:
        flagged: of each redraw.
        images: of each redraw; those without any are left out.
        confidence: of the interval.
    """
    pairs = [(hits, of) for hits, of in zip(flagged, images, strict=True) if of]
    if not pairs:
        return UNDEFINED
    rates, least = np.array([hits / of for hits, of in pairs]), min(of for _, of in pairs)
    mean = float(rates.mean())
    if np.ptp(rates) == 0:
        wide = wilson(round(mean * least), least, confidence)
        return Estimate(mean, min(mean, wide.low or 0.0), max(mean, wide.high or 0.0))
    from scipy.stats import t  # here, for it takes most of a second to import

    half = float(t.ppf((1 + confidence) / 2, len(rates) - 1) * rates.std(ddof=1) / math.sqrt(len(rates)))
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half))


def redraw_metrics(table: pa.Table, confidence: float) -> Metrics:
    """All figures of the redraws, flat.

    Args:
        table: of ``SCHEMA``.
        confidence: of the intervals.

    Returns:
        ``redraws``, their number; ``GROUP.fpr_at_PERCENT`` for ``all`` clean images and for each ``group_NAME``, with ``_low``
        and ``_high``, ``_kept`` (1 where the rate is at most the promised one within its interval, else 0) and ``_redraws``
        (in how many the group had images); and ``ATTACK.tpr_at_PERCENT`` likewise, without ``_kept``.
    """
    found: Metrics = {"redraws": float(len(pc.unique(table["seed"])))}
    for alpha in sorted(pc.unique(table["alpha"]).to_pylist()):
        at = table.filter(pc.equal(table["alpha"], alpha))
        clean = at.filter(pc.equal(at["source"], CLEAN))
        groups = {EVERY: clean} | {f"group_{name}": _where(clean, "group", name) for name in _names(clean, "group")}
        for name, rows in groups.items():
            key, estimate, redraws = f"{name}.fpr_at_{percent(alpha)}", *_mean(rows, confidence)
            kept = None if estimate.low is None else float(estimate.low <= alpha)
            found |= {**estimate.named(key), f"{key}_kept": kept, f"{key}_redraws": float(redraws)}
        for attack in _names(at, "source"):
            if attack != CLEAN:
                key, (estimate, redraws) = f"{attack}.tpr_at_{percent(alpha)}", _mean(_where(at, "source", attack), confidence)
                found |= {**estimate.named(key), f"{key}_redraws": float(redraws)}
    return found


def seed_rates(table: pa.Table, alpha: float) -> list[float]:
    """The share of all clean images that each redraw flagged at one rate, in order of the redraws' salts."""
    rows = table.filter(pc.and_(pc.equal(table["alpha"], alpha), pc.equal(table["source"], CLEAN)))
    return [flagged / images for flagged, images in _by_seed(rows) if images]


def _names(table: pa.Table, column: str) -> list[str]:
    return sorted(pc.unique(table[column]).to_pylist())


def _where(table: pa.Table, column: str, value: str) -> pa.Table:
    return table.filter(pc.equal(table[column], value))


def _by_seed(rows: pa.Table) -> list[tuple[int, int]]:
    """Flagged and all images of each redraw, groups together."""
    summed = rows.group_by("seed").aggregate([("flagged", "sum"), ("images", "sum")]).sort_by("seed")
    return list(zip(summed["flagged_sum"].to_pylist(), summed["images_sum"].to_pylist(), strict=True))


def _mean(rows: pa.Table, confidence: float) -> tuple[Estimate, int]:
    pairs = _by_seed(rows)
    return mean_rate([hits for hits, _ in pairs], [of for _, of in pairs], confidence), sum(of > 0 for _, of in pairs)
