"""JSON documents of a model directory, read strictly: every key known, every key there, every value of its kind.

A parser turns a plain value into a field, or raises a ValueError that says what it got and what it expected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlaq_ros.datatypes import FloatArray
from vlaq_ros.errors import CorruptModelError, FormatVersionError, ModelNotFoundError, UnknownKeyError

Parser = Callable[[Any], Any]


def read(path: Path, version: int, parsers: Mapping[str, Parser]) -> dict[str, Any]:
    """Read a document whose keys are exactly those of `parsers`, and `format_version`.

    Raises:
        ModelNotFoundError: there is no such file.
        FormatVersionError: it was written in another format.
        UnknownKeyError: it has a key that this format does not know.
        CorruptModelError: it is no JSON object, a key is missing, or a value cannot be used.
    """
    if not path.is_file():
        raise ModelNotFoundError(path.parent, path.name)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CorruptModelError(path, str(error)) from None
    if not isinstance(values, dict):
        raise CorruptModelError(path, "it is not a JSON object")
    got = values.pop("format_version", None)
    if type(got) is not int or got != version:  # True and 1.0 equal 1
        raise FormatVersionError(path, got, version)
    for key in values:
        if key not in parsers:
            raise UnknownKeyError(key, parsers, str(path))
    parsed = {}
    for key, parse in parsers.items():
        if key not in values:
            raise CorruptModelError(path, f"it has no key {key!r}")
        try:
            parsed[key] = parse(values[key])
        except (TypeError, ValueError, OverflowError) as error:
            raise CorruptModelError(path, f"{key}: {error}") from None
    return parsed


def write(path: Path, version: int, values: Mapping[str, Any]) -> None:
    """Write plain values as a document that `read` takes."""
    text = json.dumps({"format_version": version, **values}, indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def text(value: Any) -> str:
    """Take a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"got {value!r}, expected text")
    return value


def names(value: Any) -> tuple[str, ...]:
    """Take a list of different texts."""
    if not isinstance(value, list) or not value or len(set(map(str, value))) != len(value):
        raise ValueError(f"got {value!r}, expected a list of different names")
    return tuple(text(item) for item in value)


def count(value: Any) -> int:
    """Take a whole number above 0."""
    if type(value) is not int or value < 1:  # a bool is an int, and no count
        raise ValueError(f"got {value!r}, expected a whole number above 0")
    return value


def number(value: Any) -> float:
    """Take a finite number."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"got {value!r}, expected a finite number")
    return float(value)


def scale(value: Any) -> float:
    """Take a number above 0."""
    if number(value) <= 0:
        raise ValueError(f"got {value!r}, expected a number above 0")
    return float(value)


def array(value: Any) -> FloatArray:
    """Take finite numbers in lists of equal length."""
    values = np.array(value)  # a ragged list is a ValueError here
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise ValueError("got a value that is not a finite number")
    return values.astype(np.float64)


def one_of(*choices: Any) -> Parser:
    """Make a parser that takes one of some values."""

    def parse(value: Any) -> Any:
        if value not in choices:
            raise ValueError(f"got {value!r}, expected {' or '.join(map(repr, choices))}")
        return choices[choices.index(value)]  # 8.0 is taken as 8

    return parse


def optional(parse: Parser) -> Parser:
    """Make a parser that takes null too."""
    return lambda value: None if value is None else parse(value)


def record(parsers: Mapping[str, Parser]) -> Callable[[Any], dict[str, Any]]:
    """Make a parser of an object with exactly these keys."""

    def parse(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or value.keys() != parsers.keys():
            raise ValueError(f"got {value!r}, expected exactly the keys {', '.join(parsers)}")
        return {key: item(value[key]) for key, item in parsers.items()}

    return parse


def table(parse: Parser) -> Callable[[Any], dict[str, Any]]:
    """Make a parser of an object with any keys and values of one kind."""

    def parse_all(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"got {value!r}, expected an object")
        return {key: parse(item) for key, item in value.items()}

    return parse_all


def rows(parse: Parser) -> Callable[[Any], tuple[Any, ...]]:
    """Make a parser of a list of values of one kind."""

    def parse_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"got {value!r}, expected a list")
        return tuple(parse(item) for item in value)

    return parse_all
