"""What every engine may spend, and what an attack is here: what ``ours.py`` and ``peers.py`` share."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pipeline.attacks.geometry import NormName

Attack = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Images (N, C, H, W), labels (N,) and target classes (N,), which only targeted attacks look at, to attacked images."""
Attacks = dict[str, Attack]
"""What an engine has, by our names; what is not there it does not offer."""


@dataclass(frozen=True)
class Budget:
    """What every engine may spend; sizes in pixel units.

    Attributes:
        norm: of the bounded attacks.
        epsilon: their radius.
        steps: of PGD, BIM and MIM, each of ``epsilon / 4``.
        run_steps: of a run of APGD and of FAB (the authors': 100).
        queries: of Square (the authors' of AutoAttack: 5,000).
        deepfool_steps: the most.
        overshoot: of DeepFool.
        searches: values of the constant that Carlini and Wagner's attack tries.
        search_steps: Adam's steps for each of them.
        learning_rate: Adam's.
        constant: the first of them.
    """

    norm: NormName
    epsilon: float
    steps: int
    run_steps: int
    queries: int
    deepfool_steps: int
    overshoot: float
    searches: int
    search_steps: int
    learning_rate: float
    constant: float

    @property
    def step_size(self) -> float:
        """Of PGD, BIM and MIM."""
        return self.epsilon / 4


FIXED_CONSTANT = "carlini_wagner_fixed"
"""Carlini and Wagner's attack with one value of the constant, 1: all that torchattacks has."""
