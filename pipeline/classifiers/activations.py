"""Neurons: what chosen modules put out, and a fixed random pool of them a layer (methods, section 1)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import comb
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pipeline.classifiers.model import Classifier, device_of
from pipeline.errors import ClassifierError, ParamsError
from pipeline.random import generator

LOGITS = "logits"
"""The layer name that stands for the classifier's output."""
RANKED_LOGITS = "ranked_logits"
"""Stands for the same, each image's logits from the largest to the smallest: how narrowly a class won, whichever came second."""
LOGIT_MARGINS = "logit_margins"
"""Stands for the logarithm of the largest logit less each of the others, from the narrowest margin to the widest. Attacks that stop at the
boundary leave margins of a hundredth; only on a logarithm's scale are those and the clean ones' both near a Gaussian."""
NARROWEST = 0.01
"""Added to a margin before its logarithm: two equal logits have a margin of 0."""
ORDERED = (RANKED_LOGITS, LOGIT_MARGINS)
"""Layers whose first neurons tell most: of these the first are kept, not a random sample."""
OF_LOGITS = (LOGITS, *ORDERED)
"""Layer names that are not modules of the network."""
MEAN, ROUGHNESS = "mean", "roughness"
RESIDUALS = {f"residual{order}": order for order in (1, 2, 3, 4)}
"""Name to the order of the differences that it takes."""
STATISTICS = (MEAN, ROUGHNESS, *RESIDUALS)
"""What ``MODULE.mean`` and the like keep of a module's maps: a number a channel (see ``_statistic``)."""
SATURATION = {order: 0.025 * comb(2 * order, order) for order in RESIDUALS.values()}
"""Order to the size of a difference that counts half, of maps with a deviation near 1: a twentieth, 0.15, 0.5 and 1.75. It grows as white
noise does (see ``_statistic``), so that the same noise counts the same at every order."""


NEURONS = 2
"""Raised whenever a layer's name comes to stand for other numbers: what was fitted to the former ones knows nothing of these."""
CACHED = 2**19
"""Numbers of a module's maps whose residuals are computed at a time, 2 MiB: they stay in the processor's cache from step to step."""

Read = Callable[[str, Tensor], Tensor]
"""(layer, its neurons (N, ...)) to what is kept of them, (N, kept): a copy, lest a later in-place operation change it."""


@dataclass
class _Output:
    """What a module put out in one pass, (N, ...), and of it what several of its layers need."""

    tensor: Tensor
    order: int = 0
    differences: Tensor | None = None
    """Of ``order``, along both axes; None of order 0."""

    def neurons(self, layer: str, statistic: str | None) -> Tensor:
        """A layer's neurons, (N, ...)."""
        if statistic:
            return _statistic(layer, self, statistic)
        if layer not in ORDERED:
            return self.tensor
        ranked = self.tensor.sort(1, descending=True).values
        return ranked if layer == RANKED_LOGITS else (ranked[:, :1] - ranked[:, 1:] + NARROWEST).log()

    def residual(self, order: int) -> Tensor:
        """Differences of an order along both axes, each a step from the one before: asked for from low to high, none is made twice."""
        if self.differences is None or order < self.order:
            self.order, self.differences = 0, self.tensor
        while self.order < order:
            maps = self.differences[..., 1:] - self.differences[..., :-1]
            self.order, self.differences = self.order + 1, maps[:, :, 1:] - maps[:, :, :-1]
        return self.differences


def _statistic(layer: str, out: _Output, statistic: str) -> Tensor:
    """A number a channel, (N, C).

    ``mean``: of maps (N, C, H, W) or of tokens (N, T, C). ``roughness``: of maps, the mean absolute difference of horizontal neighbours,
    which a perturbation of single pixels raises all over an image. ``residual1`` to ``residual4``: of maps, how much differences of
    that order along both axes leave of them. High orders remove what is smooth and keep what is noise, as the residuals of steganalysis do
    (Fridrich and Kodovský, IEEE TIFS 7(3), 2012, section II); a difference d counts |d| / (|d| + ``SATURATION``), so that edges, which are
    large and few, do not drown what happens everywhere else. In [0, 1], to about 1e-7. White noise of deviation s has differences of
    deviation s · C(2n, n), n the order: 2, 6, 20 or 70 times as large. A hard bound at such a size detects as much, but an attacker who
    descends on it would find no gradient where it is reached, and look weaker than they are.

    Raises:
        ClassifierError: the output has another shape, or maps too small for their differences.
    """
    output, order = out.tensor, RESIDUALS.get(statistic, 0)
    if statistic == MEAN and output.ndim in (3, 4):
        return output.mean((2, 3) if output.ndim == 4 else 1)
    if statistic == ROUGHNESS and output.ndim == 4 and output.shape[3] > 1:
        return (output[..., 1:] - output[..., :-1]).abs_().mean((2, 3))
    if order and output.ndim == 4 and min(output.shape[2:]) > order:
        # The mean of |d| / (|d| + s), in place: new memory for every step would cost more than the arithmetic.
        return 1 - SATURATION[order] * out.residual(order).abs().add_(SATURATION[order]).reciprocal_().mean((2, 3))
    least = f" of more than {order} rows and columns" if order else " with more than one column"
    expected = "maps (N, C, H, W)" + (" or tokens (N, T, C)" if statistic == MEAN else least)
    raise ClassifierError(f"activations.layers.{layer}: its module puts out shape {tuple(output.shape)}, where {expected} were expected.")


def _whole(_layer: str, neurons: Tensor) -> Tensor:
    flat = neurons.flatten(1)
    return flat.clone() if flat.data_ptr() == neurons.data_ptr() else flat


Wanted = dict[nn.Module, dict[str, str | None]]
"""Module to its layers, each with its statistic, if any; residuals from low orders to high."""


@contextmanager
def tap(classifier: Classifier, layers: Iterable[str], read: Read = _whole) -> Iterator[dict[str, Tensor]]:
    """Records what layers put out while the block runs; every forward pass fills the yielded dict anew.

    Args:
        classifier: as it is; its hooks are removed when the block ends.
        layers: module names inside ``classifier.network``, such names with one of ``STATISTICS`` behind a dot, or any of ``OF_LOGITS``.
        read: what is kept of an output; all of it, where this is left out.

    Yields:
        Layer to its outputs (N, neurons), flattened in (channel, row, column) order. Gradients flow through them. They
        are copies, so that a later in-place operation (an in-place ReLU, say) does not change them. Of a module that
        runs several times in one pass the last output counts, of a tuple the first tensor.

    Raises:
        ClassifierError: a layer is no module of the network, or puts out no tensor.
    """
    with _hooked(_wanted(classifier, layers), read) as found:
        yield found


def _wanted(classifier: Classifier, layers: Iterable[str]) -> Wanted:
    wanted: Wanted = {}
    for layer in layers:
        module, statistic = _module(classifier, layer)
        wanted.setdefault(module, {})[layer] = statistic
    return {module: dict(sorted(of.items(), key=lambda item: RESIDUALS.get(item[1] or "", 0))) for module, of in wanted.items()}


@contextmanager
def _hooked(wanted: Wanted, read: Read) -> Iterator[dict[str, Tensor]]:
    found: dict[str, Tensor] = {}
    handles: list[RemovableHandle] = []
    try:
        for module, of_module in wanted.items():
            handles.append(module.register_forward_hook(_recorder(found, of_module, read)))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _recorder(found: dict[str, Tensor], layers: Mapping[str, str | None], read: Read) -> Any:
    """Of a module's layers, each with its statistic, if any."""

    def record(_module: nn.Module, _inputs: object, output: object) -> None:
        tensor = _first_tensor(output)
        if tensor is None or tensor.ndim < 2:
            said = f"puts out {type(output).__name__}, where a tensor (N, ...) was expected"
            raise ClassifierError(f"activations.layers.{next(iter(layers))}: {said}.")
        kept: dict[str, list[Tensor]] = {layer: [] for layer in layers}
        for part in _parts(tensor, layers.values()):
            out = _Output(part)
            for layer, statistic in layers.items():
                kept[layer].append(read(layer, out.neurons(layer, statistic)))
        found.update({layer: pieces[0] if len(pieces) == 1 else torch.cat(pieces) for layer, pieces in kept.items()})

    return record


def _parts(tensor: Tensor, statistics: Iterable[str | None]) -> Iterable[Tensor]:
    """The images of a module's output, some at a time where that is faster."""
    if tensor.device.type != "cpu" or tensor.numel() <= CACHED or not any(statistic in RESIDUALS for statistic in statistics):
        return [tensor]
    parts: Iterable[Tensor] = torch.split(tensor, max(1, CACHED * len(tensor) // tensor.numel()))
    return parts


def _first_tensor(output: object) -> Tensor | None:
    if isinstance(output, list | tuple):
        return next((value for value in output if isinstance(value, Tensor)), None)
    return output if isinstance(output, Tensor) else None


def _module(classifier: Classifier, layer: str) -> tuple[nn.Module, str | None]:
    """The module that a layer reads, and the statistic of it, if any."""
    if layer in OF_LOGITS:
        return classifier, None
    if layer:
        with suppress(AttributeError):
            return classifier.network.get_submodule(layer), None
    name, _, statistic = layer.rpartition(".")
    if name and statistic in STATISTICS:
        module, another = _module(classifier, name)
        if another is None:
            return module, statistic
    names = [name for name, _ in classifier.network.named_modules() if name]
    close = get_close_matches(layer, names, n=5)
    top = [name for name in names if "." not in name]
    likely = f"close ones: {', '.join(close)}; " if close else ""
    raise ClassifierError(
        f"activations.layers: the network has no module {layer!r}, where {', '.join(OF_LOGITS)} or a module name "
        f"(also with .{' or .'.join(STATISTICS)} behind it) was expected "
        f"({likely}at its top: {', '.join(top) or 'none'})."
    )


def layer_sizes(classifier: Classifier, layers: Iterable[str], image_shape: tuple[int, int, int]) -> dict[str, int]:
    """The number of neurons of each layer for images of shape (C, H, W), in the order given.

    Raises:
        ClassifierError: a layer is no module of the network, never runs, or its output has no row an image; or the network
            fails on such images.
    """
    layers, modes = tuple(layers), [(module, module.training) for module in classifier.modules()]
    images = torch.zeros(2, *image_shape, device=device_of(classifier))
    classifier.eval()
    try:
        with torch.inference_mode(), tap(classifier, layers) as found:
            classifier(images)
    except ClassifierError:
        raise
    except Exception as error:  # any network may be given, and it may raise anything
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ClassifierError(
            f"activations.layers: the network fails on images of shape {tuple(images.shape)} ({said}), where outputs of "
            f"{', '.join(layers)} were expected."
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
    for layer in layers:
        if layer not in found or len(found[layer]) != len(images):
            seen = f"puts out {len(found[layer])} rows for {len(images)} images" if layer in found else "never runs"
            raise ClassifierError(f"activations.layers.{layer}: {seen}, where an output (N, ...) with a row an image was expected.")
    return {layer: found[layer].shape[1] for layer in layers}


def choose_neurons(sizes: Mapping[str, int], layers: Mapping[str, int | Literal["all"]], seed: int) -> dict[str, npt.NDArray[np.int64]]:
    """The pool: for each layer a sorted random sample of its neurons, without repetition; of ``ORDERED`` layers the first.

    A layer's sample depends on the seed, its name, its size and the number wanted alone, so a further layer changes no other.

    Args:
        sizes: layer to its number of neurons.
        layers: layer to how many are wanted, or ``all``; its order is the order of the columns.
        seed: of the draw.

    Raises:
        ParamsError: a layer has fewer neurons than wanted.
    """
    pool = {}
    for layer, wanted in layers.items():
        size = sizes[layer]
        count = size if wanted == "all" else wanted
        if count > size:
            raise ParamsError(
                f"activations.layers.{layer}: {count} neurons are wanted, where at most the {size} that the layer has were expected."
            )
        drawn = (
            np.arange(count)
            if count == size or layer in ORDERED
            else generator(seed, "activations", layer).choice(size, count, replace=False)
        )
        pool[layer] = np.sort(drawn).astype(np.int64)
    return pool


@dataclass
class Pooled:
    """Keeps a pool's neurons alone, for ``tap``: they are picked out of an output as it lies in memory, which copies nothing else.

    Attributes:
        pool: layer to the columns kept of it.
    """

    pool: Mapping[str, npt.NDArray[np.int64]]
    _places: dict[tuple[str, torch.device, tuple[int, ...] | None], Tensor] = field(default_factory=dict, repr=False)

    def __call__(self, layer: str, neurons: Tensor) -> Tensor:
        """The layer's pooled neurons, (N, kept)."""
        by_pixel = neurons.ndim == 4 and neurons.is_contiguous(memory_format=torch.channels_last)
        key = layer, neurons.device, tuple(neurons.shape[1:]) if by_pixel else None
        if key not in self._places:
            places = _by_pixel(self.pool[layer], *key[2]) if key[2] else self.pool[layer]
            with torch.inference_mode(False):  # of use to passes with gradients too
                self._places[key] = torch.from_numpy(places).to(neurons.device)
        flat = neurons.permute(0, 2, 3, 1).flatten(1) if by_pixel else neurons.flatten(1)
        return flat.index_select(1, self._places[key])


def _by_pixel(neurons: npt.NDArray[np.int64], channels: int, height: int, width: int) -> npt.NDArray[np.int64]:
    """Where neurons, counted in (channel, row, column) order, are in (row, column, channel) order."""
    channel, place = np.divmod(neurons, height * width)
    return place * channels + channel


class NeuronReader:
    """Reads a classifier's logits and pooled neurons, one forward pass a call.

    What can be looked up beforehand is: of a single small image that would take a twentieth of the time.

    Args:
        classifier: in evaluation mode (see ``freeze``).
        pool: layer to the columns kept of it (see ``choose_neurons``).

    Raises:
        ClassifierError: a layer is no module of the network.
    """

    def __init__(self, classifier: Classifier, pool: Mapping[str, npt.NDArray[np.int64]]) -> None:
        self.classifier, self.pool = classifier, pool
        self._wanted, self._read = _wanted(classifier, pool), Pooled(pool)

    def __call__(self, images: Tensor) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Logits (N, K) and neurons (N, D), both float32; D counts the pool, layer after layer in the pool's order.

        Args:
            images: float (N, C, H, W) in [0, 1], on any device.

        Raises:
            ClassifierError: a layer puts out no tensor.
        """
        with torch.inference_mode(), _hooked(self._wanted, self._read) as found:
            logits = self.classifier(images.to(device_of(self.classifier)))
            neurons = torch.cat([found[layer].float() for layer in self.pool], 1)
        return logits.float().cpu().numpy(), neurons.cpu().numpy()


def activations(
    classifier: Classifier, images: Tensor, pool: Mapping[str, npt.NDArray[np.int64]]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """What a ``NeuronReader`` of the classifier makes of the images."""
    return NeuronReader(classifier, pool)(images)
