"""From clean images to an adversarial data set: who is attacked, what is stored, and whether it still works then."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.attacks.base import AttackOptions, Bound, Family, LogitFn
from pipeline.attacks.geometry import L2, LEVELS, Linf, as_floats, round_to_bytes
from pipeline.attacks.registry import family
from pipeline.errors import ClassifierError, WhorlError
from pipeline.random import ImageRandom

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class AttackedImages:
    """An adversarial data set of N images, all arrays in the order of the images given.

    Attributes:
        images: (N, C, H, W), uint8, or float32 in [0, 1] where floats were asked for; what is stored. A skipped image is
            its clean self; a failed attack's is the perturbed image it ended with.
        clean_predicted: int64 (N,), the class predicted on the clean image.
        predicted: int64 (N,), the class predicted on the stored image.
        success: bool (N,), right when clean and wrong as stored.
        target: int64 (N,), the class an attack aimed at; -1 where it had none.
        target_reached: bool (N,), whether ``predicted`` is the target.
        skipped: bool (N,), wrong when clean and so never attacked: neither a success nor a failure.
        linf: float64 (N,), the largest change of a pixel in the stored image, in pixel units.
        l2: float64 (N,), the Euclidean norm of the change in the stored image, in pixel units.
        steps: int64 (N,), gradient steps taken.
    """

    images: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
    clean_predicted: Ints
    predicted: Ints
    success: Bools
    target: Ints
    target_reached: Bools
    skipped: Bools
    linf: npt.NDArray[np.float64]
    l2: npt.NDArray[np.float64]
    steps: Ints


@dataclass(frozen=True)
class _Task:
    """What stays the same from batch to batch."""

    logits_fn: LogitFn
    images: Tensor
    labels: Ints
    kind: Family
    options: AttackOptions
    device: torch.device | str


def attack_images(
    logits_fn: LogitFn,
    images: npt.NDArray[np.uint8],
    labels: Ints,
    ids: Sequence[str],
    name: str,
    options: AttackOptions,
    *,
    seed: int,
    batch_size: int,
    eight_bit: bool,
    device: torch.device | str,
    advance: Callable[[int], None],
) -> AttackedImages:
    """Attacks every image that is classified correctly, and checks what became of it on the very bytes to be stored.

    Guarantees: stored images are in the attack's ball and in [0, 1] after 8-bit rounding (exactly so for floats);
    ``success`` is decided on them; random draws depend on (seed, name, id) alone, whatever the batch, the order or
    the other images; the model's parameters, mode and gradients are untouched.

    Args:
        logits_fn: float images (n, C, H, W) in [0, 1] on ``device`` to logits (n, K), deterministic and in evaluation
            mode.
        images: uint8 (N, C, H, W).
        labels: int64 (N,), in [0, K).
        ids: one an image; they key the random draws.
        name: the attack's name in the params, which also keys the draws.
        options: what ``registry.parse_options`` returned for it.
        seed: of the random starts and targets.
        batch_size: images a forward pass; batches are cut in the order given, from the images that are attacked.
        eight_bit: store what an 8-bit file can carry, or float32.
        device: where the model is.
        advance: called with the number of images finished since its last call; adds up to N.

    Raises:
        WhorlError: arrays that do not fit together, or an attack whose result is not finite.
        ClassifierError: logits of the wrong shape, not finite, without a finite gradient, of fewer than two classes, or
            of fewer classes than the labels need.
    """
    _check_inputs(images, labels, ids)
    result = _untouched(images, eight_bit)
    if not len(images):
        return result
    task = _Task(logits_fn, torch.from_numpy(np.require(images, requirements=["C", "W"])), labels, family(options.family), options, device)
    # An ambient inference_mode would make every tensor made here useless to autograd.
    with torch.inference_mode(False):
        classes = _classify_clean(task, batch_size, result)
        attacked = np.flatnonzero(~result.skipped)
        advance(len(images) - len(attacked))
        draws = ImageRandom(seed, f"attack/{name}", ids)
        if task.kind.targeted(options):
            result.target[attacked] = draw_targets(draws.subset(attacked), labels[attacked], classes)
        for first in range(0, len(attacked), batch_size):
            rows = attacked[first : first + batch_size]
            _attack_batch(task, rows, draws.subset(rows), result)
            advance(len(rows))
    result.success[:] = ~result.skipped & (result.predicted != labels)
    result.target_reached[:] = (result.target >= 0) & (result.predicted == result.target)
    return result


def draw_targets(draws: ImageRandom, labels: Ints, classes: int) -> Ints:
    """A class per image, int64 (N,), uniform among the ``classes - 1`` that are not its label."""
    drawn = draws.integers("target", classes - 1)
    return drawn + (drawn >= labels)


def _check_inputs(images: npt.NDArray[np.uint8], labels: Ints, ids: Sequence[str]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape[1:]:
        raise WhorlError(f"attack: the images are {images.dtype} of shape {images.shape}, where uint8 (N, C, H, W) was expected.")
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise WhorlError(f"attack: the labels are {labels.dtype} of shape {labels.shape}, where int64 ({len(images)},) was expected.")
    if len(ids) != len(images):
        raise WhorlError(f"attack: there are {len(ids)} ids, where one for each of the {len(images)} images was expected.")


def _untouched(images: npt.NDArray[np.uint8], eight_bit: bool) -> AttackedImages:
    """The images as they are, with nothing predicted yet."""
    count = len(images)
    stored = images.copy() if eight_bit else as_floats(torch.from_numpy(images)).numpy()
    return AttackedImages(
        images=stored,
        clean_predicted=np.full(count, -1, np.int64),
        predicted=np.full(count, -1, np.int64),
        success=np.zeros(count, np.bool_),
        target=np.full(count, -1, np.int64),
        target_reached=np.zeros(count, np.bool_),
        skipped=np.zeros(count, np.bool_),
        linf=np.zeros(count, np.float64),
        l2=np.zeros(count, np.float64),
        steps=np.zeros(count, np.int64),
    )


def _classify_clean(task: _Task, batch_size: int, result: AttackedImages) -> int:
    """Fills in the clean predictions and who is skipped; returns the number of classes."""
    classes = 0
    for first in range(0, len(task.images), batch_size):
        batch = slice(first, first + batch_size)
        result.clean_predicted[batch], classes = _predict(task.logits_fn, as_floats(task.images[batch].to(task.device)))
    lowest, highest = task.labels.min(), task.labels.max()
    if lowest < 0 or highest >= classes:
        raise ClassifierError(
            f"classifier: its logits tell {classes} classes apart, where the images' labels, {lowest} to {highest}, "
            f"were expected to lie in 0 to {classes - 1}."
        )
    result.predicted[:] = result.clean_predicted
    result.skipped[:] = result.clean_predicted != task.labels
    return classes


def _attack_batch(task: _Task, rows: npt.NDArray[np.intp], draws: ImageRandom, result: AttackedImages) -> None:
    """Attacks the images of ``rows`` and fills in what is stored of them."""
    origin = task.images[torch.from_numpy(rows)]
    images, labels = as_floats(origin.to(task.device)), torch.from_numpy(task.labels[rows]).to(task.device)
    targets = torch.from_numpy(result.target[rows]).to(task.device) if task.kind.targeted(task.options) else None
    outcome = task.kind.attack(task.logits_fn, images, labels, targets, task.options, draws)
    # Rounded on the CPU, in float64, which not every device has.
    eight_bit = result.images.dtype == np.uint8
    stored = _storable(outcome.images.detach().cpu(), as_floats(origin), task.kind.bound(task.options), eight_bit, draws.ids)
    result.images[rows] = stored.numpy()
    result.linf[rows], result.l2[rows] = _norms(stored, origin)
    result.steps[rows] = outcome.steps.cpu().numpy()
    result.predicted[rows], _ = _predict(task.logits_fn, (as_floats(stored) if eight_bit else stored).to(task.device))


def _storable(adversarial: Tensor, images: Tensor, bound: Bound | None, eight_bit: bool, ids: Sequence[str]) -> Tensor:
    """What is kept of an attack's result: on the 8-bit grid or float32, in any case inside the bound and [0, 1]."""
    assert adversarial.shape == images.shape
    broken = ~adversarial.isfinite().flatten(1).all(1)
    if broken.any():
        raise WhorlError(
            f"attack: {int(broken.sum())} of {len(images)} results are not finite (the first is that of image "
            f"{ids[int(broken.nonzero()[0])]}), where pixels in [0, 1] were expected."
        )
    if bound is None:
        return round_to_bytes(adversarial) if eight_bit else adversarial.float().clamp(0, 1)
    keep = bound.norm.quantise if eight_bit else bound.norm.confine
    return keep(adversarial, images, bound.epsilon)


def _norms(stored: Tensor, origin: Tensor) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """L-infinity and L2 norms of the change; of bytes from whole grey levels, so that 8 levels measure 8/255 exactly."""
    if stored.dtype == torch.uint8:
        return Linf().distance(stored, origin).numpy() / LEVELS, L2().distance(stored, origin).numpy() / LEVELS
    images = as_floats(origin)
    return Linf().distance(stored, images).numpy(), L2().distance(stored, images).numpy()


def _predict(logits_fn: LogitFn, images: Tensor) -> tuple[Ints, int]:
    """The predicted classes, int64 (n,), and the number of classes; raises ClassifierError where the logits are unusable."""
    with torch.no_grad():
        logits = logits_fn(images)
    if logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2:
        raise ClassifierError(
            f"classifier: its logits have shape {tuple(logits.shape)}, where ({len(images)}, K) with K of at least 2 classes was expected."
        )
    if not logits.isfinite().all():
        raise ClassifierError("classifier: some of its logits are not finite, where finite ones were expected for images in [0, 1].")
    predicted: Ints = logits.argmax(1).cpu().numpy()
    return predicted, logits.shape[1]
