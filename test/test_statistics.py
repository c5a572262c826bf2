"""Intervals and the paired test, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.evaluate.statistics import (
    PairedComparison,
    holm,
    lower_bound95,
    mcnemar,
    noninferiority_p,
    paired_score,
    pairs_needed,
    wilson95,
)


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


def score_by_hand(b: int, c: int, n: int, difference: float) -> float:
    """Maximise the likelihood of the trinomial under the difference on a fine grid, then take Tango's statistic."""
    rates = np.linspace(max(0, -difference), (1 - difference) / 2, 200_001)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = [
            count * np.log(np.maximum(p, 0)) if count else np.zeros_like(p)
            for count, p in ((b, rates + difference), (c, rates), (n - b - c, 1 - 2 * rates - difference))
        ]
    rate = rates[np.nanargmax(sum(logs))]
    return float((b - c - n * difference) / np.sqrt(n * (2 * rate + difference * (1 - difference))))


@pytest.mark.parametrize("counts", [(12, 5, 200), (0, 3, 60), (40, 60, 300), (7, 7, 100)])
@pytest.mark.parametrize("difference", [-0.02, 0.05, 0.0])
def test_the_score_is_that_of_the_constrained_likelihood(counts: tuple[int, int, int], difference: float) -> None:
    assert paired_score(*counts, difference) == pytest.approx(score_by_hand(*counts, difference), abs=2e-3)


def test_the_score_without_a_difference_is_mcnemars() -> None:
    assert paired_score(12, 5, 200, 0.0) == pytest.approx(7 / math.sqrt(17))


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_the_lower_bound_is_where_the_score_says_so(counts: tuple[int, int, int]) -> None:
    n, first, second = counts
    second = min(second, n - first)
    comparison = PairedComparison(first, second, 1.0)
    bound = lower_bound95(comparison, n)
    assert bound <= (first - second) / n + 1e-9
    if bound > -0.999:
        assert noninferiority_p(comparison, n, -bound) == pytest.approx(0.05, abs=1e-6)


def test_the_bound_holds_the_truth_as_often_as_it_says() -> None:
    rng, n = np.random.default_rng(0), 200
    both = rng.multinomial(n, [0.08, 0.06, 0.86], size=1000)
    below = [lower_bound95(PairedComparison(int(b), int(c), 1.0), n) <= 0.02 for b, c, _ in both]
    assert 0.93 < np.mean(below) < 0.97


def test_pairs_needed_are_enough() -> None:
    assert pairs_needed(0.1, 0.02) == 1546  # (1.645 + 0.842)^2 0.1 / 0.02^2
    rng, n = np.random.default_rng(0), pairs_needed(0.1, 0.05)
    drawn = rng.multinomial(n, [0.05, 0.05, 0.9], size=1000)
    shown = [noninferiority_p(PairedComparison(int(b), int(c), 1.0), n, 0.05) < 0.05 for b, c, _ in drawn]
    assert 0.76 < np.mean(shown) < 0.87


def test_impossible_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="expected counts of at most n > 0 pairs"):
        paired_score(3, 2, 4, 0.0)
    with pytest.raises(ValueError, match="expected counts of at most n > 0 pairs"):
        paired_score(0, 0, 0, 0.0)


def test_holm_is_his_procedure() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_lies_between_no_correction_and_bonferronis(values: list[float]) -> None:
    adjusted = holm(values)
    for value, now in zip(values, adjusted, strict=True):
        assert value <= now <= min(1.0, len(values) * value)
    assert sorted(adjusted) == [adjusted[k] for k in sorted(range(len(values)), key=values.__getitem__)]
