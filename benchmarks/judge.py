"""One judge for everybody's results: the classifier as loaded, on the float images that an attack returned."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.attacks.geometry import L2, Linf, NormName, norm

TIE = 1e-5
"""Logits: a margin this small is float noise, and counts as crossed. Some attacks end on the boundary to within a rounding."""
SLACK = 1e-5
"""Pixel units: what float arithmetic may add to a bound."""
BATCH = 128
UNITS: dict[NormName, str] = {"l2": "mean L2", "linf": "mean Linf"}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Verdicts:
    """Of n attacked images.

    Attributes:
        fooled: bool (n,), misclassified, in [0, 1] and within the bound.
        reached: bool (n,), the same, and classified as the target.
        l2: float64 (n,), norm of the change in pixel units.
        linf: float64 (n,).
    """

    fooled: npt.NDArray[np.bool_]
    reached: npt.NDArray[np.bool_]
    l2: Floats
    linf: Floats


def judge(
    model: nn.Module, clean: Tensor, attacked: Tensor, labels: Tensor, targets: Tensor, bound: tuple[NormName, float] | None
) -> Verdicts:
    """What became of images.

    Args:
        model: in evaluation mode.
        clean: float (n, C, H, W).
        attacked: the same shape; what an attack returned.
        labels: int64 (n,).
        targets: int64 (n,).
        bound: norm and radius of a bounded attack; an image outside is one that was not fooled.
    """
    logits = _logits(model, attacked)
    allowed = ((attacked >= -SLACK) & (attacked <= 1 + SLACK)).flatten(1).all(1)
    if bound is not None:
        allowed &= norm(bound[0]).distance(attacked, clean) <= bound[1] + SLACK
    fooled, reached = allowed & (margin(logits, labels) >= -TIE), allowed & (margin(logits, targets) <= TIE)
    return Verdicts(fooled.numpy(), reached.numpy(), L2().distance(attacked, clean).numpy(), Linf().distance(attacked, clean).numpy())


def margin(logits: Tensor, classes: Tensor) -> Tensor:
    """By how much the best other class leads a class, (n,)."""
    own = logits.gather(1, classes[:, None])
    others = logits.scatter(1, classes[:, None], -torch.inf)
    return (others.amax(1, keepdim=True) - own)[:, 0]


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(images[first : first + BATCH]) for first in range(0, len(images), BATCH)])


def sizes_of_both(ours: Verdicts, peer: Verdicts, name: NormName) -> tuple[Floats, Floats]:
    """The norms of both sides' changes, over the images that both fooled."""
    both = ours.fooled & peer.fooled
    return (ours.l2[both], peer.l2[both]) if name == "l2" else (ours.linf[both], peer.linf[both])
