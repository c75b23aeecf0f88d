"""A search's outcome on the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.artifacts.studies import Trial
from pipeline.evaluation.pareto import COST, DETECTION


def print_proposal(folder: Path, trials: Sequence[Trial], best: set[int], chosen: Trial, diff: Mapping[str, tuple[Any, Any]]) -> None:
    """Prints the Pareto front, the params file as it stands beside it, and what is proposed."""
    console = Console()
    console.print(_front(trials, best, chosen.number))
    if not diff:
        console.print("No trial that is cheap enough is better than params.yaml as it stands: nothing is proposed.")
    else:
        console.print(_diff(diff, chosen.number))
        console.print("Measured on tune, where it was chosen, so flattered; `make repro` says on test what it is worth.")
        console.print("Nothing was changed: `whorl tune apply` writes it into params.yaml, `--trial N` another one.", highlight=False)
    console.print(f"Trials, proposal and figure: {folder}", highlight=False)


def _front(trials: Sequence[Trial], best: set[int], chosen: int) -> Table:
    table = Table(title="Pareto front", title_justify="left")
    for name in ("trial", *DETECTION, f"{COST} (operations an image)"):
        table.add_column(name, justify="right")
    for trial in sorted(trials, key=lambda trial: trial.objectives[COST]):
        if trial.number in best or trial.number == 0:
            mark = f"{'now, ' if trial.number == 0 else ''}{'proposed, ' if trial.number == chosen else ''}{trial.number}"
            shares = [f"{100 * trial.objectives[name]:.1f} %" for name in DETECTION]
            style = "bold" if trial.number == chosen else ("" if trial.number in best else "dim")
            table.add_row(mark, *shares, f"{trial.objectives[COST]:,.0f}", style=style)
    return table


def _diff(diff: Mapping[str, tuple[Any, Any]], number: int) -> Table:
    table = Table(title=f"Proposed: trial {number}", title_justify="left")
    for name in ("params.yaml", "now", "proposed"):
        table.add_column(name)
    for key, (old, new) in diff.items():
        table.add_row(key, str(old), str(new))
    return table
