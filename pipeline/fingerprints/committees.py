"""Committees: fingerprints drawn together beforehand, with their joint likelihood ratio factored.

A joint Gaussian over m drawn fingerprints knows that they are correlated, where a sum of m log-ratios counts the same evidence
again and again. Factoring two covariances for every image would cost more than the classifier itself, so T committees of every
group are drawn and factored when the detector is fitted, and an input meets one of them, drawn afresh.

For a committee with scores s, clean N(mu_0, S_0) and attacked N(mu_f, S_f), the matrix W_f that diagonalises both (W_f S_0 W_f^T
= I, W_f S_f W_f^T = diag(v)) makes the log-ratio a sum over directions z = W_f (s - mu_0):
log N(z; d, v) - log N(z; 0, 1), d = W_f (mu_f - mu_0). Only the directions in which the two differ most, by their symmetric
Kullback-Leibler divergence, are kept: with all m of them it is the joint log-ratio exactly; the others carry more error of the
estimate than evidence. The likelihood under attack is a mixture over the attacks of the fit.

That without an attack can be a mixture too, of the images that the classifier gets right, N(mu_0, S_0), and those that it gets wrong.
Natural mistakes lie near the boundary as attacked images do; a Gaussian of the others gives them next to no likelihood, so they
would use up the false alarms, and what shows small perturbations beside narrow margins would never be flagged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.errors import WhorlError
from pipeline.fingerprints.joint import ScoreMoments

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Factored:
    """The joint log-ratios of C committees of m fingerprints, of B Gaussians to that of the clean images classified correctly.

    The first A of the B are the attacks; where there is one more, it is that of the clean images classified wrongly.

    Attributes:
        weights: (C, B, R, m) float32, the rows of W_f that are kept, in R directions each.
        centre: (C, B, R) float32, W_f mu_0.
        shift: (C, B, R) float32, d.
        variance: (C, B, R) float32, v, above 0.
        log_prior: (C, B) float32, the log of each attack's weight in the mixture under attack, -inf for one that the group never met;
            for mistakes, that of their share of clean images, which the attacks' weights have no part in.
    """

    weights: npt.NDArray[np.float32]
    centre: npt.NDArray[np.float32]
    shift: npt.NDArray[np.float32]
    variance: npt.NDArray[np.float32]
    log_prior: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.weights)


@dataclass(frozen=True)
class Mistakes:
    """Clean images that the classifier gets wrong.

    Attributes:
        moments: as those of the correct ones.
        share: of all clean images, in (0, 1).
    """

    moments: ScoreMoments
    share: float


def factor(
    clean: ScoreMoments,
    attacked: list[ScoreMoments | None],
    mistakes: Mistakes | None = None,
    *,
    directions: int,
    shrinkage: float,
    pooling: float,
) -> Factored:
    """Factors the joint log-ratio of C committees.

    Args:
        clean: (C, m) means and (C, m, m) covariances of the committees' scores on clean images that the classifier gets right.
        attacked: the same for each attack; None for one that never reached the group.
        mistakes: of those that it gets wrong; None leaves them out of the model.
        directions: R, at most m; with a pooling of 1 a single one is exact, and R is 1.
        shrinkage: share of the diagonal in every covariance (Ledoit and Wolf's target of unequal variances), in [0, 1]: 0 takes the
            covariances as estimated, 1 makes the fingerprints independent.
        pooling: share of the mean of all covariances, clean and attacked, in each of them, in [0, 1] (Friedman, JASA 84, 1989): 0 is
            quadratic discriminant analysis, 1 linear.
    """
    common = np.mean([moments.covariance for moments in (clean, *attacked) if moments is not None], axis=0)

    def settled(moments: ScoreMoments) -> ScoreMoments:
        mixed = (1 - pooling) * moments.covariance + pooling * common
        return ScoreMoments(moments.mean, _shrunk(mixed, shrinkage, clean.covariance))

    base = settled(clean)
    inverse = np.linalg.inv(np.linalg.cholesky(base.covariance))
    find = partial(_direction, inverse, base) if pooling == 1 else partial(_directions, inverse, base, directions)
    absent = _absent(inverse, 1 if pooling == 1 else directions)
    others = [*attacked, *([] if mistakes is None else [mistakes.moments])]
    parts = [absent if moments is None else find(settled(moments)) for moments in others]
    weights, centre, shift, variance = (np.stack(values, axis=1).astype(np.float32) for values in zip(*parts, strict=True))
    there = np.array([moments is not None for moments in attacked])
    with np.errstate(divide="ignore"):
        prior = np.log(there / there.sum())
        if mistakes is not None:
            prior = np.append(prior, np.log(mistakes.share))
    prior = np.broadcast_to(prior, (len(inverse), len(prior)))
    return Factored(weights, centre, shift, variance, np.ascontiguousarray(prior, np.float32))


@dataclass(frozen=True)
class Committees:
    """The committees of all groups of a bank, end to end.

    Attributes:
        members: (C, m) int32 rows of the bank's fingerprints.
        starts: (G + 1,) int64; group g has the committees starts[g] to starts[g + 1].
        factored: their log-ratios.
        attacks: names of the A attacks of the mixture.

    Raises:
        WhorlError: the ratios are neither as many as the attacks, nor one more.
    """

    members: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    factored: Factored
    attacks: tuple[str, ...]

    def __post_init__(self) -> None:
        if (found := self.factored.log_prior.shape[1]) not in (len(self.attacks), len(self.attacks) + 1):
            raise WhorlError(
                f"The committees have {found} log-ratios, where one for each attack of {list(self.attacks)} was expected, or one more."
            )

    @classmethod
    def join(cls, groups: Sequence[tuple[npt.NDArray[np.int64], Factored]], offsets: npt.NDArray[np.int64], attacks: Sequence[str]) -> Self:
        """Joins the groups' committees.

        Args:
            groups: of each group its members, as rows within the group, and what was factored of them.
            offsets: where each group's fingerprints start in the bank.
            attacks: names of the A attacks.
        """
        members = [rows + start for (rows, _), start in zip(groups, offsets, strict=False)]
        columns = ([getattr(factored, field.name) for _, factored in groups] for field in fields(Factored))
        starts = np.cumsum([0, *map(len, members)], dtype=np.int64)
        return cls(np.concatenate(members).astype(np.int32), starts, Factored(*map(np.concatenate, columns)), tuple(attacks))

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """(G,) the number of committees of each group."""
        return np.diff(self.starts)

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """All but the attacks' names, for storage."""
        return {
            "members": self.members,
            "starts": self.starts,
            **{field.name: getattr(self.factored, field.name) for field in fields(Factored)},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], attacks: Sequence[str]) -> Self:
        """The committees that ``to_arrays`` described."""
        factored = Factored(*(arrays[field.name] for field in fields(Factored)))
        return cls(arrays["members"], arrays["starts"], factored, tuple(attacks))


class CommitteeScores(torch.nn.Module):
    """The log-ratio of committees on images, differentiable in the neurons; a module, so that it moves to a device as a whole.

    Args:
        committees: factored.
        indices: (F, k) columns of the neurons of the bank's fingerprints.
    """

    columns: Tensor
    weights: Tensor
    centre: Tensor
    shift: Tensor
    variance: Tensor
    log_prior: Tensor
    half_log_variance: Tensor

    def __init__(self, committees: Committees, indices: npt.NDArray[np.int32]) -> None:
        super().__init__()
        parts = committees.factored
        held = {
            "columns": indices[committees.members].reshape(len(committees.members), -1),
            "weights": parts.weights.reshape(len(parts), -1, parts.weights.shape[-1]),
            **{name: getattr(parts, name) for name in ("centre", "shift", "variance", "log_prior")},
        }
        for name, array in held.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)))
        self.register_buffer("half_log_variance", self.variance.log().sum(-1) / 2)
        self.m, self.attacks = committees.members.shape[1], len(committees.attacks)

    def forward(self, neurons: Tensor, which: Tensor) -> Tensor:
        """Log of the mixture's density over the clean one's.

        Args:
            neurons: (N, D) float32.
            which: (N,) int64, the committee that each image meets.

        Returns:
            (N,) float32.
        """
        scores = neurons.gather(1, self.columns.index_select(0, which).long()).view(len(neurons), self.m, -1).mean(-1)
        centre = self.centre[which]
        z = self._projected(scores, which).view_as(centre) - centre
        terms = z.square() - (z - self.shift[which]).square() / self.variance[which]
        return mixture(terms.sum(-1) / 2 - self.half_log_variance[which], self.log_prior[which], self.attacks)

    def _projected(self, scores: Tensor, which: Tensor) -> Tensor:
        """All directions of each image's committee, (N, B R), of its scores (N, m)."""
        if scores.device.type != "cpu" or scores.requires_grad:
            return torch.bmm(self.weights.index_select(0, which), scores[..., None]).squeeze(-1)
        # A product an image, with the weights where they lie: for one product of them all, megabytes would be copied together first.
        z = scores.new_empty(len(scores), self.weights.shape[1])
        for projected, committee, own in zip(z.unbind(), which.tolist(), scores.unbind(), strict=True):
            torch.mv(self.weights[committee], own, out=projected)
        return z


def mixture(ratios: Tensor, log_prior: Tensor, attacks: int) -> Tensor:
    """The log of the attacks' mixed density over that of clean images, both given as ratios to that of the correct ones.

    Args:
        ratios: (N, B, ...) logarithms, of ``attacks`` attacks, and then, where there is one more, of the mistakes.
        log_prior: (N, B), as of ``Factored``; further dimensions of ``ratios`` share it.
        attacks: A.

    Returns:
        (N, ...).
    """
    log_prior = log_prior.view(*log_prior.shape, *(1 for _ in ratios.shape[2:]))
    weighted = ratios + log_prior
    attacked: Tensor = weighted[:, :attacks].logsumexp(1)
    if ratios.shape[1] == attacks:
        return attacked
    correct = torch.log1p(-log_prior[:, -1].exp())
    return attacked - torch.logaddexp(correct.expand_as(attacked), weighted[:, -1])


def _shrunk(covariance: Floats, shrinkage: float, scale: Floats) -> Floats:
    """(1 - shrinkage) S + shrinkage diag(S), with a trace of the clean variances added so that no direction is without any."""
    diagonal, floor = (np.diagonal(matrix, axis1=1, axis2=2) for matrix in (covariance, scale))
    kept = (1 - shrinkage) * covariance
    every = np.arange(covariance.shape[1])
    kept[:, every, every] += shrinkage * diagonal + RIDGE * floor
    return kept


RIDGE = 1e-3
"""Of the clean variance of each score: what a Gaussian never goes below."""


Directions = tuple[Floats, Floats, Floats, Floats]
"""W (C, R, m), W mu_0, W (mu_f - mu_0) and the attacked variances (C, R)."""


def _directions(inverse: Floats, clean: ScoreMoments, count: int, attacked: ScoreMoments) -> Directions:
    """The ``count`` directions that tell most."""
    variance, vectors = np.linalg.eigh(inverse @ attacked.covariance @ inverse.transpose(0, 2, 1))
    weights = vectors.transpose(0, 2, 1) @ inverse
    shift = np.einsum("crm,cm->cr", weights, attacked.mean - clean.mean)
    # Twice the symmetric divergence of N(d, v) and N(0, 1) in each direction.
    divergence = variance + (1 + shift**2) / variance + shift**2 - 2
    best = np.argsort(-divergence, axis=1, kind="stable")[:, :count]
    weights = np.take_along_axis(weights, best[..., None], axis=1)
    shift, variance = (np.take_along_axis(values, best, axis=1) for values in (shift, variance))
    return weights, np.einsum("crm,cm->cr", weights, clean.mean), shift, variance


def _direction(inverse: Floats, clean: ScoreMoments, attacked: ScoreMoments) -> Directions:
    """The one direction in which two Gaussians of one covariance differ: S^-1 (mu_f - mu_0), scaled to a variance of 1 (Fisher 1936)."""
    apart = np.einsum("crm,cm->cr", inverse, attacked.mean - clean.mean)
    distance = np.linalg.norm(apart, axis=1, keepdims=True)
    weights = np.einsum("cr,crm->cm", apart / np.maximum(distance, np.finfo(float).tiny), inverse)[:, None]
    return weights, np.einsum("crm,cm->cr", weights, clean.mean), distance, np.ones_like(distance)


def _absent(inverse: Floats, count: int) -> Directions:
    """Stands for an attack that never reached the group; never looked at, since its prior is 0."""
    shape = (len(inverse), count)
    return np.zeros((*shape, inverse.shape[1])), np.zeros(shape), np.zeros(shape), np.ones(shape)
