"""What a reader needs to make a run again, as rows of a table; no place on a machine is among it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipeline.evaluation.plotting import percent
from pipeline.evaluation.report_inputs import ReportInputs
from pipeline.evaluation.report_rows import facts
from pipeline.params.flat import flatten

ORDER = ("train", "fit", "tune", "calibrate", "test")
SOURCES = {
    "digits": "the handwritten digits inside scikit-learn (source kind `digits`)",
    "parquet": "Parquet files (source kind `parquet`): ",
    "folder": "folders with a class each (source kind `folder`): ",
}


@dataclass(frozen=True)
class RunFacts:
    """What a reader needs to make a run again.

    Attributes:
        name: of the results.
        about: what is said of them before anything else; may be empty.
        commands: that make them, in order.
        params_digest: SHA-256 of the params file.
        commit: that is checked out.
        dirty: whether tracked files differ from it.
        processor: its model.
        cores: that the process may use.
        gpu: its name; None where there is none.
        date: of the pages, ISO 8601.
        stages: stage to the seconds of its last run here; None where it was restored from a cache.
    """

    name: str
    about: str
    commands: Sequence[str]
    params_digest: str
    commit: str
    dirty: bool
    processor: str
    cores: int
    gpu: str | None
    date: str
    stages: Mapping[str, float | None]


def fact_rows(inputs: ReportInputs, run: RunFacts) -> list[tuple[str, str]]:
    """What was run, on what, when and how: a name and a sentence each."""
    classifier = dict(facts(inputs.classifier))
    epochs = f", {len(inputs.history)} epochs" if inputs.history else ""
    accuracy = f"; right on {classifier['accuracy']} of {classifier['test images']} test images" if "test images" in classifier else ""
    seeds = [f"`{key}` {value}" for key, value in flatten(inputs.params) if "seed" in key.rsplit(".", 1)[-1]]
    draws = inputs.params["publish"]["draws"]
    return [
        ("images", f"{_source(inputs.params['data']['source'])}; {len(inputs.class_names)} classes{_format(inputs.params['data'])}"),
        ("splits", ", ".join(f"{split} {inputs.counts[split]:,}" for split in sorted(inputs.counts, key=_place))),
        ("classifier", f"{classifier.get('network', '')}, {classifier.get('origin', '')}{epochs}{accuracy}"),
        ("guard", f"detector `{inputs.guard_detector}`, {draws} draws, at most {percent(inputs.alpha, 2)} false alarms promised"),
        ("seeds", ", ".join(seeds)),
        ("commands", ", then ".join(f"`{command}`" for command in run.commands)),
        ("`params.yaml`", f"SHA-256 `{run.params_digest}`"),
        ("commit", f"`{run.commit}`{', with changes that are not committed' if run.dirty else ''}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in inputs.versions.items())),
        ("hardware", f"{run.processor}; cores: {run.cores}; GPU: {run.gpu or 'none'}"),
        ("date", run.date),
    ]


def _place(split: str) -> tuple[int, str]:
    """Where a split stands: in the order in which the chain meets them."""
    return (ORDER.index(split) if split in ORDER else len(ORDER), split)


def _source(source: Mapping[str, Any]) -> str:
    said, origins = SOURCES[source["kind"]], source.get("files") or source.get("roots") or {}
    listed = {origin: [where] if isinstance(where, str) else where for origin, where in origins.items()}
    return said + "; ".join(f"{origin} from {', '.join(f'`{_shown(where)}`' for where in wheres)}" for origin, wheres in listed.items())


def _format(data: Mapping[str, Any]) -> str:
    image = data.get("image")
    return f", {image['channels']}×{image['height']}×{image['width']}" if image else ""


def _shown(path: str) -> str:
    """A path inside the project as it is; of another its last part."""
    pure = PurePosixPath(path)
    return pure.name if pure.is_absolute() or ".." in pure.parts or str(pure).startswith("~") else str(pure)


def without_paths(text: str) -> str:
    """A sentence in which every absolute path is its last part: where things lie on a machine is nobody's business."""
    return re.sub(r"(?<![\w:/.])~?(?:/[\w.~@+-]+)+/", "", text)
