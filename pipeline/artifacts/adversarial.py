"""Adversarial data sets at rest: a tensor file and a Parquet file of rows for each shard."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts.manifest import Artifact, open_artifact, seal
from pipeline.artifacts.store import ShardOutput, ShardStore

if TYPE_CHECKING:
    from pipeline.artifacts.images import ImageBatch
    from pipeline.attacks.generate import AttackedImages

ROWS = ("clean_predicted", "predicted", "success", "skipped", "target", "target_reached", "linf", "l2", "steps")


def adversarial_output(batch: "ImageBatch", attacked: "AttackedImages") -> ShardOutput:
    """A shard of an adversarial data set, and its counts."""
    columns = {"id": pa.array(batch.ids, pa.string()), "label": batch.labels, **{name: getattr(attacked, name) for name in ROWS}}
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
    }
    return ShardOutput({"images": attacked.images}, {"rows": pa.table(columns)}, about)


def write_adversarial(folder: Path, name: str, plan: dict[str, str], store: ShardStore) -> dict[str, float | int | None]:
    """Gathers the shards into the ``attack`` artifact; returns its counts and means over all splits."""
    facts = store.gather(plan, folder)
    total = {key: sum(fact[key] for fact in facts.values()) for key in next(iter(facts.values()), {})}
    metrics = summary(total)
    seal(folder, kind="attack", stage=f"attack@{name}", about={"name": name, "shards": list(plan), "facts": facts})
    return metrics


def summary(total: dict[str, Any]) -> dict[str, float | int | None]:
    """Counts of images, and rates and mean norms of those that succeeded; a rate of nothing is None."""

    def ratio(part: float, whole: float) -> float | None:
        return part / whole if whole else None

    return {
        "images": total.get("images", 0),
        "attacked": total.get("attacked", 0),
        "succeeded": total.get("succeeded", 0),
        "success_rate": ratio(total.get("succeeded", 0), total.get("attacked", 0)),
        "target_reached_rate": ratio(total.get("target_reached", 0), total.get("aimed", 0)),
        "mean_linf": ratio(total.get("linf", 0.0), total.get("succeeded", 0)),
        "mean_l2": ratio(total.get("l2", 0.0), total.get("succeeded", 0)),
        "mean_steps": ratio(total.get("steps", 0), total.get("attacked", 0)),
    }


@dataclass(frozen=True)
class AdversarialSet:
    """An ``attack`` artifact, open for reading."""

    artifact: Artifact

    @classmethod
    def open(cls, folder: Path) -> "AdversarialSet":
        """Opens the artifact; raises ArtifactError where it is missing or unfinished."""
        return cls(open_artifact(folder, "attack"))

    def shards(self, split: str) -> list[str]:
        """The names of a split's shards."""
        return [shard for shard in self.artifact.about["shards"] if shard.startswith(f"{split}-")]

    def facts(self, split: str) -> dict[str, Any]:
        """Counts summed over a split."""
        facts = [self.artifact.about["facts"][shard] for shard in self.shards(split)]
        return {key: sum(fact[key] for fact in facts) for key in (facts[0] if facts else {})}

    def inputs(self, shard: str) -> dict[str, str]:
        """File to hash for everything of a shard."""
        return {file: self.artifact.sha256(file) for file in (f"{shard}.arrays.safetensors", f"{shard}.rows.parquet")}

    def images(self, shard: str) -> Any:
        """The stored images (N, C, H, W): uint8, or float32 in [0, 1]."""
        return self.artifact.arrays(f"{shard}.arrays.safetensors")["images"]

    def rows(self, shard: str) -> pa.Table:
        """The rows: id, label, clean_predicted, predicted, success, skipped, target, target_reached, linf, l2, steps."""
        return self.artifact.table(f"{shard}.rows.parquet")
