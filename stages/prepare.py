"""Reads the data source, quarantines what is unusable, and assigns every image to a split."""

from pipeline.artifacts import paths
from pipeline.artifacts.images import write_images
from pipeline.artifacts.records import stage_run
from pipeline.data.prepare import prepare_images
from pipeline.data.sources.registry import open_source
from pipeline.params.root import load
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
        for note in prepared.notes:
            run.note(note)
