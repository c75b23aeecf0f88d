"""A figure with its interval."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A value and the bounds of its confidence interval; None where there was nothing to measure."""

    value: float | None
    low: float | None
    high: float | None

    def named(self, name: str) -> dict[str, float | None]:
        """The value under ``name``, the bounds under ``name_low`` and ``name_high``."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


UNDEFINED = Estimate(None, None, None)
