"""Types that all configs use: strict models, and numbers that may be written as fractions."""

import re
from fractions import Fraction
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

Scalar = bool | int | float | str | None
FRACTION = re.compile(r"\s*[\d.]+\s*/\s*[\d.]+\s*")


def parse_fraction(value: object) -> object:
    """Turn a string such as ``8/255`` into a float; return anything else unchanged.

    Raises:
        ValueError: for a string that is not a number or a fraction of two numbers.
    """
    if not isinstance(value, str):
        return value
    numerator, slash, denominator = value.partition("/")
    try:
        if "/" in denominator:
            raise ValueError
        return float(Fraction(numerator.strip()) / Fraction(denominator.strip() if slash else 1))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError("must be a number such as 1.5 or a fraction such as 8/255") from None


def plain(value: object) -> Any:
    """Turn a fraction such as ``8/255``, which YAML reads as text, into a number; return anything else unchanged."""
    return parse_fraction(value) if isinstance(value, str) and FRACTION.fullmatch(value) else value


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


Real = Annotated[float, BeforeValidator(parse_fraction), Field(allow_inf_nan=False)]
Pixels = Annotated[Real, Field(ge=0, le=1, json_schema_extra={"unit": "pixels"})]
"""A difference of pixel values, which range from 0 to 1: the usual 8 of 255 grey levels is written 8/255."""
Norm = Literal["linf", "l2"]
"""Norm of a ball: l∞ limits the change of each value of each pixel, l2 the length of the change of an image."""
NormKey = Annotated[Norm, Field(exclude_if=lambda norm: norm == "linf")]
"""A key that holds a norm. It is not written where it is l∞: what was recorded before there was a choice stays equal to
what is recorded now."""


def _check_radius(epsilon: float, info: ValidationInfo) -> float:
    if info.data.get("norm") == "linf" and epsilon > 1:
        raise ValueError("must be less than or equal to 1 with norm linf, as in 8/255")
    return epsilon


Radius = Annotated[Real, Field(ge=0, json_schema_extra={"unit": "pixels"}), AfterValidator(_check_radius)]
"""Radius of a ball whose norm is the key `norm` before it: at most 1 in l∞, where it is written 8/255; any in l2."""


class Strict(BaseModel):
    """Frozen model that refuses unknown keys and never converts one type into another silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)
