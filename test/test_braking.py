"""The shortest way to rest: its closed forms, and what it keeps whatever the state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.control.braking import SHORTEST_S, brake, braking_s
from vlaq_ros.datatypes import FloatArray

A, J = 5.0, 100.0  # rad/s^2, rad/s^3


def stop(velocity: float, acceleration: float = 0.0, jerk: float = J) -> tuple[float, FloatArray]:
    """One joint's step in s, and its position, velocity and acceleration [3, K]."""
    step_s, motion = brake(np.array([[0.3], [velocity], [acceleration]]), np.array([A]), np.array([jerk]))
    return step_s, motion[..., 0]


states = st.tuples(st.floats(-3, 3), st.floats(-A, A), st.floats(10, 10_000))  # velocity, acceleration, jerk limit


@given(states)
def test_it_leaves_the_state_and_ends_at_rest_within_the_limits(state: tuple[float, float, float]) -> None:
    step_s, motion = stop(*state)
    np.testing.assert_array_equal(motion[:, 0], [0.3, *state[:2]])
    np.testing.assert_array_equal(motion[1:, -1], 0)
    assert np.all(np.abs(motion[2]) <= A)
    assert np.all(np.abs(np.diff(motion[2])) <= state[2] * step_s * (1 + 1e-9))


@given(states)
def test_its_steps_have_constant_jerk(state: tuple[float, float, float]) -> None:
    h, (p, v, a) = stop(*state)
    jerk = np.diff(a) / h
    np.testing.assert_allclose(np.diff(v), a[:-1] * h + jerk * h**2 / 2, atol=1e-12)
    np.testing.assert_allclose(np.diff(p), v[:-1] * h + a[:-1] * h**2 / 2 + jerk * h**3 / 6, atol=1e-12)


@given(states)
def test_a_joint_turns_back_only_where_it_brakes_too_hard_already(state: tuple[float, float, float]) -> None:
    velocity, acceleration, jerk = state
    step_s, motion = stop(*state)
    relaxed = velocity + np.sign(acceleration) * acceleration**2 / 2 / jerk
    if velocity * np.sign(relaxed) > A * step_s:  # it has further to go, by more than a step can hide
        assert np.all(motion[1] * np.sign(relaxed) >= -1e-12)


@pytest.mark.parametrize("speed", [0.2, 1.0, 2.0])
def test_it_is_hardly_longer_than_the_time_optimal_stop(speed: float) -> None:
    """v^2 / 2A + v A / 2J in v / A + A / J, or v^(3/2) / J^(1/2) in 2 (v / J)^(1/2) where A is not reached."""
    step_s, (positions, velocities, _) = stop(speed)
    reached = speed >= A**2 / J
    way = speed**2 / 2 / A + speed * A / 2 / J if reached else speed**1.5 / J**0.5
    time_s = speed / A + A / J if reached else 2 * (speed / J) ** 0.5
    assert way * (1 - 1e-9) <= positions[-1] - positions[0] <= 1.02 * way
    moving_s = np.count_nonzero(velocities > 1e-9) * step_s
    assert time_s * (1 - 1e-9) <= moving_s <= time_s + 3 * step_s


def test_an_arm_at_rest_stays_there() -> None:
    step_s, motion = stop(0.0)
    np.testing.assert_array_equal(motion, np.array([[0.3], [0.0], [0.0]]) * np.ones(motion.shape[1]))
    assert step_s * (motion.shape[1] - 1) >= SHORTEST_S


def test_joints_stop_each_by_its_own_limits() -> None:
    _, together = brake(np.array([[0.0, 0.0], [2.0, 2.0], [0.0, 0.0]]), np.array([5.0, 10.0]), np.array([J, J]))
    ways = together[0, -1]
    np.testing.assert_allclose(ways, [2.0**2 / 10 + 2.0 * 5 / 200, 2.0**2 / 20 + 2.0 * 10 / 200], rtol=0.02)


def test_the_time_to_brake_covers_the_worst_acceleration() -> None:
    """From speed v and acceleration A onwards: A / J to relax, v / A + A / 2J and A / J more to stop."""
    got = braking_s(np.array([2.0, 0.1]), np.array([A, A]), np.array([J, J]))
    assert got == pytest.approx(2.0 / A + 2.5 * A / J)
    assert braking_s(np.zeros(1), np.array([A]), np.array([1e4])) == SHORTEST_S
