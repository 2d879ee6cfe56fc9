"""SPDX licence expressions (SPDX 2.3, annex D): operands joined by OR, AND and WITH, with parentheses.

WITH binds closest, then AND, then OR. Which identifiers exist is not checked. Identifiers are compared without
regard to case.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

TOKEN = re.compile(r"[A-Za-z0-9.+:-]+|\S")
OPERATORS = ("OR", "AND", "WITH")
MAX_TOKENS = 500


class Expression(NamedTuple):
    """`operator` joins `parts`; an operand has none and is its own text (`A`, or `A WITH B`) in small letters."""

    operator: str
    parts: tuple["Expression", ...]
    operand: str = ""


@lru_cache(maxsize=1024)
def parse_expression(text: str) -> Expression:
    """Raises `ValueError` for what is no expression."""
    tokens = TOKEN.findall(text)
    if len(tokens) > MAX_TOKENS or text.count("(") > MAX_TOKENS // 10:
        raise ValueError("longer than a licence expression may be")
    expression, rest = _joined("OR", tokens)
    if rest:
        raise ValueError(f"does not end before {rest[0]!r}")
    return expression


def is_satisfied(expression: Expression, allowed: Iterable[Expression]) -> bool:
    """Whether what is allowed is enough: of OR one side, of AND both; a pair joined by WITH must be listed itself."""
    operands = {operand for each in allowed for operand in _operands(each)}
    return _holds(expression, operands)


def _checked(value: str) -> str:
    try:
        parse_expression(value)
        if value != " ".join(value.split()):
            raise ValueError("it holds a line end, or more blanks than one between two words")
    except ValueError as error:
        examples = "`Apache-2.0`, `MIT OR CC-BY-4.0`, and for the public domain `CC-PDM-1.0`"
        raise ValueError(f"{value!r} is not an SPDX expression ({error}); write one such as {examples}") from error
    return value


License = Annotated[str, AfterValidator(_checked)]
"""A field of a declaration that holds a licence expression."""


def _holds(expression: Expression, operands: set[str]) -> bool:
    if not expression.parts:
        return expression.operand in operands
    enough: Callable[[Iterable[bool]], bool] = any if expression.operator == "OR" else all
    return enough(_holds(part, operands) for part in expression.parts)


def _operands(expression: Expression) -> Iterable[str]:
    if not expression.parts:
        return [expression.operand]
    return [operand for part in expression.parts for operand in _operands(part)]


def _joined(operator: str, tokens: list[str]) -> tuple[Expression, list[str]]:
    parts: list[Expression] = []
    while True:
        part, tokens = _joined("AND", tokens) if operator == "OR" else _operand(tokens)
        parts.append(part)
        if tokens[:1] != [operator]:
            return (parts[0] if len(parts) == 1 else Expression(operator, tuple(parts))), tokens
        tokens = tokens[1:]


def _operand(tokens: list[str]) -> tuple[Expression, list[str]]:
    if tokens[:1] == ["("]:
        inner, rest = _joined("OR", tokens[1:])
        if rest[:1] != [")"]:
            raise ValueError("a parenthesis is not closed")
        return inner, rest[1:]
    name, rest = _identifier(tokens)
    if rest[:1] == ["WITH"]:
        exception, rest = _identifier(rest[1:])
        name = f"{name} with {exception}"
    return Expression("", (), name), rest


def _identifier(tokens: list[str]) -> tuple[str, list[str]]:
    if not tokens or tokens[0] in OPERATORS or not TOKEN.fullmatch(tokens[0]) or not tokens[0][0].isalnum():
        raise ValueError(f"a licence is expected {f'before {tokens[0]!r}' if tokens else 'at its end'}")
    return tokens[0].lower(), tokens[1:]
