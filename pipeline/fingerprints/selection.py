"""Which candidates are worth keeping: a real difference between clean and attacked scores, and a large one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.fingerprints.bank import Fingerprints
from pipeline.fingerprints.candidates import CandidateBlock, mixed_moments
from pipeline.fingerprints.features import POOLED
from pipeline.fingerprints.moments import Moments
from pipeline.params.fingerprints import SelectionParams

_FLOAT32 = np.finfo(np.float32)


@dataclass(frozen=True)
class Selected:
    """The candidates of one group that are kept.

    Attributes:
        group: the group's name.
        fingerprints: the kept ones, in the order of the candidates.
        p_value: (F,) float64, of the attack that each shows best (see ``strongest``), not adjusted for the number of candidates.
        clean: clean images behind the moments.
        attacked: successful attacks behind them, an image counting once an attack.
        reasons: what became of the candidates, in the order in which they were judged: ``duplicate`` (the same index set
            again), ``too_few_images``, ``constant`` (no variance on one side), ``not_significant``, ``small_effect``,
            ``surplus`` (beyond the bank's size), ``kept``, ``kept_below_cut`` (see ``select``); adds up to the number of
            candidates.
    """

    group: str
    fingerprints: Fingerprints
    p_value: npt.NDArray[np.float64]
    clean: int
    attacked: int
    reasons: dict[str, int]


def cohens_d(clean: Moments, attacked: Moments) -> npt.NDArray[np.float64]:
    """(attacked mean - clean mean) / pooled standard deviation, (F,) (Cohen 1988, section 2.2).

    Both sides need two images, and one of them some variance.
    """
    pooled = np.sqrt((clean.m2 + attacked.m2) / (clean.count + attacked.count - 2))
    d: npt.NDArray[np.float64] = (attacked.mean - clean.mean) / pooled
    return d


def welch_p_values(clean: Moments, attacked: Moments) -> npt.NDArray[np.float64]:
    """Two-sided p-values of Welch's t-test that the means are equal, (F,) (Welch, Biometrika 34, 1947); images are independent."""
    from scipy.stats import ttest_ind_from_stats  # here, for it takes most of a second, and most who read selections never test

    result = ttest_ind_from_stats(attacked.mean, attacked.std(), attacked.count, clean.mean, clean.std(), clean.count, equal_var=False)
    return np.asarray(result.pvalue, np.float64)


def strongest(clean: Moments, attacked: Sequence[Moments]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What each candidate says of the attack that it shows best.

    Attacks that move a score in opposite directions (one leaves a narrow margin, another a wide one) cancel out in the mean over all of
    them, while the likelihood, a mixture over attacks, sees each.

    Args:
        clean: of F candidates.
        attacked: of the same, an attack each; at least one, each of two images or more.

    Returns:
        The effect (F,), Cohen's d of the attack for which it is largest, and the p-value (F,): the smallest of Welch's tests, times
        the number of attacks (Bonferroni), at most 1. Images are independent within an attack, so each test stands for itself.
    """
    effects = np.stack([cohens_d(clean, each) for each in attacked])
    p_values = np.stack([welch_p_values(clean, each) for each in attacked])
    best = np.abs(effects).argmax(axis=0)
    return np.take_along_axis(effects, best[None], axis=0)[0], np.minimum(1.0, len(attacked) * p_values.min(axis=0))


def select(candidates: CandidateBlock, fit_attacks: Sequence[str], params: SelectionParams, rng: np.random.Generator) -> Selected:
    """Keeps candidates whose clean and attacked scores differ significantly and enough (Fisher et al. 2024, section 3) for some attack.

    Significance is controlled over the group's candidates at a false-discovery rate (Benjamini and Hochberg 1995), since
    thousands of tests at a fixed level would let in as many as that level's share of pure noise. The moments that are kept are of
    all attacks together, an image once an attack; effect and test are of one attack (see ``strongest``), and of those that reached the
    group ``min_attacked`` times, where there are such.

    The pooled group is what classes with too little fall back on, so it must not run dry: where too few of its candidates
    pass, those with the next largest effects are kept too. Classes differ more than attacked from clean does, so over all
    of them effects are small.

    Args:
        candidates: all candidates of one group.
        fit_attacks: the attacks whose successes make up the attacked side.
        params: the ``selection`` section.
        rng: chooses among those that pass where ``prefer`` is ``random``.

    Raises:
        WhorlError: the candidates know nothing of one of the attacks.
    """
    from scipy.stats import false_discovery_control  # as above

    clean, attacked = candidates.clean, mixed_moments(candidates, fit_attacks)
    fate = np.full(len(candidates.indices), "kept", dtype="<U16")
    fate[_constant(clean) | _constant(attacked)] = "constant"
    reached = [candidates.attacked[name] for name in fit_attacks if candidates.attacked[name].count >= 2]
    known = [moments for moments in reached if moments.count >= params.min_attacked] or reached
    if clean.count < 2 or not known:
        fate[:] = "too_few_images"
    fate[_repeated(candidates.indices)] = "duplicate"
    effect, p_value = np.zeros(len(fate)), np.ones(len(fate))
    if (tested := np.flatnonzero(fate == "kept")).size:
        effect[tested], p_value[tested] = strongest(_some(clean, tested), [_some(moments, tested) for moments in known])
        fate[tested[np.abs(effect[tested]) < params.effect_size]] = "small_effect"
        fate[tested[false_discovery_control(p_value[tested]) > params.false_discovery_rate]] = "not_significant"
    fate[_surplus(np.flatnonzero(fate == "kept"), candidates.indices, effect, params, rng)] = "surplus"
    if candidates.group == POOLED:
        fate[_next_best(fate, effect, params)] = "kept_below_cut"
    kept = np.flatnonzero(np.char.startswith(fate, "kept"))
    fingerprints = Fingerprints(
        candidates.indices[kept],
        candidates.layer[kept],
        *(values[kept].astype(np.float32) for values in (clean.mean, clean.std(), attacked.mean, attacked.std(), effect)),
    )
    reasons = {str(name): int(count) for name, count in zip(*np.unique(fate, return_counts=True), strict=True)}
    return Selected(candidates.group, fingerprints, p_value[kept], clean.count, attacked.count, reasons)


def _constant(moments: Moments) -> npt.NDArray[np.bool_]:
    """Where the deviation is zero, or no more than the rounding of float32 scores leaves of it."""
    std = moments.std()
    return (std <= _FLOAT32.eps * np.abs(moments.mean)) | (std < _FLOAT32.tiny)


def _repeated(indices: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
    """Rows that are the same set as an earlier one: in a small layer the same few neurons come up again and again."""
    _, first = np.unique(np.sort(indices, axis=1), axis=0, return_index=True)
    return np.setdiff1d(np.arange(len(indices)), first)


def _some(moments: Moments, which: npt.NDArray[np.intp]) -> Moments:
    return Moments(moments.count, moments.mean[which], moments.m2[which])


def _next_best(fate: npt.NDArray[np.str_], effect: npt.NDArray[np.float64], params: SelectionParams) -> npt.NDArray[np.intp]:
    """The largest effects among what did not pass, as many as the group lacks to its least number of fingerprints."""
    lacking = params.min_fingerprints - int((fate == "kept").sum())
    failed = np.flatnonzero(np.isin(fate, ["small_effect", "not_significant"]))
    return failed[np.argsort(-np.abs(effect[failed]), kind="stable")][: max(0, lacking)]


def _surplus(
    passed: npt.NDArray[np.intp],
    indices: npt.NDArray[np.int32],
    effect: npt.NDArray[np.float64],
    params: SelectionParams,
    rng: np.random.Generator,
) -> npt.NDArray[np.intp]:
    sizes, count = np.abs(effect[passed]), min(params.bank_size, len(passed))
    if params.prefer == "random":
        kept = rng.permutation(len(passed))[:count]
    elif params.prefer == "largest_effect":
        kept = np.argsort(-sizes, kind="stable")[:count]
    else:
        kept = diverse(indices[passed], sizes, count)
    return np.delete(passed, kept)


def diverse(indices: npt.NDArray[np.int32], effect: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.intp]:
    """A choice that weighs the effect against repetition, one candidate after the other.

    Next is the one with the largest effect divided by one plus how often, on average, its neurons stand in those chosen before:
    fingerprints that share neurons tell the same, and who knows one of them knows something of the others.

    Args:
        indices: (F, k) columns of the neurons.
        effect: (F,) at least 0.
        count: at most F.

    Returns:
        (count,) rows, in the order of the choice.
    """
    used, chosen, worth = np.zeros(int(indices.max(initial=0)) + 1), np.empty(count, np.intp), effect.copy()
    for place in range(count):
        chosen[place] = best = int((worth / (1 + used[indices].mean(axis=1))).argmax())
        worth[best] = -1.0
        np.add.at(used, indices[best], 1)
    return chosen
