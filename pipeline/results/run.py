"""A finished run, checked for being there and being that of the params file, and what a reader needs to make it again."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.artifacts import paths
from pipeline.artifacts.checkout import commit, dirty
from pipeline.artifacts.files import digest
from pipeline.artifacts.manifest import MANIFEST
from pipeline.artifacts.records import read_record
from pipeline.artifacts.reports import label, timings, upstream_stages
from pipeline.errors import ArtifactError
from pipeline.evaluation.results.facts import RunFacts
from pipeline.evaluation.results.pages import MARK, PAGES
from pipeline.params.edits import presets
from pipeline.params.root import PARAMS_FILE, Params, load_params
from pipeline.results.machine import cores, gpu, processor

METRICS = ("ablation", "attacks", "classifier", "detection", "game", "hardening", "promise", "transfer")
"""The files of metrics that results rest on."""


def require_run(params: Params) -> None:
    """Raises ArtifactError, with the file and what makes it, unless everything that results rest on is there and of these params."""
    stages = upstream_stages(params)
    sealed = [paths.DATA, paths.CLASSIFIER, paths.BANK, *(paths.attack(name) for name in params.attacks)]
    needed = [
        *(folder / MANIFEST for folder in sealed),
        *(paths.record(stage, item) for stage, item in stages),
        *(paths.SCORES, paths.CALIBRATION, paths.REDRAWS, paths.GAME),
        *(paths.METRICS / f"{name}.json" for name in METRICS),
    ]
    if missing := next((path for path in needed if not path.is_file()), None):
        raise ArtifactError(f"{missing}: there is no such file, which the results rest on; `make repro` makes it.")
    plain = params.model_dump(mode="json", warnings=False)
    for stage, item in stages:
        if differ := [section for section, made in read_record(stage, item)["params"].items() if not _within(made, plain.get(section))]:
            raise ArtifactError(
                f"{paths.record(stage, item)}: made with other params ({', '.join(differ)}) than {PARAMS_FILE} has now; "
                "run `make repro` first."
            )


def _within(made: Any, now: Any) -> bool:
    """Whether everything in a value is so in another: a stage may have loaded a part of a section."""
    if isinstance(made, Mapping) and isinstance(now, Mapping):
        return all(key in now and _within(value, now[key]) for key, value in made.items())
    return bool(made == now)


def run_facts(folder: Path, params: Params, about: str = "") -> RunFacts:
    """Where, when and how the run was made whose results go to ``folder``, which names them; ``about`` is what else is said of them."""
    stages = upstream_stages(params)
    known = timings(stages)
    return RunFacts(
        name=folder.resolve().name,
        about=about,
        commands=commands(params),
        params_digest=digest(PARAMS_FILE),
        commit=commit(),
        dirty=dirty(folder),
        processor=processor(),
        cores=cores(),
        gpu=gpu(),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        stages={label(stage, item): known.get(label(stage, item)) for stage, item in stages},
    )


def commands(params: Params) -> list[str]:
    """What makes the run: of a preset where the params are one's, else of the params file as it is."""
    same = [path.stem for path in presets() if load_params(path) == params]
    return [f"whorl preset {same[0]}", "make repro"] if same else ["make repro"]


def checked_folder(folder: Path) -> Path:
    """A folder that results may be written to.

    Raises:
        ArtifactError: it lies inside of the artifacts, is a file, or holds a page that is not one of ours.
    """
    if folder.resolve().is_relative_to(paths.ROOT.resolve()):
        raise ArtifactError(
            f"{folder}: lies inside {paths.ROOT}, which belongs to the run, where a folder such as docs/results/NAME was expected."
        )
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder}: is a file, where a folder such as docs/results/NAME was expected.")
    for page in (folder / f"{name}.md" for name in PAGES):
        if page.is_file() and not page.read_text(errors="replace").startswith(MARK):
            raise ArtifactError(
                f"{page}: was not written by `whorl results`, which would overwrite it; a folder without such a file was expected."
            )
    return folder
