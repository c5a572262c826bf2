"""Intervals and tests for success counts: how sure a closed-loop comparison is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

BoolArray = NDArray[np.bool_]


def wilson95(successes: int, n: int) -> tuple[float, float]:
    """Wilson score interval of a success rate at 95 % (E. B. Wilson, JASA 1927).

    Raises:
        ValueError: unless 0 <= successes <= n and n > 0.
    """
    low, high = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Two policies on the same seeds: only the seeds on which they differ tell anything."""

    only_first: int  # seeds that the first solved and the second did not
    only_second: int
    p_value: float  # exact, two-sided; 1.0 where they never differ


def mcnemar(first: BoolArray, second: BoolArray) -> PairedComparison:
    """Exact McNemar test of two success vectors [N] over the same seeds (McNemar, Psychometrika 1947).

    Under equal success each discordant seed falls to either side with probability 1/2.

    Raises:
        ValueError: the vectors differ in length.
    """
    if first.shape != second.shape:
        raise ValueError(f"paired success vectors must have one length, got {first.shape} and {second.shape}")
    only_first = int(np.count_nonzero(first & ~second))
    only_second = int(np.count_nonzero(second & ~first))
    discordant = only_first + only_second
    p_value = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return PairedComparison(only_first, only_second, p_value)
