"""What the game says, in plain words: what the guard stops, what it does not, and against whom."""

from collections.abc import Mapping, Sequence

from pipeline.evaluation.game_headline import FILTERING
from pipeline.evaluation.plotting import percent
from pipeline.evaluation.verdict import Rate, rate

NORMS = {"linf": "L∞", "l2": "L2"}


def paragraph(
    game: Mapping[str, float | None],
    attacks: Sequence[str],
    *,
    alpha: float,
    looks: int,
    bound: str,
    tries: int,
    queries: int,
    keyed: bool,
    played: str,
    guarding: str,
) -> str:
    """What the guard stops, what it does not, against whom: one paragraph, its numbers from the cells.

    Args:
        game: what ``headline`` returned.
        attacks: that know nothing of the guard.
        alpha: the promised false-alarm rate.
        looks: R of the filtering attacker.
        bound: of the attackers who descend or search, as ``bound_text`` has it.
        tries: how often an image is sent again.
        queries: how often an image is asked about.
        keyed: whether the guard's draws are keyed; the figures are then those against keyed draws.
        played: the detector that played.
        guarding: the guard's own.
    """
    kinds = {"plain": "keyed" if keyed else "fresh", **{who: f"{who}.keyed" if keyed else who for who in FILTERING.values()}}
    ranges = {who: _range([rate(game, f"{attack}.{kind}") for attack in attacks]) for who, kind in kinds.items()}
    static = _range([rate(game, f"{attack}.static") for attack in attacks])
    if ranges["plain"] is None:
        return "The game against attackers who know the guard could not be played: no attack succeeded on the test images."
    said = [
        *_another(played, guarding),
        *_another_calibration(rate(game, f"clean.{'keyed' if keyed else 'fresh'}"), alpha),
        f"At {percent(alpha, 2)} false alarms the guard{', with keyed draws,' if keyed else ''} stops {ranges['plain']} of the attacked "
        f"images whose maker knows nothing of it, depending on the attack. (One fixed draw, the best of several, stops {static} of them, "
        "and none from an attacker who owns a copy of it.)",
    ]
    filtering = [
        f"{ranges[who]} {words}"
        for who, words in (
            ("secret", "where the bank is secret and the copy has another one, fitted to the same data"),
            ("secret_banks", "where the looks are spread over several such copies"),
            ("bank", "where the bank is known"),
        )
        if ranges[who] is not None
    ]
    if filtering:
        ends = {who: [rate(game, f"{attack}.{kind}.accepted") for attack in attacks] for who, kind in kinds.items()}
        looked = _range([found for who in FILTERING.values() for found in ends[who]])
        said.append(
            f"Of images that passed {looks} looks at a copy of the guard before they are sent, it stops {_listed(filtering)}; "
            f"{looked} of the images tried then end as an accepted wrong label, {_range(ends['plain'])} without any look."
        )
    return " ".join([*said, *_fitted(game, bound, tries, queries, keyed=keyed)])


def _another_calibration(alarms: Rate | None, alpha: float) -> list[str]:
    """At which false alarms the figures of the game are, for those of the guard as it stands are at others."""
    if alarms is None:
        return []
    return [
        "Against attackers who know it, the guard is calibrated once more on the same images, with draws of the game, and so flags "
        f"{alarms.text} ({alarms.interval}) of the clean test images, where at most {percent(alpha, 2)} was promised on average."
    ]


def _listed(parts: Sequence[str]) -> str:
    *others, last = parts
    return f"{', '.join(others)}, and {last}" if others else last


def _another(played: str, guarding: str) -> list[str]:
    """That the figures are another detector's, where they are."""
    if played == guarding:
        return []
    return [
        f"The game was played with the detector {played}, where this guard uses {guarding}: nothing here was measured on {guarding}, "
        f"and the guard that is spoken of is one that uses {played}."
    ]


def summary(game: Mapping[str, float | None]) -> list[tuple[str, Rate, float | None, float | None]]:
    """The attackers fitted to the guard: what each does, the share of the images tried that it gets accepted, and what an image
    tried costs it in queries and in local evaluations; those that get most first.
    """
    found = []
    for name in game:
        what = name.removesuffix(".accepted")
        accepted = rate(game, name) if name.endswith(".accepted") and f"{what}.queries" in game else None
        if accepted is not None:
            found.append((_words(what), accepted, game[f"{what}.queries"], game[f"{what}.local"]))
    return sorted(found, key=lambda row: (-row[1].value, row[0]))


_SAID = {
    "descend": "descends on the score",
    "query": "searches by asking",
    "resubmit": "sends it again",
    "resubmit_changed": "sends changed copies",
    "algorithm": "knows the algorithm",
    "bank": "knows the bank",
    "draws": "knows the draws",
    "fresh": "fresh draws",
    "keyed": "keyed draws",
    "static": "one fixed draw",
}


def _words(name: str) -> str:
    # A weight such as 0.5 in the name of an attack holds the same dot that parts its names.
    attacker, rest = name.split(".", 1)
    rest, defender = rest.rsplit(".", 1)
    what, _, knowledge = rest.rpartition(".")
    if knowledge not in ("algorithm", "bank", "draws"):
        what, knowledge = rest, ""
    parts = [_SAID[attacker], what, *([_SAID[knowledge]] if knowledge else []), f"against {_SAID[defender]}"]
    return ", ".join(parts)


def _range(found: Sequence[Rate | None]) -> str | None:
    """The least and the most of some shares, in words."""
    values = [each.value for each in found if each is not None]
    if not values:
        return None
    low, high = percent(min(values)), percent(max(values))
    return low if low == high else f"{low} to {high}"


def bound_text(norm: str, epsilon: float) -> str:
    """A bound as people write it, with its norm: in grey levels where it is a whole number of them and no short decimal."""
    levels, decimal = epsilon * 255, f"{epsilon:.4g}"
    whole = norm == "linf" and abs(levels - round(levels)) < 1e-6 and abs(float(decimal) - epsilon) > 1e-9
    return f"{NORMS[norm]} {round(levels)}/255" if whole else f"{NORMS[norm]} {decimal}"


def _fitted(game: Mapping[str, float | None], bound: str, tries: int, queries: int, *, keyed: bool) -> list[str]:
    """What those get accepted who are fitted to the guard: the strongest of each kind."""
    said, way = [], "keyed" if keyed else "fresh"
    again = ", to the same draw each time" if keyed else ""
    within = f"within {bound}"
    kinds = (
        ("descend.", f".algorithm.{way}.accepted", f"by descending {within} on the score of a bank of their own, without the guard's"),
        ("descend.", f".bank.{way}.accepted", f"by descending {within} on the guard's own score, with the bank"),
        ("query.", f".{way}.accepted", f"by asking the live guard alone, up to {queries} times an image"),
        ("resubmit.", f".{way}.accepted", f"by sending the same attacked image up to {tries} times{again}"),
        ("resubmit_changed.", f".{way}.accepted", f"by sending up to {tries} slightly changed copies"),
    )
    for start, end, words in kinds:
        best = _most(game, start, end)
        if best is not None:
            said.append(f"{best.text} ({best.interval}) {words}")
    if not said:
        return []
    return [
        "Attackers who ask the guard, or descend on a score, get up to these shares of the images tried accepted under a wrong label: "
        f"{'; '.join(said)}.",
        "So the guard makes such attacks dearer, not impossible: limit how often a client may ask.",
    ]


def _most(game: Mapping[str, float | None], start: str, end: str) -> Rate | None:
    names = [name for name in game if name.startswith(start) and name.endswith(end)]
    known = [found for found in (rate(game, name) for name in names) if found is not None]
    return max(known, key=lambda found: found.value, default=None)
