"""Reads the data source, quarantines what is unusable, and assigns every image to a split."""

import math
from collections.abc import Iterator

from pipeline.artifacts import paths
from pipeline.artifacts.images import write_images
from pipeline.artifacts.records import stage_run
from pipeline.data.prepare import prepare_images
from pipeline.data.sources.registry import open_source
from pipeline.outside import note_outside
from pipeline.params.root import load
from pipeline.params.splits import SplitParams
from pipeline.progress import progress

SECTIONS = ("data", "splits")


def main() -> None:
    """Writes the ``data`` artifact."""
    params = load(*SECTIONS)
    with stage_run("prepare", params) as run:
        source = open_source(params.data.source)
        with progress("prepare: images", len(source)) as advance:
            prepared = prepare_images(source, params.data, params.splits, advance)
        counts = write_images(paths.DATA, prepared, params.data.image, params.data.shard_size)
        run.log({**{f"images_{split}": count for split, count in counts.items()}, "quarantined": len(prepared.quarantined)})
        for note in [*prepared.notes, *drawn_apart(params.splits)]:
            run.note(note)
        note_outside("prepare", params)


def drawn_apart(params: SplitParams) -> Iterator[str]:
    """Says where ``calibrate`` and ``test`` come from different origins: then the promise is not for what is measured."""
    shares = {origin: (fractions.calibrate, fractions.test) for origin, fractions in params.origins.items()}
    calibrate, test = (sum(share[side] for share in shares.values()) for side in (0, 1))
    apart = [origin for origin, (ours, theirs) in shares.items() if not math.isclose(ours * test, theirs * calibrate, abs_tol=1e-9)]
    if apart:
        yield (
            f"The origins {apart} have other shares of calibrate than of test: the false-alarm promise holds for images like those of "
            "calibrate, and the figures are of others."
        )
