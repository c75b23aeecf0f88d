"""``game``: who plays against the guard, with what knowledge, and for how long."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from pipeline.params.base import Count, Distance, Name, Positive, Section, Seed, Share, Unique


class DescendParams(Section):
    """The attackers who follow the gradient of the guard's own score."""

    norm: Literal["linf", "l2"]
    epsilon: Distance
    """The most that the perturbation may measure, in pixel units; the searching attacker keeps to it too."""
    step_size: Annotated[Distance, Field(gt=0)]
    steps: Positive
    samples: Positive
    """Draws that the score is averaged over in every step (EOT)."""
    weights: Unique[Annotated[float, Field(gt=0)]]
    """What the guard's goal counts for beside the classifier's, an attacker each (lambda)."""
    trades: Unique[Share]
    """The guard's share of a step where steps, not goals, are added, an attacker each (Metzen's sigma)."""


class DisjointParams(Section):
    """Committees of several kinds that share no fingerprint, so that their draws may disagree more."""

    draw: Positive
    """Fingerprints of a committee (m)."""
    parts: Annotated[
        Annotated[int, Field(ge=2), Tag("number")] | Annotated[Unique[Unique[str]], Tag("lists")],
        Discriminator(lambda value: "number" if isinstance(value, int) else "lists"),
    ]
    """What they are drawn from: lists of layers, a part each; or a number of parts, to which every layer is dealt at random."""

    @model_validator(mode="after")
    def _parts_are_disjoint(self) -> Self:
        named = [layer for part in self.layers for layer in part]
        if shared := sorted({layer for layer in named if named.count(layer) > 1}):
            raise ValueError(f"parts has {', '.join(map(repr, shared))} in more than one list, where each layer was expected in one")
        if len(self.layers) == 1:
            raise ValueError("parts is a single list of layers, where at least two were expected")
        return self

    @property
    def count(self) -> int:
        """How many parts there are."""
        return self.parts if isinstance(self.parts, int) else len(self.parts)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The lists of layers; none where the parts are a number."""
        return () if isinstance(self.parts, int) else self.parts


class GameParams(Section):
    """The game against attackers who know the guard."""

    detector: Name
    """Which of ``detectors`` defends; one with committees."""
    seed: Seed
    """Of the attackers' own randomness, of the surrogate banks, and of the defender's draws, so that a game can be repeated."""
    draws: Unique[Positive]
    """Fingerprints of a committee (m) that the defender tries, beside the detector's own."""
    committees: Unique[Positive]
    """Committees a class (T) that the defender tries, beside the detector's own."""
    banks: Unique[Positive]
    """Fingerprints kept a class that the defender tries, beside the detector's own bank; those that no class has more of, or that a
    committee would take whole, are left out."""
    disjoint: dict[Name, DisjointParams]
    """Committees of several parts of the bank that the defender tries, by name; where a part is too small, a note says so instead."""
    statics: Positive
    """Fixed draws that the static defender chooses from, by their AUROC on ``tune``."""
    surrogates: Positive
    """How many banks are fitted, each from seeds of its own, by attackers who know the algorithm and the data: each such attacker has one
    of them, and another has all and spreads the looks over them (nobody, where there is but one). Who descends has the first."""
    looks: Unique[Positive]
    """How often the filtering attacker looks at a local copy before sending (R)."""
    headline: Positive
    """The number of looks at which the game is summed up; one of ``looks``."""
    tries: Positive
    """How often the resubmitting attackers send an image (Q)."""
    changed_pixels: Positive
    """Pixels that are moved by one grey level between two such tries."""
    images: Positive
    """Images of ``test`` that the attackers work on who need the classifier for every try."""
    queries: Count
    """Questions an image that the searching attacker asks the live guard; 0 leaves that attacker out."""
    descend: DescendParams

    @model_validator(mode="after")
    def _headline_is_played(self) -> Self:
        if self.headline not in self.looks:
            raise ValueError(f"headline is {self.headline}, where one of looks, {list(self.looks)}, was expected")
        return self
