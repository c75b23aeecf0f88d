"""Training on Ray Train, with workers that are really killed: the result is that of a training which nothing disturbed."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from pipeline.classifiers.model import Classifier
from pipeline.classifiers.training import EpochRecord, TrainingResult, TrainingSet, fit_classifier
from pipeline.classifiers.zoo import build_untrained
from pipeline.distributed.runtime import ray_session
from pipeline.distributed.training import read_progress, train_classifier, training_identity, write_progress
from pipeline.errors import ClassifierError
from pipeline.params.classifier import TrainedClassifier

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PARAMS = TrainedClassifier(
    kind="train", architecture="cifar_resnet20", pretrained=False, mean=(0.3,), std=(0.4,), input_size=(8, 8), epochs=4, patience=4,
    batch_size=32, learning_rate=0.05, momentum=0.9, weight_decay=5e-4, label_smoothing=0.1, pad=1, flip=False, precision="float32",
    workers=1, seed=0,
)  # fmt: skip
STEPS = 5
"""Of an epoch: 150 images in batches of 32."""


def inputs() -> tuple[TrainingSet, TrainingSet]:
    loaded = load_digits()
    images = np.round(loaded.images * 255 / 16).astype(np.uint8)[:, None]
    labels = loaded.target.astype(np.int64)
    return TrainingSet(images[:150], labels[:150]), TrainingSet(images[150:191], labels[150:191])


def untrained(params: TrainedClassifier) -> Callable[[], Classifier]:
    return lambda: build_untrained(params, 10, 1)


def killed_at(make: Callable[[], Classifier], step: int, rank: int, folder: Path) -> Callable[[], Classifier]:
    """The same classifier, but the worker of that rank kills its own process before that training step, the first time only."""

    def make_mined() -> Classifier:
        classifier, steps = make(), 0
        (folder / f"started-{os.getpid()}").touch()

        def step_on_it(module: nn.Module, _inputs: object) -> None:
            nonlocal steps
            steps += module.training
            if steps == step and os.environ["RANK"] == str(rank) and not (folder / "killed").exists():
                (folder / "killed").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)

        classifier.network.register_forward_pre_hook(step_on_it)
        return classifier

    return make_mined


def locally(params: TrainedClassifier) -> TrainingResult:
    train, tune = inputs()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return fit_classifier(untrained(params)(), train, tune, params, torch.device("cpu"), 0, 1, lambda _: None, lambda model: model)
    finally:
        torch.set_num_threads(threads)


def assert_same(found: TrainingResult, expected: TrainingResult) -> None:
    assert found.history == expected.history
    assert found.best_epoch == expected.best_epoch
    assert found.best_state.keys() == expected.best_state.keys()
    assert all(torch.equal(found.best_state[name], value) for name, value in expected.best_state.items())


@pytest.fixture(scope="module")
def ray_running() -> Iterator[None]:
    with ray_session():
        import ray.cloudpickle

        module = sys.modules[__name__]
        ray.cloudpickle.register_pickle_by_value(module)  # this file is no package that a worker could import
        yield
        ray.cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def train(ray_running: None, tmp_path: Path) -> Callable[..., tuple[TrainingResult, list[tuple[EpochRecord, int]]]]:
    def run(make: Callable[[], Classifier], params: TrainedClassifier, **changes: Any) -> Any:
        heard: list[tuple[EpochRecord, int]] = []
        given = {"storage": tmp_path / "storage", "gpu": False, "cpus": 1, "on_epoch": lambda *said: heard.append(said), **changes}
        return train_classifier(inputs, make, params, **given), heard

    return run


def test_a_killed_worker_changes_nothing(train: Callable[..., Any], tmp_path: Path) -> None:
    mined = killed_at(untrained(PARAMS), step=2 * STEPS + 3, rank=0, folder=tmp_path)
    before = dict(os.environ)
    result, heard = train(mined, PARAMS)
    assert dict(os.environ) == before
    dead = (tmp_path / "killed").read_text()
    assert len(list(tmp_path.glob("started-*"))) == 2, "one worker died, one took its place"
    assert (tmp_path / f"started-{dead}").exists()
    assert_same(result, locally(PARAMS))
    assert heard == [(record, PARAMS.epochs) for record in result.history], "every epoch was told once, in order"

    # The same call again (as after a driver that died at the end) finds the finished training and trains no more.
    again, heard_again = train(killed_at(untrained(PARAMS), step=1, rank=0, folder=tmp_path), PARAMS)
    assert_same(again, result)
    assert heard_again == heard
    assert len(list(tmp_path.glob("started-*"))) == 3

    # Nothing that was stored needs unpickling, and only the last checkpoint is kept.
    stored = [path for path in (tmp_path / "storage").rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert {path.suffix for path in stored} == {".safetensors", ".json"}
    assert sum(path.name == "progress.json" for path in stored) == 1

    # Another training in the same folder does not go on from it.
    other = PARAMS.model_copy(update={"seed": 7, "epochs": 1})
    assert_same(train(untrained(other), other)[0], locally(other))


def test_one_of_two_workers_killed_changes_nothing(train: Callable[..., Any], tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"workers": 2, "epochs": 3})
    whole, _ = train(untrained(params), params, storage=tmp_path / "whole")
    killed, heard = train(killed_at(untrained(params), step=STEPS + 2, rank=1, folder=tmp_path), params)
    assert (tmp_path / "killed").exists()
    assert len(list(tmp_path.glob("started-*"))) == 4
    assert_same(killed, whole)
    assert [record for record, _ in heard] == whole.history


def test_what_a_worker_finds_wrong_is_said_once(train: Callable[..., Any], tmp_path: Path) -> None:
    def refuse() -> Classifier:
        with (tmp_path / "tries").open("a") as file:
            file.write("x")
        raise ClassifierError("classifier.architecture: a sentence for the user.")

    with pytest.raises(ClassifierError, match="^classifier.architecture: a sentence for the user.$"):
        train(refuse, PARAMS)
    assert (tmp_path / "tries").read_text() == "x"


@pytest.mark.parametrize(
    ("workers", "gpu", "said"), [(10_000, False, "10000 workers need 10000 CPUs together"), (10_000, True, "10000 workers need 10000 CPUs")]
)
def test_more_workers_than_the_machine_holds_are_said_at_once(train: Callable[..., Any], workers: int, gpu: bool, said: str) -> None:
    params = PARAMS.model_copy(update={"workers": workers})
    with pytest.raises(ClassifierError, match=f"classifier.workers: {said}.*, where at most the machine's [0-9]+ were expected"):
        train(untrained(params), params, gpu=gpu)


def without_batch_norm() -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)), (0.3,), (0.4,), (8, 8))


def one_of_two(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    result = fit_classifier(
        without_batch_norm(), *inputs(), PARAMS, torch.device("cpu"), rank, 2, lambda _: None, nn.parallel.DistributedDataParallel
    )
    torch.save((result.best_state, [list(vars(record).values()) for record in result.history]), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_workers_share_every_batch_exactly(tmp_path: Path) -> None:
    """Without batch norm, whose statistics are each worker's own, two workers must come to what one comes to.

    150 images make batches of 30, and 41 tune images make unequal shares, so that a mean of means would be wrong.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, (port, str(tmp_path)), nprocs=2)
    alone = fit_classifier(without_batch_norm(), *inputs(), PARAMS, torch.device("cpu"), 0, 1, lambda _: None, lambda model: model)
    for rank in range(2):
        state, history = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        np.testing.assert_allclose(history, [list(vars(record).values()) for record in alone.history], rtol=1e-4)
        for name, value in alone.best_state.items():
            torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-5)


def test_progress_is_stored_exactly(tmp_path: Path) -> None:
    train, tune = inputs()
    said: list[Any] = []
    params = PARAMS.model_copy(update={"epochs": 1})
    classifier = untrained(params)()
    identity = training_identity(classifier, train, tune, params)
    fit_classifier(classifier, train, tune, params, torch.device("cpu"), 0, 1, said.append, lambda model: model)
    write_progress(tmp_path, said[0], identity)
    found, of = read_progress(tmp_path)
    assert of == identity
    assert (found.history, found.best_epoch) == (said[0].history, said[0].best_epoch)
    for name in ("state", "momentum", "best_state"):
        stored, given = getattr(found, name), getattr(said[0], name)
        assert stored.keys() == given.keys()
        assert all(torch.equal(stored[key], given[key]) and stored[key].dtype == given[key].dtype for key in given)


def test_the_identity_of_a_training_covers_weights_images_labels_and_params() -> None:
    train, tune = inputs()
    classifier = untrained(PARAMS)()
    other = untrained(PARAMS.model_copy(update={"seed": 1}))()
    swapped = TrainingSet(train.images, train.labels[::-1])
    identities = [
        training_identity(classifier, train, tune, PARAMS),
        training_identity(other, train, tune, PARAMS),
        training_identity(classifier, TrainingSet(train.images ^ 1, train.labels), tune, PARAMS),
        training_identity(classifier, swapped, tune, PARAMS),
        training_identity(classifier, tune, train, PARAMS),
        training_identity(classifier, train, tune, PARAMS.model_copy(update={"learning_rate": 0.06})),
    ]
    assert len(set(identities)) == len(identities)
    assert identities[0] == training_identity(untrained(PARAMS)(), *inputs(), PARAMS)
