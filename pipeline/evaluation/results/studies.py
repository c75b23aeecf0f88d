"""The studies and the game as tables."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.evaluation.ablation_study import AblationStudy, points
from pipeline.evaluation.game_headline import size_of
from pipeline.evaluation.hardening_study import MEASURES, HardeningStudy
from pipeline.evaluation.plotting import percent
from pipeline.evaluation.randomness import randomness
from pipeline.evaluation.report_inputs import GameInputs, ReportInputs
from pipeline.evaluation.report_rows import ablation_part, game_rows, hardening_section, promise_section, transfer_section
from pipeline.evaluation.results.markdown import NONE, area, number, share, table
from pipeline.evaluation.studies import PromiseStudy, TransferStudy
from pipeline.evaluation.verdict import Rate

FITTED = ("attacker", "accepted wrong labels, of the images tried", "queries an image", "local evaluations an image")
RANDOMNESS = (
    "attack",
    "m",
    "T",
    "bank",
    "disjoint parts",
    "false alarms seen",
    "detected, no look",
    "two draws disagree",
    "detected, known bank, {} looks",
    "accepted, known bank, {} looks",
)
VARIANTS = (
    "variant",
    "changed",
    "attacks of the fit",
    "difference",
    "new attacks",
    "difference",
    "after {} looks",
    "false alarms",
    "operations an image",
)
UNSEEN = " †"
TITLES = {
    "detected": "detected as sent",
    "detected_after_looks": "detected after {} looks",
    "accepted": "accepted after {} looks",
    "detected_evenly": "detected as sent, even thresholds",
    "accepted_evenly": "accepted, even thresholds",
}
"""Of each measure of hardening."""


def transfer_tables(study: TransferStudy, alpha: float) -> dict[str, Any]:
    """The report's rows as the tables ``areas`` and ``found``."""
    section = transfer_section(study, alpha)
    header = ["fitted on", *study.families]

    return {
        **section,
        "areas": table(header, [(row["fit"], *(area(cell["auroc"]) + _mark(cell) for cell in row["cells"])) for row in section["rows"]]),
        "found": table(
            [*header, "false alarms"],
            [(row["fit"], *(share(cell["found"]) + _mark(cell) for cell in row["cells"]), share(row["alarms"])) for row in section["rows"]],
        ),
    }


def _mark(cell: Mapping[str, Any]) -> str:
    return UNSEEN if cell["unseen"] else ""


def hardening_tables(study: HardeningStudy) -> dict[str, Any]:
    """The report's rows as ``tables``: the name of each round and its table."""
    section, tables = hardening_section(study), []
    header = ("attack", *(TITLES[measure].format(study.looks) for measure in MEASURES), "AUROC", "survivors, new in the fit")
    for found in section["rounds"]:
        rows = [
            (row["attack"], *(share(row[measure]) for measure in MEASURES), area(row["auroc"]), number(row["survivors"]))
            for row in found["rows"]
        ]
        alarms = [
            ("clean images: false alarms", share(found["flagged"]), *[None] * 6),
            ("clean images classified correctly", share(found["correct_only"]), *[None] * 6),
        ]
        tables.append((found["name"], table(header, [*rows, *alarms])))
    return {**section, "tables": tables}


def variant_table(study: AblationStudy, alpha: float) -> dict[str, Any]:
    """The report's rows as ``table``."""
    section = ablation_part(study, alpha)
    rows = [
        (
            row["name"],
            ", ".join(row["changes"]) or None,
            *(value for fit in ("fitted", "unseen") for value in (share(row[fit]), points(row[f"{fit}_change"]))),
            *(share(row[measure]) for measure in ("after_looks", "false_alarms")),
            number(row["cost"]),
        )
        for row in section["rows"]
    ]
    return {**section, "table": table([heading.format(study.looks) for heading in VARIANTS], rows)}


def promise_tables(study: PromiseStudy, inputs: ReportInputs, attacks: Sequence[str], alphas: Sequence[float]) -> dict[str, Any]:
    """The report's rows as the tables ``by_group``, ``by_attack`` and ``by_corruption``."""
    section = promise_section(study, inputs, attacks, alphas)
    rates = [f"at {percent(alpha, 2)}" for alpha in alphas]
    return {
        **section,
        "by_group": table(
            ["clean images", "redraws", *rates],
            [(row["name"], number(row["redraws"]), *(_kept(mean, kept) for _, mean, kept in row["cells"])) for row in section["groups"]],
        ),
        "by_attack": table(["attack", *rates], [(name, *map(share, values)) for name, values in section["attacks"]]),
        "by_corruption": table(
            ["changed by", "classified right", *rates],
            [(row["name"], share(row["accuracy"]), *(share(value) for _, value in row["cells"])) for row in section["corruptions"]],
        ),
    }


def _kept(mean: Rate | None, kept: float | None) -> str:
    return share(mean) if kept is None else f"{share(mean)}, {'kept' if kept else 'more than promised'}"


def game_tables(inputs: ReportInputs, attacks: Sequence[str]) -> dict[str, Any]:
    """The report's rows as the tables ``headline`` and ``attackers``."""
    section = game_rows(inputs, attacks)
    fitted = [(name, share(accepted), number(queries, ",.1f"), number(local)) for name, accepted, queries, local in section["fitted"]]
    return {
        **section,
        "headline": table(["attack", *section["columns"]], [(attack, *map(share, values)) for attack, values in section["rows"]]),
        "attackers": table(FITTED, fitted),
        "parts": disjoint_parts(inputs),
        "bound": inputs.game.bound,
        "randomness": table([heading.format(inputs.game.looks) for heading in RANDOMNESS], randomness_rows(inputs.game, attacks)),
    }


def disjoint_parts(inputs: ReportInputs) -> str:
    """What the disjoint parts of each name that played are, in words; empty where there were none."""
    played = dict.fromkeys(size_of(row).disjoint for row in inputs.game.cells)
    given = inputs.params["game"]["disjoint"] if any(played) else {}
    return "; ".join(f"{name.replace('_', ' ')}: {_parts(given[name]['parts'])}" for name in played if name)


def _parts(parts: int | Sequence[Sequence[str]]) -> str:
    if isinstance(parts, int):
        return f"every layer dealt to {parts} at random"
    return " | ".join(", ".join(f"`{layer}`" for layer in part) for part in parts)


def randomness_rows(game: GameInputs, attacks: Sequence[str]) -> list[tuple[str, ...]]:
    """Of each attack and each size of fresh draws what it detects, how far its draws disagree, and what is left after the looks."""
    return [
        (
            one.attack,
            *map(str, one.size[:3]),
            one.size.disjoint.replace("_", " ") or NONE,
            *(
                NONE if value is None else percent(value)
                for value in (one.false_alarms, one.detected, one.disagreement, one.after_looks, one.accepted)
            ),
        )
        for one in randomness(game.cells, attacks, game.looks)
    ]


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as comma-separated values, numbers to six significant digits; the columns are those of all rows in their order."""
    listed = list(rows)
    columns, text = list(dict.fromkeys(key for row in listed for key in row)), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[_cell(row.get(name)) for name in columns] for row in listed])
    return text.getvalue()


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
