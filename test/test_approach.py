"""The way to a pose: within every limit, on at least one of them, and at rest at both ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vlaq_ros.control.approach import approach
from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.safety import JointLimits
from vlaq_ros.datatypes import FloatArray

NAMES = ("shoulder", "elbow", "gripper")
POSES = arrays(np.float64, 3, elements=st.floats(-3.0, 3.0))
RATES = arrays(np.float64, 3, elements=st.floats(0.05, 50.0))


def limits(velocities: FloatArray, accelerations: FloatArray, jerks: FloatArray) -> JointLimits:
    return JointLimits(np.array([[-3.0, 3.0]] * 3), velocities, accelerations, jerks)


@given(POSES, POSES, st.builds(limits, RATES, RATES, RATES), st.floats(0.01, 1.0))
def test_no_limit_is_broken_and_none_of_the_time_is_wasted(
    start: FloatArray, goal: FloatArray, allowed: JointLimits, share: float
) -> None:
    motion = approach(NAMES, start, goal, allowed, velocity_share=share, stamp_ns=7_000)
    duration_s = motion.times_ns[-1] * 1e-9
    u = np.linspace(0.0, 1.0, 2001)
    positions, velocities, accelerations = sample(motion, 7_000 + np.round(u * motion.times_ns[-1]).astype(np.int64))
    lower, upper = np.minimum(start, goal), np.maximum(start, goal)
    assert (positions >= lower - 1e-9).all()
    assert (positions <= upper + 1e-9).all()
    jerks = np.abs(goal - start) * np.abs(60 - 360 * u + 360 * u**2).max() / duration_s**3  # of the quintic, by hand
    shares = np.concatenate(
        [
            np.abs(velocities).max(0) / (share * allowed.velocities),
            np.abs(accelerations).max(0) / allowed.accelerations,
            jerks / allowed.jerks,
        ]
    )
    assert shares.max() <= 1 + 1e-4
    if duration_s > 0.5 + 1e-6:
        assert shares.max() >= 1 - 1e-3


@given(POSES, POSES)
def test_it_begins_and_ends_at_rest(start: FloatArray, goal: FloatArray) -> None:
    motion = approach(NAMES, start, goal, limits(*np.ones((3, 3))), velocity_share=0.5, stamp_ns=5)
    for stamp_ns, pose in ((5, start), (5 + int(motion.times_ns[-1]), goal)):
        position, velocity, acceleration = sample(motion, stamp_ns)
        np.testing.assert_array_equal(position, pose)
        np.testing.assert_array_equal(velocity, 0.0)
        np.testing.assert_array_equal(acceleration, 0.0)


def test_the_slowest_joint_sets_the_time_of_all() -> None:
    start, goal = np.zeros(3), np.array([1.0, 2.0, 0.5])
    motion = approach(NAMES, start, goal, limits(*np.full((3, 3), 1e6)), velocity_share=1e-6, stamp_ns=0)
    assert motion.times_ns[-1] * 1e-9 == pytest.approx(15 / 8 * 2.0)


def test_an_arm_that_is_there_already_is_told_to_stay() -> None:
    pose = np.array([0.1, 0.2, 0.3])
    motion = approach(NAMES, pose, pose, limits(*np.ones((3, 3))), velocity_share=1.0, stamp_ns=0)
    assert motion.times_ns.tolist() == [0, 500_000_000]
