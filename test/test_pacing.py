"""Pacer: simulated time follows a clock, and never runs away to catch up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.sim.pacing import MAX_LAG_NS, Pacer

START_NS = 1_700_000_000_000_000_000
SLICE_NS = 8_000_000

times = st.integers(0, 2 * 10**18)


@given(st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0]), times, st.integers(0, MAX_LAG_NS))
def test_it_waits_until_simulated_time_is_due(factor: float, sim_ns: int, wait_ns: int) -> None:
    pacer = Pacer(factor, sim_ns, START_NS)
    ahead_ns = int(wait_ns * factor)
    assert abs(pacer.wait_ns(sim_ns + ahead_ns, START_NS) - wait_ns) <= 1 / factor
    assert pacer.lost_ns == 0


@given(times, st.integers(0, MAX_LAG_NS))
def test_a_short_lag_is_caught_up(sim_ns: int, lag_ns: int) -> None:
    pacer = Pacer(1.0, sim_ns, START_NS)
    assert pacer.wait_ns(sim_ns, START_NS + lag_ns) == -lag_ns
    assert pacer.lost_ns == 0


@given(times, st.integers(MAX_LAG_NS, 10**12))
def test_a_long_lag_is_lost(sim_ns: int, lag_ns: int) -> None:
    pacer = Pacer(1.0, sim_ns, START_NS)
    assert pacer.wait_ns(sim_ns, START_NS + lag_ns) == -MAX_LAG_NS
    assert pacer.lost_ns == lag_ns - MAX_LAG_NS


@given(times, st.integers(MAX_LAG_NS, 10**12))
def test_a_clock_that_is_set_back_stops_nothing(sim_ns: int, back_ns: int) -> None:
    pacer = Pacer(1.0, sim_ns, START_NS)
    assert pacer.wait_ns(sim_ns, START_NS - back_ns) == MAX_LAG_NS
    assert pacer.lost_ns == MAX_LAG_NS - back_ns


@given(st.floats(0.2, 5), st.lists(st.integers(0, 40_000_000), min_size=1, max_size=200))
def test_simulated_time_never_runs_ahead_of_the_factor(factor: float, costs_ns: list[int]) -> None:
    """However long the slices take to compute, time passes at the factor at most, and at it where there is time."""
    pacer, sim_ns, clock_ns = Pacer(factor, 0, START_NS), 0, START_NS
    for cost_ns in costs_ns:
        clock_ns += max(0, pacer.wait_ns(sim_ns + SLICE_NS, clock_ns))
        sim_ns += SLICE_NS
        assert sim_ns <= (clock_ns - START_NS + 1) * factor
        clock_ns += cost_ns
    keeps_up = all(cost_ns * factor < SLICE_NS for cost_ns in costs_ns)
    assert not keeps_up or sim_ns >= (clock_ns - START_NS) * factor - SLICE_NS
