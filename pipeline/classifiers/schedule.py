"""The optimiser and its learning rate: Nesterov momentum, and one cycle of a linear warm-up and a cosine."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.params.classifier import TrainedClassifier

WARM_UP = 0.1
"""Share of all steps in which the learning rate rises."""


@dataclass(frozen=True)
class Schedule:
    """The learning rate of every step: a function of the step alone, so a resumed training needs no state of it.

    It rises linearly over the first ``WARM_UP`` of the steps and falls along half a cosine to (almost) zero over the
    rest (Loshchilov, Hutter 2017, equation 5, without restarts; the warm-up is that of Goyal et al. 2017, section 2.2).
    """

    steps: int
    """All steps of all epochs."""
    peak: float

    def __call__(self, step: int) -> float:
        """The learning rate of a step, counted from 0; in (0, peak]."""
        warm_up = math.ceil(WARM_UP * self.steps)
        if step < warm_up:
            return self.peak * (step + 1) / warm_up
        return self.peak * (1 + math.cos(math.pi * (step - warm_up) / max(self.steps - warm_up, 1))) / 2


def make_optimizer(model: nn.Module, params: TrainedClassifier) -> torch.optim.SGD:
    """SGD with Nesterov momentum; norms and biases (every parameter of one dimension) carry no weight decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": params.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    # torch refuses Nesterov without momentum, where the two are the same anyway.
    return torch.optim.SGD(groups, lr=params.learning_rate, momentum=params.momentum, nesterov=params.momentum > 0)


def momentum_state(model: nn.Module, optimizer: torch.optim.SGD) -> dict[str, torch.Tensor]:
    """The optimiser's whole memory: parameter name to momentum buffer (absent before the parameter's first step)."""
    memory = {name: optimizer.state[parameter].get("momentum_buffer") for name, parameter in model.named_parameters()}
    return {name: buffer for name, buffer in memory.items() if buffer is not None}


def restore_momentum(model: nn.Module, optimizer: torch.optim.SGD, memory: dict[str, torch.Tensor]) -> None:
    """Puts back what ``momentum_state`` gave, on the parameters' devices and in their memory layout."""
    for name, parameter in model.named_parameters():
        if name in memory:
            optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter, requires_grad=False).copy_(memory[name])
