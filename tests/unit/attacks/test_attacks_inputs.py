"""What ``attack_images`` refuses, each in a sentence: arrays, ids, models and batch sizes that cannot be what was meant."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from attacks_support import digits, flat_model, run
from torch import Tensor, nn

from pipeline.errors import ClassifierError, WhorlError

FGSM = {"family": "fgsm", "norm": "linf", "epsilon": "1/255", "targeted": False}


def poisoned(images: Tensor) -> Tensor:
    """Finite logits whose gradient is not."""
    return flat_model(3)(images) + (images.flatten(1).sum(1, keepdim=True) * 0).sqrt()


IMAGES = np.full((2, 3, 2, 2), 128, np.uint8)
ZEROS = np.zeros(2, np.int64)


@pytest.mark.parametrize(
    ("logits_fn", "images", "labels", "kind", "expected"),
    [
        (flat_model(3), IMAGES / 255, ZEROS, WhorlError, r"float64 of shape \(2, 3, 2, 2\), where uint8 or float32 \(N, C, H, W\) was"),
        (flat_model(3), np.float32(IMAGES / 250), ZEROS, WhorlError, "2 of 2 images .* have pixels between two grey levels"),
        (flat_model(3), IMAGES[0], ZEROS, WhorlError, r"uint8 of shape \(3, 2, 2\), where"),
        (flat_model(3), IMAGES, ZEROS.astype(np.int32), WhorlError, r"labels are int32 of shape \(2,\), where int64 \(2,\) was expected"),
        (flat_model(3), IMAGES, ZEROS[:1], WhorlError, r"labels are int64 of shape \(1,\)"),
        (flat_model(3), IMAGES, ZEROS + 3, ClassifierError, "3 classes apart, where the images' labels, 3 to 3, were expected"),
        (flat_model(3), IMAGES, ZEROS - 1, ClassifierError, "labels, -1 to -1"),
        (flat_model(1), IMAGES, ZEROS, ClassifierError, r"logits have shape \(2, 1\), where \(2, K\)"),
        (lambda x: x, IMAGES, ZEROS, ClassifierError, r"logits have shape \(2, 3, 2, 2\)"),
        (lambda x: flat_model(3)(x)[:1], IMAGES, ZEROS, ClassifierError, r"logits have shape \(1, 3\)"),
        (lambda x: flat_model(3)(x) / 0, IMAGES, ZEROS, ClassifierError, "logits are not finite"),
        (lambda x: flat_model(3)(x).detach(), IMAGES, ZEROS, ClassifierError, "no gradient"),
        (poisoned, IMAGES, ZEROS, ClassifierError, "the gradient of its logits is not finite"),
    ],
)
def test_bad_input_is_a_sentence(
    logits_fn: Callable[[Tensor], Tensor], images: npt.NDArray[Any], labels: npt.NDArray[Any], kind: type[Exception], expected: str
) -> None:
    with pytest.raises(kind, match=expected) as caught:
        run(logits_fn, images, labels, FGSM)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_an_id_for_every_image() -> None:
    with pytest.raises(WhorlError, match="there are 1 ids, where one for each of the 2 images was expected"):
        run(flat_model(3), IMAGES, ZEROS, FGSM, ids=["a"])
    with pytest.raises(WhorlError, match="the id 'a' is given twice, where one of its own"):
        run(flat_model(3), IMAGES, ZEROS, FGSM, ids=["a", "a"])


def test_arguments_that_are_of_another_kind_are_said() -> None:
    for labels, expected in ((torch.zeros(2, dtype=torch.int64), "labels are a torch.Tensor"), ([0, 0], "labels are a builtins.list")):
        with pytest.raises(WhorlError, match=f"{expected}, where a NumPy array was expected"):
            run(flat_model(3), IMAGES, labels, FGSM)  # type: ignore[arg-type]
    with pytest.raises(WhorlError, match="batch_size is -1, where at least 1 was expected"):
        run(flat_model(3), IMAGES, ZEROS, FGSM, batch_size=-1)


@pytest.mark.parametrize("wrapped", [lambda model: model, lambda model: lambda images: model(images)], ids=["as it is", "in a function"])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True)], ids=lambda norm: type(norm).__name__)
def test_a_model_whose_norms_are_training_is_refused_untouched(
    norm: nn.Module, wrapped: Callable[[nn.Module], Callable[[Tensor], Tensor]]
) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), copy.deepcopy(norm), nn.Flatten(), nn.Linear(144, 10))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ClassifierError, match=rf"a {type(norm).__name__} of it is in training mode.*call eval\(\)"):
        run(wrapped(model), digits().images[:8], digits().labels[:8], FGSM)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model(torch.zeros(2, 1, 8, 8))  # outside of an attack it may train
    model[1].eval()  # what else is in training mode makes no difference, or is found by the checks
    run(model, digits().images[:8], digits().labels[:8], FGSM)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
@pytest.mark.parametrize("made", [lambda model: torch.compile(model, backend="eager"), torch.jit.script], ids=["compiled", "scripted"])
def test_a_compiled_model_whose_norms_are_training_is_refused(made: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))
    changed = made(model)
    with torch.no_grad():
        changed(torch.zeros(2, 1, 8, 8))  # compiled once, it runs no hooks any more
    with pytest.raises(ClassifierError, match="a BatchNorm2d of it is in training mode"):
        run(changed, digits().images[:8], digits().labels[:8], FGSM)
    with pytest.raises(ClassifierError, match="a BatchNorm2d of it is in training mode"):
        run(digits().model, digits().images[:8], digits().labels[:8], FGSM, steps_fns=[changed])


def test_another_thread_may_train_meanwhile() -> None:
    other, failed = nn.BatchNorm2d(1), []

    def train() -> None:
        try:
            other(torch.zeros(2, 1, 8, 8))
        except ClassifierError as error:
            failed.append(error)

    def model(images: Tensor) -> Tensor:
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
        logits: Tensor = digits().model(images)
        return logits

    run(model, digits().images[:8], digits().labels[:8], FGSM)
    assert not failed and other.num_batches_tracked


def test_an_instance_norm_that_keeps_nothing_may_be_in_any_mode() -> None:
    model = nn.Sequential(nn.InstanceNorm2d(1), nn.Flatten(), nn.Linear(64, 10))
    run(model, digits().images[:8], digits().labels[:8], FGSM)


def test_a_model_that_returns_no_tensor_is_said() -> None:
    with pytest.raises(ClassifierError, match=r"it returns a tuple, where a tensor of logits \(2, K\) was expected"):
        run(lambda images: (flat_model(3)(images),), IMAGES, ZEROS, FGSM)  # type: ignore[arg-type, return-value]


def squashed(images: Tensor) -> Tensor:
    return digits().model(images).softmax(1)


def noisy(images: Tensor) -> Tensor:
    return digits().model(images) + 0.3 * torch.randn(len(images), 10)


def half_dead(images: Tensor) -> Tensor:
    dead = (torch.arange(len(images)) % 2 == 0)[:, None]
    logits: Tensor = digits().model(images)
    return torch.where(dead, logits.detach(), logits)


@pytest.mark.parametrize(
    ("logits_fn", "said"),
    [
        (digits().model, []),
        (squashed, ["add up to 1 like probabilities"]),
        (noisy, ["differ between two passes"]),
        (half_dead, ["exactly zero on 8 of 16"]),
    ],
    ids=["fit", "squashed", "noisy", "half dead"],
)
def test_what_makes_an_attack_look_weak_comes_with_its_result(logits_fn: Callable[[Tensor], Tensor], said: list[str]) -> None:
    warnings = run(logits_fn, digits().images[:40], digits().labels[:40], FGSM).warnings
    assert len(warnings) == len(said) and all(part in sentence for part, sentence in zip(said, warnings, strict=True)), warnings


@pytest.mark.parametrize("read", [Tensor.numpy, np.from_dlpack], ids=["numpy", "dlpack"])
def test_square_asks_a_black_box_that_takes_no_gradients(read: Callable[[Tensor], npt.NDArray[np.float32]]) -> None:
    weights, scale = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32), nn.Parameter(torch.ones(3))

    def black_box(images: Tensor) -> Tensor:
        return torch.from_numpy(read(images).reshape(len(images), -1) @ weights) * scale  # gradients, but none to the images

    images = np.random.default_rng(1).integers(0, 256, (20, 3, 2, 2)).astype(np.uint8)
    labels = black_box(torch.from_numpy(images) / 255).argmax(1).numpy()
    square = {"family": "square", "norm": "linf", "epsilon": 0.3, "queries": 100, "p_init": 0.8, "schedule": 100, "targeted": False}
    attacked = run(black_box, images, labels, square)
    assert attacked.success.sum() > 5
    (sentence,) = attacked.warnings
    assert "carry no gradient" in sentence
