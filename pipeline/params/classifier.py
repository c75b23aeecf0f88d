"""``classifier``: the network to guard, trained here or the user's own."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.base import Count, Positive, Precision, Section, Seed, Sequence, Share

PositiveFloat = Annotated[float, Field(gt=0)]


class Preprocessing(Section):
    """What stands between an image in [0, 1] and the network; part of the model, never of the attack."""

    mean: Sequence[float]
    std: Sequence[PositiveFloat]
    input_size: Annotated[tuple[Positive, Positive], Field(strict=False)]
    """(height, width) that the network takes; images of another size are scaled bilinearly inside the model."""


class TrainedClassifier(Preprocessing):
    """A network trained here, by Ray Train, on the ``train`` split."""

    kind: Literal["train"]
    architecture: str
    """Any timm model by name, or ``cifar_resnet20``, ``cifar_resnet32``, ``cifar_resnet56``."""
    pretrained: bool
    """Start from timm's pretrained weights."""
    epochs: Positive
    patience: Positive
    """Stop when the loss on ``tune`` has not improved for this many epochs; the best epoch's weights are kept."""
    batch_size: Positive
    learning_rate: PositiveFloat
    momentum: Share
    weight_decay: Annotated[float, Field(ge=0)]
    label_smoothing: Share
    pad: Count
    """Random shift by up to this many pixels (reflected)."""
    flip: bool
    """Random horizontal flip."""
    precision: Precision
    """Of the passes over the ``train`` split (bfloat16 by autocast: weights, losses and the loss on ``tune`` stay float32).
    bfloat16 is faster where the processor has it."""
    workers: Positive
    """Ray Train workers: unlike other worker counts it changes the result, so it is a param."""
    seed: Seed


class AdoptedClassifier(Preprocessing):
    """The user's own network; training is skipped."""

    kind: Literal["adopt"]
    architecture: str | None
    """A timm model name (or one of ours); null where ``factory`` is given."""
    factory: str | None
    """Import path ``package.module:factory`` of a callable without arguments that returns the network."""
    pretrained: bool
    """Take timm's pretrained weights; false where ``checkpoint`` is given."""
    checkpoint: str | None
    """A safetensors file, or a ``torch.save`` of a plain or timm state dict (loaded with ``weights_only=True``)."""
    unseen: Literal["unknown"] | Annotated[tuple[str, ...], Field(strict=False)]
    """The origins whose images the network has never seen; only those may enter ``fit``, ``tune``, ``calibrate`` and
    ``test``. Where it is ``unknown`` the false-alarm promise is void, and the report and the guard's card say so."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.architecture is None) == (self.factory is None):
            raise ValueError("exactly one of architecture and factory was expected, the other null")
        if self.pretrained == (self.checkpoint is not None):
            raise ValueError("either pretrained: true or a checkpoint was expected, and not both")
        if self.pretrained and self.factory is not None:
            raise ValueError("pretrained: true goes with a timm architecture; a factory takes a checkpoint")
        return self


ClassifierParams = Annotated[TrainedClassifier | AdoptedClassifier, Field(discriminator="kind")]
