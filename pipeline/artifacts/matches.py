"""Matches: an attacker who needs the classifier for every try, on the images of one shard."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.artifacts import paths
from pipeline.artifacts.adversarial import AdversarialSet
from pipeline.artifacts.features import CLEAN
from pipeline.artifacts.games import OWN, PLAYS, Arena, play_table, surrogates
from pipeline.artifacts.images import ImageSet
from pipeline.artifacts.store import ShardOutput
from pipeline.attacks.evasion import Ask
from pipeline.attacks.geometry import LEVELS
from pipeline.evaluation.game import Play
from pipeline.evaluation.game_headline import Size
from pipeline.game.attackers import ask_live, craft, descents, norms, query, resubmit_changed
from pipeline.game.cells import Cell, crafted
from pipeline.game.defenders import Defender, Way
from pipeline.params.game import GameParams

WAYS: tuple[Way, ...] = ("fresh", "keyed", "static")

Floats = npt.NDArray[np.float64]
Settled = Iterator[tuple[Cell, Play, Floats, Floats]]
"""Cells with what became of each image, its L2 and its maximum norm."""


@dataclass(frozen=True)
class Match:
    """One attacker on the images of one shard.

    Attributes:
        attacker: ``descend``, ``query`` or ``resubmit_changed``.
        shard: of the clean images.
        what: which descent, whether the guard gives ``scores`` or ``decisions``, or which attack.
        against: what a descending attacker knows; the defender's way of drawing for the others.
    """

    attacker: str
    shard: str
    what: str
    against: str

    @property
    def name(self) -> str:
        """Of the task."""
        return f"{self.shard}.{self.attacker}.{self.what}.{self.against}"


def matches_of(shard: str, attacks: Sequence[str], game: GameParams) -> Iterator[Match]:
    """Every attacker who needs the classifier, on one shard."""
    for what in descents(game.descend):
        yield from (Match("descend", shard, what, knowledge) for knowledge in ("algorithm", "bank", "draws"))
    if game.queries:
        yield from (Match("query", shard, replies, way) for replies in ("decisions", "scores") for way in WAYS)
    yield from (Match("resubmit_changed", shard, attack, way) for attack in attacks for way in WAYS)


@dataclass(frozen=True)
class Scene:
    """The images of a match, all of which the classifier gets right.

    Attributes:
        pixels: uint8 (N, C, H, W), unattacked.
        labels: int64 (N,).
        ids: the images' ids.
        rows: where they are in the shard.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    ids: list[str]
    rows: npt.NDArray[np.intp]


@dataclass(frozen=True)
class Matches:
    """Plays matches in a worker.

    Attributes:
        arena: what it plays with.
        best: which fixed draw the static defender has.
        own: the size of the defender's detector.
    """

    arena: Arena
    best: int
    own: Size

    def play(self, match: Match) -> ShardOutput:
        """One match: a row a cell and image."""
        players: dict[str, Callable[[Match, Scene], Settled]] = {
            "descend": self._descend,
            "query": self._query,
            "resubmit_changed": self._changed,
        }
        scene, tables = self._scene(match.shard), [PLAYS.empty_table()]
        if scene.ids:
            settled = players[match.attacker](match, scene)
            tables += [play_table(cell, scene.ids, play, l2, linf) for cell, play, l2, linf in settled]
        return ShardOutput(tables={"rows": pa.concat_tables(tables)})

    def _scene(self, shard: str) -> Scene:
        images = ImageSet.open(self.arena.root / paths.DATA)
        batch, clean = images.read(shard), self.arena.features.read(f"{CLEAN}.{shard}")
        rows = np.flatnonzero(clean.predicted == clean.labels)[: quota(images, shard, self.arena.game.images)]
        return Scene(batch.images[rows], batch.labels[rows], [batch.ids[row] for row in rows], rows)

    def _guard(self, way: Way) -> Defender:
        return self.arena.defender(OWN, way, self.best)

    def _cell(self, match: Match, knowledge: str, budget: int) -> Cell:
        return Cell(match.against, *self.own, knowledge, match.attacker, match.what, budget)

    def _ask(self, match: Match, scene: Scene, *, scores: bool) -> Ask:
        defender = next(self._guard(way) for way in WAYS if way == match.against)
        return ask_live(self.arena.classifier, self.arena.features.pool, defender, scene.ids, scores=scores)

    def _descend(self, match: Match, scene: Scene) -> Settled:
        arena, game, static = self.arena, self.arena.game, self._guard("static")
        known = match.against == "draws"
        copy = static if known else arena.defender(surrogates(game)[0] if match.against == "algorithm" else OWN, "fresh")
        pool, what = arena.features.pool, match.what
        made = craft(arena.classifier, pool, copy, scene.pixels, scene.labels, scene.ids, what, game.descend, game.seed)
        defenders = [static] if known else [self._guard("fresh"), self._guard("keyed"), static]
        chances: dict[str, Floats] = {defender.way: defender.chances(made.neurons, made.predicted) for defender in defenders}
        looked, success = copy.chances(made.neurons, made.predicted), made.predicted != scene.labels
        cell = self._cell(match, match.against, game.descend.steps)
        looks = 1 if copy.way == "static" else game.headline  # a fixed draw says the same at every look
        for found, play in crafted(cell, success, looked, chances, looks, made.local):
            yield found, play, *norms(made.images, scene.pixels)

    def _query(self, match: Match, scene: Scene) -> Settled:
        game = self.arena.game
        ask = self._ask(match, scene, scores=match.what == "scores")
        tried = query(ask, scene.pixels, scene.labels, scene.ids, game.descend, game.queries, game.seed)
        yield self._cell(match, "nothing", game.queries), tried.play, tried.l2, tried.linf

    def _changed(self, match: Match, scene: Scene) -> Settled:
        game, stored = self.arena.game, AdversarialSet.open(self.arena.root / paths.attack(match.what))
        images, success = stored.images(match.shard)[scene.rows], stored.rows(match.shard)["success"].to_numpy()[scene.rows]
        if images.dtype != np.uint8:  # floats are sent as the nearest bytes
            images = np.rint(images * LEVELS).astype(np.uint8)
        ask, pixels = self._ask(match, scene, scores=False), game.changed_pixels
        tried = resubmit_changed(
            ask, images, scene.pixels, scene.labels, success, scene.ids, tries=game.tries, pixels=pixels, seed=game.seed
        )
        yield self._cell(match, "nothing", game.tries), tried.play, tried.l2, tried.linf


def quota(images: ImageSet, shard: str, wanted: int) -> int:
    """How many images of a shard are played with, so that all shards of ``test`` together give ``wanted``."""
    shards = images.shards("test")
    return wanted // len(shards) + (shards.index(shard) < wanted % len(shards))
