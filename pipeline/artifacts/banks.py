"""Selections and the bank at rest."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from pipeline.artifacts.files import read_arrays, write_arrays, write_json
from pipeline.artifacts.manifest import Artifact, open_artifact, seal
from pipeline.artifacts.store import ARRAYS as SHARD_ARRAYS
from pipeline.artifacts.store import ShardOutput, ShardStore
from pipeline.fingerprints.bank import Bank, Fingerprints
from pipeline.fingerprints.selection import Selected

ARRAYS = "bank.safetensors"
PLAIN = "bank.json"
FACTS = ("group", "clean", "attacked", "cross_fitted", "reasons")
"""What is told of a selection beside its arrays."""


def selected_output(selected: Selected) -> ShardOutput:
    """One group's selection as a shard."""
    arrays = {field.name: getattr(selected.fingerprints, field.name) for field in fields(Fingerprints)}
    about = {name: getattr(selected, name) for name in FACTS}
    return ShardOutput({**arrays, "p_value": selected.p_value}, {}, about)


def read_selected(store: ShardStore, name: str, signature: str) -> Selected:
    """The selection that a worker wrote."""
    folder, about = store.read(name, signature)
    arrays = read_arrays(folder / SHARD_ARRAYS)
    p_value = arrays.pop("p_value")
    return Selected(fingerprints=Fingerprints(**arrays), p_value=p_value, **{name: about[name] for name in FACTS})


def write_bank(folder: Path, bank: Bank, selected: Mapping[str, Selected], attacks: Sequence[str]) -> None:
    """Writes the ``bank`` artifact, with what became of every group's candidates and the attacks that it was fitted on."""
    shutil.rmtree(folder, ignore_errors=True)
    put_bank(folder, bank)
    facts = {name: {fact: getattr(group, fact) for fact in FACTS} | {"kept": len(group.fingerprints)} for name, group in selected.items()}
    write_json(folder / "selection.json", facts)
    seal(folder, kind="bank", stage="select_fingerprints", about={"groups": list(bank.names), "attacks": list(attacks)})


def put_bank(folder: Path, bank: Bank) -> None:
    """Writes a bank's two files."""
    arrays, plain = bank.to_arrays()
    write_arrays(folder / ARRAYS, arrays)
    write_json(folder / PLAIN, plain)


def get_bank(artifact: Artifact) -> Bank:
    """Reads a bank's two files."""
    return Bank.from_arrays(artifact.arrays(ARRAYS), artifact.json(PLAIN))


def read_bank(folder: Path) -> Bank:
    """The bank of a ``bank`` artifact."""
    return get_bank(open_artifact(folder, "bank"))
