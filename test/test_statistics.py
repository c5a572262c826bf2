"""Intervals and the paired test, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.evaluate.statistics import mcnemar, wilson95


def wilson_by_hand(successes: int, n: int) -> tuple[float, float]:
    z = 1.959963984540054
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return centre - half, centre + half


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_is_the_closed_form_and_holds_the_rate(counts: tuple[int, int]) -> None:
    successes, n = counts
    low, high = wilson95(successes, n)
    assert (low, high) == pytest.approx(wilson_by_hand(successes, n), abs=1e-9)
    assert low <= successes / n + 1e-12
    assert high >= successes / n - 1e-12


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="must "):
        wilson95(successes, n)


def exact_p(only_first: int, only_second: int) -> float:
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1)) / 2**n
    return min(1.0, 2 * tail)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_mcnemar_is_the_exact_binomial_tail(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(column) for column in zip(*pairs, strict=True))
    result = mcnemar(first, second)
    assert result.only_first == sum(a and not b for a, b in pairs)
    assert result.only_second == sum(b and not a for a, b in pairs)
    assert result.p_value == pytest.approx(exact_p(result.only_first, result.only_second))


def test_mcnemar_refuses_unpaired_vectors() -> None:
    with pytest.raises(ValueError, match="must have one length"):
        mcnemar(np.array([True]), np.array([True, False]))
