"""The figures of a run, each by the name of its file."""

from matplotlib.figure import Figure

from pipeline.evaluation.ablation_figure import ablation_figure
from pipeline.evaluation.figures import detection_overview, fingerprint_heatmap, roc_figure, score_histograms, training_curves
from pipeline.evaluation.game_figures import frontier
from pipeline.evaluation.hardening_figure import hardening_figure
from pipeline.evaluation.randomness import randomness
from pipeline.evaluation.randomness_figure import randomness_figure
from pipeline.evaluation.report_inputs import ReportInputs
from pipeline.evaluation.study_figures import promise_figure, transfer_heatmap


def run_figures(inputs: ReportInputs) -> dict[str, Figure]:
    """Name to figure; those of studies and of a training that were not made are absent."""
    detectors, attacks = list(inputs.calibration), [row["attack"] for row in inputs.attacks]
    figures = {
        "detection": detection_overview(inputs.metrics, detectors, attacks, inputs.alpha),
        "fingerprints": fingerprint_heatmap(inputs.kept),
        "frontier": frontier(inputs.game.cells, attacks, inputs.game.own, inputs.alpha),
        "randomness": randomness_figure(randomness(inputs.game.cells, attacks, inputs.game.looks), inputs.game.own, inputs.game.looks),
        "roc": roc_figure(inputs.scores, inputs.guard_detector, inputs.params["evaluation"]["alphas"]),
        "scores": score_histograms(inputs.scores, inputs.guard_detector, inputs.alpha),
    }
    if inputs.history:
        figures["training"] = training_curves(inputs.history)
    if inputs.transfer:
        figures["transfer"] = transfer_heatmap(inputs.transfer, inputs.alpha)
    if inputs.hardened:
        figures["hardening"] = hardening_figure(inputs.hardened)
    if inputs.ablated and inputs.ablated.measured:
        figures["ablation"] = ablation_figure(inputs.ablated)
    if inputs.redrawn:
        figures["promise"] = promise_figure(inputs.redrawn, inputs.alpha)
    return figures
