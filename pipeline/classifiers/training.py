"""Training: the recipe for small images (He et al. 2016, section 4.2, with one cycle of the learning rate), resumable at every epoch."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional

from pipeline.classifiers.augment import pad_crop_flip
from pipeline.classifiers.model import Classifier, device_of, to_float
from pipeline.classifiers.schedule import Schedule, make_optimizer, momentum_state, restore_momentum
from pipeline.errors import ClassifierError
from pipeline.params.classifier import TrainedClassifier
from pipeline.random import generator


@dataclass(frozen=True)
class TrainingSet:
    """Images uint8 (N, C, H, W) and their labels int64 (N,)."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch came to. Losses are mean cross-entropies in nats (the training one with its label smoothing)."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    train_accuracy: float
    """On the augmented images, while the weights changed."""
    tune_loss: float
    tune_accuracy: float
    learning_rate: float
    """Of the epoch's last step."""


@dataclass(frozen=True)
class Progress:
    """Everything that training goes on from: what it would do next depends on this, the params and the images alone."""

    state: dict[str, Tensor]
    """Of the classifier, after the last epoch of ``history``."""
    momentum: dict[str, Tensor]
    best_state: dict[str, Tensor]
    best_epoch: int
    history: list[EpochRecord]

    def finished(self, params: TrainedClassifier) -> bool:
        """Whether every epoch is done, or the loss on ``tune`` has not improved for ``patience`` epochs."""
        done = len(self.history)
        return done >= params.epochs or done - self.best_epoch >= params.patience


@dataclass(frozen=True)
class TrainingResult:
    """The weights of the best epoch, by loss on ``tune``, as the state dict of the ``Classifier``; on the CPU."""

    best_state: dict[str, Tensor]
    best_epoch: int
    history: list[EpochRecord]


def fit_classifier(
    classifier: Classifier,
    train: TrainingSet,
    tune: TrainingSet,
    params: TrainedClassifier,
    device: torch.device,
    rank: int,
    world: int,
    report: Callable[[Progress], None],
    wrap: Callable[[nn.Module], nn.Module],
    resume: Progress | None = None,
) -> TrainingResult:
    """Trains a classifier in place and returns its best epoch.

    On the CPU the result depends on the arguments alone (for one number of workers and of threads), and a training
    that is resumed from a ``Progress`` ends exactly like one that was never stopped.

    Args:
        classifier: with its initial weights, the same on every worker.
        train: what is learned from; every worker holds all of it and takes its share of each batch.
        tune: what the best epoch is chosen by.
        params: the recipe; ``batch_size`` counts the images of all workers together.
        device: where this worker computes.
        rank: this worker's number, from 0.
        world: how many workers there are; with more than one, torch's process group joins them.
        report: called after every epoch, on every worker.
        wrap: what makes the model's gradients the mean over workers (``DistributedDataParallel``), or the identity.
        resume: where to go on.

    Raises:
        ClassifierError: a split is empty, a worker's share of a batch is below two images, or the loss diverges.
    """
    _check(train, tune, params, world)
    classifier.to(device).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(classifier, params)
    if resume is not None:
        classifier.load_state_dict(resume.state)
        restore_momentum(classifier, optimizer, resume.momentum)
    model = wrap(classifier)
    scheduler = Schedule(params.epochs * steps_per_epoch(len(train.labels), params), params.learning_rate)
    progress = resume
    while progress is None or not progress.finished(params):
        epoch = 1 if progress is None else len(progress.history) + 1
        loss, accuracy = train_epoch(model, train, params, epoch, optimizer, scheduler, rank, world, device)
        tuned = _evaluate_together(classifier, tune, params, rank, world)
        record = EpochRecord(epoch, loss, accuracy, *tuned, optimizer.param_groups[0]["lr"])
        _check_finite(record, params)
        progress = _advance(progress, record, classifier, optimizer)
        report(progress)
    return TrainingResult(progress.best_state, progress.best_epoch, progress.history)


def _advance(before: Progress | None, record: EpochRecord, classifier: Classifier, optimizer: torch.optim.SGD) -> Progress:
    history = [*(before.history if before else []), record]
    state = _copy(classifier.state_dict())
    momentum = _copy(momentum_state(classifier, optimizer))
    if before is not None and record.tune_loss >= before.history[before.best_epoch - 1].tune_loss:
        return Progress(state, momentum, before.best_state, before.best_epoch, history)
    return Progress(state, momentum, state, record.epoch, history)


def _copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of their own on the CPU, in plain memory order: what can be stored, and what further training leaves alone."""
    return {name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def _check(train: TrainingSet, tune: TrainingSet, params: TrainedClassifier, world: int) -> None:
    for name, data in (("train", train), ("tune", tune)):
        if len(data.labels) == 0:
            raise ClassifierError(f"splits: {name} holds 0 images, where at least one was expected to train the classifier.")
    least = len(train.labels) // steps_per_epoch(len(train.labels), params) // world
    if least < 2:
        raise ClassifierError(
            f"classifier.batch_size: {params.batch_size}, of {len(train.labels)} images over {world} workers, leaves a worker "
            f"batches of {least}, where at least 2 images were expected (batch norm takes their variance)."
        )


def _check_finite(record: EpochRecord, params: TrainedClassifier) -> None:
    if not (math.isfinite(record.train_loss) and math.isfinite(record.tune_loss)):
        raise ClassifierError(
            f"classifier.learning_rate: with {params.learning_rate:g} the loss diverged in epoch {record.epoch} "
            f"(train {record.train_loss:g}, tune {record.tune_loss:g}), where a finite one was expected; try a smaller rate."
        )


def steps_per_epoch(images: int, params: TrainedClassifier) -> int:
    """Steps of an epoch; its batches hold at most ``batch_size`` images and differ by one image at most."""
    return math.ceil(images / params.batch_size)


def train_epoch(
    model: nn.Module,
    data: TrainingSet,
    params: TrainedClassifier,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    scheduler: Callable[[int], float],
    rank: int,
    world: int,
    device: torch.device,
) -> tuple[float, float]:
    """One pass over the images in an order, and with shifts and flips, that depend on (seed, epoch) alone.

    Args:
        model: maps float images to logits; left in training mode.
        data: all images, whatever the worker.
        params: the recipe.
        epoch: counted from 1.
        optimizer: stepped once a batch.
        scheduler: the learning rate of a step, counted from 0 over all epochs.
        rank: this worker's number.
        world: how many workers share every batch.
        device: of the model.

    Returns:
        Mean loss and accuracy over all images of all workers.
    """
    model.train()
    random = generator(params.seed, "classifier/epoch", str(epoch))
    order, draws = random.permutation(len(data.labels)), random.random((len(data.labels), 3))
    batches = np.array_split(order, steps_per_epoch(len(order), params))
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    with _lent_stream(params.seed, epoch, rank, device):
        for number, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = scheduler((epoch - 1) * len(batches) + number)
            rows = np.array_split(batch, world)[rank]
            images = to_float(pad_crop_flip(data.images, rows, params.pad, params.flip, draws)).to(device)
            labels = torch.tensor(data.labels[rows], device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=params.precision == "bfloat16"):
                logits = model(images)
            loss = functional.cross_entropy(logits.float(), labels, label_smoothing=params.label_smoothing, reduction="sum")
            optimizer.zero_grad(set_to_none=True)
            # The mean over workers of world * sum / batch is the mean over the batch, also where the shares differ by one image.
            (loss * (world / len(batch))).backward()  # type: ignore[no-untyped-call]  # torch's stub
            optimizer.step()
            sums += torch.stack([loss.detach(), (logits.argmax(1) == labels).sum()]).double()
    loss_mean, accuracy = (_sum_over_workers(sums, world) / len(order)).tolist()
    return loss_mean, accuracy


@contextmanager
def _lent_stream(seed: int, epoch: int, rank: int, device: torch.device) -> Iterator[None]:
    """Dropout and its kin read torch's global stream: this lends them one keyed by (seed, epoch, worker), and puts it back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(generator(seed, "classifier/noise", str(epoch), str(rank)).integers(2**63)))
        yield


def _evaluate_together(classifier: Classifier, tune: TrainingSet, params: TrainedClassifier, rank: int, world: int) -> tuple[float, float]:
    """Each worker evaluates its share with worker 0's batch norm statistics; all get the same figures, so all stop together."""
    if world > 1:
        for buffer in classifier.buffers():
            torch.distributed.broadcast(buffer, src=0)
    share = slice(rank, None, world)
    sums = _sums(classifier, tune.images[share], tune.labels[share], params.batch_size)
    loss, accuracy = (_sum_over_workers(sums, world) / len(tune.labels)).tolist()
    return loss, accuracy


def _sum_over_workers(sums: Tensor, world: int) -> Tensor:
    if world > 1:
        torch.distributed.all_reduce(sums)
    return sums


def evaluate(model: nn.Module, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], batch_size: int) -> tuple[float, float]:
    """Mean cross-entropy in nats and accuracy over uint8 images (N, C, H, W), N ≥ 1; leaves the model in evaluation mode."""
    loss, accuracy = (_sums(model, images, labels, batch_size) / len(labels)).tolist()
    return loss, accuracy


def _sums(model: nn.Module, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], batch_size: int) -> Tensor:
    model.eval()
    device = device_of(model)
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    with torch.inference_mode():
        for start in range(0, len(labels), batch_size):
            expected = torch.tensor(labels[start : start + batch_size], device=device)
            logits = model(to_float(images[start : start + batch_size]).to(device)).float()
            loss = functional.cross_entropy(logits, expected, reduction="sum")
            sums += torch.stack([loss, (logits.argmax(1) == expected).sum()]).double()
    return sums
