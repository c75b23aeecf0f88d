"""The figures of the game that stand for the others, and the sizes of defenders that its cells are of."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]
ENDINGS = ("", "_low", "_high")
FILTERING = {("bank", "filter"): "bank", ("algorithm", "filter"): "secret", ("algorithm", "filter_banks"): "secret_banks"}
"""What a filtering attacker knows and does, to its name in the headline."""


class Size(NamedTuple):
    """Of a defender's committees.

    Attributes:
        draw: fingerprints of one (m).
        committees: how many a class (T).
        bank: fingerprints of the largest group of the bank that they are drawn from.
        disjoint: the name of the bank's parts that they are drawn from, each from one; empty where from the whole bank.
    """

    draw: int
    committees: int
    bank: int
    disjoint: str = ""


def size_of(row: Row) -> Size:
    """Of the detector of a cell."""
    return Size(row["draw"], row["committees"], row["bank"], row["disjoint"])


def headline(rows: Iterable[Row], attacks: Sequence[str], own: Size, looks: int) -> dict[str, float | None]:
    """The figures of the game that stand for the others, flat.

    Args:
        rows: the cells.
        attacks: that know nothing of the guard.
        own: the size of the guard's own detector.
        looks: R at which the filtering attacker is taken.

    Returns:
        ``<attack>.<who>`` with ``_low`` and ``_high``, the share detected of what is sent: ``fresh`` and ``static`` (plain),
        ``bank`` and ``secret`` (against fresh draws, filtered on the defender's bank or on a surrogate, R looks),
        ``secret_banks`` (R looks spread over several surrogates), ``draws`` (against the static guard, whose draw is known); and
        ``<attack>.{fresh,bank,secret,secret_banks}.accepted``. The same against keyed draws: ``<attack>.keyed``,
        ``<attack>.{bank,secret,secret_banks}.keyed``, each with ``.accepted``.
        ``descend.<kind>.<knowledge>.<defender>.accepted``, ``query.<replies>.<defender>.accepted`` and likewise ``resubmit`` and
        ``resubmit_changed``: shares of the images tried that end as an accepted wrong label, with ``<...>.queries`` and ``.local``,
        what an image tried cost. ``clean.<defender>``: false alarms.
    """
    cells = {_key(row): row for row in rows if size_of(row) == own}
    flat: dict[str, float | None] = {}

    def take(name: str, key: tuple[Any, ...], measure: str) -> None:
        if key in cells:
            flat.update({f"{name}{end}": cells[key][f"{measure}{end}"] for end in ENDINGS})

    for defender in ("fresh", "keyed", "static"):
        take(f"clean.{defender}", (defender, "nothing", "plain", "clean", 0), "detected")
    for attack in attacks:
        for way in ("fresh", "keyed"):
            take(f"{attack}.{way}", (way, "nothing", "plain", attack, 0), "detected")
            take(f"{attack}.{way}.accepted", (way, "nothing", "plain", attack, 0), "accepted")
        take(f"{attack}.static", ("static", "nothing", "plain", attack, 0), "detected")
        take(f"{attack}.draws", ("static", "draws", "filter", attack, 1), "detected")
        for (knowledge, attacker), name in FILTERING.items():
            for way, end in (("fresh", ""), ("keyed", ".keyed")):
                take(f"{attack}.{name}{end}", (way, knowledge, attacker, attack, looks), "detected")
                take(f"{attack}.{name}{end}.accepted", (way, knowledge, attacker, attack, looks), "accepted")
    for key, row in cells.items():
        defender, knowledge, attacker, attack, _ = key
        if attacker in ("descend", "query", "resubmit", "resubmit_changed"):
            name = ".".join([attacker, attack, *([] if knowledge == "nothing" else [knowledge]), defender])
            take(f"{name}.accepted", key, "accepted")
            flat |= {f"{name}.queries": row["queries"], f"{name}.local": row["local"]}
    return flat


def _key(row: Row) -> tuple[Any, ...]:
    return row["defender"], row["knowledge"], row["attacker"], row["attack"], row["budget"]
