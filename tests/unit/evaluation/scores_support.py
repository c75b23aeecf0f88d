"""A small table of scores for tests of the evaluation."""

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.params.evaluation import EvaluationParams

PARAMS = EvaluationParams(alphas=(0.01, 0.05), seeds=(0, 1), confidence=0.95, bootstrap=200, bootstrap_seed=0)


def score_rows(
    seed: int = 0, images: int = 60, detectors: tuple[str, ...] = ("vote", "ratio"), seeds: tuple[int, ...] = (0, 1)
) -> list[dict[str, Any]]:
    """Rows of three attacks: ``pgd`` mostly succeeds, ``fgsm`` sometimes, ``never`` never; misclassified images are skipped."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, images)
    clean = np.where(rng.random(images) < 0.8, labels, (labels + 1) % 5)
    shares = {"clean": 0.0, "pgd": 0.9, "fgsm": 0.4, "never": 0.0}
    wins = {attack: (clean == labels) & (rng.random(images) < share) for attack, share in shares.items()}
    rows = []
    for detector in detectors:
        for draw in seeds:
            for attack, won in wins.items():
                for at in range(images):
                    score = rng.normal() + 1.5 * won[at]
                    rows.append(
                        {
                            "detector": detector,
                            "attack": attack,
                            "id": f"{at * 7919 % 1000:032x}",
                            "label": int(labels[at]),
                            "clean_predicted": int(clean[at]),
                            "predicted": int((labels[at] + 2) % 5 if won[at] else clean[at]),
                            "success": bool(won[at]),
                            "score": float(round(score, 1)),  # ties, as votes have them
                            "p_value": float(np.clip(np.exp(-1.5 * max(score, 0)), 0.001, 1)),
                            "group": "pooled",
                            "seed": draw,
                        }
                    )
    return rows


def score_table(rows: list[dict[str, Any]]) -> pa.Table:
    order = np.random.default_rng(1).permutation(len(rows))
    return pa.Table.from_pylist([rows[at] for at in order])
