"""What every section of the params file shares: strict types, no unknown keys, no defaults in code."""

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

T = TypeVar("T")


class Section(BaseModel):
    """A frozen, strictly typed section of ``params.yaml``.

    No field has a default: a default in code would be invisible to ``dvc.lock`` and to ``dvc params diff``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _fraction(value: object) -> object:
    """Reads ``8/255`` as the number it stands for; anything else is left to the type's own validation."""
    if isinstance(value, str) and value.count("/") == 1:
        numerator, denominator = value.split("/")
        try:
            return float(numerator) / float(denominator)
        except (ValueError, ZeroDivisionError):
            return value
    return value


def _unique(values: tuple[T, ...]) -> tuple[T, ...]:
    """Refuses what would measure nothing, or count something twice."""
    if not values:
        raise ValueError("the list is empty, where at least one value was expected")
    if repeated := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
        raise ValueError(f"{', '.join(map(repr, repeated))} stands in the list more than once, where each value was expected once")
    return values


Sequence = Annotated[tuple[T, ...], Field(strict=False)]
"""A YAML list, held as a tuple so that the section stays frozen."""
Unique = Annotated[tuple[T, ...], Field(strict=False), AfterValidator(_unique)]
"""A YAML list of at least one value, and of none twice, held as a tuple."""

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Distance = Annotated[float, BeforeValidator(_fraction), Field(ge=0)]
"""A perturbation size in pixel units of [0, 1]; may be written as a fraction such as ``8/255``."""
Precision = Literal["float32", "bfloat16"]
"""How wide a computation's matrix products and convolutions are."""
