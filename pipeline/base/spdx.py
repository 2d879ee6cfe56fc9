"""SPDX licence expressions (SPDX 2.3, annex D): operands joined by OR, AND and WITH, with parentheses.

`packaging.licenses` checks the grammar and the list of identifiers; a licence that SPDX does not list is
`LicenseRef-NAME`. What is declared must be written as SPDX writes it, so that one licence has one name everywhere.
"""

import ast
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated

from packaging.licenses import canonicalize_license_expression
from pydantic import AfterValidator

TOKEN = re.compile(r"[()]|[^() ]+(?: WITH [^() ]+)?")
PYTHON = {"OR": "or", "AND": "and", "(": "(", ")": ")"}
MAX_CHARACTERS = 10_000


def canonical(text: str) -> str:
    """The same expression as SPDX writes it. Raises `ValueError` for what is no expression."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"longer than {MAX_CHARACTERS:,} characters")
    return canonicalize_license_expression(text)


def is_satisfied(expression: str, allowed: Iterable[str]) -> bool:
    """Whether what is allowed is enough: of OR one side, of AND both; a pair joined by WITH must be listed itself."""
    licenses = {token for each in allowed for token in _tokens(each)}
    words = [PYTHON.get(token, str(token in licenses)) for token in _tokens(expression)]
    return _holds(ast.parse(" ".join(words), mode="eval").body)


def _checked(value: str) -> str:
    try:
        if value != canonical(value):
            raise ValueError(f"SPDX writes it {canonical(value)!r}")
    except ValueError as error:
        examples = (
            "`Apache-2.0`, `MIT OR CC-BY-4.0`, for the public domain `CC-PDM-1.0`, and `LicenseRef-NAME` for others"
        )
        raise ValueError(f"{value!r} is not an SPDX expression ({error}); write one such as {examples}") from error
    return value


License = Annotated[str, AfterValidator(_checked)]
"""A field of a declaration that holds a licence expression."""


@lru_cache(maxsize=1024)
def _tokens(expression: str) -> list[str]:
    return TOKEN.findall(canonical(expression))


def _holds(node: ast.expr) -> bool:
    """The value of True and False, joined by `and` and `or`."""
    if isinstance(node, ast.BoolOp):
        enough = any if isinstance(node.op, ast.Or) else all
        return enough(map(_holds, node.values))
    return isinstance(node, ast.Constant) and bool(node.value)
