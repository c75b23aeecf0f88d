"""Features at rest: the kept neurons of clean and attacked images, shard by shard."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.artifacts.files import Arrays, write_arrays
from pipeline.artifacts.manifest import Artifact, open_artifact, seal
from pipeline.artifacts.store import ShardOutput, ShardStore
from pipeline.fingerprints.features import CLEAN, MISTAKEN, Features, Layout

if TYPE_CHECKING:
    from pipeline.artifacts.adversarial import AdversarialSet

__all__ = [
    "CLEAN",
    "MISTAKEN",
    "FeatureSet",
    "attacked_features",
    "clean_features",
    "feature_output",
    "join",
    "stored_features",
    "write_features",
]

COLUMNS = ("labels", "clean_predicted", "predicted", "success", "skipped")
"""Of the rows, beside ``id``; named like the attributes of ``Features``."""


def feature_output(features: Features) -> ShardOutput:
    """A shard of features: tensors and a row an image."""
    rows = pa.table(
        {
            "id": pa.array(features.ids, pa.string()),
            **{name: getattr(features, name) for name in COLUMNS},
        }
    )
    return ShardOutput({"neurons": features.neurons}, {"rows": rows}, {"images": len(features.ids)})


def stored_features(rows: pa.Table, arrays: Mapping[str, npt.NDArray[Any]]) -> Features:
    """The features that ``feature_output`` described; further columns are left alone."""
    columns = {name: rows.column(name).to_numpy() for name in COLUMNS}
    return Features(ids=rows.column("id").to_pylist(), neurons=arrays["neurons"], **columns)


@dataclass(frozen=True)
class FeatureSet:
    """The ``activations`` artifact, open for reading."""

    artifact: Artifact

    @classmethod
    def open(cls, folder: Path) -> "FeatureSet":
        """Opens the artifact; raises ArtifactError where it is missing or unfinished."""
        return cls(open_artifact(folder, "activations"))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in label order."""
        return tuple(self.artifact.about["class_names"])

    @property
    def layout(self) -> Layout:
        """Which columns belong to which layer."""
        about = self.artifact.about
        return Layout(tuple(about["layers"]), tuple(about["offsets"]))

    @property
    def pool(self) -> Arrays:
        """Layer to the places of its kept neurons in the flattened layer."""
        pool = self.artifact.arrays("pool.safetensors")
        return {layer: pool[layer] for layer in self.layout.layers}

    def shards(self, source: str, split: str) -> list[str]:
        """The shards of a source (``clean`` or an attack) in a split."""
        return list(self.artifact.about["shards"][source].get(split, []))

    def count(self, source: str, split: str) -> int:
        """The number of a source's images in a split."""
        return sum(self.artifact.about["shards"][source].get(split, {}).values())

    def inputs(self, sources: Iterable[str], splits: Iterable[str]) -> dict[str, str]:
        """File name to hash for everything that reading these sources and splits would read."""
        splits = tuple(splits)
        names = [name for source in sources for split in splits for name in self.shards(source, split)]
        return {file: self.artifact.sha256(file) for name in names for file in (f"{name}.arrays.safetensors", f"{name}.rows.parquet")}

    def read(self, shard: str) -> Features:
        """One shard's features."""
        return stored_features(self.artifact.table(f"{shard}.rows.parquet"), self.artifact.arrays(f"{shard}.arrays.safetensors"))

    def predicted(self, source: str, split: str) -> npt.NDArray[np.int64]:
        """The predicted classes of a source's images in a split, without their neurons."""
        tables = [self.artifact.table(f"{shard}.rows.parquet") for shard in self.shards(source, split)]
        return np.concatenate([np.empty(0, np.int64), *(table.column("predicted").to_numpy() for table in tables)])

    def stream(self, sources: Iterable[str], split: str) -> Iterator[tuple[str, Features]]:
        """Shards one at a time, in a fixed order, each with its source's name."""
        for source in sources:
            for shard in self.shards(source, split):
                yield source, self.read(shard)

    def read_split(self, source: str, split: str) -> Features:
        """All features of a source in a split, in shard order."""
        return join([features for _, features in self.stream([source], split)], width=self.layout.size)


def join(parts: list[Features], width: int) -> Features:
    """Joins features in order; none at all gives none of the given width."""
    if not parts:
        none, no = np.empty(0, np.int64), np.empty(0, np.bool_)
        return Features([], none, none, none, no, no, np.empty((0, width), np.float32))
    return Features(
        ids=[key for part in parts for key in part.ids],
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in (*COLUMNS, "neurons")},
    )


def clean_features(
    ids: list[str], labels: npt.NDArray[np.int64], logits: npt.NDArray[np.float32], neurons: npt.NDArray[np.float32]
) -> Features:
    """Features of unattacked images."""
    predicted, no = logits.argmax(1).astype(np.int64), np.zeros(len(ids), np.bool_)
    return Features(ids, labels, predicted, predicted, no, no, neurons)


def attacked_features(
    adversarial: "AdversarialSet", shard: str, forward: Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]], width: int
) -> Features:
    """Features of the images that were attacked; those skipped (wrong when clean) are left out."""
    rows, images = adversarial.rows(shard), adversarial.images(shard)
    kept = ~rows.column("skipped").to_numpy()
    columns = {name: rows.column(name).to_numpy()[kept] for name in ("clean_predicted", "predicted", "success", "skipped")}
    ids = [key for key, keep in zip(rows.column("id").to_pylist(), kept, strict=True) if keep]
    neurons = forward(images[kept]) if kept.any() else np.empty((0, width), np.float32)
    return Features(ids=ids, labels=rows.column("label").to_numpy()[kept], neurons=neurons, **columns)


def write_features(
    folder: Path, class_names: tuple[str, ...], pool: dict[str, npt.NDArray[np.int64]], plan: dict[str, str], store: ShardStore
) -> None:
    """Gathers the shards into the ``activations`` artifact."""
    facts = store.gather(plan, folder)
    write_arrays(folder / "pool.safetensors", pool)
    shards: dict[str, dict[str, dict[str, int]]] = {}
    for name, fact in facts.items():
        source, shard = name.split(".")
        shards.setdefault(source, {}).setdefault(shard.split("-")[0], {})[name] = fact["images"]
    offsets = np.cumsum([0, *(len(chosen) for chosen in pool.values())]).tolist()
    about = {"class_names": list(class_names), "layers": list(pool), "offsets": offsets, "shards": shards}
    seal(folder, kind="activations", stage="activations", about=about)
