"""The cells of the game: every defender against every attacker, from the chances that its draws flag an image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.game import Play, filtered, foreseen, plain, pooled, resubmitted
from pipeline.params.game import GameParams

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Looked:
    """What a filtering attacker looks at before sending.

    Attributes:
        knowledge: as of a cell.
        attacker: as of a cell: ``filter``, or ``filter_banks`` who spreads the looks over banks of their own.
        copies: (P, N), the chance that a draw of each of P copies flags each image.
        spread: whether one attacker has all of the copies and spreads the looks over them; otherwise there are P attackers like it, each
            with one of them, taken together.
        drawn: whether the copies are some of many that there might be, such as banks that attackers fit for themselves.
    """

    knowledge: str
    attacker: str
    copies: Floats
    spread: bool
    drawn: bool

    def play(self, success: Bools, chance: Floats, looks: int) -> Play:
        """What it does in so many looks; see ``filtered``."""
        if self.spread:
            return spread(success, self.copies, chance, looks)
        return pooled([filtered(success, copy, chance, looks) for copy in self.copies])

    def without(self) -> "list[Looked]":
        """The same with one copy left out, for each that was drawn; none where that would leave nothing, or where none was drawn."""
        few = len(self.copies) < 2 or not self.drawn
        return [] if few else [replace(self, copies=np.delete(self.copies, number, axis=0)) for number in range(len(self.copies))]


@dataclass(frozen=True)
class Cell:
    """Who plays against whom.

    Attributes:
        defender: ``static``, ``fresh`` or ``keyed``.
        draw: fingerprints of a committee, m.
        committees: committees a class, T.
        bank: fingerprints of the largest group of the bank that the defender draws from.
        disjoint: the name of its parts that share no fingerprint; empty where every committee is of the whole bank.
        knowledge: what the attacker knows: ``nothing`` of the guard, the ``algorithm`` and the data, the ``bank``, or the ``draws``.
        attacker: what the attacker does.
        attack: what made the images.
        budget: looks, tries, queries or steps; 0 where there is nothing to count.
    """

    defender: str
    draw: int
    committees: int
    bank: int
    disjoint: str
    knowledge: str
    attacker: str
    attack: str
    budget: int


def without_the_classifier(
    cell: Cell,
    success: Bools,
    looked: Sequence[Looked],
    chances: Mapping[str, Floats],
    game: GameParams,
    *,
    own: bool,
    clean: bool,
) -> Iterator[tuple[Cell, Play, list[Play]]]:
    """The cells of one detector on one attack that follow from chances alone, each as ``on_a_copy`` has them.

    Args:
        cell: what they share.
        success: (N,).
        looked: the attackers who filter.
        chances: defender to the chance that one of its draws does.
        game: looks and tries.
        own: whether it is the guard's own detector, which meets every attacker.
        clean: whether the images are clean ones, which nobody filters or sends again.
    """
    settled = [*sent_once(cell, success, chances)]
    if own and not clean:
        settled += [*with_the_draws(cell, success, chances), *again_and_again(cell, success, chances, game.tries)]
    yield from ((met, play, []) for met, play in settled)
    if not clean:
        yield from on_a_copy(cell, success, looked, chances, game.looks)


def sent_once(cell: Cell, success: Bools, chances: Mapping[str, Floats]) -> Iterator[tuple[Cell, Play]]:
    """The attacker who knows nothing of the guard, against each defender in ``chances``."""
    for defender, chance in chances.items():
        yield replace(cell, defender=defender), plain(success, chance)


def on_a_copy(
    cell: Cell, success: Bools, looked: Sequence[Looked], chances: Mapping[str, Floats], looks: Sequence[int]
) -> Iterator[tuple[Cell, Play, list[Play]]]:
    """The attackers who filter on a local copy: the cell, the play, and the play without each of the copies that were drawn.

    Args:
        cell: what the cells share.
        success: (N,).
        looked: the attackers.
        chances: defender to the chance that one of its draws does.
        looks: numbers of looks.
    """
    for defender, chance in chances.items():
        for who in looked:
            for count in looks:
                met = replace(cell, defender=defender, knowledge=who.knowledge, attacker=who.attacker, budget=count)
                yield met, who.play(success, chance, count), [one.play(success, chance, count) for one in who.without()]


def spread(success: Bools, looked: Floats, chance: Floats, looks: int) -> Play:
    """As ``filtered``, by an attacker who has several copies and spreads the looks over them: of the parts that draws are from, or of
    several banks of their own.

    R looks at P copies are R // P at each, and one more at R mod P of them, drawn at random without repetition: no copy is a better
    one to look at than another, for parts are as likely to be met, and of banks none is known to be nearer to the defender's.

    Args:
        success: (N,).
        looked: (P, N), the chance that a draw from each copy flags the image.
        chance: (N,), that one of the defender's draws does.
        looks: R.
    """
    won, passing = success.astype(np.float64), [_through(looked, count) for count in range(looks + 1)]
    sent = won * passing[looks]
    return Play(sent, sent * (1 - chance), won * np.sum(passing[:looks], axis=0), sent)


def _through(looked: Floats, looks: int) -> Floats:
    """The chance, (N,), that no look flags the image: of the last, incomplete round the mean over the sets of copies looked at."""
    parts, images = looked.shape
    rounds, rest = divmod(looks, parts)
    chosen = np.zeros((rest + 1, images))  # the elementary symmetric polynomials of the chances to pass
    chosen[0] = 1
    for passed in 1 - looked:
        for size in range(rest, 0, -1):
            chosen[size] += chosen[size - 1] * passed
    return np.asarray((1 - looked).prod(0) ** rounds * chosen[rest] / comb(parts, rest))


def with_the_draws(cell: Cell, success: Bools, chances: Mapping[str, Floats]) -> Iterator[tuple[Cell, Play]]:
    """The attacker who knows which draw an image will meet: a static guard's copy, a leaked key, a generator that was foreseen."""
    for defender, chance in chances.items():
        yield replace(cell, defender=defender, knowledge="draws", attacker="filter", budget=1), foreseen(success, chance)


def again_and_again(cell: Cell, success: Bools, chances: Mapping[str, Floats], tries: int) -> Iterator[tuple[Cell, Play]]:
    """The attacker who sends the same image again; only a fresh guard gives it another draw."""
    for defender, chance in chances.items():
        met = replace(cell, defender=defender, attacker="resubmit", budget=tries)
        yield met, resubmitted(success, chance, tries, afresh=defender == "fresh")


def crafted(cell: Cell, success: Bools, copy: Floats, chances: Mapping[str, Floats], looks: int, local: int) -> Iterator[tuple[Cell, Play]]:
    """The attackers who descended: sent once, or filtered on the same local copy first.

    Args:
        cell: what the cells share; its budget is that of the descent.
        success: (N,), whether the classifier is wrong at the end.
        copy: (N,), the chance that a draw of the attacker's copy flags what was made.
        chances: defender to the chance that one of its draws does.
        looks: of the filter; one tells all where the copy's draw is fixed.
        local: draws looked at on the way, for each image.
    """
    for defender, chance in chances.items():
        met = replace(cell, defender=defender)
        yield replace(met, attacker="descend"), _paid(plain(success, chance), local)
        yield replace(met, attacker="descend_filter", budget=looks), _paid(filtered(success, copy, chance, looks), local)


def _paid(play: Play, local: int) -> Play:
    return replace(play, local=play.local + local)
