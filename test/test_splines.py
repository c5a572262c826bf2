"""Splines that continue a state and end at rest."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.splines import Splines
from vlaq_ros.datatypes import FloatArray, Trajectory

STEP_NS = 50_000_000
seeds = st.integers(0, 100_000)
firsts_ns = st.integers(10_000, STEP_NS)  # length of the first interval


def drawn(seed: int, first_ns: int) -> tuple[Splines, FloatArray, Trajectory]:
    """Splines of 12 intervals, the state [3, 2] at the start of two joints, and one of their motions."""
    rng = np.random.default_rng(seed)
    splines = Splines(np.append(0, first_ns + STEP_NS * np.arange(12)))
    state = rng.normal(size=(3, 2)) * [[1], [2], [10]]
    free = rng.normal(size=(len(splines.position) - 3, 2))
    control = np.vstack([splines.start(state), free[:-1], free[-1:].repeat(3, axis=0)])
    bases = splines.position, splines.velocity, splines.acceleration
    p, v, a = (basis @ control / splines.unit_s**order for order, basis in enumerate(bases))
    return splines, state, Trajectory(0, ("a", "b"), splines.times_ns, p, v, a)


@given(seeds, firsts_ns)
def test_they_continue_the_state_and_end_at_rest(seed: int, first_ns: int) -> None:
    _, state, motion = drawn(seed, first_ns)
    assert motion.velocities is not None
    assert motion.accelerations is not None
    np.testing.assert_allclose([motion.positions[0], motion.velocities[0], motion.accelerations[0]], state, atol=1e-3)
    np.testing.assert_allclose([motion.velocities[-1], motion.accelerations[-1]], 0, atol=1e-9)


@given(seeds, firsts_ns)
def test_the_quintic_through_their_knots_is_the_spline_itself(seed: int, first_ns: int) -> None:
    _, _, motion = drawn(seed, first_ns)
    jerk = np.diff(motion.accelerations, axis=0) / np.diff(motion.times_ns)[:, None] * 1e9
    for share in (0.25, 0.5, 0.9):
        elapsed_s = share * np.diff(motion.times_ns)[:, None] * 1e-9
        stamps_ns = motion.times_ns[:-1] + np.rint(share * np.diff(motion.times_ns)).astype(np.int64)
        accelerations = sample(motion, stamps_ns)[2]
        np.testing.assert_allclose(accelerations[1:], (motion.accelerations[:-1] + jerk * elapsed_s)[1:], atol=1e-4)


@given(seeds, firsts_ns)
def test_a_motion_stays_between_the_least_and_the_most_of_its_hull(seed: int, first_ns: int) -> None:
    splines, _, motion = drawn(seed, first_ns)
    units = splines.unit_s ** np.arange(3)[:, None, None]
    hull = splines.hull(*units * (motion.positions, motion.velocities, motion.accelerations))
    stamps_ns = np.arange(first_ns, motion.times_ns[-1], 3_000_000)  # the first interval's are not in it
    for quantity, values in enumerate(sample(motion, stamps_ns)):
        rows = hull[splines.quantity == quantity] / splines.unit_s**quantity
        assert np.all(values >= rows.min(axis=0) - 1e-6)
        assert np.all(values <= rows.max(axis=0) + 1e-6)
    jerks = hull[splines.quantity == 3] / splines.unit_s**3
    np.testing.assert_allclose(jerks[1:] * splines.unit_s, np.diff(motion.accelerations, axis=0)[1:], atol=1e-5)


def test_rows_are_the_hull_of_every_motion() -> None:
    splines, _, _ = drawn(1, STEP_NS // 3)
    rng = np.random.default_rng(0)
    control = rng.normal(size=(splines.rows.shape[1], 2))
    bases = splines.position, splines.velocity, splines.acceleration
    np.testing.assert_allclose(splines.rows @ control, splines.hull(*(basis @ control for basis in bases)), atol=1e-9)
    assert len(splines.quantity) == len(splines.interval) == len(splines.rows)


def test_positions_between_the_knots() -> None:
    """Constant control points are constant motions; the basis sums to one."""
    splines, _, _ = drawn(2, STEP_NS)
    np.testing.assert_allclose(splines.at(np.arange(0, 11 * STEP_NS, 7_000_000)).sum(axis=1), 1)
