"""The bank: who gets a group of their own, what is said of the others, and what survives storage."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from fingerprints_support import LAYOUT, random_bank, random_fingerprints
from world_support import selection_params

from pipeline.errors import ArtifactError, WhorlError
from pipeline.fingerprints.assembly import assemble
from pipeline.fingerprints.bank import Bank, Fingerprints
from pipeline.fingerprints.selection import Selected


def selected(group: str, count: int, clean: int = 50, attacked: int = 50) -> Selected:
    return Selected(
        group, random_fingerprints(np.random.default_rng(count), count), np.zeros(count), clean, attacked, False, {"kept": count}
    )


def assembled(**changes: Selected) -> Bank:
    groups = {name: selected(name, 10 + at) for at, name in enumerate(["0", "1", "2", "pooled"])}
    return assemble(groups | {each.group: each for each in changes.values()}, LAYOUT, 3, selection_params())


def test_classes_with_enough_have_a_group_each() -> None:
    bank = assembled()
    assert bank.names == ("0", "1", "2")
    assert bank.sizes.tolist() == [10, 11, 12]
    assert bank.class_group.tolist() == [0, 1, 2]
    assert bank.pooled_reasons == {}
    assert bank.groups["1"].indices.tolist() == random_fingerprints(np.random.default_rng(11), 11).indices.tolist()


@pytest.mark.parametrize(
    ("poor", "reason"),
    [
        (selected("1", 9, clean=19), "only 19 correctly classified clean images (selection.min_clean is 20)"),
        (selected("1", 9, attacked=0), "only 0 successful attacks (selection.min_attacked is 20)"),
        (selected("1", 4), "only 4 fingerprints (selection.min_fingerprints is 5)"),
        (
            selected("1", 0, 3, 50),
            "only 3 correctly classified clean images (selection.min_clean is 20), 0 fingerprints (selection.min_fin",
        ),
    ],
)
def test_a_class_with_too_little_shares_the_pooled_bank_and_is_told_why(poor: Selected, reason: str) -> None:
    bank = assembled(poor=poor)
    assert [bank.names[group] for group in bank.class_group] == ["0", "pooled", "2"]
    assert list(bank.pooled_reasons) == [1]
    assert bank.pooled_reasons[1].startswith(reason)
    assert len(bank.groups["pooled"]) == 13


def test_enough_is_exactly_the_limit() -> None:
    assert assembled(edge=selected("1", 5, clean=20, attacked=20)).pooled_reasons == {}


def test_a_pooled_bank_that_is_too_small_stops_only_where_it_is_needed() -> None:
    thin = selected("pooled", 4)
    assert assembled(thin=thin).names == ("0", "1", "2")
    with pytest.raises(
        WhorlError, match=r"classes \[2\] need the pooled bank, which has only 4 fingerprints .selection.min_fingerprints is 5"
    ):
        assembled(thin=thin, poor=selected("2", 0))


def test_all_classes_may_be_pooled() -> None:
    bank = assembled(a=selected("0", 0), b=selected("1", 0), c=selected("2", 0))
    assert (bank.names, bank.class_group.tolist()) == (("pooled",), [0, 0, 0])


def test_kept_counts_each_groups_layers() -> None:
    bank = assembled()
    for name, group in bank.groups.items():
        assert bank.kept()[name] == {layer: int((group.layer == at).sum()) for at, layer in enumerate(LAYOUT.layers)}


def test_a_bank_survives_storage() -> None:
    bank = random_bank(np.random.default_rng(0), {"0": 7, "pooled": 3}, {0: "0", 1: "pooled", 2: "0"})
    arrays, plain = bank.to_arrays()
    again = Bank.from_arrays(arrays, json.loads(json.dumps(plain)))
    assert (again.layout, again.names, again.pooled_reasons) == (bank.layout, bank.names, bank.pooled_reasons)
    assert again.class_group.tolist() == [0, 1, 0]
    for field in fields(Fingerprints):
        ours, theirs = getattr(again.groups["pooled"], field.name), getattr(bank.groups["pooled"], field.name)
        assert ours.dtype == theirs.dtype and ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("sd0", lambda values: values * 0, "not above 0"),
        ("sd1", lambda values: values * np.nan, "not above 0"),
        ("mu0", lambda values: values[1:], "lengths"),
        ("indices", lambda values: values + LAYOUT.size, "outside of its 70 neurons"),
        ("indices", lambda values: values - LAYOUT.size, "outside of its 70 neurons"),
        ("class_group", lambda values: values + 5, "none of its 2 groups"),
        ("starts", lambda values: values + 1, "ends at row"),
        ("starts", lambda values: np.array([0, 0, 10]), "group without fingerprints"),
    ],
)
def test_arrays_that_contradict_each_other_are_refused(name: str, change: object, said: str) -> None:
    arrays, plain = random_bank(np.random.default_rng(0), {"0": 7, "pooled": 3}, {0: "0", 1: "pooled"}).to_arrays()
    with pytest.raises(ArtifactError, match=said):
        Bank.from_arrays(arrays | {name: change(arrays[name])}, plain)  # type: ignore[operator]


def test_groups_are_views_of_the_bank() -> None:
    bank = random_bank(np.random.default_rng(0), {"0": 7, "pooled": 3}, {0: "0", 1: "pooled"})
    assert all(np.shares_memory(group.mu0, bank.fingerprints.mu0) for group in bank.groups.values())
    assert replace(bank, names=("a", "b")).groups.keys() == {"a", "b"}
