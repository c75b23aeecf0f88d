"""Which attacks a fit knows, and which are new to it."""

from collections.abc import Mapping, Sequence

ALL = "all"


def fit_sets(fit_attacks: Sequence[str], families: Mapping[str, str]) -> dict[str, list[str]]:
    """The fits whose detectors are compared: on all attacks, without each family, and on each family alone.

    Two attacks of one family differ in their goal or their steps, not in their kind: a fit on one of them knows the other.

    Args:
        fit_attacks: those of the whole fit.
        families: attack to its family.

    Returns:
        ``all``, ``without_FAMILY`` and ``only_FAMILY`` to the attacks of that fit; only ``all`` where there is a single family.
    """
    whole = list(fit_attacks)
    known = list(dict.fromkeys(families[name] for name in whole))
    sets = {ALL: whole}
    if len(known) > 1:
        sets |= {f"without_{family}": [name for name in whole if families[name] != family] for family in known}
        sets |= {f"only_{family}": [name for name in whole if families[name] == family] for family in known}
    return sets


def unseen(attack: str, fitted: Sequence[str], families: Mapping[str, str]) -> bool:
    """Whether a fit has met no attack of this one's family."""
    return families[attack] not in {families[name] for name in fitted}


def left_out(attack: str, fits: Mapping[str, Sequence[str]], families: Mapping[str, str]) -> str | None:
    """The largest fit that never met an attack's family: the one that leaves it out, or ``all`` where none of it was fitted.

    None where every fit has met it, as where the whole fit is of one family.
    """
    candidates = [name for name in (f"without_{families[attack]}", ALL) if name in fits]
    return next((name for name in candidates if unseen(attack, fits[name], families)), None)
