"""The user's own classifier: foreign checkpoints, import paths, and the check that both fit."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.classifiers.model import Classifier, freeze
from pipeline.classifiers.zoo import build_network, pretrained_classes
from pipeline.errors import ClassifierError
from pipeline.params.classifier import AdoptedClassifier

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the weights; averaged weights first, as timm does."""
PREFIXES = ("module.", "model.", "_orig_mod.")
"""What DataParallel, training wrappers and ``torch.compile`` put before every name."""
SHOWN = 5


def load_foreign_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a ``torch.save``, on the CPU. Nothing is unpickled but tensors.

    Raises:
        ClassifierError: no such file, not a checkpoint, objects in it that would have to be unpickled, or no tensors.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
        # A safetensors file starts with the length of its header (8 bytes) and the header's brace.
        content = load_file(path) if head[8:] == b"{" else torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ClassifierError(f"{path}: cannot be read ({error.strerror or error}), where a checkpoint was expected.") from error
    except Exception as error:  # damaged archives raise whatever their reader meets first
        said = str(error).strip().splitlines()[0].removesuffix(".") if str(error).strip() else type(error).__name__
        raise ClassifierError(
            f"{path}: is no checkpoint that can be read without unpickling objects ({said[:200]}), "
            "where a safetensors file or a torch.save of a state dict was expected."
        ) from error
    return _tensors(content, path)


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping) and (key := next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)):
        content = content[key]
    if not isinstance(content, Mapping):
        raise ClassifierError(f"{path}: holds {type(content).__name__}, where a mapping of names to tensors was expected.")
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        held = f"holds entries that are no tensors ({_some(others)})" if others else "holds no tensor"
        raise ClassifierError(f"{path}: {held}, where a state dict was expected, plain or under one of {', '.join(WRAPPERS)}.")
    return {str(name): value for name, value in content.items()}


def load_into(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copies a state dict into a network; common wrapper prefixes are dropped where the names then fit better.

    Args:
        network: any module; it keeps its device and dtype.
        state: names to tensors.
        source: what the state came from, for the message.

    Raises:
        ClassifierError: tensors are missing, unexpected or of another shape (the first five of each are named); the
            network is then unchanged.
    """
    expected = network.state_dict()
    state = _without_prefixes(state, expected.keys())
    # Older checkpoints lack the counters of batch norms, which no evaluation reads.
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    misshapen = [
        f"{name} {tuple(state[name].shape)} where {tuple(expected[name].shape)} was expected"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("wrongly shaped", misshapen))
    if problems := [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds if names]:
        raise ClassifierError(
            f"{source}: the tensors do not fit the network: {'; '.join(problems)}; a checkpoint of this very architecture was expected."
        )
    network.load_state_dict(dict(state), strict=False)


def _without_prefixes(state: Mapping[str, Tensor], expected: Any) -> Mapping[str, Tensor]:
    best = candidate = state
    while prefix := next((prefix for prefix in PREFIXES if candidate and all(name.startswith(prefix) for name in candidate)), None):
        candidate = {name.removeprefix(prefix): value for name, value in candidate.items()}
        if len(candidate.keys() & expected) > len(best.keys() & expected):
            best = candidate
    return best


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def import_factory(factory: str) -> nn.Module:
    """Calls ``package.module:factory`` without arguments.

    Raises:
        ClassifierError: the path is malformed, cannot be imported, names nothing callable, fails, or returns no module.
    """
    where = f"classifier.factory: {factory!r}"
    module_name, colon, name = factory.partition(":")
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in module_name.split("."))):
        raise ClassifierError(f"{where} is no import path, where package.module:factory was expected.")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's own module may raise anything while it is imported
        raise ClassifierError(f"{where} cannot be imported ({_said(error)}), where an installed module was expected.") from error
    if not callable(create := getattr(module, name, None)):
        found = "has no such name" if create is None else f"names {type(create).__name__}, which cannot be called"
        raise ClassifierError(f"{where} {found}, where a function without arguments in {module_name} was expected.")
    try:
        network = create()
    except Exception as error:  # as above: the user's own code
        raise ClassifierError(f"{where} failed when called without arguments ({_said(error)}), where a network was expected.") from error
    if not isinstance(network, nn.Module):
        raise ClassifierError(f"{where} returned {type(network).__name__}, where a torch.nn.Module was expected.")
    return network


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def adopt(params: AdoptedClassifier, num_classes: int, in_chans: int) -> Classifier:
    """The user's classifier, frozen, with its weights and its own preprocessing.

    Args:
        params: where the network and its weights come from.
        num_classes: classes K of the data.
        in_chans: channels C of the data.

    Raises:
        ClassifierError: the network or its weights cannot be had, do not fit each other, or do not fit the data.
    """
    if params.factory is not None:
        network = import_factory(params.factory)
    else:
        assert params.architecture is not None  # params hold exactly one of the two
        if params.pretrained and (known := pretrained_classes(params.architecture)) != num_classes:
            raise ClassifierError(
                f"classifier.pretrained: the weights of {params.architecture!r} tell {known} classes apart, where {num_classes} "
                "(the data's) were expected; train it here (kind: train) or give a checkpoint."
            )
        network = build_network(params.architecture, num_classes, in_chans, params.pretrained, params.input_size)
    if params.checkpoint is not None:
        load_into(network, load_foreign_state(Path(params.checkpoint)), params.checkpoint)
    classifier = freeze(Classifier(network, params.mean, params.std, params.input_size))
    check_logits(classifier, num_classes, in_chans)
    return classifier


def check_logits(classifier: Classifier, num_classes: int, in_chans: int) -> None:
    """Runs two grey images through a classifier in evaluation mode on the CPU.

    Raises:
        ClassifierError: it fails, or returns anything but finite logits of shape (2, num_classes).
    """
    images = torch.full((2, in_chans, *classifier.input_size), 0.5)
    expected = f"logits of shape (2, {num_classes}) for images of shape {tuple(images.shape)} were expected"
    try:
        with torch.inference_mode():
            logits: object = classifier(images)
    except Exception as error:  # any network may be given, for any input size, and it may raise anything
        raise ClassifierError(f"classifier: the network fails on two images ({_said(error)}), where {expected}.") from error
    if not isinstance(logits, Tensor):
        raise ClassifierError(f"classifier: the network returned {type(logits).__name__}, where {expected}.")
    if logits.shape != (2, num_classes):
        raise ClassifierError(f"classifier: the network returned a tensor of shape {tuple(logits.shape)}, where {expected}.")
    if not logits.isfinite().all():
        raise ClassifierError(f"classifier: the network returned logits that are not finite, where {expected}.")
