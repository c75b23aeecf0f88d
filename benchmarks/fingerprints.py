"""How fast are fingerprints sampled, fitted and tested, what does inspecting cost, and how far does it scale?

Beside the authors' package on the same arrays and index sets; beside the classifier's own forward pass; and up to 1,000 classes with
10,000 fingerprints each. ``python benchmarks/fingerprints.py --help`` has the options; README.md how to read it.
"""

import argparse

from bank_scale import FEW, MANY, Scale, scale
from common import Entry, add_output_options, conditions, keep, one_thread, publish
from inspection import inspection

PARTS = ("beside", "inspection", "scale")


def main() -> None:
    """Runs the chosen parts and publishes their table."""
    chosen = _options()
    one_thread()
    caption, entries = _caption(chosen), list[Entry]()
    for part in chosen.only:
        entries += run(part, chosen)
        keep("fingerprints", caption, entries, chosen)
    publish("fingerprints", caption, entries, chosen)


def run(part: str, chosen: argparse.Namespace) -> list[Entry]:
    """The rows of one part; the peer is imported for its own alone."""
    if part == "inspection":
        return inspection({1: chosen.single_rounds, 128: chosen.batch_rounds})
    if part == "scale":
        return scale([FEW, Scale(chosen.classes, chosen.fingerprints)])
    from beside import AUTHORS, beside

    return beside(AUTHORS, chosen.rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_output_options(parser)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="the parts to run")
    parser.add_argument("--rounds", type=int, default=9, help="runs of either engine, of the part beside")
    parser.add_argument("--single-rounds", type=int, default=300, help="inspections of a single image")
    parser.add_argument("--batch-rounds", type=int, default=25, help="inspections of a batch of 128")
    parser.add_argument("--classes", type=int, default=MANY.classes, help="of the larger bank of the part scale")
    parser.add_argument("--fingerprints", type=int, default=MANY.fingerprints, help="of it, a class")
    return parser.parse_args()


CAPTIONS = {
    "beside": """**Beside the authors' package**, imported with a stand-in for the logger that its wheel lacks. Both have the same made
activations in float32 (400 clean and 400 attacked images, 2,048 neurons of one layer), k = 50, 2,000 candidates, |d| of at least 1.5; its
level of significance is 0.001, ours a false-discovery rate of the same size. Differences are of float64 arrays, on the same index sets.""",
    "inspection": """**Inspection**: an untrained ResNet-20 of 32x32 images with the neurons that the CIFAR-10 preset keeps; 10 classes of
2,000 random fingerprints and 50 committees each, against 9 attacks and natural mistakes. Ours is `Guard.inspect` on float images, or a
piece of it, the peer the bare forward pass of the same classifier under `inference_mode` in the same round: a ratio of 1.03 says that
inspecting adds 3 %. The preset's default is the committee of 64 in 16 directions.""",
    "scale": """**Scale**: 2,048 made neurons of four layers; a class has 50 clean images, 50 successes of each of two attacks, a quarter
more candidates than fingerprints are kept, and 200 committees of 60 in 8 directions. Ours is the larger bank, the peer the smaller one,
each once, so there is no interval. Peaks are the whole process's resident memory. Where a row says *a class*, that is what was measured:
the others take as long, and all classes as many times that.""",
}


def _caption(chosen: argparse.Namespace) -> str:
    said = "\n\n".join(CAPTIONS[part] for part in chosen.only)
    return f"""Fingerprints: how fast, at what cost to inference, and how far? {conditions()}.

{said}

Ratios are medians over rounds of the paired ratio, with the 95 % interval of that median by order statistics (below 6 rounds its
extremes)."""


if __name__ == "__main__":
    main()
