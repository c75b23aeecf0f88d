"""What an attack family is: the four names that each file in ``families/`` defines, and what they exchange."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.attacks.geometry import Norm
from pipeline.params.base import Section
from pipeline.random import ImageRandom

LogitFn = Callable[[Tensor], Tensor]
"""Float images (N, C, H, W) in [0, 1] to logits (N, K); normalisation, input transformations and any randomness of
the model lie inside it."""


class AttackOptions(Section):
    """What every family's ``Options`` extend: frozen, strictly typed, without defaults."""

    family: str
    """The family's name, which is the name of its file; a ``Literal`` in every family."""


EPSILON = "epsilon"
"""The option that is the radius of a ball. Where bytes are stored, that of an L-infinity ball is cut to whole grey levels."""
STOP = "stop_on_success"
"""The option, where there is one, by which images leave once they succeed; what storing then undid is attacked again without it."""


@dataclass(frozen=True)
class Bound:
    """The promise of a bounded attack: no image moves by more than ``epsilon`` (pixel units) in ``norm``."""

    norm: Norm
    epsilon: float


@dataclass(frozen=True)
class Outcome:
    """What an attack returns for a batch.

    Attributes:
        images: float (N, C, H, W) in [0, 1]; of an attack that failed, whatever it ended with (``generate`` stores the
            input instead).
        steps: int64 (N,), the gradient steps that each image took; queries, for an attack without gradients.
    """

    images: Tensor
    steps: Tensor

    def __post_init__(self) -> None:
        assert self.steps.shape == self.images.shape[:1] and self.steps.dtype == torch.int64


class Family(Protocol):
    """A module of ``families/``. Its module docstring gives the paper, the equation and the guarantees."""

    Options: type[AttackOptions]

    def targeted(self, options: Any) -> bool:
        """Whether the attack needs a target class per image."""

    def bound(self, options: Any) -> Bound | None:
        """The ball that results stay in, which storing then holds after rounding; None for a minimum-norm attack."""

    def attack(
        self, logits_fn: LogitFn, images: Tensor, labels: Tensor, targets: Tensor | None, options: Any, draws: ImageRandom
    ) -> Outcome:
        """Attacks a batch.

        Args:
            logits_fn: the model; neither its parameters, its mode nor their gradients may change.
            images: float (N, C, H, W) in [0, 1], on the 8-bit grid, N >= 1.
            labels: int64 (N,), the true classes, which the model predicts on ``images``.
            targets: int64 (N,) other classes to reach; None where ``targeted`` says no.
            options: the family's own ``Options``.
            draws: one random stream an image; the only source of randomness.
        """
