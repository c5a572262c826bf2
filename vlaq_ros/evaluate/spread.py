"""Numbers as JSON holds them: rounded, and null where they are not known."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from vlaq_ros.datatypes import FloatArray

_DIGITS = 6  # significant ones of a number that stands alone
_COLUMN_DIGITS = 4  # of one among many


def number(value: float | None, digits: int = _DIGITS) -> float | None:
    """Round to significant digits; None where it is unknown or not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def column(values: Iterable[float]) -> list[float | None]:
    """Round many values."""
    return [number(value, _COLUMN_DIGITS) for value in values]


def percentile(values: FloatArray, percent: float) -> float | None:
    """Of what is known in `values` [N]; None where nothing is."""
    known = values[np.isfinite(values)]
    return number(float(np.percentile(known, percent))) if len(known) else None


def spread(values: FloatArray) -> dict[str, float | None]:
    """Median, 95th percentile and largest of what is known in `values` [N]."""
    return {"p50": percentile(values, 50), "p95": percentile(values, 95), "max": percentile(values, 100)}
