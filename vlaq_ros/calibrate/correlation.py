"""How far two scores rank the same things alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, spearmanr


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's rank correlation with its 95 % interval."""

    spearman: float
    n: int
    low: float
    high: float


def rank_correlation(first: ArrayLike, second: ArrayLike) -> Correlation:
    """Correlate the ranks of two scores [n] of the same things.

    The interval is Fisher's, with the standard error of Bonett and Wright (Psychometrika 65, 2000) for ranks,
    sqrt((1 + r^2 / 2) / (n - 3)).

    Raises:
        ValueError: the scores differ in length, are fewer than four, or one of them is the same throughout.
    """
    left, right = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    n = len(left)
    if left.shape != right.shape or n < 4 or np.ptp(left) == 0 or np.ptp(right) == 0:
        raise ValueError(f"scores have shapes {left.shape} and {right.shape}, expected [n], n > 3, and some variety")
    r = float(spearmanr(left, right).statistic)
    half = norm.ppf(0.975) * math.sqrt((1 + r**2 / 2) / (n - 3))
    with np.errstate(divide="ignore"):  # where ranks agree throughout, the interval is that point
        low, high = np.tanh(np.arctanh(r) + np.array([-half, half]))
    return Correlation(r, n, float(low), float(high))
