"""``activations``: which neurons are kept."""

from typing import Literal

from pipeline.params.base import Positive, Section, Seed


class ActivationParams(Section):
    """Which layers are looked at, and how many of their neurons."""

    layers: dict[str, Positive | Literal["all"]]
    """Module name to how many of its neurons, drawn once at random, are kept. With ``.mean``, ``.roughness`` or ``.residual1`` to
    ``.residual4`` behind the name the neurons are one number a channel: its mean, how much horizontal neighbours differ, or what
    differences of that order along both axes leave (small perturbations above all). ``logits`` stands for the output, ``ranked_logits``
    for the output from its largest number to its smallest, ``logit_margins`` for the logarithm of the largest less each of the others;
    of these two the first are kept."""
    seed: Seed
    batch_size: Positive
