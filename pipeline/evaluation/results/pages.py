"""The pages of results: a run's tables and sentences as Markdown that can be committed.

Tables and sentences are the report's own (``report_rows``); what stands here is their form. Nothing that a page says depends on
the machine but what ``RunFacts`` holds.
"""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.evaluation.plotting import percent
from pipeline.evaluation.report_inputs import ReportInputs
from pipeline.evaluation.report_rows import attack_order, seconds
from pipeline.evaluation.results.ablation import AblationInputs, ablation_section
from pipeline.evaluation.results.detection import detection_section
from pipeline.evaluation.results.facts import RunFacts, fact_rows, without_paths
from pipeline.evaluation.results.markdown import escape, table
from pipeline.evaluation.results.studies import game_tables, hardening_tables, promise_tables, transfer_tables, variant_table
from pipeline.evaluation.verdict import Verdict, verdict

PAGES = ("README", "detection", "transfer", "promise", "game", "hardening", "ablation")
MARK = "<!-- Written by `whorl results`, which overwrites it. -->"
"""How every page begins, and by which it is known as one that may be overwritten."""


def render_pages(inputs: ReportInputs, run: RunFacts, ablation: AblationInputs | None) -> dict[str, str]:
    """File name to text of every page.

    Args:
        inputs: what the report prints.
        run: where, when and how it was made.
        ablation: of a search; None where there is none.
    """
    environment = Environment(  # Markdown, not HTML
        loader=PackageLoader("pipeline.evaluation"), autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"table": table, "escape": escape}
    environment.filters |= {"percent": percent}
    context = {"inputs": inputs, "run": run, **_context(inputs, run, ablation)}
    rendered = {page: environment.get_template(f"results/{page}.md.j2").render(context) for page in PAGES}
    return {f"{page}.md": f"{MARK}\n\n{text.strip()}\n" for page, text in rendered.items()}


def _context(inputs: ReportInputs, run: RunFacts, ablation: AblationInputs | None) -> dict[str, Any]:
    alphas, attacks = sorted({*inputs.params["evaluation"]["alphas"]}), attack_order(inputs)
    return {
        "verdict": judged(inputs, attacks),
        "facts": fact_rows(inputs, run),
        "stages": [(stage, "restored from the cache" if taken is None else seconds(taken)) for stage, taken in run.stages.items()],
        "notes": [without_paths(note) for note in inputs.notes],
        "detection": detection_section(inputs, attacks, alphas),
        "transfer": transfer_tables(inputs.transfer, inputs.alpha) if inputs.transfer else None,
        "promise": promise_tables(inputs.redrawn, inputs, attacks, alphas) if inputs.redrawn else None,
        "game": game_tables(inputs, attacks),
        "hardening": hardening_tables(inputs.hardened) if inputs.hardened else None,
        "ablation": ablation_section(ablation) if ablation else None,
        "ablated": variant_table(inputs.ablated, inputs.alpha) if inputs.ablated and inputs.ablated.measured else None,
    }


def judged(inputs: ReportInputs, attacks: Sequence[str]) -> Verdict:
    """The report's verdict on the guard's detector."""
    confidence = float(inputs.params["evaluation"]["confidence"])
    return verdict(inputs.metrics, inputs.guard_detector, attacks, alpha=inputs.alpha, confidence=confidence, promise=inputs.promise)
