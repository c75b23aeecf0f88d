"""The optimiser's rule re-derived in NumPy, and the shape of the learning rate."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.classifiers.schedule import WARM_UP, Schedule, make_optimizer, momentum_state, restore_momentum
from pipeline.params.classifier import TrainedClassifier


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 64, 1000])
def test_rises_linearly_then_falls_along_a_cosine(steps: int) -> None:
    schedule = Schedule(steps, peak=0.4)
    rates = np.array([schedule(step) for step in range(steps)])
    warm_up = math.ceil(WARM_UP * steps)
    assert np.all((rates > 0) & (rates <= 0.4))
    np.testing.assert_allclose(rates[:warm_up], 0.4 * np.arange(1, warm_up + 1) / warm_up)
    rest = np.linspace(0, np.pi, steps - warm_up, endpoint=False)
    np.testing.assert_allclose(rates[warm_up:], 0.2 * (1 + np.cos(rest)))
    assert rates[warm_up - 1] == pytest.approx(0.4)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_nesterov_with_decay_on_weights_alone(momentum: float, recipe: TrainedClassifier) -> None:
    params = recipe.model_copy(update={"momentum": momentum, "weight_decay": 0.1, "learning_rate": 0.05})
    model = network()
    optimizer = make_optimizer(model, params)
    values = {name: parameter.detach().numpy().astype(np.float64) for name, parameter in model.named_parameters()}
    velocity = {name: np.zeros_like(value) for name, value in values.items()}
    batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            decay = 0.1 if parameter.ndim > 1 else 0.0  # Sutskever et al. 2013, in torch's form
            gradient = parameter.grad.numpy() + decay * values[name]
            velocity[name] = momentum * velocity[name] + gradient
            values[name] = values[name] - 0.05 * (gradient + momentum * velocity[name])
        optimizer.step()
        for name, parameter in model.named_parameters():
            np.testing.assert_allclose(parameter.detach().numpy(), values[name], rtol=1e-4, atol=1e-6)


def test_frozen_parameters_are_left_out(recipe: TrainedClassifier) -> None:
    model = network()
    model[0].requires_grad_(False)
    chosen = {id(parameter) for group in make_optimizer(model, recipe).param_groups for parameter in group["params"]}
    assert chosen == {id(parameter) for name, parameter in model.named_parameters() if not name.startswith("0.")}


def test_momentum_survives_being_put_away(recipe: TrainedClassifier) -> None:
    batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))

    def step(model: nn.Module, optimizer: torch.optim.SGD) -> None:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()

    first = network()
    optimizer = make_optimizer(first, recipe)
    assert momentum_state(first, optimizer) == {}
    step(first, optimizer)
    second = network()
    second.load_state_dict(first.state_dict())
    resumed = make_optimizer(second, recipe)
    restore_momentum(second, resumed, {name: buffer.clone() for name, buffer in momentum_state(first, optimizer).items()})
    step(first, optimizer)
    step(second, resumed)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
