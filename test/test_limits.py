"""What leaves for the controller: within the limits, continuing the running motion, ending at rest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicHermiteSpline

from vlaq_ros.control.chunks import at_rest, splice
from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.limits import JointLimits, enforce, stop
from vlaq_ros.datatypes import FloatArray, Trajectory
from vlaq_ros.errors import NonFiniteActionError
from vlaq_ros.sim.trajectory import TrajectoryController

NOW_NS = 1_700_000_000_000_000_000
JOINTS = ("a", "b", "gripper")
LIMITS = JointLimits(
    positions=np.array([(-2.0, 2.0), (-0.5, 3.0), (0.0, 0.04)]),
    velocities=np.array([2.0, 1.0, 0.1]),
    accelerations=np.array([10.0, 5.0, 2.0]),
)
LOWER, UPPER = LIMITS.positions.T

seeds = st.integers(0, 100_000)


def chunk_into(running: Trajectory, targets: FloatArray, observed_ns: int, now_ns: int = NOW_NS) -> Trajectory:
    return splice(targets, observation_stamp_ns=observed_ns, step_s=0.05, now_ns=now_ns, running=running, blend_s=0.1)


def points(seed: int, reach: float) -> tuple[Trajectory, Trajectory]:
    """A chunk spliced into an arm at rest; `reach` 1 fills the position limits."""
    rng = np.random.default_rng(seed)
    middle, half = (UPPER + LOWER) / 2, (UPPER - LOWER) / 2
    still = at_rest(JOINTS, middle + half * rng.uniform(-0.9, 0.9, 3), NOW_NS)
    walk = np.cumsum(rng.normal(size=(16, 3)), axis=0) / 4
    targets = middle + reach * half * walk
    return chunk_into(still, targets, NOW_NS - 80_000_000), still


def curve(trajectory: Trajectory) -> CubicHermiteSpline:
    """What the controller follows, as a function of seconds from the trajectory's stamp."""
    return CubicHermiteSpline(trajectory.times_ns * 1e-9, trajectory.positions, trajectory.velocities)


def dense_s(trajectory: Trajectory, first: int = 0) -> FloatArray:
    return np.linspace(trajectory.times_ns[first] * 1e-9, trajectory.times_ns[-1] * 1e-9, 2000)


@given(seeds, st.floats(0, 3))
def test_the_whole_motion_stays_within_the_position_limits(seed: int, reach: float) -> None:
    result, _ = enforce(*points(seed, reach), LIMITS)
    positions = curve(result)(dense_s(result))
    assert np.all(positions >= LOWER - 1e-9)
    assert np.all(positions <= UPPER + 1e-9)


@given(seeds, st.floats(0, 3))
def test_no_point_and_no_step_is_faster_than_the_velocity_limit(seed: int, reach: float) -> None:
    result, _ = enforce(*points(seed, reach), LIMITS)
    mean = np.abs(np.diff(result.positions, axis=0)) / np.diff(result.times_ns * 1e-9)[:, None]
    assert np.all(mean <= LIMITS.velocities * (1 + 1e-9))
    assert result.velocities is not None
    assert np.all(np.abs(result.velocities) <= LIMITS.velocities * (1 + 1e-9))
    assert np.all(np.abs(curve(result)(dense_s(result), 1)) <= 1.5 * LIMITS.velocities * (1 + 1e-9))


@given(seeds, st.floats(0, 3))
def test_it_brakes_to_rest_within_the_acceleration_limits(seed: int, reach: float) -> None:
    result, _ = enforce(*points(seed, reach), LIMITS)
    assert result.velocities is not None
    np.testing.assert_array_equal(result.velocities[-1], 0)
    braking = curve(result)(dense_s(result, first=-2)[1:], 2)
    assert np.all(np.abs(braking) <= LIMITS.accelerations * (1 + 1e-6))
    assert np.ptp(braking, axis=0) == pytest.approx(0, abs=1e-4)


@given(seeds)
def test_a_chunk_within_the_limits_is_not_changed(seed: int) -> None:
    spliced, still = points(seed, 0.0)
    slow = Trajectory(
        spliced.stamp_ns, JOINTS, spliced.times_ns, spliced.positions[0] + 0.01 * (spliced.positions - still.positions)
    )
    result, clipped = enforce(slow, still, LIMITS)
    assert clipped == 0
    np.testing.assert_array_equal(result.positions[:-1], slow.positions)
    np.testing.assert_array_equal(result.times_ns[:-1], slow.times_ns)
    assert (result.stamp_ns, result.joint_names) == (slow.stamp_ns, JOINTS)


def test_clipped_values_are_counted_and_a_fast_joint_lags_then_catches_up() -> None:
    times_ns = np.arange(5, dtype=np.int64) * 100_000_000
    wanted = np.array([[0, 0, 0], [0.3, 0, 0], [0.3, 0, 0], [0.3, 0, 0.05], [0.3, 0, 0.05]], dtype=float)
    still = at_rest(JOINTS, np.zeros(3), NOW_NS)
    result, clipped = enforce(Trajectory(NOW_NS, JOINTS, times_ns, wanted), still, LIMITS)
    assert clipped == 3  # one step too far for a; twice beyond the gripper's limit, the first of them also too fast
    np.testing.assert_allclose(result.positions[:-1, 0], [0, 0.2, 0.3, 0.3, 0.3])
    np.testing.assert_allclose(result.positions[:-1, 2], [0, 0, 0, 0.01, 0.02])


@given(seeds)
def test_it_continues_the_running_motion_in_position_and_velocity(seed: int) -> None:
    running, _ = enforce(*points(seed, 1.0), LIMITS)
    later_ns = NOW_NS + 230_000_000
    targets = np.tile(np.array([0.3, 1.0, 0.02]), (16, 1))
    result, _ = enforce(chunk_into(running, targets, later_ns - 90_000_000, later_ns), running, LIMITS)
    for before, after in zip(sample(running, later_ns)[:2], sample(result, later_ns)[:2], strict=True):
        np.testing.assert_allclose(after, before, atol=1e-12)


@given(seeds)
def test_velocities_are_the_slopes_of_a_straight_motion(seed: int) -> None:
    slope = np.random.default_rng(seed).uniform(-0.4, 0.4, 3) * LIMITS.velocities * [1, 1, 0]
    times_ns = np.arange(6, dtype=np.int64) * 50_000_000
    positions = np.array([0.0, 1.0, 0.02]) + times_ns[:, None] * 1e-9 * slope
    straight = Trajectory(NOW_NS, JOINTS, times_ns, positions)
    result, _ = enforce(straight, Trajectory(NOW_NS, JOINTS, times_ns, positions), LIMITS)
    assert result.velocities is not None
    np.testing.assert_allclose(result.velocities[:-1], np.tile(slope, (6, 1)), atol=1e-9)
    brake_s = (result.times_ns[-1] - result.times_ns[-2]) * 1e-9
    assert brake_s == pytest.approx(max(0.1, np.max(np.abs(slope) / LIMITS.accelerations)))
    np.testing.assert_allclose(result.positions[-1], positions[-1] + slope * brake_s / 2, atol=1e-9)


def test_a_chunk_that_is_past_becomes_a_brake() -> None:
    running, _ = enforce(*points(7, 1.0), LIMITS)
    later_ns = NOW_NS + 230_000_000
    past = chunk_into(running, np.zeros((16, 3)), later_ns - 10**9, later_ns)
    result, clipped = enforce(past, running, LIMITS)
    stopped = stop(running, later_ns, LIMITS)
    assert clipped == 0
    np.testing.assert_array_equal(result.positions, stopped.positions)
    np.testing.assert_array_equal(result.velocities, stopped.velocities)
    np.testing.assert_array_equal(result.stamp_ns + result.times_ns, stopped.stamp_ns + stopped.times_ns)


@given(seeds, st.integers(0, 1_000_000_000))
def test_stop_leaves_the_running_motion_and_comes_to_rest_within_the_acceleration_limits(
    seed: int, after_ns: int
) -> None:
    running, _ = enforce(*points(seed, 0.5), LIMITS)
    now_ns = NOW_NS + after_ns
    result = stop(running, now_ns, LIMITS)
    np.testing.assert_array_equal(result.positions[0], sample(running, now_ns)[0])
    assert result.velocities is not None
    assert np.all(np.abs(result.velocities[0]) <= np.abs(sample(running, now_ns)[1]) + 1e-9)
    np.testing.assert_array_equal(result.velocities[-1], 0)
    positions = curve(result)(dense_s(result))
    assert np.all((positions >= LOWER - 1e-9) & (positions <= UPPER + 1e-9))
    assert np.all(np.abs(curve(result)(dense_s(result), 2)) <= LIMITS.accelerations * (1 + 1e-6))


def test_stopping_an_arm_at_rest_keeps_it_there() -> None:
    still = at_rest(JOINTS, np.array([0.1, 0.2, 0.03]), NOW_NS)
    result = stop(still, NOW_NS + 10**9, LIMITS)
    np.testing.assert_array_equal(result.positions, np.tile(still.positions, (2, 1)))
    assert result.times_ns[-1] > 0


@settings(max_examples=30)
@given(seeds, st.floats(0, 3), st.integers(0, 90_000_000))
def test_the_controller_accepts_it_and_follows_it(seed: int, reach: float, delivery_ns: int) -> None:
    spliced, still = points(seed, reach)
    result, _ = enforce(spliced, still, LIMITS)
    controller = TrajectoryController(JOINTS, still.positions[0], NOW_NS)
    received_ns = NOW_NS + delivery_ns
    assert controller.accept(result, received_ns, still.positions[0], np.zeros(3)) is None
    for after_ns in range(0, 1_500_000_000, 70_000_000):
        np.testing.assert_allclose(
            controller.sample(received_ns + after_ns)[0], sample(result, received_ns + after_ns)[0], atol=1e-9
        )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_target_that_is_no_number_is_refused_with_its_joint_and_time(value: float) -> None:
    still = at_rest(JOINTS, np.zeros(3), NOW_NS)
    targets = np.zeros((16, 3))
    targets[6, 1] = value
    with pytest.raises(NonFiniteActionError) as caught:
        enforce(chunk_into(still, targets, NOW_NS), still, LIMITS)
    assert str(caught.value) == (
        f"the target of b 0.35 s after the observation is {value}, expected a finite position; "
        "nothing was commanded: check the model's files and its camera images"
    )
