"""Joins the groups' selections into a bank; classes with too little share the pooled group."""

from collections.abc import Mapping

from pipeline.errors import WhorlError
from pipeline.fingerprints.bank import Bank
from pipeline.fingerprints.features import POOLED, Layout, group_name
from pipeline.fingerprints.selection import Selected
from pipeline.params.fingerprints import SelectionParams


def shortcomings(selected: Selected, params: SelectionParams) -> str:
    """What a group has too little of, in words with the numbers; empty where it has enough of everything."""
    wants = [
        (selected.clean, params.min_clean, "correctly classified clean images", "min_clean"),
        (selected.attacked, params.min_attacked, "successful attacks", "min_attacked"),
        (len(selected.fingerprints), params.min_fingerprints, "fingerprints", "min_fingerprints"),
    ]
    return ", ".join(f"{has} {what} (selection.{key} is {least})" for has, least, what, key in wants if has < least)


def assemble(selected: Mapping[str, Selected], layout: Layout, classes: int, params: SelectionParams) -> Bank:
    """The bank: a group of its own for every class that has enough, the pooled one for all others.

    Args:
        selected: group to its selection; must hold every class, and ``pooled``.
        layout: which columns belong to which layer.
        classes: the number of classes, K.
        params: the ``selection`` section.

    Returns:
        The bank; the pooled group is in it only where some class uses it.

    Raises:
        WhorlError: the pooled group is needed and has too little itself.
    """
    short = {label: said for label in range(classes) if (said := shortcomings(selected[group_name(label)], params))}
    if short and (pooled_short := shortcomings(selected[POOLED], params)):
        raise WhorlError(
            f"The classes {list(short)} need the pooled bank, which has only {pooled_short}: more images, stronger attacks "
            f"or a lower selection.effect_size (now {params.effect_size:g}) were expected."
        )
    class_group = {label: POOLED if label in short else group_name(label) for label in range(classes)}
    groups = {name: selected[name].fingerprints for name in dict.fromkeys(class_group.values())}
    return Bank.build(layout, groups, class_group, {label: f"only {said}" for label, said in short.items()})
