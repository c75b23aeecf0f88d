"""Training: determinism, resuming, the choice of the epoch, and the losses, against plain torch and NumPy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from classifiers_support import logits_of
from scipy.special import log_softmax
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pipeline.classifiers.model import Classifier
from pipeline.classifiers.training import (
    EpochRecord,
    Progress,
    TrainingResult,
    TrainingSet,
    evaluate,
    fit_classifier,
    steps_per_epoch,
)
from pipeline.classifiers.zoo import build_untrained
from pipeline.errors import ClassifierError
from pipeline.params.classifier import TrainedClassifier

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> tuple[TrainingSet, TrainingSet, TrainingSet]:
    loaded = load_digits()
    images = np.round(loaded.images * 255 / 16).astype(np.uint8)[:, None]
    order = np.random.default_rng(0).permutation(len(images))
    cut = (order[:630], order[630:720], order[720:])
    return tuple(TrainingSet(images[rows], loaded.target[rows].astype(np.int64)) for rows in cut)  # type: ignore[return-value]


@pytest.fixture
def small(digits: tuple[TrainingSet, TrainingSet, TrainingSet], recipe: TrainedClassifier) -> dict[str, Any]:
    """A training of a few seconds' fraction: 96 images, a recipe with everything switched on."""
    train, tune, _ = digits
    changes = {"epochs": 4, "patience": 4, "batch_size": 32, "weight_decay": 5e-4, "label_smoothing": 0.1, "pad": 1, "flip": True}
    return {
        "train": TrainingSet(train.images[:97], train.labels[:97]),
        "tune": TrainingSet(tune.images[:40], tune.labels[:40]),
        "params": recipe.model_copy(update=changes),
    }


def fit(
    small: dict[str, Any], resume: Progress | None = None, classifier: Classifier | None = None
) -> tuple[TrainingResult, list[Progress]]:
    said: list[Progress] = []
    start = classifier or build_untrained(small["params"], 10, 1)
    result = fit_classifier(start, small["train"], small["tune"], small["params"], CPU, 0, 1, said.append, lambda model: model, resume)
    return result, said


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_same_arguments_same_bits_whatever_the_global_stream(small: dict[str, Any]) -> None:
    torch.manual_seed(1)
    first, _ = fit(small)
    torch.manual_seed(2)
    np.random.seed(2)  # the global stream is what must not matter
    state = torch.random.get_rng_state()
    second, _ = fit(small)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.history == second.history
    assert same(first.best_state, second.best_state)
    other, _ = fit({**small, "params": small["params"].model_copy(update={"seed": 9})})
    assert other.history != first.history


@pytest.mark.parametrize("stopped_after", [1, 2, 3])
def test_a_resumed_training_ends_like_one_that_was_never_stopped(small: dict[str, Any], stopped_after: int) -> None:
    whole, said = fit(small)
    resumed, again = fit(small, resume=said[stopped_after - 1], classifier=build_untrained(small["params"], 10, 1))
    assert [progress.history[-1].epoch for progress in again] == list(range(stopped_after + 1, 5))
    assert resumed.history == whole.history
    assert resumed.best_epoch == whole.best_epoch
    assert same(resumed.best_state, whole.best_state)
    assert same(again[-1].state, said[-1].state)
    assert same(again[-1].momentum, said[-1].momentum)


def test_a_finished_training_is_not_gone_on_with(small: dict[str, Any]) -> None:
    whole, said = fit(small)
    result, again = fit(small, resume=said[-1])
    assert again == []
    assert same(result.best_state, whole.best_state)


def test_low_precision_passes_train_weights_and_judge_epochs_in_float32(small: dict[str, Any]) -> None:
    exact, _ = fit(small)
    low = {**small, "params": small["params"].model_copy(update={"precision": "bfloat16"})}
    (first, said), (again, _) = fit(low), fit(low)
    assert same(first.best_state, again.best_state)
    assert not same(first.best_state, exact.best_state)
    assert {value.dtype for value in first.best_state.values()} == {value.dtype for value in exact.best_state.values()}
    assert first.history[0].train_loss == pytest.approx(exact.history[0].train_loss, rel=0.05)
    last = build_untrained(small["params"], 10, 1)
    last.load_state_dict(said[-1].state)
    loss, _ = evaluate(last, small["tune"].images, small["tune"].labels, 32)
    assert said[-1].history[-1].tune_loss == pytest.approx(loss, rel=1e-5)  # bfloat16 is some 1e-3 off


class Dropping(nn.Module):
    """A network whose training draws from torch's global stream."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images)
        return logits


def dropping() -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier(Dropping(), (0.3,), (0.4,), (8, 8))


def test_dropout_is_keyed_by_the_seed_and_the_epoch(small: dict[str, Any]) -> None:
    whole, said = fit(small, classifier=dropping())
    torch.manual_seed(123)
    resumed, _ = fit(small, resume=said[1], classifier=dropping())
    assert resumed.history == whole.history
    assert same(resumed.best_state, whole.best_state)


def test_progress_is_a_copy(small: dict[str, Any]) -> None:
    copies: list[dict[str, Tensor]] = []
    said: list[Progress] = []

    def report(progress: Progress) -> None:
        said.append(progress)
        copies.append({name: value.clone() for name, value in progress.state.items()})

    fit_classifier(
        build_untrained(small["params"], 10, 1), small["train"], small["tune"], small["params"], CPU, 0, 1, report, lambda model: model
    )
    assert all(same(progress.state, copy) for progress, copy in zip(said, copies, strict=True))
    assert not same(said[0].state, said[1].state)
    assert all(value.is_contiguous() for value in said[0].state.values())


def test_the_first_step_is_that_of_plain_torch(small: dict[str, Any]) -> None:
    params = small["params"].model_copy(update={"epochs": 1, "batch_size": 97, "pad": 0, "flip": False, "momentum": 0.0})
    given = dropping().eval()
    given.network.get_submodule("body.3").p = 0.0
    before = {name: value.clone() for name, value in given.state_dict().items()}
    train = small["train"]
    logits = given(torch.from_numpy(train.images) / 255)
    smooth = torch.full((97, 10), 0.01)
    smooth[torch.arange(97), torch.from_numpy(train.labels)] += 0.9
    loss = -(smooth * logits.log_softmax(1)).sum(1).mean()
    names, parameters = zip(*given.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    result, _ = fit({**small, "params": params}, classifier=given)
    for name, value in result.best_state.items():
        decay = 5e-4 if value.ndim > 1 else 0.0
        torch.testing.assert_close(value, before[name] - 0.1 * (gradients[name] + decay * before[name]))
    assert result.history[0].train_loss == pytest.approx(loss.item(), rel=1e-5)
    assert result.history[0].train_accuracy == pytest.approx((logits.argmax(1).numpy() == train.labels).mean())
    assert result.history[0].learning_rate == 0.1


@pytest.mark.parametrize(("images", "batch", "steps"), [(630, 64, 10), (64, 64, 1), (65, 64, 2), (10, 64, 1)])
def test_steps_of_an_epoch(images: int, batch: int, steps: int, recipe: TrainedClassifier) -> None:
    assert steps_per_epoch(images, recipe.model_copy(update={"batch_size": batch})) == steps


class Scripted(nn.Module):
    """Counts its training batches, and has on `tune` the loss that a script gives for that count."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.losses = losses

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.get_buffer("seen").add_(1)
            return images.mean((1, 2, 3))[:, None] * self.weight * torch.ones(2)
        margin = math.log(math.expm1(self.losses[int(self.get_buffer("seen")) - 1]))  # cross-entropy = softplus(margin)
        return torch.tensor([0.0, margin]).expand(len(images), 2)


@pytest.mark.parametrize(
    ("losses", "patience", "epochs_run", "best"),
    [
        ([3.0, 2.0, 1.0, 0.5], 2, 4, 4),
        ([1.0, 2.0, 3.0, 0.5], 2, 3, 1),
        ([1.0, 2.0, 3.0, 0.5], 3, 4, 4),
        ([1.0, 1.0, 1.0, 0.5], 2, 3, 1),
        ([1.0, 2.0, 0.5, 0.7, 0.6, 0.4], 2, 5, 3),
    ],
)
def test_patience_and_the_best_epoch(losses: list[float], patience: int, epochs_run: int, best: int, recipe: TrainedClassifier) -> None:
    params = recipe.model_copy(update={"epochs": len(losses), "patience": patience})
    data = TrainingSet(np.zeros((8, 1, 2, 2), np.uint8), np.zeros(8, np.int64))
    classifier = Classifier(Scripted(losses), (0.0,), (1.0,), (2, 2))
    result = fit_classifier(classifier, data, data, params, CPU, 0, 1, lambda progress: None, lambda model: model)
    assert [record.tune_loss for record in result.history] == pytest.approx(losses[:epochs_run], rel=1e-5)
    assert [record.epoch for record in result.history] == list(range(1, epochs_run + 1))
    assert result.best_epoch == best
    assert result.best_state["network.seen"] == best, "the weights are those of the best epoch"


@pytest.mark.parametrize("count", [1, 7, 40])
def test_evaluation_is_the_mean_over_images(small: dict[str, Any], count: int) -> None:
    classifier = build_untrained(small["params"], 10, 1).eval()
    images, labels = small["tune"].images[:count], small["tune"].labels[:count]
    logits = logits_of(classifier, images).astype(np.float64)
    loss, accuracy = evaluate(classifier.train(), images, labels, batch_size=8)
    assert loss == pytest.approx(-log_softmax(logits, 1)[np.arange(count), labels].mean(), rel=1e-5)
    assert accuracy == pytest.approx((logits.argmax(1) == labels).mean())
    assert not classifier.training


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": 0}, "splits: train holds 0 images, where at least one was expected"),
        ({"tune": 0}, "splits: tune holds 0 images, where at least one was expected"),
        ({"train": 1}, "classifier.batch_size: 32, of 1 images over 1 workers, leaves a worker batches of 1, where at least 2"),
    ],
)
def test_too_few_images_are_said(small: dict[str, Any], change: dict[str, int], said: str) -> None:
    for name, count in change.items():
        small[name] = TrainingSet(small[name].images[:count], small[name].labels[:count])
    with pytest.raises(ClassifierError, match=said):
        fit(small)


def test_divergence_is_said(small: dict[str, Any]) -> None:
    params = small["params"].model_copy(update={"learning_rate": 1e30})
    with pytest.raises(ClassifierError, match=r"classifier.learning_rate: with 1e\+30 the loss diverged in epoch 1 .* a smaller rate"):
        fit({**small, "params": params})


def test_the_digits_recipe_learns_to_read(digits: tuple[TrainingSet, TrainingSet, TrainingSet], recipe: TrainedClassifier) -> None:
    train, tune, test = digits
    recipe = recipe.model_copy(
        update={"epochs": 12, "patience": 12, "batch_size": 64, "learning_rate": 0.05, "weight_decay": 5e-4, "pad": 1}
    )
    result, _ = fit({"train": train, "tune": tune, "params": recipe})
    classifier = build_untrained(recipe, 10, 1)
    classifier.load_state_dict(result.best_state)
    loss, accuracy = evaluate(classifier, tune.images, tune.labels, 64)
    best: EpochRecord = result.history[result.best_epoch - 1]
    assert (loss, accuracy) == pytest.approx((best.tune_loss, best.tune_accuracy), rel=1e-5)
    assert evaluate(classifier, test.images, test.labels, 256)[1] >= 0.95
