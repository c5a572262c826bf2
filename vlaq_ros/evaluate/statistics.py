"""Intervals and tests for success counts: how sure a closed-loop comparison is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

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


def paired_score(only_first: int, only_second: int, n: int, difference: float) -> float:
    """Score statistic of a difference of paired success rates (Tango, Statistics in Medicine 1998, eq. 3.3).

    Standard normal in large samples where `difference`, the rate of the first less that of the second, is true. Unlike
    Wald's it stands where pairs rarely differ.

    Args:
        only_first: pairs of which only the first succeeded.
        only_second: of which only the second did.
        n: pairs.
        difference: above -1 and below 1.

    Raises:
        ValueError: the counts are impossible.
    """
    if not 0 <= only_first <= only_first + only_second <= n or not n:
        raise ValueError(f"got {only_first} and {only_second} of {n} pairs, expected counts of at most n > 0 pairs")
    excess = only_first - only_second - n * difference
    # The rate of pairs that only the second solved, at its maximum likelihood under `difference`.
    a, b = 2 * n, (2 * n - only_first + only_second) * difference - only_first - only_second
    c = -only_second * difference * (1 - difference)
    rate = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * rate + difference * (1 - difference))
    return excess / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, excess) if excess else 0.0


def lower_bound95(comparison: PairedComparison, n: int) -> float:
    """One-sided 95 % lower bound of the first's success rate less the second's, over n pairs: Tango's score limit."""
    first, second = comparison.only_first, comparison.only_second
    z, edge = norm.ppf(0.95), 1 - 1e-9

    def excess(difference: float) -> float:
        return paired_score(first, second, n, difference) - float(z)

    if excess(-edge) <= 0:  # every pair fell to the second
        return -1.0
    found: float = brentq(excess, -edge, edge)
    return found


@dataclass(frozen=True, slots=True)
class Difference:
    """The success rate of one policy less that of another, on the same seeds."""

    n: int
    comparison: PairedComparison

    @property
    def value(self) -> float:
        """As it was found."""
        return (self.comparison.only_first - self.comparison.only_second) / self.n

    @property
    def bound(self) -> float:
        """One-sided 95 % lower bound."""
        return lower_bound95(self.comparison, self.n)

    @property
    def upper_bound(self) -> float:
        """One-sided 95 % upper bound."""
        first, second = self.comparison.only_first, self.comparison.only_second
        return -lower_bound95(replace(self.comparison, only_first=second, only_second=first), self.n)

    @property
    def discordance(self) -> float:
        """Share of episodes on which they differ."""
        return (self.comparison.only_first + self.comparison.only_second) / self.n


def paired(first: BoolArray, second: BoolArray) -> Difference:
    """Compare two success vectors [N] over the same seeds. Raises ValueError as `mcnemar`."""
    return Difference(len(first), mcnemar(first, second))


def noninferiority_p(comparison: PairedComparison, n: int, margin: float) -> float:
    """One-sided p of "the first is worse than the second by `margin` or more", over n pairs, by Tango's score."""
    return float(norm.sf(paired_score(comparison.only_first, comparison.only_second, n, -margin)))


def pairs_needed(discordance: float, margin: float) -> int:
    """Pairs that show a difference to be above -`margin` at one-sided 5 % with probability 0.8, if it is none.

    By the normal approximation; for the score test itself it is a few percent more (Nam, Biometrics 1997).

    Args:
        discordance: share of pairs on which the two differ, from a pilot.
        margin: above 0.
    """
    z = float(norm.ppf(0.95) + norm.ppf(0.8))
    return math.ceil(z**2 * discordance / margin**2)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p of a family of claims, so that the chance of any false one is bounded (Holm, 1979)."""
    count = len(p_values)
    adjusted, least = [0.0] * count, 0.0
    for rank, index in enumerate(sorted(range(count), key=p_values.__getitem__)):
        least = max(least, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted
