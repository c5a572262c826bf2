"""TrajectoryController against closed forms, properties and the real controller's reasons for rejection."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.control import interpolation
from vlaq_ros.datatypes import Trajectory
from vlaq_ros.sim.trajectory import REST, TrajectoryController

NOW_NS = 1_700_000_000_000_000_000
SECOND_NS = 1_000_000_000
NAMES = ("a", "b", "c")
POSITIONS = np.array([0.1, -0.2, 0.3])
VELOCITIES = np.array([0.5, 0.0, -0.5])

seeds = st.integers(0, 10_000)
fields = st.sampled_from(["positions", "velocities", "accelerations"])


def controller() -> TrajectoryController:
    return TrajectoryController(NAMES, POSITIONS, NOW_NS)


def random_trajectory(seed: int, filled: str = "accelerations", points: int = 4) -> Trajectory:
    rng = np.random.default_rng(seed)
    rest = np.zeros((1, len(NAMES)))
    return Trajectory(
        stamp_ns=0,
        joint_names=NAMES,
        times_ns=np.cumsum(rng.integers(10_000_000, SECOND_NS, points)),
        positions=rng.normal(size=(points, len(NAMES))),
        velocities=None if filled == "positions" else np.vstack([rng.normal(size=(points - 1, len(NAMES))), rest]),
        accelerations=rng.normal(size=(points, len(NAMES))) if filled == "accelerations" else None,
    )


def sweep(arm: TrajectoryController, duration_ns: int = 5 * SECOND_NS) -> np.ndarray:
    """What the arm is told over some time, [samples, positions and velocities, J]."""
    return np.array([arm.sample(NOW_NS + elapsed_ns) for elapsed_ns in range(0, duration_ns, 37_000_000)])


def test_it_holds_until_it_is_told_to_move() -> None:
    for commanded in sweep(controller()):
        np.testing.assert_array_equal(commanded, [POSITIONS, np.zeros(3)])


@given(seeds, fields)
def test_every_point_is_met_and_the_last_one_held(seed: int, filled: str) -> None:
    arm, trajectory = controller(), random_trajectory(seed, filled)
    assert arm.accept(trajectory, NOW_NS, POSITIONS, VELOCITIES) is None
    for index, time_ns in enumerate(trajectory.times_ns):
        positions, velocities = arm.sample(NOW_NS + int(time_ns))
        np.testing.assert_allclose(positions, trajectory.positions[index], atol=1e-12)
        if trajectory.velocities is not None:
            np.testing.assert_allclose(velocities, trajectory.velocities[index], atol=1e-9)
    positions, velocities = arm.sample(NOW_NS + int(trajectory.times_ns[-1]) + 10**12)
    np.testing.assert_array_equal(positions, trajectory.positions[-1])
    np.testing.assert_array_equal(velocities, 0)


@given(seeds, fields, st.permutations(range(3)))
def test_joints_are_matched_by_name(seed: int, filled: str, order: list[int]) -> None:
    trajectory = random_trajectory(seed, filled)
    shuffled = replace(
        trajectory,
        joint_names=tuple(NAMES[i] for i in order),
        positions=trajectory.positions[:, order],
        velocities=None if trajectory.velocities is None else trajectory.velocities[:, order],
        accelerations=None if trajectory.accelerations is None else trajectory.accelerations[:, order],
    )
    one, other = controller(), controller()
    assert one.accept(trajectory, NOW_NS, POSITIONS, VELOCITIES) is None
    assert other.accept(shuffled, NOW_NS, POSITIONS, VELOCITIES) is None
    np.testing.assert_array_equal(sweep(one), sweep(other))


@given(seeds, fields)
def test_stamp_zero_means_now(seed: int, filled: str) -> None:
    trajectory = random_trajectory(seed, filled)
    one, other = controller(), controller()
    assert one.accept(trajectory, NOW_NS, POSITIONS, VELOCITIES) is None
    assert other.accept(replace(trajectory, stamp_ns=NOW_NS), NOW_NS, POSITIONS, VELOCITIES) is None
    np.testing.assert_array_equal(sweep(one), sweep(other))


@given(seeds, st.sampled_from(["velocities", "accelerations"]), st.integers(0, SECOND_NS))
def test_the_way_to_a_point_ahead_starts_at_the_measured_state(seed: int, filled: str, delay_ns: int) -> None:
    arm = controller()
    measured = np.array([0.7, 0.8, -0.9]), np.array([-1.0, 0.2, 0.4])  # not what was commanded
    trajectory = replace(random_trajectory(seed, filled), stamp_ns=NOW_NS + delay_ns)
    assert arm.accept(trajectory, NOW_NS, *measured) is None
    np.testing.assert_allclose(arm.sample(NOW_NS), measured)


def test_positions_alone_are_approached_on_a_straight_line() -> None:
    arm = controller()
    target = np.array([[1.1, -0.2, 0.3]])
    assert arm.accept(Trajectory(0, NAMES, np.array([SECOND_NS]), target), NOW_NS, POSITIONS, VELOCITIES) is None
    positions, velocities = arm.sample(NOW_NS + SECOND_NS // 4)
    np.testing.assert_allclose(positions, [0.35, -0.2, 0.3])
    np.testing.assert_allclose(velocities, [1.0, 0.0, 0.0], atol=1e-12)


def test_positions_and_velocities_are_approached_on_a_cubic() -> None:
    arm = controller()
    goal = Trajectory(0, NAMES, np.array([SECOND_NS]), np.array([[1.1, -0.2, 0.3]]), np.zeros((1, 3)))
    assert arm.accept(goal, NOW_NS, POSITIONS, np.zeros(3)) is None
    positions, velocities = arm.sample(NOW_NS + SECOND_NS // 2)  # 3u^2 - 2u^3 and its slope at u = 1/2
    np.testing.assert_allclose(positions, [0.6, -0.2, 0.3])
    np.testing.assert_allclose(velocities, [1.5, 0.0, 0.0], atol=1e-12)


def test_accelerations_too_are_approached_on_a_quintic() -> None:
    arm = controller()
    rest = np.zeros((1, 3))
    goal = Trajectory(0, NAMES, np.array([SECOND_NS]), np.array([[1.1, -0.2, 0.3]]), rest, rest)
    assert arm.accept(goal, NOW_NS, POSITIONS, np.zeros(3)) is None
    positions, velocities = arm.sample(NOW_NS + SECOND_NS // 2)  # 10u^3 - 15u^4 + 6u^5 and its slope at u = 1/2
    np.testing.assert_allclose(positions, [0.6, -0.2, 0.3])
    np.testing.assert_allclose(velocities, [1.875, 0.0, 0.0], atol=1e-12)


@given(seeds, fields, st.floats(0, 1))
def test_points_in_the_past_are_passed_over(seed: int, filled: str, fraction: float) -> None:
    arm, trajectory = controller(), random_trajectory(seed, filled)
    first_ns, last_ns = int(trajectory.times_ns[0]), int(trajectory.times_ns[-1])
    late_ns = first_ns + int(fraction * (last_ns - first_ns))
    trajectory = replace(trajectory, stamp_ns=NOW_NS - late_ns)
    assert arm.accept(trajectory, NOW_NS, POSITIONS, VELOCITIES) is None
    for elapsed_ns in range(0, last_ns - late_ns + SECOND_NS, 50_000_000):
        expected = interpolation.sample(trajectory, NOW_NS + elapsed_ns)[:2]
        np.testing.assert_array_equal(arm.sample(NOW_NS + elapsed_ns), expected)


def test_a_new_trajectory_replaces_the_old_at_once() -> None:
    arm = controller()
    old, new = random_trajectory(0), random_trajectory(1)
    assert arm.accept(old, NOW_NS, POSITIONS, VELOCITIES) is None
    later_ns = NOW_NS + 3_000_000
    assert arm.accept(new, later_ns, POSITIONS, VELOCITIES) is None
    fresh = controller()
    assert fresh.accept(new, later_ns, POSITIONS, VELOCITIES) is None
    for elapsed_ns in range(0, 4 * SECOND_NS, 90_000_000):
        np.testing.assert_array_equal(arm.sample(later_ns + elapsed_ns), fresh.sample(later_ns + elapsed_ns))


def test_what_was_accepted_does_not_follow_the_senders_arrays() -> None:
    arm, trajectory = controller(), random_trajectory(0)
    assert arm.accept(trajectory, NOW_NS, POSITIONS, VELOCITIES) is None
    before = sweep(arm)
    trajectory.positions[:] = 99.0
    np.testing.assert_array_equal(sweep(arm), before)


def one_point(**changes: object) -> Trajectory:
    fine = Trajectory(NOW_NS, NAMES, np.array([SECOND_NS]), np.ones((1, 3)), np.zeros((1, 3)))
    return replace(fine, **changes)


REJECTED = {
    "partial goal": (
        one_point(joint_names=("a", "b"), positions=np.ones((1, 2)), velocities=None),
        "joints on incoming trajectory don't match the controller joints: got a, b; expected a, b, c",
    ),
    "unknown joint": (
        one_point(joint_names=("a", "b", "x")),
        "joints on incoming trajectory don't match the controller joints: got a, b, x; expected a, b, c",
    ),
    "a joint twice": (
        one_point(joint_names=("a", "b", "b")),
        "joints on incoming trajectory don't match the controller joints: got a, b, b; expected a, b, c",
    ),
    "no joints": (
        one_point(joint_names=()),
        "joints on incoming trajectory don't match the controller joints: got none; expected a, b, c",
    ),
    "no points": (
        one_point(times_ns=np.zeros(0, dtype=np.int64), positions=np.zeros((0, 3)), velocities=np.zeros((0, 3))),
        "empty trajectory received",
    ),
    "short rows": (
        one_point(positions=np.ones((1, 2))),
        "mismatch between 1 points of 3 joints and positions of shape (1, 2)",
    ),
    "short velocities": (
        one_point(velocities=np.zeros((1, 2))),
        "mismatch between 1 points of 3 joints and velocities of shape (1, 2)",
    ),
    "short accelerations": (
        one_point(accelerations=np.zeros((2, 3))),
        "mismatch between 1 points of 3 joints and accelerations of shape (2, 3)",
    ),
    "not a number": (
        one_point(positions=np.array([[1.0, np.nan, 1.0]])),
        "positions of joint b at point 0 is nan, not a finite number",
    ),
    "infinite": (
        one_point(velocities=np.array([[0.0, 0.0, -np.inf]])),
        "velocities of joint c at point 0 is -inf, not a finite number",
    ),
    "moving at the end": (
        one_point(velocities=np.array([[0.0, -2 * REST, REST]])),
        "velocity of last trajectory point of joint b is not zero: -0.000000238418579",
    ),
    "all past": (
        one_point(stamp_ns=NOW_NS - 3 * SECOND_NS // 2),
        "received trajectory with non-zero start time (1699999998.500000) that ends in the past "
        "(1699999999.500000), now is 1700000000.000000",
    ),
    "time stands still": (
        one_point(times_ns=np.array([0, 5, 5]) * 100_000_000, positions=np.ones((3, 3)), velocities=np.zeros((3, 3))),
        "time between points 1 and 2 is not strictly increasing, it is 0.500000 and 0.500000 respectively",
    ),
}


@pytest.mark.parametrize(("trajectory", "reason"), REJECTED.values(), ids=REJECTED)
def test_a_rejected_trajectory_says_why_and_changes_nothing(trajectory: Trajectory, reason: str) -> None:
    arm = controller()
    assert arm.accept(random_trajectory(3), NOW_NS, POSITIONS, VELOCITIES) is None
    before = sweep(arm)
    assert arm.accept(trajectory, NOW_NS, POSITIONS, VELOCITIES) == reason
    np.testing.assert_array_equal(sweep(arm), before)


def test_the_borders_are_those_of_the_real_controller() -> None:
    assert controller().accept(one_point(), NOW_NS, POSITIONS, VELOCITIES) is None
    slow = one_point(velocities=np.full((1, 3), REST))
    assert controller().accept(slow, NOW_NS, POSITIONS, VELOCITIES) is None
    ends_now = one_point(stamp_ns=NOW_NS - SECOND_NS)
    assert controller().accept(ends_now, NOW_NS, POSITIONS, VELOCITIES) is None
    just_past = one_point(stamp_ns=NOW_NS - SECOND_NS - 1)
    assert controller().accept(just_past, NOW_NS, POSITIONS, VELOCITIES) is not None
