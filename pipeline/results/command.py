"""``whorl results``: a run's results as pages, tables and figures that can be committed."""

from pathlib import Path

from pipeline.artifacts.checkout import commit
from pipeline.artifacts.files import write_bytes
from pipeline.artifacts.reports import gather_report
from pipeline.artifacts.studies import Study, trial_table
from pipeline.evaluation.pareto_figure import pareto_figure
from pipeline.evaluation.report_figures import run_figures
from pipeline.evaluation.results.ablation import AblationInputs
from pipeline.evaluation.results.effects import values_of
from pipeline.evaluation.results.facts import without_paths
from pipeline.evaluation.results.images import small_png
from pipeline.evaluation.results.pages import render_pages
from pipeline.evaluation.results.studies import as_csv
from pipeline.params.root import load_params
from pipeline.results.run import checked_folder, require_run, run_facts
from pipeline.results.study import ablation_inputs, find_study

FIGURES = ("ablation", "detection", "frontier", "hardening", "promise", "randomness", "roc", "scores", "transfer")
"""The run's figures that a page shows."""
SEARCHED = ("trials.csv", "pareto.png")
"""Files that there are of a search alone."""


def write_results(folder: Path, study_name: str | None, about: str = "") -> list[Path]:
    """Writes the pages of the run that lies here, of ``params.yaml``; what an earlier call wrote is overwritten.

    Args:
        folder: made where it is missing; its name is the results'.
        study_name: the search to tell; None for the newest, if there is any.
        about: what the first page says before anything else; nothing where it is empty.

    Returns:
        The files written.

    Raises:
        ArtifactError: the folder is none to write to, or the run or the study is not there or not finished.
    """
    params = load_params()
    checked_folder(folder)
    study = find_study(study_name)
    require_run(params)
    inputs, run = gather_report(params, commit()), run_facts(folder, params, about)
    ablation = ablation_inputs(study, params) if study else None
    pages = render_pages(inputs, run, ablation)
    files = {
        **{name: text.encode() for name, text in pages.items()},
        "game.csv": as_csv(inputs.game.cells).encode(),
        **{f"{name}.png": small_png(figure) for name, figure in run_figures(inputs).items() if name in FIGURES},
        **(_searched(study, ablation) if study and ablation else {}),
    }
    for name, content in files.items():
        write_bytes(folder / name, content)
    for name in (*SEARCHED, *(f"{name}.png" for name in FIGURES)):
        if name not in files:
            (folder / name).unlink(missing_ok=True)
    return [folder / name for name in files]


def _searched(study: Study, ablation: AblationInputs) -> dict[str, bytes]:
    rows = trial_table(study.trials(), ablation.front).to_pylist()
    figure = pareto_figure([row.number for row in ablation.rows], values_of(ablation.rows), ablation.front, ablation.chosen)
    return dict(zip(SEARCHED, (without_paths(as_csv(rows)).encode(), small_png(figure)), strict=True))
