"""The variants of an ablation: a design with one thing changed at a time, as far as each can be made."""

from collections.abc import Mapping

from pipeline.detectors.design import Design
from pipeline.params.ablation import UNCHANGED, Changes, varied


def variants(base: Design, changes: Mapping[str, Changes], neurons: Mapping[str, int]) -> tuple[dict[str, Design], dict[str, str]]:
    """A design as it is, first, and all of its variants that can be made; and a sentence for each of the others: why it cannot.

    Args:
        base: the design.
        changes: the variants' names, and what each changes.
        neurons: layer to how many are kept of it.
    """
    found, refused = {UNCHANGED: base}, dict[str, str]()
    for name, changed in changes.items():
        try:
            design = Design(*varied((base.fingerprints, base.selection, base.detector), changed))
            said = unfit(design, neurons)
        except ValueError as error:
            said = f"{error}."
        if said:
            refused[name] = said
        else:
            found[name] = design
    return found, refused


def unfit(design: Design, neurons: Mapping[str, int]) -> str | None:
    """Why a design of valid sections does for no detector of these activations, as a sentence; None where nothing speaks against it.

    ``neurons`` is layer to how many are kept of it.
    """
    kept = {layer: neurons.get(layer, 0) for layer in design.fingerprints.layer_weights}
    for layer, k in design.fingerprints.too_wide(kept).items():
        return f"fingerprints.k is {k} in layer {layer!r}, where at most the {kept[layer]} neurons kept of it were expected."
    said = design.selection.drawn_whole([design.detector.draw])
    return f"draw is {said}." if said else None
