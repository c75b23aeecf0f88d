"""Which candidates are worth keeping: a real difference between clean and attacked scores, and a large one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.fingerprints.bank import Fingerprints
from pipeline.fingerprints.candidates import CandidateBlock, Sides
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
        clean: the group's clean images.
        attacked: the successful attacks that made it up, an image counting once an attack.
        cross_fitted: whether each fingerprint's moments are of images that did not choose it: of about half of the group's.
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
    cross_fitted: bool
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

    What is largest by luck looks larger than it is: of candidates chosen by their effect, moments on the same images exaggerate it. Where
    the group has enough images (``cross_fit``), each half of them chooses among half of the candidates, which keep the moments of the
    other half; effect and p-value stay those of the choice.

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

    fate = np.full(len(candidates.indices), "kept", dtype="<U16")
    effect, p_value, moments = np.zeros(len(fate)), np.ones(len(fate)), np.empty((4, len(fate)))
    repeated, whole = _repeated(candidates.indices), candidates.halves[0].of(fit_attacks).merged(candidates.halves[1].of(fit_attacks))
    known = _known(whole, params.min_attacked)
    turns = _turns(candidates, whole, known, params)
    for turn in turns:
        clean, attacked = turn.measured_on.clean, turn.measured_on.mixed()
        moments[:, turn.rows] = clean.mean, clean.std(), attacked.mean, attacked.std()
        fate[turn.rows[turn.constant()]] = "constant"
        if not known or turn.chosen_by.clean.count < 2:
            fate[turn.rows] = "too_few_images"
        fate[np.intersect1d(turn.rows, repeated)] = "duplicate"
        if (tested := np.flatnonzero(fate[turn.rows] == "kept")).size:
            judged = turn.chosen_by.some(tested)
            effect[turn.rows[tested]], p_value[turn.rows[tested]] = strongest(judged.clean, [judged.attacked[name] for name in known])
    if (tested := np.flatnonzero(fate == "kept")).size:
        fate[tested[np.abs(effect[tested]) < params.effect_size]] = "small_effect"
        fate[tested[false_discovery_control(p_value[tested]) > params.false_discovery_rate]] = "not_significant"
    fate[_surplus(np.flatnonzero(fate == "kept"), candidates.indices, effect, params, rng)] = "surplus"
    if candidates.group == POOLED:
        fate[_next_best(fate, effect, params)] = "kept_below_cut"
    kept = np.flatnonzero(np.char.startswith(fate, "kept"))
    fingerprints = Fingerprints(
        candidates.indices[kept],
        candidates.layer[kept],
        *(values[kept].astype(np.float32) for values in (*moments, effect)),
    )
    reasons = {str(name): int(count) for name, count in zip(*np.unique(fate, return_counts=True), strict=True)}
    attacked_images = sum(moments.count for moments in whole.attacked.values())
    return Selected(candidates.group, fingerprints, p_value[kept], whole.clean.count, attacked_images, len(turns) > 1, reasons)


@dataclass(frozen=True)
class _Turn:
    """Some candidates, (R,) ``rows``, with their moments on the images that choose among them and on those whose moments are kept."""

    rows: npt.NDArray[np.intp]
    chosen_by: Sides
    measured_on: Sides

    def constant(self) -> npt.NDArray[np.bool_]:
        """Where the deviation of a side is zero, or no more than the rounding of float32 scores leaves of it, (R,)."""
        stds = [(moments.mean, moments.std()) for each in (self.chosen_by, self.measured_on) for moments in (each.clean, each.mixed())]
        still: npt.NDArray[np.bool_] = np.any([(std <= _FLOAT32.eps * np.abs(mean)) | (std < _FLOAT32.tiny) for mean, std in stds], axis=0)
        return still


def _known(whole: Sides, least: int) -> list[str]:
    """The attacks that reached the group ``least`` times, else those that did twice; none where no effect can be told."""
    reached = [name for name, moments in whole.attacked.items() if moments.count >= 2]
    return [name for name in reached if whole.attacked[name].count >= least] or reached


def _turns(candidates: CandidateBlock, whole: Sides, known: Sequence[str], params: SelectionParams) -> list[_Turn]:
    """Who chooses and whose moments are kept: all images both, or, where there are enough, one half the even candidates and the
    other the odd ones, each with the moments of the other half (cross-fitting).

    Enough is also half of ``min_attacked`` of every known attack in both halves: fewer would show an effect by luck.
    """
    rows, names = np.arange(len(candidates.indices)), list(whole.attacked)
    one, two = (half.of(names) for half in candidates.halves)
    images = min(count for half in (one, two) for count in (half.clean.count, sum(each.count for each in half.attacked.values())))
    thinnest = min((half.attacked[name].count for half in (one, two) for name in known), default=0)
    if params.cross_fit is None or images < params.cross_fit or 2 * thinnest < max(params.min_attacked, 4):
        return [_Turn(rows, whole, whole)]
    pairs = ((rows[::2], one, two), (rows[1::2], two, one))
    return [_Turn(some, chosen_by.some(some), measured_on.some(some)) for some, chosen_by, measured_on in pairs]


def _repeated(indices: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
    """Rows that are the same set as an earlier one: in a small layer the same few neurons come up again and again."""
    _, first = np.unique(np.sort(indices, axis=1), axis=0, return_index=True)
    return np.setdiff1d(np.arange(len(indices)), first)


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
