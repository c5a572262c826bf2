"""Rank correlation: by its definition, and an interval that covers as often as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.calibrate.correlation import rank_correlation


@given(st.permutations(range(12)))
def test_it_is_the_correlation_of_the_ranks(ranks: list[int]) -> None:
    n = len(ranks)
    found = rank_correlation(np.arange(n), np.exp(ranks))
    closed = 1 - 6 * sum((a - b) ** 2 for a, b in enumerate(ranks)) / (n * (n**2 - 1))
    assert found.spearman == pytest.approx(closed)
    assert found.n == n
    assert -1 <= found.low <= found.spearman <= found.high <= 1


def test_scores_that_agree_throughout_have_a_point_for_an_interval() -> None:
    found = rank_correlation([1, 2, 3, 4, 5], [1, 8, 27, 64, 125])
    assert found.spearman == pytest.approx(1)
    assert (found.low, found.high) == pytest.approx((1, 1))


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_the_interval_covers_the_truth_as_often_as_it_says(rho: float) -> None:
    random, draws = np.random.default_rng(0), 800
    truth = 6 / math.pi * math.asin(rho / 2)  # Spearman's, of a normal pair
    covered = 0
    for _ in range(draws):
        pair = random.multivariate_normal([0, 0], [[1, rho], [rho, 1]], 60)
        found = rank_correlation(pair[:, 0], pair[:, 1])
        covered += found.low <= truth <= found.high
    assert 0.92 < covered / draws < 0.98


@pytest.mark.parametrize(
    ("first", "second"), [([1, 2, 3], [1, 2, 3]), ([1, 2, 3, 4], [1, 2, 3, 4, 5]), ([2, 2, 2, 2], [1, 2, 3, 4])]
)
def test_scores_without_ranks_to_compare_are_refused(first: list[int], second: list[int]) -> None:
    with pytest.raises(ValueError, match=r"expected \[n\], n > 3, and some variety"):
        rank_correlation(first, second)
