"""Networks by name: our CIFAR ResNets, and everything in timm."""

from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from pipeline.classifiers.cifar_resnet import OURS, register_with_timm
from pipeline.classifiers.model import Classifier
from pipeline.errors import ClassifierError
from pipeline.params.classifier import TrainedClassifier
from pipeline.random import generator


def build_network(
    architecture: str, num_classes: int, in_chans: int, pretrained: bool, input_size: tuple[int, int] | None = None
) -> nn.Module:
    """A network by name, with its own random initial weights or timm's pretrained ones.

    Args:
        architecture: ``cifar_resnet20``, ``cifar_resnet32``, ``cifar_resnet56``, or a timm model (``resnet18.a1_in1k``).
        num_classes: classes K of the head; a pretrained network with another number gets a new, random head.
        in_chans: channels C; timm adapts pretrained weights to another number.
        pretrained: download (or take from the local cache) timm's weights.
        input_size: (height, width) for the architectures that are built for one image size (such as vision
            transformers); the architecture's own where it is None.

    Raises:
        ClassifierError: no such name (close ones are listed), no such weights, or timm refuses the combination.
    """
    if architecture in OURS:
        if pretrained:
            raise ClassifierError(_no_weights(architecture))
        return OURS[architecture](num_classes, in_chans)
    return _from_timm(architecture, num_classes, in_chans, pretrained, input_size)


def _from_timm(architecture: str, num_classes: int, in_chans: int, pretrained: bool, input_size: tuple[int, int] | None) -> nn.Module:
    import timm  # here, not above: it takes 6 to 11 seconds, and our own networks need none of it
    from timm.models import get_pretrained_cfg, is_model

    register_with_timm()
    if not is_model(architecture):
        raise ClassifierError(_unknown(architecture, [*OURS, *timm.list_models()]))
    try:
        cfg = get_pretrained_cfg(architecture)
        fixed = input_size is not None and cfg is not None and cfg.fixed_input_size
        options: dict[str, Any] = {"img_size": input_size} if fixed else {}
        network: nn.Module = timm.create_model(architecture, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **options)
    except Exception as error:  # timm, the Hub's client and its transport share no base class
        said = " ".join(str(error).split())
        weights = "its pretrained weights" if pretrained else "random weights"
        raise ClassifierError(
            f"classifier.architecture: {architecture!r} could not be built with {weights}, {num_classes} classes and {in_chans} channels "
            f"({type(error).__name__}: {said}), where a timm model that takes these was expected."
        ) from error
    return network


def pretrained_classes(architecture: str) -> int:
    """The number of classes that timm's pretrained weights of an architecture tell apart.

    Raises:
        ClassifierError: no such name, or timm has no weights for it.
    """
    if architecture in OURS:
        raise ClassifierError(_no_weights(architecture))
    import timm  # see above
    from timm.models import get_pretrained_cfg, is_model

    if not is_model(architecture):
        raise ClassifierError(_unknown(architecture, [*OURS, *timm.list_models()]))
    cfg = get_pretrained_cfg(architecture)
    if cfg is None or not cfg.has_weights:
        raise ClassifierError(_no_weights(architecture))
    return int(cfg.num_classes)


def _no_weights(architecture: str) -> str:
    return f"classifier.architecture: {architecture!r} has no pretrained weights, where pretrained: false was expected."


def _unknown(architecture: str, known: list[str]) -> str:
    close = get_close_matches(architecture.split(".")[0], known, n=5, cutoff=0.5)
    nearest = f" (close ones: {', '.join(close)})" if close else ""
    return f"classifier.architecture: there is no {architecture!r}, where a timm model or one of {', '.join(OURS)} was expected{nearest}."


def build_untrained(params: TrainedClassifier, num_classes: int, in_chans: int) -> Classifier:
    """The classifier that training starts from; its initial weights depend on ``params.seed`` and the architecture alone."""
    with torch.random.fork_rng(devices=[]):  # initialisers read torch's global stream: lend them one, and put it back
        torch.manual_seed(int(generator(params.seed, "classifier/initial").integers(2**63)))
        network = build_network(params.architecture, num_classes, in_chans, params.pretrained, params.input_size)
    return Classifier(network, params.mean, params.std, params.input_size)
