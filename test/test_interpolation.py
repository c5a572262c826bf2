"""sample() against closed forms and scipy's Hermite polynomials."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import BPoly, CubicHermiteSpline

from vlaq_ros.control.interpolation import sample
from vlaq_ros.datatypes import Trajectory

START_NS = 1_700_000_000_123_456_789


def random_trajectory(seed: int, points: int = 6, joints: int = 3) -> Trajectory:
    rng = np.random.default_rng(seed)
    return Trajectory(
        stamp_ns=START_NS,
        joint_names=tuple(f"j{i}" for i in range(joints)),
        times_ns=np.cumsum(rng.integers(1_000_000, 500_000_000, points)),
        positions=rng.normal(size=(points, joints)),
        velocities=rng.normal(size=(points, joints)),
        accelerations=rng.normal(size=(points, joints)),
    )


seeds = st.integers(0, 10_000)
fractions = st.floats(0, 1, exclude_max=True)


def inside(trajectory: Trajectory, fraction: float) -> tuple[int, float]:
    """A stamp between the first and the last point, and its time from start in seconds."""
    first, last = int(trajectory.times_ns[0]), int(trajectory.times_ns[-1])
    elapsed_ns = first + int(fraction * (last - first))
    return START_NS + elapsed_ns, elapsed_ns * 1e-9


@given(seeds, fractions)
def test_positions_alone_are_interpolated_linearly(seed: int, fraction: float) -> None:
    trajectory = replace(random_trajectory(seed), velocities=None, accelerations=None)
    stamp_ns, elapsed_s = inside(trajectory, fraction)
    position, velocity, acceleration = sample(trajectory, stamp_ns)
    times_s = trajectory.times_ns * 1e-9
    expected = [np.interp(elapsed_s, times_s, column) for column in trajectory.positions.T]
    np.testing.assert_allclose(position, expected, atol=1e-9)
    segment = int(np.searchsorted(trajectory.times_ns, stamp_ns - START_NS, side="right")) - 1
    slope = np.diff(trajectory.positions, axis=0)[segment] / np.diff(times_s)[segment]
    np.testing.assert_allclose(velocity, slope)
    np.testing.assert_array_equal(acceleration, 0)


@given(seeds, fractions)
def test_velocities_make_it_the_cubic_hermite_spline(seed: int, fraction: float) -> None:
    trajectory = replace(random_trajectory(seed), accelerations=None)
    stamp_ns, elapsed_s = inside(trajectory, fraction)
    spline = CubicHermiteSpline(trajectory.times_ns * 1e-9, trajectory.positions, trajectory.velocities)
    for order, value in enumerate(sample(trajectory, stamp_ns)):
        np.testing.assert_allclose(value, spline(elapsed_s, order), rtol=1e-4, atol=1e-6)


@given(seeds, fractions)
def test_accelerations_make_it_the_quintic_hermite_polynomial(seed: int, fraction: float) -> None:
    trajectory = random_trajectory(seed)
    stamp_ns, elapsed_s = inside(trajectory, fraction)
    derivatives = np.stack([trajectory.positions, trajectory.velocities, trajectory.accelerations], axis=1)
    polynomial = BPoly.from_derivatives(trajectory.times_ns * 1e-9, derivatives)
    for order, value in enumerate(sample(trajectory, stamp_ns)):
        np.testing.assert_allclose(value, polynomial(elapsed_s, order), rtol=1e-4, atol=1e-6)


def test_a_quadratic_motion_is_reproduced_exactly() -> None:
    times_s = np.array([0.0, 0.5, 2.0])
    trajectory = Trajectory(
        START_NS, ("a",), (times_s * 1e9).astype(np.int64), times_s[:, None] ** 2, 2 * times_s[:, None]
    )
    position, velocity, acceleration = sample(trajectory, START_NS + 1_300_000_000)
    assert (position[0], velocity[0], acceleration[0]) == pytest.approx((1.69, 2.6, 2.0))


@given(seeds, st.integers(1, 10**12))
def test_it_stands_still_outside_its_points(seed: int, away_ns: int) -> None:
    trajectory = random_trajectory(seed)
    for point, stamp_ns in ((0, trajectory.times_ns[0] - away_ns), (-1, trajectory.times_ns[-1] + away_ns - 1)):
        position, velocity, acceleration = sample(trajectory, START_NS + int(stamp_ns))
        np.testing.assert_array_equal(position, trajectory.positions[point])
        np.testing.assert_array_equal(velocity, 0)
        np.testing.assert_array_equal(acceleration, 0)


@given(seeds)
def test_every_point_is_met_with_its_velocity(seed: int) -> None:
    trajectory = random_trajectory(seed)
    assert trajectory.velocities is not None
    for index in range(len(trajectory.times_ns) - 1):
        position, velocity, _ = sample(trajectory, START_NS + int(trajectory.times_ns[index]))
        np.testing.assert_allclose(position, trajectory.positions[index])
        np.testing.assert_allclose(velocity, trajectory.velocities[index])


@given(seeds, st.integers(1, 6))
def test_many_times_are_answered_like_each_alone(seed: int, points: int) -> None:
    trajectory = random_trajectory(seed, points)
    last_ns = int(trajectory.times_ns[-1])
    stamps_ns = START_NS + np.linspace(-last_ns, 2 * last_ns, 12).astype(np.int64).reshape(3, 4)
    for order, values in enumerate(sample(trajectory, stamps_ns)):
        alone = [[sample(trajectory, int(stamp_ns))[order] for stamp_ns in row] for row in stamps_ns]
        np.testing.assert_allclose(values, alone, rtol=1e-9, atol=1e-9)


def test_the_caller_may_change_what_it_gets() -> None:
    trajectory = random_trajectory(0)
    before = trajectory.positions.copy()
    sample(trajectory, START_NS + 10**12)[0][:] = 7
    np.testing.assert_array_equal(trajectory.positions, before)
