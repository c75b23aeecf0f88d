"""From clean images to an adversarial data set: who is attacked, what is stored, and whether it still works then."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.attacks.base import EPSILON, STOP, AttackOptions, Bound, Family, LogitFn
from pipeline.attacks.checks import MOST, check_images, check_logits, examine, refusing_training
from pipeline.attacks.geometry import L2, LEVELS, SLACK, Linf, as_floats, round_to_bytes
from pipeline.attacks.registry import family
from pipeline.attacks.transforms import through_bytes
from pipeline.errors import ClassifierError, WhorlError
from pipeline.random import ImageRandom

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

_ON_GRID = 1e-6
"""How far from a multiple of 1/255 a pixel may lie that is meant to be one."""


@dataclass(frozen=True)
class AttackedImages:
    """An adversarial data set of N images, all arrays in the order of the images given.

    Attributes:
        images: (N, C, H, W), uint8, or float32 in [0, 1] where floats were asked for; what is stored. A skipped image is
            its clean self, and so is that of an attack that failed.
        clean_predicted: int64 (N,), the class predicted on the clean image.
        predicted: int64 (N,), the class predicted on the stored image.
        success: bool (N,), right when clean and wrong as stored.
        target: int64 (N,), the class an attack aimed at; -1 where it had none.
        target_reached: bool (N,), whether ``predicted`` is the target.
        skipped: bool (N,), wrong when clean and so never attacked: neither a success nor a failure.
        linf: float64 (N,), the largest change of a pixel in the stored image, in pixel units.
        l2: float64 (N,), the Euclidean norm of the change in the stored image, in pixel units.
        steps: int64 (N,), gradient steps taken, or queries of an attack without gradients.
        warnings: sentences, what about the model makes an attack weaker than it looks (``checks.examine``).
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
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Task:
    """What stays the same from batch to batch."""

    logits_fn: LogitFn
    images: Tensor
    labels: Ints
    kind: Family
    options: AttackOptions
    bound: Bound | None
    device: torch.device | str

    def as_asked(self, adversarial: Tensor) -> Tensor:
        """What would be stored if there were no ball to keep: bytes, or floats."""
        return round_to_bytes(adversarial) if self.images.dtype == torch.uint8 else adversarial.float().clamp(0, 1)


def attack_images(
    logits_fn: LogitFn,
    images: npt.NDArray[np.uint8] | npt.NDArray[np.float32],
    labels: Ints,
    ids: Sequence[str],
    name: str,
    options: AttackOptions,
    *,
    seed: int,
    batch_size: int,
    eight_bit: bool,
    device: torch.device | str,
    advance: Callable[[int], None] = lambda _: None,
    steps_fns: Sequence[LogitFn] = (),
) -> AttackedImages:
    """Attacks every image that is classified correctly, and checks what became of it on the very bytes to be stored.

    Where bytes are stored the attack meets the model through the rounding to bytes (``transforms.through_bytes``), so
    that what it sees succeed is what will be stored. Under L2 storing may take back a little of it, where the rounded
    image is outside the ball; what that undoes is attacked again with room for the rounding.

    Guarantees: stored images are in the attack's ball and in [0, 1] after 8-bit rounding (exactly so for floats);
    ``success`` is decided on them by ``logits_fn``; an attack that fails returns the input; random draws depend on
    (seed, name, id) alone, whatever the batch, the order or the other images; the model's parameters, mode and gradients
    are untouched.

    Args:
        logits_fn: float images (n, C, H, W) in [0, 1] on ``device`` to logits (n, K), deterministic and in evaluation
            mode.
        images: (N, C, H, W), uint8, or float32 in [0, 1], which has to lie on the 8-bit grid where bytes are to be stored.
        labels: int64 (N,), in [0, K).
        ids: one an image; they key the random draws.
        name: the attack's name in the params, which also keys the draws.
        options: what ``registry.parse_options`` returned for it.
        seed: of the random starts and targets.
        batch_size: images a forward pass; batches are cut in the order given, from the images that are attacked.
        eight_bit: store what an 8-bit file can carry, or float32.
        device: where the model is.
        advance: called with the number of images finished since its last call, for showing progress; adds up to N.
        steps_fns: the same model, faster and perhaps less exact (``classifiers.folding``), for the attack's own steps. Where
            there are several, each attacks what the one before it left, so the last may be exact and slow. Empty:
            ``logits_fn`` itself.

    Raises:
        WhorlError: arrays that do not fit together, or an attack whose result is not finite.
        ClassifierError: logits of the wrong shape, not finite, without a finite gradient, of fewer than two classes, or
            of fewer classes than the labels need; norms in training mode.
    """
    _check_inputs(images, labels, ids, batch_size)
    pixels = _origin(images, eight_bit)
    result = _untouched(pixels)
    if not len(images):
        return result
    options, blind = _in_whole_levels(options) if eight_bit else (options, ())
    attacked_fns = [through_bytes(steps_fn) if eight_bit else steps_fn for steps_fn in steps_fns or (logits_fn,)]
    task = _Task(logits_fn, pixels, labels, family(options.family), options, family(options.family).bound(options), device)
    # An ambient inference_mode would make every tensor made here useless to autograd.
    with torch.inference_mode(False):
        with refusing_training(logits_fn, *steps_fns):
            classes = _classify_clean(task, batch_size, result)
        attacked = np.flatnonzero(~result.skipped)
        advance(len(images) - len(attacked))
        draws = ImageRandom(seed, f"attack/{name}", ids)
        if task.kind.targeted(options):
            result.target[attacked] = draw_targets(draws.subset(attacked), labels[attacked], classes)
        warnings = blind + _examine(task, attacked)
        for first in range(0, len(attacked), batch_size):
            rows = attacked[first : first + batch_size]
            undone = rows[:0]
            for attacked_fn in attacked_fns:
                if len(left := _unfinished(rows, labels, result)):
                    undone = _attack_batch(task, attacked_fn, left, draws.subset(left), result)
            for again in _second_tries(task):
                if len(undone):
                    undone = _attack_batch(replace(task, options=again), attacked_fns[-1], undone, draws.subset(undone), result)
            advance(len(rows))
    result.success[:] = ~result.skipped & (result.predicted != labels)
    result.target_reached[:] = (result.target >= 0) & (result.predicted == result.target)
    return replace(result, warnings=warnings)


_REACHED = 2


def _grade(predicted: Ints, labels: Ints, targets: Ints) -> Ints:
    """What an attack has come to, int64 (n,): 0 nothing, 1 a wrong class that is not its target, ``_REACHED`` all it wanted."""
    wrong = predicted != labels
    grade: Ints = wrong.astype(np.int64) + (wrong & ((targets < 0) | (predicted == targets)))
    return grade


def _unfinished(rows: Rows, labels: Ints, result: AttackedImages) -> Rows:
    """Those of ``rows`` on which there is more to be had."""
    return rows[_grade(result.predicted[rows], labels[rows], result.target[rows]) < _REACHED]


def _second_tries(task: _Task) -> Iterator[AttackOptions]:
    """The same attack on what storing undid: without stopping at success, where it stops; then in an L2 ball with room for rounding.

    Rounded, an image may lie outside an L2 ball, and what storing then takes back can undo an attack that stopped at the boundary.
    Rounding D pixels adds D/12 squared grey levels on average (the variance of a uniform error), so a ball smaller by that much
    holds what, rounded, is in the whole one.
    """
    options, bound = task.options, task.bound
    if options.model_dump().get(STOP):
        yield (options := options.model_copy(update={STOP: False}))
    if bound is None or not isinstance(bound.norm, L2) or task.images.dtype != torch.uint8:
        return
    left = (bound.epsilon * LEVELS) ** 2 - task.images[0].numel() / 12
    if left > 0 and EPSILON in type(options).model_fields:
        yield options.model_copy(update={EPSILON: math.sqrt(left) / LEVELS})


def draw_targets(draws: ImageRandom, labels: Ints, classes: int) -> Ints:
    """A class per image, int64 (N,), uniform among the ``classes - 1`` that are not its label."""
    drawn = draws.integers("target", classes - 1)
    return drawn + (drawn >= labels)


def _check_inputs(images: npt.NDArray[Any], labels: Ints, ids: Sequence[str], batch_size: int) -> None:
    for name, given in (("images", images), ("labels", labels)):
        if not isinstance(given, np.ndarray):
            raise WhorlError(f"attack: the {name} are a {type(given).__module__}.{type(given).__name__}, where a NumPy array was expected.")
    if images.dtype not in (np.uint8, np.float32) or images.ndim != 4 or 0 in images.shape[1:]:
        raise WhorlError(
            f"attack: the images are {images.dtype} of shape {images.shape}, where uint8 or float32 (N, C, H, W) was expected."
        )
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise WhorlError(f"attack: the labels are {labels.dtype} of shape {labels.shape}, where int64 ({len(images)},) was expected.")
    if len(ids) != len(images):
        raise WhorlError(f"attack: there are {len(ids)} ids, where one for each of the {len(images)} images was expected.")
    if len(set(ids)) != len(ids):
        twice = next(key for key, count in Counter(ids).items() if count > 1)
        raise WhorlError(f"attack: the id {twice!r} is given twice, where one of its own was expected for each image: it keys the draws.")
    if batch_size < 1:
        raise WhorlError(f"attack: batch_size is {batch_size}, where at least 1 was expected.")


def _origin(images: npt.NDArray[Any], eight_bit: bool) -> Tensor:
    """The clean images in the type that is stored; raises WhorlError for floats that are no images, or that bytes cannot hold."""
    given = torch.from_numpy(np.require(images, requirements=["C", "W"]))
    if given.dtype == torch.uint8:
        return given if eight_bit else as_floats(given)
    check_images(given)
    if not eight_bit:
        return given
    levels = round_to_bytes(given)
    off = (as_floats(levels) - given).abs().flatten(1).amax(1) > _ON_GRID
    if off.any():
        raise WhorlError(
            f"attack: {int(off.sum())} of {len(given)} images (the first is number {int(off.nonzero()[0])}) have pixels between two grey "
            "levels, where multiples of 1/255 were expected because bytes are to be stored; ask for floats, or round them first."
        )
    return levels


def _in_whole_levels(options: AttackOptions) -> tuple[AttackOptions, tuple[str, ...]]:
    """The options with an L-infinity radius that bytes can fill, lest an attack succeed at a level that storing takes back.

    Also a warning where the radius, in whichever norm, leaves nothing.
    """
    bound = family(options.family).bound(options)
    if bound is None:
        return options, ()
    levels = math.floor(bound.epsilon * LEVELS + SLACK)
    blind = (
        f"attack: epsilon is {bound.epsilon:g}, less than a grey level, where at least 1/255 was expected because bytes are stored: no "
        "image can change, and every attack fails.",
    )
    if isinstance(bound.norm, Linf) and EPSILON in type(options).model_fields:
        options = options.model_copy(update={EPSILON: levels / LEVELS})
    return options, blind if not levels and bound.epsilon else ()


def _placed(tensor: Tensor, device: str | torch.device) -> Tensor:
    """On the device; to a CUDA one from page-locked memory, so that nobody waits for the copy."""
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _floats(images: Tensor) -> Tensor:
    return as_floats(images) if images.dtype == torch.uint8 else images


def _untouched(origin: Tensor) -> AttackedImages:
    """The images as they are, with nothing predicted yet."""
    count = len(origin)
    return AttackedImages(
        images=origin.numpy().copy(),
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
        result.clean_predicted[batch], classes = _predict(task.logits_fn, _floats(task.images[batch].to(task.device)))
    lowest, highest = task.labels.min(), task.labels.max()
    if lowest < 0 or highest >= classes:
        raise ClassifierError(
            f"classifier: its logits tell {classes} classes apart, where the images' labels, {lowest} to {highest}, "
            f"were expected to lie in 0 to {classes - 1}."
        )
    result.predicted[:] = result.clean_predicted
    result.skipped[:] = result.clean_predicted != task.labels
    return classes


def _attack_batch(task: _Task, attacked_fn: LogitFn, rows: Rows, draws: ImageRandom, result: AttackedImages) -> Rows:
    """Attacks the images of ``rows`` and fills in what is stored of them; returns those that storing changed and so undid."""
    origin = task.images[torch.from_numpy(rows)]
    images, labels = _floats(_placed(origin, task.device)), _placed(torch.from_numpy(task.labels[rows]), task.device)
    targets = _placed(torch.from_numpy(result.target[rows]), task.device) if task.kind.targeted(task.options) else None
    outcome = task.kind.attack(attacked_fn, images, labels, targets, task.options, draws)
    # Rounded on the CPU, in float64, which not every device has.
    stored = _storable(outcome.images.detach().cpu(), origin, task.bound, draws.ids)
    predicted, _ = _predict(task.logits_fn, _floats(stored).to(task.device))
    labels_of, target = task.labels[rows], result.target[rows]
    # What fails, or is no more than there was, changes nothing: the input stays what is stored.
    come_to = _grade(predicted, labels_of, target)
    better = np.flatnonzero(come_to > _grade(result.predicted[rows], labels_of, target))
    kept, won = stored[torch.from_numpy(better)], rows[better]
    result.images[won], result.predicted[won] = kept.numpy(), predicted[better]
    result.linf[won], result.l2[won] = _norms(kept, origin[torch.from_numpy(better)])
    result.steps[rows] += outcome.steps.cpu().numpy()
    taken_back = (stored != task.as_asked(outcome.images.detach().cpu())).flatten(1).any(1).numpy()
    suspects = np.flatnonzero(taken_back & (come_to < _REACHED))
    if not len(suspects):
        return rows[:0]
    seen, _ = _predict(attacked_fn, outcome.images.detach()[torch.from_numpy(suspects).to(outcome.images.device)])
    undone: Rows = rows[suspects[_grade(seen, labels_of[suspects], target[suspects]) > come_to[suspects]]]
    return undone


def _examine(task: _Task, attacked: Rows) -> tuple[str, ...]:
    """What ``checks.examine`` says of the model on the first images that are to be attacked."""
    few = attacked[:MOST]
    if not len(few):
        return ()
    images = _floats(task.images[torch.from_numpy(few)].to(task.device))
    return examine(task.logits_fn, images, torch.from_numpy(task.labels[few]).to(task.device))


def _storable(adversarial: Tensor, origin: Tensor, bound: Bound | None, ids: Sequence[str]) -> Tensor:
    """What is kept of an attack's result, in the type of ``origin``: bytes or float32, in any case inside the bound and [0, 1]."""
    assert adversarial.shape == origin.shape
    broken = ~adversarial.isfinite().flatten(1).all(1)
    if broken.any():
        raise WhorlError(
            f"attack: {int(broken.sum())} of {len(origin)} results are not finite (the first is that of image "
            f"{ids[int(broken.nonzero()[0])]}), where pixels in [0, 1] were expected."
        )
    eight_bit = origin.dtype == torch.uint8
    if bound is None:
        return round_to_bytes(adversarial) if eight_bit else adversarial.float().clamp(0, 1)
    keep = bound.norm.quantise if eight_bit else bound.norm.confine
    return keep(adversarial, _floats(origin), bound.epsilon)


def _norms(stored: Tensor, origin: Tensor) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """L-infinity and L2 norms of the change; of bytes from whole grey levels, so that 8 levels measure 8/255 exactly."""
    scale = LEVELS if stored.dtype == torch.uint8 else 1
    return Linf().distance(stored, origin).numpy() / scale, L2().distance(stored, origin).numpy() / scale


def _predict(logits_fn: LogitFn, images: Tensor) -> tuple[Ints, int]:
    """The predicted classes, int64 (n,), and the number of classes; raises ClassifierError where the logits are unusable."""
    with torch.no_grad():
        logits = logits_fn(images)
    check_logits(logits, len(images))
    predicted: Ints = logits.argmax(1).cpu().numpy()
    return predicted, logits.shape[1]
