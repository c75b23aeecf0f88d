"""What is looked at before an attack: whether the images are images, and whether the model lets attacks show its weakness.

The checks of the model are those of AutoAttack (Croce, Hein, "Reliable evaluation of adversarial robustness with an
ensemble of diverse parameter-free attacks", ICML 2020, as extended in its repository): each finds a model on which
attacks fail for another reason than that it is robust.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook

from pipeline.attacks.base import LogitFn
from pipeline.attacks.objectives import away_from
from pipeline.errors import ClassifierError, WhorlError

MOST = 16
"""Images on which a model is looked at."""

_SUMS_TO_ONE = 1e-3
_SAME = 1e-4
"""Share of the largest logit by which two passes may differ, which float noise does not reach."""


def check_images(images: Tensor) -> None:
    """Raises WhorlError, with the value and the image it is in, unless images are floats (N, C, H, W), all in [0, 1]."""
    if not images.is_floating_point() or images.ndim != 4 or 0 in images.shape[1:]:
        raise WhorlError(
            f"attack: the images are {str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}, "
            "where floats (N, C, H, W) in [0, 1] were expected."
        )
    pixels = images.flatten(1)
    # A NaN compares as false, so it is caught too.
    unfit = ~((pixels >= 0) & (pixels <= 1)).all(1)
    if not unfit.any():
        return
    row = int(unfit.nonzero()[0])
    inside = (pixels[row] >= 0) & (pixels[row] <= 1)
    value = float(pixels[row][~inside][0])
    raise WhorlError(
        f"attack: {int(unfit.sum())} of {len(images)} images have a pixel that is not in [0, 1] (the first is number {row}, "
        f"with {value:.6g}), where floats in [0, 1] were expected{_likely_cause(pixels)}."
    )


def check_logits(logits: Tensor, count: int) -> None:
    """Raises ClassifierError unless logits are a finite tensor of shape (``count``, K), K of at least 2."""
    if not isinstance(logits, Tensor):
        raise ClassifierError(f"classifier: it returns a {type(logits).__name__}, where a tensor of logits ({count}, K) was expected.")
    if logits.ndim != 2 or len(logits) != count or logits.shape[1] < 2:
        raise ClassifierError(
            f"classifier: its logits have shape {tuple(logits.shape)}, where ({count}, K) with K of at least 2 classes was expected."
        )
    if not logits.isfinite().all():
        raise ClassifierError("classifier: some of its logits are not finite, where finite ones were expected for images in [0, 1].")


@contextmanager
def refusing_training(*logits_fns: LogitFn) -> Iterator[None]:
    """Raises ClassifierError for a module of which a norm is training; within it also where one is called, inside a function or not.

    A batch norm would tell an image's class by the other images of its batch, and every pass would change what a norm knows. What a
    function has compiled, or computes without modules, is not seen.
    """
    for module in (each for logits_fn in logits_fns if isinstance(logits_fn, nn.Module) for each in logits_fn.modules()):
        _check_mode(module)
    here = threading.get_ident()  # the hook is every thread's, and others may train

    def refuse(module: nn.Module, _: Any) -> None:
        if threading.get_ident() == here:
            _check_mode(module)

    with register_module_forward_pre_hook(refuse):
        yield


def _check_mode(module: nn.Module) -> None:
    """Raises ClassifierError for a norm that is training, itself or scripted; not for what holds one."""
    kind = module.original_name if isinstance(module, torch.jit.ScriptModule) else type(module).__name__
    scripted = isinstance(module, torch.jit.ScriptModule) and kind.startswith("BatchNorm")
    keeps = isinstance(module, _NormBase) and module.track_running_stats
    if module.training and (scripted or keeps or isinstance(module, _BatchNorm)):
        raise ClassifierError(
            f"classifier: a {kind} of it is in training mode, where evaluation mode was expected: call eval() on the model first."
        )


def examine(logits_fn: LogitFn, images: Tensor, labels: Tensor) -> tuple[str, ...]:
    """What about a model makes attacks look weaker than they are: a sentence each, none for a model that is fit.

    Two forward passes and one backward pass over at most ``MOST`` of the images; where a black box takes no images that carry
    gradients, a third forward pass in place of the backward one. The model, its gradients and the state of torch's random
    generators are as before.

    Args:
        logits_fn: the model, in evaluation mode.
        images: float (N, C, H, W) in [0, 1], N >= 1, classified correctly.
        labels: int64 (N,), the true classes.

    Raises:
        ClassifierError: logits of the wrong shape, or not finite.
    """
    few, truth = images[:MOST], labels[:MOST]
    first, again, slope = _passes(logits_fn, few, truth)
    found = (_squashed(first), _masked(slope, len(few)), _random(first, again))
    return tuple(sentence for sentence in found if sentence is not None)


def _likely_cause(pixels: Tensor) -> str:
    lowest, highest = pixels.amin(), pixels.amax()
    if lowest >= 0 and 2 < highest <= 255:
        return " (grey levels from 0 to 255 have to be divided by 255)"
    if lowest < 0 and lowest.isfinite():
        return " (normalisation belongs inside the model)"
    return ""


def _passes(logits_fn: LogitFn, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """The logits of two passes, and the gradient of the cross-entropy in the second; None where there is none."""
    devices = [images.device] if images.device.type == "cuda" else []
    # Out of an ambient inference mode, which also turns gradients on.
    with torch.inference_mode(False), torch.random.fork_rng(devices):
        leaf = images.detach().clone().requires_grad_()
        # Both with gradients, so that they run the same kernels; but a black box may not take images that carry them.
        try:
            first = logits_fn(leaf)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, BufferError):  # NumPy's, and DLPack's
            leaf = leaf.detach()
            first = logits_fn(leaf)
        again = logits_fn(leaf)
        for logits in (first, again):
            check_logits(logits, len(images))
        loss = away_from(labels)(leaf, again, torch.arange(len(images), device=images.device)).sum()
        slope = torch.autograd.grad(loss, leaf, allow_unused=True)[0] if loss.requires_grad and leaf.requires_grad else None
    return first.detach(), again.detach(), slope


def _squashed(logits: Tensor) -> str | None:
    sums = logits.float().sum(1)
    if not ((logits >= 0) & (logits <= 1)).all() or (sums - 1).abs().max() > _SUMS_TO_ONE:
        return None
    return (
        "classifier: its logits lie in [0, 1] and add up to 1 like probabilities, where values before the softmax were expected "
        "(behind it gradients vanish, and the losses of DLR and CW compare squashed values)."
    )


def _masked(slope: Tensor | None, count: int) -> str | None:
    if slope is None:
        return (
            "classifier: its logits carry no gradient to the images, where a differentiable model was expected "
            "(only attacks without gradients can measure it)."
        )
    zero = int((slope.flatten(1) == 0).all(1).sum())
    if not zero:
        return None
    return (
        f"classifier: the gradient of its cross-entropy is exactly zero on {zero} of {count} images, where one to follow was expected "
        "(gradients are masked or saturated, and attacks that follow them find less than there is)."
    )


def _random(first: Tensor, again: Tensor) -> str | None:
    if (first - again).abs().max() <= _SAME * first.abs().max():
        return None
    return (
        "classifier: its logits differ between two passes over the same images, where a deterministic model was expected "
        "(an attack on single draws finds less than there is; average its gradients over draws)."
    )
