"""``activations``: which neurons are kept."""

from typing import Literal

from pipeline.params.base import Positive, Section, Seed


class ActivationParams(Section):
    """Which layers are looked at, and how many of their neurons."""

    layers: dict[str, Positive | Literal["all"]]
    """Module name to how many of its neurons, drawn once at random, are kept. With ``.mean`` or ``.roughness`` behind the name the neurons
    are one number a channel: its mean, or how much horizontal neighbours differ. ``logits`` stands for the output, ``ranked_logits`` for
    the output from its largest number to its smallest, ``logit_margins`` for the logarithm of the largest less each of the others; of
    these two the first are kept."""
    seed: Seed
    batch_size: Positive
