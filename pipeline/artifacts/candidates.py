"""Candidate fingerprints at rest: a tensor file a block."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.manifest import Artifact, open_artifact, seal
from pipeline.artifacts.store import ShardStore
from pipeline.fingerprints.candidates import CandidateBlock, concatenate


def write_candidates(folder: Path, plan: dict[str, str], store: ShardStore) -> None:
    """Gathers the blocks into the ``candidates`` artifact."""
    store.gather(plan, folder)
    blocks: dict[str, list[str]] = {}
    for name in plan:
        blocks.setdefault(name.rsplit("-", 1)[0], []).append(name)
    seal(folder, kind="candidates", stage="sample_fingerprints", about={"groups": list(blocks), "blocks": blocks})


@dataclass(frozen=True)
class CandidateSet:
    """The ``candidates`` artifact, open for reading."""

    artifact: Artifact

    @classmethod
    def open(cls, folder: Path) -> "CandidateSet":
        """Opens the artifact; raises ArtifactError where it is missing or unfinished."""
        return cls(open_artifact(folder, "candidates"))

    @property
    def groups(self) -> list[str]:
        """The classes (by number) and ``pooled``."""
        return list(self.artifact.about["groups"])

    def inputs(self, group: str) -> dict[str, str]:
        """File to hash for everything of a group."""
        return {file: self.artifact.sha256(file) for file in self._files(group)}

    def read(self, group: str) -> CandidateBlock:
        """All candidates of a group."""
        return concatenate([CandidateBlock.from_arrays(group, self.artifact.arrays(file)) for file in self._files(group)])

    def _files(self, group: str) -> list[str]:
        return [f"{name}.arrays.safetensors" for name in self.artifact.about["blocks"][group]]
