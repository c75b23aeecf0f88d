"""What an attack climbs: functions of (images, logits, rows), as ``loop.Objective`` wants them, and stopping rules."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.attacks.loop import Finished, Objective


def away_from(labels: Tensor) -> Objective:
    """The cross-entropy of the true class, in nats: climbing it is an untargeted attack. ``labels``: int64 (N,)."""

    def objective(_images: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        return F.cross_entropy(widened(logits), labels[rows], reduction="none")

    return objective


def towards(targets: Tensor) -> Objective:
    """Minus the cross-entropy of the target class: climbing it is a targeted attack. ``targets``: int64 (N,)."""
    leave = away_from(targets)

    def objective(images: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        return -leave(images, logits, rows)

    return objective


def goal(labels: Tensor, targets: Tensor | None) -> Objective:
    """``towards`` the targets where there are any, ``away_from`` the labels otherwise."""
    return away_from(labels) if targets is None else towards(targets)


def misclassified(labels: Tensor, targets: Tensor | None) -> Finished:
    """Finished once the model predicts the target, or, without one, another class than the true one.

    Args:
        labels: int64 (N,), the true classes.
        targets: int64 (N,), the classes to reach; None for an untargeted attack.
    """

    def finished(logits: Tensor, rows: Tensor) -> Tensor:
        predicted = logits.argmax(1)
        return predicted != labels[rows] if targets is None else predicted == targets[rows]

    return finished


def confident_in(targets: Tensor, confidence: float) -> Finished:
    """Finished once the target's softmax probability is above ``confidence``. ``targets``: int64 (N,)."""

    def finished(logits: Tensor, rows: Tensor) -> Tensor:
        probability = torch.softmax(widened(logits), 1).gather(1, targets[rows][:, None])[:, 0]
        return probability > confidence

    return finished


def widened(logits: Tensor) -> Tensor:
    """At least float32: half precision would round most of a confident model's loss to 0."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
