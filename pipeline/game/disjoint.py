"""Committees of several kinds that share no fingerprint: a guard whose draws may disagree more than those of one bank."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.detectors.building import Stream, factor_group, moments_needed, pooled_moments
from pipeline.detectors.committee import CommitteeDetector
from pipeline.fingerprints.bank import Bank
from pipeline.fingerprints.committees import Committees, Factored
from pipeline.game.defenders import only
from pipeline.params.detectors import CommitteeDetectorParams
from pipeline.params.game import DisjointParams
from pipeline.random import generator

Rows = npt.NDArray[np.int64]


def divided(bank: Bank, given: DisjointParams, seed: int) -> list[Rows]:
    """The rows of the bank's fingerprints that each part has, rising; none is in two parts.

    Where the parts are a number, every layer of a group is dealt to them in an order that the seed and the group's name give.
    """
    layers = bank.fingerprints.layer
    if not isinstance(given.parts, int):
        numbers = [[place for place, name in enumerate(bank.layout.layers) if name in part] for part in given.parts]
        return [np.flatnonzero(np.isin(layers, chosen)) for chosen in numbers]
    part = np.empty(len(layers), np.int64)
    for name, start, stop in zip(bank.names, bank.starts, bank.starts[1:], strict=False):
        shuffled = start + generator(seed, "game/disjoint", name).permutation(int(stop - start))
        # Dealt on and on, layer after layer: of a small one the next part has the rest, and parts are of one size.
        part[shuffled[np.argsort(layers[shuffled], kind="stable")]] = np.arange(stop - start) % given.parts
    return [np.flatnonzero(part == number) for number in range(given.parts)]


def misfit(given: DisjointParams, committees: int, layers: Sequence[str], most: int) -> str | None:
    """Why no bank can be drawn from in these parts, a sentence; None where nothing speaks against it.

    Args:
        given: the parts.
        committees: of the detector.
        layers: that are kept.
        most: fingerprints that a group of the bank may have.
    """
    if committees < given.count:
        return f"there are {given.count} parts, where at most as many as committees, {committees}, were expected."
    if unknown := [layer for part in given.layers for layer in part if layer not in layers]:
        return f"its parts name {unknown}, where some of the layers that are kept, {list(layers)}, were expected."
    largest = -(-most // given.parts) if isinstance(given.parts, int) else most
    if given.draw >= largest:
        return f"draw is {given.draw} of a part that has at most {largest} fingerprints, where fewer were expected."
    return None


def shortage(bank: Bank, given: DisjointParams, committees: int, seed: int) -> str | None:
    """Why a bank cannot be drawn from in these parts, a sentence; None where it can."""
    if said := misfit(given, committees, bank.layout.layers, int(bank.sizes.max())):
        return said
    for number, rows in enumerate(divided(bank, given, seed)):
        sizes = only(bank, rows).sizes
        if (least := int(sizes.min())) <= given.draw:  # a part that is drawn whole leaves nothing to chance
            group, which = bank.names[int(sizes.argmin())], number if isinstance(given.parts, int) else list(given.parts[number])
            return f"part {which} has {least} fingerprints of group {group}, where more than draw, {given.draw}, were expected."
    return None


def disjoint(
    stream: Stream, bank: Bank, params: CommitteeDetectorParams, attacks: Sequence[str], given: DisjointParams, seed: int
) -> CommitteeDetector:
    """The detector whose committees are of one part of the bank each, part after part, every part having as many.

    Args:
        stream: of the features of ``fit``.
        bank: the defender's.
        params: the detector's own; of its committees as many are made as every part can have as many of.
        attacks: those of the fit.
        given: the parts, which the bank allows (see ``shortage``).
        seed: of dealing fingerprints to parts.
    """
    classes, size = len(bank.class_group), bank.layout.size
    moments = {source: pooled_moments(stream, source, classes, size) for source in moments_needed(params, attacks)}
    shape = {"draw": given.draw, "committees": params.committees // given.count, "directions": min(params.directions, given.draw)}
    made: list[list[tuple[Rows, Factored]]] = [[] for _ in bank.names]
    for number, rows in enumerate(divided(bank, given, seed)):
        part, own = only(bank, rows), int(generator(params.seed, "game/disjoint", str(number)).integers(2**62))
        recipe = params.model_copy(update={**shape, "seed": own})
        for place, group in enumerate(bank.names):
            members, factored = factor_group(part, group, recipe, moments, attacks)
            inside = rows[part.starts[place] : part.starts[place + 1]] - bank.starts[place]
            made[place].append((inside[members], factored))
    return CommitteeDetector(bank, Committees.join([_together(pieces) for pieces in made], bank.starts, attacks))


def _together(pieces: Sequence[tuple[Rows, Factored]]) -> tuple[Rows, Factored]:
    arrays = zip(*(vars(factored).values() for _, factored in pieces), strict=True)
    return np.concatenate([members for members, _ in pieces]), Factored(*map(np.concatenate, arrays))
