"""Ranges of a search space."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from cfamc_ray.config.types import Real, Scalar, Strict, plain


class IntRange(Strict):
    """Whole numbers from the first to the second bound, both included: ``{int: [2, 40], log: true}``."""

    bounds: tuple[int, int] = Field(alias="int", strict=False)
    log: bool = False
    """Sample the logarithm evenly."""
    step: int = Field(default=1, ge=1)
    """Distance between neighbouring values; with `log` only 1."""

    @model_validator(mode="after")
    def _ordered(self) -> "IntRange":
        _check_bounds(self.bounds, self.log)
        if self.log and self.step != 1:
            raise ValueError(f"step must be 1 on a log scale, not {self.step}")
        return self

    def edges(self) -> tuple[Scalar, ...]:
        """The bounds: if they are valid, all values between them are."""
        return self.bounds[0], self.last

    @property
    def last(self) -> int:
        """The largest value that the steps reach."""
        low, high = self.bounds
        return low + (high - low) // self.step * self.step

    def grid(self) -> range:
        """All values."""
        return range(self.bounds[0], self.last + 1, self.step)

    def contains(self, value: object) -> bool:
        """Whether `value` is one of the values."""
        return type(value) is int and value in self.grid()


class FloatRange(Strict):
    """Real numbers from the first to the second bound: ``{float: [1/255, 16/255], log: true}``."""

    bounds: tuple[Real, Real] = Field(alias="float", strict=False)
    log: bool = False
    """Sample the logarithm evenly."""

    @model_validator(mode="after")
    def _ordered(self) -> "FloatRange":
        _check_bounds(self.bounds, self.log)
        return self

    def edges(self) -> tuple[Scalar, ...]:
        """The bounds: if they are valid, all values between them are."""
        return self.bounds

    def contains(self, value: object) -> bool:
        """Whether `value` is a number within the bounds."""
        return type(value) in (int, float) and self.bounds[0] <= value <= self.bounds[1]  # type: ignore[operator]


class Choice(Strict):
    """One of several values: ``{choice: [resnet18, resnet50]}``."""

    values: tuple[Annotated[Scalar, BeforeValidator(plain)], ...] = Field(alias="choice", strict=False, min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> "Choice":
        if len(set(self.values)) < len(self.values):
            raise ValueError(f"names a value twice: {list(self.values)}")
        return self

    def edges(self) -> tuple[Scalar, ...]:
        """The values that have to be valid: all of them."""
        return self.values

    def contains(self, value: object) -> bool:
        """Whether `value` is one of the values."""
        return value in self.values


class Constant(Strict):
    """One value, shown in every table beside the searched values: ``{constant: 3}``, or just ``3``."""

    value: Annotated[Scalar, BeforeValidator(plain)] = Field(alias="constant")

    def edges(self) -> tuple[Scalar, ...]:
        """The value."""
        return (self.value,)

    def contains(self, value: object) -> bool:
        """Whether `value` is the constant."""
        return value == self.value


Range = IntRange | FloatRange | Choice | Constant
RANGES: dict[str, type[IntRange | FloatRange | Choice | Constant]] = {
    "int": IntRange,
    "float": FloatRange,
    "choice": Choice,
    "constant": Constant,
}


def parse_range(value: object) -> Range:
    """Parse one range as written in a space file.

    Raises:
        ValueError: if it is none of int, float, choice, constant or a plain value.
    """
    if isinstance(value, Range):
        return value
    if isinstance(value, bool | int | float | str | None):
        return Constant(constant=value)
    if isinstance(value, Mapping):
        kinds = [kind for kind in RANGES if kind in value]
        if len(kinds) == 1:
            return RANGES[kinds[0]].model_validate(dict(value))
    raise ValueError(f"is not a range: write a value, or exactly one of {', '.join(RANGES)}, as in {{int: [2, 16]}}")


def dump_range(value: Range) -> object:
    """The shortest text form that `parse_range` reads back to the same range."""
    if isinstance(value, Constant):
        return value.value
    return value.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _check_bounds(bounds: tuple[float, float], log: bool) -> None:
    low, high = bounds
    if low >= high:
        raise ValueError(f"is empty or reversed: {low} must be smaller than {high}")
    if log and low <= 0:
        raise ValueError(f"needs a positive lower bound on a log scale, not {low}")
