"""Prepared images as Parquet shards in the layout of the Hugging Face Hub: encoded bytes and label, plus id, split and origin."""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.artifacts.files import write_json, write_table
from pipeline.artifacts.manifest import Artifact, open_artifact, seal
from pipeline.data.decode import decode
from pipeline.data.identity import shard_count, shard_of
from pipeline.params.data import ImageFormat
from pipeline.params.splits import SPLITS

if TYPE_CHECKING:
    from pipeline.data.prepare import Prepared, PreparedImage


@dataclass(frozen=True)
class ImageBatch:
    """The images of a shard or a split: ids, labels (N,) int64, images (N, C, H, W) uint8."""

    ids: list[str]
    labels: npt.NDArray[np.int64]
    images: npt.NDArray[np.uint8]


def image_schema(class_names: Sequence[str]) -> pa.Schema:
    """The shards' schema; its metadata lets ``datasets.load_dataset`` decode the images and name the classes."""
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": list(class_names)},
        **{name: {"_type": "Value", "dtype": "string"} for name in ("id", "split", "origin", "key")},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}}, sort_keys=True)}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = [("image", image), ("label", pa.int64()), *((name, pa.string()) for name in ("id", "split", "origin", "key"))]
    return pa.schema(columns, metadata=metadata)


def write_images(folder: Path, prepared: "Prepared", format: ImageFormat, shard_size: int) -> dict[str, int]:
    """Writes the ``data`` artifact: shards cut by the images' ids, the quarantine report and the manifest.

    Returns:
        split to number of images.
    """
    shutil.rmtree(folder, ignore_errors=True)
    schema = image_schema(prepared.class_names)
    counts: dict[str, int] = {}
    shards: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        images = [image for image in prepared.images if image.split == split]
        counts[split], shards[split] = len(images), {}
        for name, members in _cut(split, images, shard_size):
            write_table(folder / f"{name}.parquet", pa.Table.from_pylist([_row(image) for image in members], schema=schema))
            shards[split][name] = len(members)
    quarantined = [asdict(entry) for entry in prepared.quarantined]
    write_json(folder / "quarantine.json", quarantined)
    about = {
        "class_names": list(prepared.class_names),
        "counts": counts,
        "shards": shards,
        "quarantined": len(quarantined),
        "notes": list(prepared.notes),
        "format": format.model_dump(mode="json"),
    }
    seal(folder, kind="data", stage="prepare", about=about)
    return counts


def _cut(split: str, images: "list[PreparedImage]", shard_size: int) -> Iterator[tuple[str, "list[PreparedImage]"]]:
    number = shard_count(len(images), shard_size)
    members: list[list[PreparedImage]] = [[] for _ in range(number)]
    for image in images:
        members[shard_of(image.id, number)].append(image)
    for index, shard in enumerate(members):
        if shard:
            yield f"{split}-{index:05d}-of-{number:05d}", shard


def _row(image: "PreparedImage") -> dict[str, Any]:
    stored = {"bytes": image.encoded, "path": f"{image.id}.{image.extension.lstrip('.')}"}
    return {"image": stored, "label": image.label, "id": image.id, "split": image.split, "origin": image.origin, "key": image.key}


@dataclass(frozen=True)
class ImageSet:
    """The ``data`` artifact, open for reading."""

    artifact: Artifact

    @classmethod
    def open(cls, folder: Path) -> "ImageSet":
        """Opens the artifact; raises ArtifactError where it is missing or unfinished."""
        return cls(open_artifact(folder, "data"))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in label order."""
        return tuple(self.artifact.about["class_names"])

    @property
    def format(self) -> ImageFormat:
        """The format that every image has."""
        return ImageFormat.model_validate(self.artifact.about["format"])

    def shards(self, split: str) -> list[str]:
        """The names of a split's shards."""
        return list(self.artifact.about["shards"][split])

    def rows(self, shard: str) -> int:
        """The number of images in a shard."""
        return int(self.artifact.about["shards"][shard.split("-")[0]][shard])

    def sha256(self, shard: str) -> str:
        """The hash of a shard's file."""
        return self.artifact.sha256(f"{shard}.parquet")

    def count(self, split: str) -> int:
        """The number of images in a split."""
        return int(self.artifact.about["counts"][split])

    def read(self, shard: str) -> ImageBatch:
        """Decodes a shard; raises ArtifactError where its file does not match the manifest."""
        table, format = self.artifact.table(f"{shard}.parquet"), self.format
        encoded = table.column("image").combine_chunks().field("bytes").to_pylist()
        images = np.empty((len(encoded), format.channels, format.height, format.width), np.uint8)
        for row, content in enumerate(encoded):
            images[row] = decode(content, format)
        return ImageBatch(table.column("id").to_pylist(), table.column("label").to_numpy().astype(np.int64), images)

    def read_split(self, split: str) -> ImageBatch:
        """Decodes a whole split, in shard order."""
        return concatenate([self.read(shard) for shard in self.shards(split)], self.format)


def concatenate(batches: Iterable[ImageBatch], format: ImageFormat) -> ImageBatch:
    """Joins batches in order."""
    batches = list(batches)
    empty = np.empty((0, format.channels, format.height, format.width), np.uint8)
    ids: Iterator[str] = (key for batch in batches for key in batch.ids)
    labels = np.concatenate([np.empty(0, np.int64), *(batch.labels for batch in batches)])
    return ImageBatch(list(ids), labels, np.concatenate([empty, *(batch.images for batch in batches)]))
