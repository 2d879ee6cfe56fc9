"""JSON as Everystep writes and reads it.

A JSONL line is RFC 8785 (JSON Canonicalization Scheme) exactly. A small JSON file that people read
(a manifest, a record, a config) has the same scalars and the same key order, indented by one space,
with a final newline. NaN, infinities and integers past 2^53 are refused: larger integers are strings.
"""

import json
import math
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import rfc8785

from pipeline.base.errors import EverystepError

Json = Any  # dict, list, str, int, float, bool or None, nested
SAFE_DIGITS = 15  # an integer with this many digits is below 2^53
MAX_DIGITS = 4000
MAX_DEPTH = 100  # Python's own limit depends on the call stack: one process would read what another refuses
ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def canonical(value: Json) -> bytes:
    """Encode `value` as RFC 8785 bytes, without a newline. Law: `canonical(parse(canonical(x))) == canonical(x)`."""
    try:
        return rfc8785.dumps(value)
    except (ValueError, RecursionError) as error:
        raise EverystepError(f"not representable in canonical JSON: {error}") from error


def pretty(value: Json) -> bytes:
    """Encode a small JSON file in indented form. Law: `parse(pretty(x)) == parse(canonical(x))`."""
    canonical(value)  # refuses, by one rule, what cannot be written
    return _indent(value, "\n").encode() + b"\n"


def parse(text: bytes | str, where: str | Path = "JSON") -> Json:
    """Parse UTF-8 strictly; what RFC 8259 or I-JSON (RFC 7493) forbids is an error that names `where`.

    Refused: a byte order mark, a duplicated key, NaN, a number past the doubles, half a surrogate pair,
    trailing bytes, more than `MAX_DEPTH` levels.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
        if ESCAPED_SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # fails on half a pair
        if text.count("[") + text.count("{") > MAX_DEPTH and _is_too_deep(value):
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
        return value
    except (ValueError, RecursionError) as error:
        raise EverystepError(f"{where}: not valid JSON: {error}") from error


def parse_foreign(text: str, where: str | Path) -> Json:
    """Parse a row of a corpus leniently: values that JSON forbids are left to the caller.

    NaN and numbers past the doubles are floats, integers have any size, half of a surrogate pair stays in its string.
    Refused: a duplicated key, trailing bytes, more than `MAX_DEPTH` levels.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=float, parse_float=float, parse_int=_any_integer
        )
        if text.count("[") + text.count("{") > MAX_DEPTH and _is_too_deep(value):
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
        return value
    except (ValueError, RecursionError) as error:
        raise EverystepError(f"{where}: not valid JSON: {error}") from error


def _is_too_deep(value: Json) -> bool:
    """Tell whether a list or object is nested inside more than `MAX_DEPTH` others."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item
            for node in level
            if isinstance(node, dict | list)
            for item in (node.values() if isinstance(node, dict) else node)
        ]
    return any(isinstance(node, dict | list) for node in level)


def _indent(value: Json, newline: str) -> str:
    inner = newline + " "
    if isinstance(value, dict) and value:
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        body = ",".join(f"{inner}{canonical(key).decode()}: {_indent(value[key], inner)}" for key in keys)
        return "{" + body + newline + "}"
    if isinstance(value, list | tuple) and value:
        if all(isinstance(item, int | float | str | bool) for item in value):
            return "[" + ", ".join(canonical(item).decode() for item in value) + "]"
        return "[" + ",".join(inner + _indent(item, inner) for item in value) + newline + "]"
    return canonical(value).decode()


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key!r} appears twice")
            seen.add(key)
    return result


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is past the largest double")
    return number


def _integer(digits: str) -> int | float:
    """Return an int, but a float where RFC 8785 prints a double beyond 2^53 without a point, as it does below 1e21."""
    if len(digits) > SAFE_DIGITS and abs(int(digits)) >= 2**53 and rfc8785.dumps(_finite(digits)) == digits.encode():
        return float(digits)
    return int(digits)


def _any_integer(digits: str) -> int | Decimal:
    """Return an int, or a `Decimal` if it has more digits than Python converts to an int."""
    return int(digits) if len(digits) <= MAX_DIGITS else Decimal(digits)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
