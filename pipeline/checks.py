"""Everything that can be known to be wrong before any work starts. Changes no result, so it is no dependency of a stage."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.artifacts import paths
from pipeline.artifacts.files import read_json, write_json
from pipeline.artifacts.signature import library_versions
from pipeline.errors import ParamsError, WhorlError
from pipeline.params.classifier import AdoptedClassifier
from pipeline.params.detectors import CommitteeDetectorParams
from pipeline.params.root import PARAMS_FILE, Params, load_params


def ensure_checked(path: Path = PARAMS_FILE) -> None:
    """Checks the params once for each content of the file and of what it points to, and prints what a run would leave out; later calls
    cost nothing.
    """
    params = load_params(path)
    state = _state(path, params)
    if paths.CHECKED.is_file() and _known(state):
        return
    for said in check(params, path):
        print(said)
    write_json(paths.CHECKED, {"state": state})


def check(params: Params, path: Path = PARAMS_FILE) -> list[str]:
    """Builds what the params describe, without computing anything with it.

    Returns:
        A sentence for each variant of the ablation and each disjoint committee that a run would leave out, as far as it can be known
        without a bank.

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
    neurons = {layer: len(kept) for layer, kept in pool.items()}
    for layer, k in params.fingerprints.too_wide(neurons).items():
        raise ParamsError(
            f"{path}: fingerprints.k: {k} is larger than layer {layer!r}, where at most its {neurons[layer]} neurons were expected."
        )
    return [f"{path}: {said}" for said in _left_out(params, neurons)]


def _left_out(params: Params, neurons: Mapping[str, int]) -> Iterator[str]:
    """What the ablation and the game would leave out of a run."""
    from pipeline.detectors.design import Design
    from pipeline.detectors.variants import variants
    from pipeline.game.disjoint import misfit

    changed, playing = params.detectors.get(params.ablation.detector), params.detectors[params.game.detector]
    if isinstance(changed, CommitteeDetectorParams):
        base = Design(params.fingerprints, params.selection, changed)
        for name, said in variants(base, params.ablation.variants, neurons)[1].items():
            yield f"ablation.variants.{name}: does not go with the params as they are and would be left out: {said}"
    elif params.ablation.variants:
        yield f"ablation.detector: {params.ablation.detector!r} is no detector with committees, so every variant would be left out."
    assert isinstance(playing, CommitteeDetectorParams)
    for name, given in params.game.disjoint.items():
        if why := misfit(given, playing.committees, list(neurons), params.selection.bank_size):
            yield f"game.disjoint.{name}: would be left out: {why}"


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
