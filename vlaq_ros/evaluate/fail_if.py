"""Conditions on the numbers of a report, for a build that is to fail: `ee_error_p95_m > 0.02`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vlaq_ros.errors import ConditionError, UnknownScoreError

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

        Raises:
            UnknownScoreError: the report has no such number.
        """
        if self.name not in (known := scalars(report)):
            raise UnknownScoreError(self.name, known)
        value = known[self.name]
        if value is None:
            return f"{self.name} is not known in {path}, and the condition {self} fails what it cannot judge"
        return f"{self.name} is {value:g} in {path}: {self}" if _OPERATORS[self.operator](value, self.limit) else ""


def parse(text: str) -> Condition:
    """Read a condition.

    Raises:
        ConditionError: it is none.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ConditionError(text)
    return Condition(found[1], found[2], float(found[3]))


def scalars(report: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers at the top of a report, known or not."""
    return {
        name: value
        for name, value in report.items()
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    }
