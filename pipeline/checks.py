"""Everything that can be known to be wrong before any work starts. Changes no result, so it is no dependency of a stage."""

import hashlib
import json
from pathlib import Path

from pipeline.artifacts import paths
from pipeline.artifacts.files import read_json, write_json
from pipeline.artifacts.signature import library_versions
from pipeline.errors import ParamsError, WhorlError
from pipeline.params.classifier import AdoptedClassifier
from pipeline.params.root import PARAMS_FILE, Params, load_params


def ensure_checked(path: Path = PARAMS_FILE) -> None:
    """Checks the params once for each content of the file and of what it points to; later calls cost nothing."""
    params = load_params(path)
    state = _state(path, params)
    if paths.CHECKED.is_file() and _known(state):
        return
    check(params, path)
    write_json(paths.CHECKED, {"state": state})


def check(params: Params, path: Path = PARAMS_FILE) -> None:
    """Builds what the params describe, without computing anything with it.

    Raises:
        WhorlError: a sentence for what is wrong: the attacks' options, the data source, the classifier and its checkpoint,
            the layers and their sizes.
    """
    from pipeline.attacks.registry import parse_options  # these import torch, which a repeated check does without
    from pipeline.classifiers.activations import choose_neurons, layer_sizes
    from pipeline.classifiers.adopt import adopt, check_logits
    from pipeline.classifiers.model import freeze
    from pipeline.classifiers.zoo import build_untrained
    from pipeline.data.sources.registry import open_source

    for name, spec in params.attacks.items():
        parse_options(name, spec)
    classes, image, given = len(open_source(params.data.source).class_names), params.data.image, params.classifier
    if isinstance(given, AdoptedClassifier):
        classifier = adopt(given, classes, image.channels)
    else:
        classifier = freeze(build_untrained(given, classes, image.channels))
        check_logits(classifier, classes, image.channels)
    sizes = layer_sizes(classifier, list(params.activations.layers), (image.channels, image.height, image.width))
    pool = choose_neurons(sizes, params.activations.layers, params.activations.seed)
    for layer, k in params.fingerprints.too_wide({layer: len(neurons) for layer, neurons in pool.items()}).items():
        raise ParamsError(
            f"{path}: fingerprints.k: {k} is larger than layer {layer!r}, where at most its {len(pool[layer])} neurons were expected."
        )


def _state(path: Path, params: Params) -> str:
    checkpoint = getattr(params.classifier, "checkpoint", None)
    stat = Path(checkpoint).stat() if checkpoint and Path(checkpoint).is_file() else None
    content = {
        "params": hashlib.sha256(path.read_bytes()).hexdigest(),
        "checkpoint": [stat.st_size, stat.st_mtime_ns] if stat else None,
        "versions": library_versions(),
        "code": _code(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _code() -> list[list[int]]:
    return [[file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(Path(__file__).parent.rglob("*.py"))]


def _known(state: str) -> bool:
    try:
        return bool(read_json(paths.CHECKED)["state"] == state)
    except (WhorlError, KeyError, TypeError):
        return False
