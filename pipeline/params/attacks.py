"""``attacks`` and ``generation``: which attacks, and how their data sets are made."""

from pydantic import ConfigDict

from pipeline.params.base import Name, Positive, Precision, Section, Seed


class AttackSpec(Section):
    """One attack: its family, and that family's own options.

    The options are typed by the family's file in ``pipeline/attacks/families``, so that a new attack is one file;
    ``pipeline.attacks.registry.parse_options`` checks them before any work.
    """

    model_config = ConfigDict(extra="allow")
    family: Name


class GenerationParams(Section):
    """How adversarial data sets are made, whatever the attack."""

    seed: Seed
    """Random starts and targets depend on (seed, attack name, image id) alone."""
    batch_size: Positive
    eight_bit: bool
    """Store what an 8-bit image file can carry (true), or floats."""
    precision: Precision
    """Of the attacks' own steps. bfloat16 is faster where the processor has it; what it does not break is attacked again in
    float32, which alone decides success."""
