"""Constraints between the keys of a trial, in a small subset of Python's expressions."""

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
COMPARISONS: dict[type[ast.AST], Callable[[Any, Any], bool]] = {
    ast.LtE: operator.le,
    ast.Lt: operator.lt,
    ast.GtE: operator.ge,
    ast.Gt: operator.gt,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
ALLOWED: set[type[ast.AST]] = {
    *(ast.Constant, ast.Name, ast.Attribute, ast.Load),
    *(ast.UnaryOp, ast.USub, ast.Not, ast.BinOp, *ARITHMETIC),
    *(ast.BoolOp, ast.And, ast.Or, ast.Compare, *COMPARISONS),
}
LARGEST_POWER = 64
LARGEST_BITS = 2**16
"""Largest size of an integer; together with the limit on exponents it bounds the memory and time of a constraint."""


@dataclass(frozen=True)
class Constraint:
    """A comparison between keys of a trial that every sampled point must meet.

    An example is ``crops.views * pretraining.replays * pretraining.epochs <= 960``. Allowed are keys, numbers, quoted
    text, ``+ - * / **`` between numbers, parentheses, comparisons, ``and``, ``or`` and ``not``. Nothing else is
    evaluated. A key that the trial's components do not have is None, so test for the component first, as in
    ``loss.name != 'nt_xent' or loss.temperature < 0.5``.
    """

    text: str

    def __post_init__(self) -> None:
        """Refuse text that does not parse or is outside the subset, before any trial exists."""
        for node in ast.walk(self._expression):
            known = type(node) in ALLOWED
            if not known or (isinstance(node, ast.Constant) and not isinstance(node.value, bool | int | float | str)):
                raise ValueError(
                    f"uses {ast.unparse(node) if isinstance(node, ast.expr) else self.text!r}: only keys, numbers, "
                    "+ - * / **, comparisons, and, or, not are allowed"
                )

    @cached_property
    def _expression(self) -> ast.expr:
        try:
            return ast.parse(self.text, mode="eval").body
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(f"cannot be read as a constraint: {getattr(error, 'msg', 'too deeply nested')}") from None

    @property
    def keys(self) -> list[str]:
        """The dotted keys that the constraint names."""
        nodes = list(ast.walk(self._expression))
        inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
        return [
            ast.unparse(node) for node in nodes if isinstance(node, ast.Name | ast.Attribute) and id(node) not in inner
        ]

    def holds(self, value_of: Callable[[str], Any]) -> bool:
        """Whether the constraint is met.

        Args:
            value_of: function that returns the value of a dotted key; may raise ValueError for an unknown key.

        Raises:
            ValueError: if a part cannot be computed, or the result is neither true nor false.
        """
        try:
            return _truth(self._expression, value_of)
        except RecursionError:
            raise ValueError("cannot be computed: too deeply nested") from None


def _truth(node: ast.expr, value_of: Callable[[str], Any]) -> bool:
    result = _evaluate(node, value_of)
    if not isinstance(result, bool):
        raise ValueError(f"is {result!r}, neither true nor false: compare two things, as in a * b <= 960")
    return result


def _evaluate(node: ast.expr, value_of: Callable[[str], Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _truth(operand, value_of)
        case ast.UnaryOp(operand=operand):
            return _calculate(operator.sub, 0, _evaluate(operand, value_of))
        case ast.BinOp(op=op, left=left, right=right):
            return _calculate(ARITHMETIC[type(op)], _evaluate(left, value_of), _evaluate(right, value_of))
        case ast.BoolOp(op=op, values=values):
            results = (_truth(value, value_of) for value in values)
            return all(results) if isinstance(op, ast.And) else any(results)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            values = [_evaluate(operand, value_of) for operand in (left, *comparators)]
            try:
                return all(COMPARISONS[type(op)](a, b) for op, a, b in zip(ops, values, values[1:], strict=False))
            except TypeError as error:
                raise ValueError(f"cannot be compared: {error}") from None
    return value_of(ast.unparse(node))


def _calculate(function: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    try:
        if not all(isinstance(value, int | float | complex) for value in (a, b)):
            raise TypeError(f"{b if isinstance(a, int | float) else a!r} is not a number")
        if function is operator.pow and abs(b) > LARGEST_POWER:
            raise OverflowError(f"the exponent {b} exceeds {LARGEST_POWER}")
        result = function(a, b)
        if isinstance(result, int) and result.bit_length() > LARGEST_BITS:
            raise OverflowError(f"a number exceeds {LARGEST_BITS} bits")
    except (TypeError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"cannot be computed: {error}") from None
    return result
