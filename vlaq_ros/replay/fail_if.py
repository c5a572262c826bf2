"""Conditions on the numbers of a report, for a build that is to fail: `ee_error_p95_m > 0.02`."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from vlaq_ros.config import share
from vlaq_ros.errors import ConditionError, UnknownScoreError

_SCHEMA = "config/replay_report.schema.json"
_NUMBERS = ("integer", ["number", "null"])
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(
    rf"\s*([a-z]\w*)\s*({'|'.join(_OPERATORS)})\s*([-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?)\s*", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Condition:
    """A number of a report that fails it."""

    name: str
    operator: str
    limit: float

    def __str__(self) -> str:
        return f"{self.name} {self.operator} {self.limit:g}"

    def failure(self, report: Mapping[str, Any], path: str) -> str:
        """Say what fails; empty where nothing does.

        A number that is not known (null) fails: nothing shows that it is within its limit.

        Args:
            report: as `Scores.document` gives it.
            path: of the report, for the sentence.
        """
        value = report[self.name]
        if value is None:
            return f"{path}: {self.name} is not known, so --fail-if '{self}' cannot be answered and counts as true"
        return f"{path}: {self.name} is {value:g}: {self}" if _OPERATORS[self.operator](value, self.limit) else ""


def parse(text: str) -> Condition:
    """Read a condition.

    Raises:
        ConditionError: it is none.
        UnknownScoreError: it names no number of a report.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ConditionError(text)
    if found[1] not in (known := numbers()):
        raise UnknownScoreError(found[1], known)
    return Condition(found[1], found[2], float(found[3]))


@cache
def numbers() -> dict[str, Mapping[str, Any]]:
    """What the schema of a report says of the numbers at its top (title, description), by their names."""
    schema = json.loads((share() / _SCHEMA).read_text(encoding="utf-8"))
    return {name: said for name, said in schema["properties"].items() if said.get("type") in _NUMBERS}
