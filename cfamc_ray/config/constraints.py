"""Constraints between the keys of a trial, in a small language of comparisons."""

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
