from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vlaq_ros.bench.timing import Estimate, WallClock, estimate, interleave, pinned, speed_up


class Counting:
    """Takes as many seconds as its turn says, and remembers who was asked when."""

    def __init__(self, name: str, asked: list[tuple[str, int]]) -> None:
        self.name, self.asked = name, asked

    def sample_s(self, turn: int) -> float:
        self.asked.append((self.name, turn))
        return float(turn)


def test_every_round_times_everyone_and_begins_with_another() -> None:
    asked: list[tuple[str, int]] = []
    samples = interleave({name: Counting(name, asked) for name in "abc"}, budget_s=60, rounds=(1, 4))
    assert "".join(name for name, _ in asked) == "abcbcacababc"
    assert [turn for _, turn in asked] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert all(values.tolist() == [0, 1, 2, 3] for values in samples.values())


def test_without_a_budget_the_least_number_of_rounds_is_run() -> None:
    samples = interleave({"a": Counting("a", [])}, budget_s=-1, rounds=(3, 100))
    assert len(samples["a"]) == 3


def test_a_clock_takes_its_copies_in_turn() -> None:
    called: list[int] = []
    clock = WallClock([lambda number=number: called.append(number) for number in range(3)], torch.device("cpu"))
    assert all(clock.sample_s(turn) > 0 for turn in range(5))
    assert called == [0, 1, 2, 0, 1]


@settings(max_examples=20, deadline=None)
@given(arrays(float, st.integers(2, 30), elements=st.floats(0.1, 10)))
def test_an_interval_holds_the_median_and_stays_within_the_values(values: np.ndarray) -> None:
    result = estimate(values)
    assert result.median == np.median(values)
    rounding = 1e-12  # percentiles are interpolated, even between equal values
    assert values.min() - rounding <= result.low <= result.median + rounding
    assert result.median - rounding <= result.high <= values.max() + rounding


def test_the_interval_of_the_median_of_many_normal_values_is_that_of_theory() -> None:
    values = np.random.default_rng(1).normal(10, 1, 4000)
    result = estimate(values)
    half = 1.96 * np.sqrt(np.pi / 2 / len(values))  # asymptotic deviation of the median: sqrt(pi / 2 n)
    assert result.low < 10 < result.high
    assert (result.high - result.low) / 2 == pytest.approx(half, rel=0.2)


def test_equal_values_need_no_interval() -> None:
    assert estimate(np.full(7, 2.5)) == Estimate(2.5, 2.5, 2.5)


def test_a_ratio_is_taken_within_each_round() -> None:
    ours = np.array([1.0, 10.0, 2.0])  # the machine was busy in the second round, for both
    assert speed_up(ours, 3 * ours) == Estimate(3.0, 3.0, 3.0)


def test_a_pinned_thread_has_one_core_and_gets_the_others_back() -> None:
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    with pinned(1):
        assert os.sched_getaffinity(0) == {min(cores)}
        assert torch.get_num_threads() == 1
    assert os.sched_getaffinity(0) == cores
    assert torch.get_num_threads() == threads
