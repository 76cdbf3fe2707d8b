"""Types that all configs use: strict models, and numbers that may be written as fractions."""

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

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


Real = Annotated[float, BeforeValidator(parse_fraction), Field(allow_inf_nan=False)]
Pixels = Annotated[Real, Field(ge=0, le=1, json_schema_extra={"unit": "pixels"})]
"""A difference of pixel values, which range from 0 to 1: the usual 8 of 255 grey levels is written 8/255."""


class Strict(BaseModel):
    """Frozen model that refuses unknown keys and never converts one type into another silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)
