"""How far a defender's fresh draws disagree, and what that leaves of detection: from the cells of the game."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.game_headline import Size, size_of


@dataclass(frozen=True)
class Randomness:
    """One attack against fresh draws of one size; None is a share of nothing.

    Attributes:
        attack: its name.
        size: of the committees.
        detected: of what is sent by an attacker who knows nothing.
        disagreement: the share of images and pairs of draws of which one flags and the other does not.
        after_looks: detected of what is sent by an attacker who knows the bank and looked first; None where less than one image is.
        accepted: what then ends accepted, of the images tried.
        false_alarms: seen among clean images, with the thresholds of draws of this size.
    """

    attack: str
    size: Size
    detected: float | None
    disagreement: float | None
    after_looks: float | None
    accepted: float | None
    false_alarms: float | None


def randomness(cells: Sequence[Mapping[str, Any]], attacks: Sequence[str], looks: int) -> list[Randomness]:
    """Of each attack and size, the largest sizes first, then those of disjoint parts.

    Two draws disagree on an image that a share c of all draws flags with a chance of 2 c (1 - c). Of images that passed one look a
    share E[c (1 - c)] / E[1 - c] is detected, so the mean follows from the cells.
    """
    known = {
        (row["attack"], size_of(row), row["budget"] if row["attacker"] == "filter" else 0): row
        for row in cells
        if row["defender"] == "fresh" and (row["attacker"], row["knowledge"]) in (("plain", "nothing"), ("filter", "bank"))
    }
    alarms = {size: row["detected"] for (attack, size, budget), row in known.items() if attack == "clean" and not budget}
    found = []
    for (attack, size, budget), plain in known.items():
        if budget or attack not in attacks:
            continue
        once, looked = (known.get((attack, size, number), {}) for number in (1, looks))
        detected, again = plain["detected"], once.get("detected")
        apart = None if detected is None or again is None else 2 * again * (1 - detected)
        after = looked["detected"] if looked.get("sent", 0) >= 1 else None
        found.append(Randomness(attack, size, detected, apart, after, looked.get("accepted"), alarms.get(size)))
    return sorted(found, key=lambda one: (list(attacks).index(one.attack), one.size.disjoint, *(-value for value in one.size[:3])))
