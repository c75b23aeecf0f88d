"""Adversarial data sets at rest: for each shard a tensor file, and a Parquet file of rows that the Hub's tools read, images included."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts.files import digest, write_bytes
from pipeline.artifacts.manifest import Artifact, open_artifact, seal
from pipeline.artifacts.store import ShardOutput, ShardStore
from pipeline.data.decode import encode_png

if TYPE_CHECKING:
    from pipeline.artifacts.images import ImageBatch
    from pipeline.attacks.generate import AttackedImages

ROWS = {
    "id": "string",
    "label": "int64",
    "clean_predicted": "int64",
    "predicted": "int64",
    "success": "bool",
    "skipped": "bool",
    "target": "int64",
    "target_reached": "bool",
    "linf": "float64",
    "l2": "float64",
    "steps": "int64",
}
"""Column to type, in the words that Arrow and the Hub share."""
CLASSES = ("label", "clean_predicted", "predicted")
"""The columns that always name a class; ``target`` may be -1."""
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
COUNTS = ("images", "attacked", "succeeded", "aimed", "target_reached", "linf", "l2", "steps")
CARD = "README.md"

Summary = dict[str, float | int | None]


@dataclass(frozen=True)
class Contents:
    """What a data set turned out to hold, for its card.

    Attributes:
        shards: their names.
        summaries: split to ``summary``, for the splits that have images.
        warnings: what about the model makes the attack weaker than it looks, a sentence each.
        sha256: of all shards' rows. By it ``datasets`` tells this data set from an older one in a folder of the same name,
            which it would otherwise read from its cache.
    """

    shards: list[str]
    summaries: dict[str, Summary]
    warnings: list[str]
    sha256: str


def row_schema(class_names: Sequence[str], eight_bit: bool) -> pa.Schema:
    """The shards' schema; its metadata lets ``datasets.load_dataset`` decode the images and name the classes.

    Args:
        class_names: in label order.
        eight_bit: with an ``image`` column; floats fit into no image file.
    """
    classes = {"_type": "ClassLabel", "names": list(class_names)}
    features = {name: classes if name in CLASSES else {"_type": "Value", "dtype": type} for name, type in ROWS.items()}
    columns = [(name, pa.type_for_alias(type)) for name, type in ROWS.items()]
    if eight_bit:
        features["image"] = {"_type": "Image"}
        columns.append(("image", IMAGE))
    return pa.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": features}}, sort_keys=True)})


def adversarial_output(batch: "ImageBatch", attacked: "AttackedImages", class_names: Sequence[str]) -> ShardOutput:
    """A shard of an adversarial data set, and its counts and warnings."""
    columns = {"id": batch.ids, "label": batch.labels, **{name: getattr(attacked, name) for name in list(ROWS)[2:]}}
    eight_bit = attacked.images.dtype == np.uint8
    if eight_bit:
        columns["image"] = _pictures(batch.ids, attacked.images)
    tried, won = ~attacked.skipped, attacked.success
    aimed = tried & (attacked.target >= 0)
    about = {
        "images": len(batch.ids),
        "attacked": int(tried.sum()),
        "succeeded": int(won.sum()),
        "aimed": int(aimed.sum()),
        "target_reached": int((aimed & attacked.target_reached).sum()),
        "linf": float(attacked.linf[won].astype(np.float64).sum()),
        "l2": float(attacked.l2[won].astype(np.float64).sum()),
        "steps": int(attacked.steps[tried].sum()),
        "warnings": list(attacked.warnings),
    }
    return ShardOutput({"images": attacked.images}, {"rows": pa.table(columns, schema=row_schema(class_names, eight_bit))}, about)


def _pictures(ids: Sequence[str], images: npt.NDArray[Any]) -> pa.Array:
    """The images (uint8) as PNG files, which hold exactly these pixels."""
    files = pa.array([encode_png(pixels) for pixels in images], pa.binary())
    names = pa.array([f"{key}.png" for key in ids], pa.string())
    return pa.StructArray.from_arrays([files, names], fields=list(IMAGE))


def write_adversarial(folder: Path, name: str, plan: dict[str, str], store: ShardStore, card: Callable[[Contents], str]) -> Summary:
    """Gathers the shards into the ``attack`` artifact; returns its counts and means over all splits.

    Args:
        folder: where to; replaced where it exists.
        name: the attack's.
        plan: shard to signature.
        store: where the finished shards are.
        card: makes the data set's card, in Markdown.
    """
    facts = store.gather(plan, folder)
    splits = dict.fromkeys(_split(shard) for shard in plan)
    summaries = {split: summary(total(fact for shard, fact in facts.items() if _split(shard) == split)) for split in splits}
    warnings = _gathered([fact["warnings"] for fact in facts.values()])
    hashes = {shard: digest(folder / f"{shard}.rows.parquet") for shard in plan}
    contents = Contents(list(plan), summaries, warnings, hashlib.sha256(json.dumps(hashes).encode()).hexdigest())
    write_bytes(folder / CARD, card(contents).encode())
    seal(folder, kind="attack", stage=f"attack@{name}", about={"name": name, "shards": list(plan), "facts": facts, "warnings": warnings})
    return summary(total(facts.values()))


def _gathered(shards: Sequence[Sequence[str]]) -> list[str]:
    """Every warning once, with the number of shards that gave it; those that differ in their numbers alone are the same."""
    said: dict[str, str] = {}
    count: Counter[str] = Counter()
    for warnings in shards:
        kinds = {re.sub(r"\d+", "#", warning): warning for warning in warnings}
        count.update(kinds.keys())
        said |= {kind: warning for kind, warning in kinds.items() if kind not in said}
    return [f"In {count[kind]} of {len(shards)} shards: {warning}" for kind, warning in said.items()]


def _split(shard: str) -> str:
    return shard.split("-")[0]


def total(facts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The counts of several shards, summed."""
    facts = list(facts)
    return {key: sum(fact[key] for fact in facts) for key in COUNTS}


def summary(counts: dict[str, Any]) -> Summary:
    """Counts of images, and rates and mean norms of those that succeeded; a rate of nothing is None."""

    def ratio(part: float, whole: float) -> float | None:
        return part / whole if whole else None

    return {
        "images": counts["images"],
        "attacked": counts["attacked"],
        "succeeded": counts["succeeded"],
        "success_rate": ratio(counts["succeeded"], counts["attacked"]),
        "target_reached_rate": ratio(counts["target_reached"], counts["aimed"]),
        "mean_linf": ratio(counts["linf"], counts["succeeded"]),
        "mean_l2": ratio(counts["l2"], counts["succeeded"]),
        "mean_steps": ratio(counts["steps"], counts["attacked"]),
    }


@dataclass(frozen=True)
class AdversarialSet:
    """An ``attack`` artifact, open for reading."""

    artifact: Artifact

    @classmethod
    def open(cls, folder: Path) -> "AdversarialSet":
        """Opens the artifact; raises ArtifactError where it is missing or unfinished."""
        return cls(open_artifact(folder, "attack"))

    @property
    def warnings(self) -> list[str]:
        """What about the model makes the attack weaker than it looks, a sentence each."""
        return list(self.artifact.about["warnings"])

    def shards(self, split: str) -> list[str]:
        """The names of a split's shards."""
        return [shard for shard in self.artifact.about["shards"] if _split(shard) == split]

    def facts(self, split: str) -> dict[str, Any]:
        """Counts summed over a split."""
        return total(self.artifact.about["facts"][shard] for shard in self.shards(split))

    def inputs(self, shard: str) -> dict[str, str]:
        """File to hash for everything of a shard."""
        return {file: self.artifact.sha256(file) for file in (f"{shard}.arrays.safetensors", f"{shard}.rows.parquet")}

    def images(self, shard: str) -> Any:
        """The stored images (N, C, H, W): uint8, or float32 in [0, 1]."""
        return self.artifact.arrays(f"{shard}.arrays.safetensors")["images"]

    def rows(self, shard: str) -> pa.Table:
        """The rows, without their pictures: the columns of ``ROWS``."""
        return pq.read_table(self.artifact.path(f"{shard}.rows.parquet"), columns=list(ROWS), partitioning=None)
