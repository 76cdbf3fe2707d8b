"""Ranges of a search space, the constraints between them, and numbers written as fractions."""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Scalar = bool | int | float | str | None
FRACTION = re.compile(r"\s*[\d.]+\s*/\s*[\d.]+\s*")


def parse_fraction(value: object) -> object:
    """Turn a string such as ``8/255`` into a float; anything else is returned as it is.

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
    """A fraction such as ``8/255``, which to YAML is text, as a number; anything else as it is."""
    return parse_fraction(value) if isinstance(value, str) and FRACTION.fullmatch(value) else value


Real = Annotated[float, BeforeValidator(parse_fraction), Field(allow_inf_nan=False)]
Pixels = Annotated[Real, Field(ge=0, le=1)]
"""An amount of brightness: pixels run from 0 to 1, so the usual 8 of 255 grey levels is written 8/255."""


class Strict(BaseModel):
    """Frozen, refuses unknown keys, and never turns one type into another silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


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
        """The values that have to be valid for all in between to be valid."""
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
        """Whether it is one of the values."""
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
        """The values that have to be valid for all in between to be valid."""
        return self.bounds

    def contains(self, value: object) -> bool:
        """Whether it lies within the bounds."""
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
        """Whether it is one of the values."""
        return value in self.values


class Constant(Strict):
    """One value, shown in every table beside the searched ones: ``{constant: 3}``, or just ``3``."""

    value: Annotated[Scalar, BeforeValidator(plain)] = Field(alias="constant")

    def edges(self) -> tuple[Scalar, ...]:
        """The value."""
        return (self.value,)

    def contains(self, value: object) -> bool:
        """Whether it is the value."""
        return value == self.value


Range = IntRange | FloatRange | Choice | Constant
RANGES: dict[str, type[IntRange | FloatRange | Choice | Constant]] = {
    "int": IntRange,
    "float": FloatRange,
    "choice": Choice,
    "constant": Constant,
}


def parse_range(value: object) -> Range:
    """Read one range as it stands in a space file.

    Raises:
        ValueError: where it is none of int, float, choice, constant or a plain value.
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


_ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
LARGEST_POWER = 64
_COMPARISONS: dict[type[ast.AST], Callable[[Any, Any], bool]] = {
    ast.LtE: operator.le,
    ast.Lt: operator.lt,
    ast.GtE: operator.ge,
    ast.Gt: operator.gt,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


@dataclass(frozen=True)
class Constraint:
    """A comparison between keys of a trial that every sampled point has to meet.

    Written as in ``crops.views * pretraining.replays * pretraining.epochs <= 960``: keys, numbers, texts in quotes,
    ``+ - * / **``, brackets, comparisons, ``and``, ``or``, ``not``. Nothing else is evaluated.
    """

    text: str

    def __post_init__(self) -> None:
        """Refuse what does not parse, before any trial exists."""
        try:
            ast.parse(self.text, mode="eval")
        except SyntaxError as error:
            raise ValueError(f"cannot be read as a constraint: {error.msg}") from None

    def keys(self) -> list[str]:
        """The dotted keys that the constraint names."""
        tree = ast.parse(self.text, mode="eval")
        inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        return [
            ast.unparse(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.Name | ast.Attribute) and id(node) not in inner
        ]

    def holds(self, value_of: Callable[[str], Any]) -> bool:
        """Whether the constraint is met.

        Args:
            value_of: the value of a dotted key; may raise ValueError for one that does not exist.

        Raises:
            ValueError: for an expression outside the small language, or one that is not a comparison.
        """
        return _truth(ast.parse(self.text, mode="eval").body, value_of)


def _truth(node: ast.AST, value_of: Callable[[str], Any]) -> bool:
    result = _evaluate(node, value_of)
    if not isinstance(result, bool):
        raise ValueError(f"is {result!r}, neither true nor false: compare two things, as in a * b <= 960")
    return result


def _evaluate(node: ast.AST, value_of: Callable[[str], Any]) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.Name() | ast.Attribute():
            return value_of(ast.unparse(node))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _evaluate(ast.BinOp(ast.Constant(0), ast.Sub(), operand), value_of)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _truth(operand, value_of)
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _ARITHMETIC:
            a, b = _evaluate(left, value_of), _evaluate(right, value_of)
            try:
                if isinstance(op, ast.Pow) and abs(b) > LARGEST_POWER:
                    raise OverflowError(f"the exponent {b} exceeds {LARGEST_POWER}")
                return _ARITHMETIC[type(op)](a, b)
            except (TypeError, ZeroDivisionError, OverflowError) as error:
                raise ValueError(f"cannot be computed: {error}") from None
        case ast.BoolOp(op=op, values=values):
            results = (_truth(value, value_of) for value in values)
            return all(results) if isinstance(op, ast.And) else any(results)
        case ast.Compare(left=left, ops=ops, comparators=comparators) if all(type(op) in _COMPARISONS for op in ops):
            operands = [_evaluate(operand, value_of) for operand in (left, *comparators)]
            try:
                return all(_COMPARISONS[type(op)](a, b) for op, a, b in zip(ops, operands, operands[1:], strict=False))
            except TypeError as error:
                raise ValueError(f"cannot be compared: {error}") from None
    raise ValueError(f"uses {ast.unparse(node)!r}: only keys, numbers, + - * / **, comparisons, and, or, not are read")
