"""The record that a stage leaves: its params and figures, deterministic, for ``publish`` to mirror; and, apart, its timing."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from pydantic import BaseModel

from pipeline.artifacts import paths
from pipeline.artifacts.files import read_json, write_json
from pipeline.params.root import Params

logger = logging.getLogger("whorl")

Metrics = Mapping[str, float | int | None]


def plain_params(params: Params) -> dict[str, Any]:
    """The sections that a stage loaded, as JSON values."""

    def plain(value: Any) -> Any:
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json")
        return {key: plain(item) for key, item in value.items()}

    return {section: plain(getattr(params, section)) for section in sorted(params.model_fields_set)}


@dataclass
class StageRun:
    """What a stage notes while it runs."""

    metrics: dict[str, float | int | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def log(self, metrics: Metrics) -> None:
        """Adds figures to the stage's record."""
        self.metrics.update(metrics)

    def note(self, text: str) -> None:
        """Adds a sentence that the report repeats, and says it now."""
        self.notes.append(text)
        logger.warning(text)


@contextmanager
def stage_run(stage: str, params: Params, item: str | None = None) -> Iterator[StageRun]:
    """Runs a stage's work; when it ends well, leaves its record and, outside what DVC tracks, its timing."""
    run, start = StageRun(), monotonic()
    yield run
    write_json(
        paths.record(stage, item),
        {"stage": stage, "item": item, "params": plain_params(params), "metrics": run.metrics, "notes": run.notes},
    )
    ended = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(paths.timing(stage, item), {"stage": stage, "item": item, "seconds": round(monotonic() - start, 2), "ended": ended})


def read_record(stage: str, item: str | None = None) -> dict[str, Any]:
    """The record of a finished stage."""
    record: dict[str, Any] = read_json(paths.record(stage, item))
    return record
