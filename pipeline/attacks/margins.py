"""Objectives made of differences of logits, which softmax does not flatten: DLR, its targeted form, and a class's lead.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020,
section 4. With the logits z sorted in decreasing order as z_1 >= z_2 >= ..., y the true class and t
another: DLR = -(z_y - max_{i != y} z_i) / (z_1 - z_3), and targeted DLR = -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2). Both
are positive where the numerator's other class is ahead of the true one. Guarantees: neither changes when all logits are
shifted by one constant or scaled by one positive factor, so a confident model hides no gradient behind its scale.
"""

import torch
from torch import Tensor

from pipeline.attacks.loop import Objective
from pipeline.attacks.objectives import widened
from pipeline.errors import ClassifierError

_TINY = 1e-12
"""The least denominator: where the highest logits are equal, the ratio is large rather than undefined."""


def dlr(labels: Tensor) -> Objective:
    """The difference-of-logits ratio, to be increased: above 0 where the model is wrong.

    Args:
        labels: int64 (N,), the true classes.

    Raises:
        ClassifierError: the model has fewer than 3 classes (from the objective, on its first call).
    """

    def objective(_images: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        _need_classes(logits, 3, "dlr")
        logits, true = widened(logits), labels[rows][:, None]
        top, classes = logits.topk(3, dim=1)
        strongest_other = torch.where(classes[:, 0] == true[:, 0], top[:, 1], top[:, 0])
        return (strongest_other - logits.gather(1, true)[:, 0]) / (top[:, 0] - top[:, 2]).clamp_min(_TINY)

    return objective


def dlr_targeted(labels: Tensor, targets: Tensor) -> Objective:
    """The targeted difference-of-logits ratio, to be increased: above 0 where the target beats the true class.

    Args:
        labels: int64 (N,), the true classes.
        targets: int64 (N,), the classes to reach.

    Raises:
        ClassifierError: the model has fewer than 4 classes (from the objective, on its first call).
    """
    ahead = lead(labels, targets)

    def objective(images: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        _need_classes(logits, 4, "dlr_targeted")
        top = widened(logits).topk(4, dim=1).values
        return ahead(images, logits, rows) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2).clamp_min(_TINY)

    return objective


def lead(labels: Tensor, targets: Tensor) -> Objective:
    """The target's logit less the true class's: 0 on the boundary between the two.

    Args:
        labels: int64 (N,), the true classes.
        targets: int64 (N,), the classes to reach.
    """

    def objective(_images: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        chosen = widened(logits).gather(1, torch.stack([targets[rows], labels[rows]], 1))
        return chosen[:, 0] - chosen[:, 1]

    return objective


def strongest_wrong(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """The wrong classes with the highest logits, best first, int64 (N, min(count, K - 1)).

    Args:
        logits: (N, K), of the clean images.
        labels: int64 (N,), the true classes.
        count: how many; all wrong classes where there are fewer.
    """
    wrong = logits.scatter(1, labels[:, None], -torch.inf)
    return wrong.topk(min(count, logits.shape[1] - 1), dim=1).indices


def _need_classes(logits: Tensor, least: int, loss: str) -> None:
    if logits.shape[1] < least:
        raise ClassifierError(
            f"classifier: it has {logits.shape[1]} classes, where at least {least} were expected by the loss {loss}, "
            "whose denominator compares that many logits; the loss ce works with 2."
        )
