"""The watch for commands that move nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.control.following import FollowingWatch
from vlaq_ros.datatypes import FloatArray, JointWindow, Trajectory

NAMES = ("shoulder", "elbow", "finger")
TICK_NS = 20_000_000
TOLERANCE_RAD, TIMEOUT_S = 0.02, 0.5


def ramp(start: FloatArray, rates: FloatArray, stamp_ns: int, duration_s: float = 1.0) -> Trajectory:
    """A motion from `start` at constant `rates` [J] rad/s, which then rests."""
    times_ns = np.array([0, round(duration_s * 1e9)])
    return Trajectory(stamp_ns, NAMES, times_ns, np.array([start, start + rates * duration_s]))


def window(positions: FloatArray, stamp_ns: int) -> JointWindow:
    return JointWindow(NAMES, np.array([stamp_ns]), positions[None], np.zeros((1, len(NAMES))))


def watch() -> FollowingWatch:
    return FollowingWatch(TOLERANCE_RAD, TIMEOUT_S)


def test_a_command_that_moved_nothing_is_told_with_what_was_measured() -> None:
    following, standing = watch(), np.zeros(3)
    following.sent(ramp(standing, np.array([0.0, 0.11, 0.0]), 0))
    said = [following.judge(window(standing, now_ns), now_ns) for now_ns in range(0, 10**9, TICK_NS)]
    # the tolerance of 0.02 rad at 0.11 rad/s is exceeded after 0.18 s, which the next tick sees; then the timeout runs
    first = next(tick for tick, text in enumerate(said) if text)
    assert first * TICK_NS == 200_000_000 + 500_000_000
    assert said[first] == (
        "elbow is commanded 0.077 rad away and has moved 0.000 rad in 0.50 s, expected 0.010 rad or more; "
        "see the controller's log for a rejected trajectory, and whether the joint is blocked"
    )
    assert all(said[first:])


@given(
    st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=3),
    st.floats(0.0, 0.3),
    st.floats(0.0, 0.005),
)
def test_an_arm_that_follows_late_and_with_a_steady_error_is_not_told(
    rates: list[float], lag_s: float, error_rad: float
) -> None:
    following, start = watch(), np.zeros(3)
    for now_ns in range(0, 3 * 10**9, TICK_NS):
        if now_ns % 300_000_000 == 0:  # a successor continues it
            following.sent(ramp(start, np.array(rates), 0, duration_s=1.5))
        measured = start + np.array(rates) * np.clip(now_ns * 1e-9 - lag_s, 0.0, 1.5) - error_rad
        assert following.judge(window(measured, now_ns), now_ns) == ""


def test_successors_that_begin_where_the_arm_stands_are_found_too() -> None:
    """Each command asks for little before the next one replaces it: the arm was measured anew."""
    following, standing, said = watch(), np.array([0.3, -0.2, 0.01]), []
    for now_ns in range(0, 2 * 10**9, TICK_NS):
        if now_ns % 300_000_000 == 0:
            following.sent(ramp(standing, np.array([0.1, 0.0, 0.0]), now_ns))
        said.append(following.judge(window(standing, now_ns), now_ns))
    assert said[-1].startswith("shoulder is commanded ")


def test_what_moves_again_is_no_longer_told() -> None:
    following, standing = watch(), np.zeros(3)
    following.sent(ramp(standing, np.array([0.5, 0.0, 0.0]), 0))
    assert following.judge(window(standing, 0), 0) == ""
    assert following.judge(window(standing, 500_000_000), 500_000_000) == ""
    assert following.judge(window(standing, 10**9), 10**9).startswith("shoulder")
    moved = np.array([0.5, 0.0, 0.0])
    assert following.judge(window(moved, 1_100_000_000), 1_100_000_000) == ""


def test_a_gripper_that_an_object_keeps_open_is_not_told() -> None:
    following, standing = watch(), np.array([0.0, 0.0, 0.04])
    following.sent(ramp(standing, np.array([0.0, 0.0, -0.04]), 0))
    assert {following.judge(window(standing, now_ns), now_ns) for now_ns in range(0, 3 * 10**9, TICK_NS)} == {""}


def test_joint_states_that_stopped_accuse_no_controller() -> None:
    following, standing = watch(), np.zeros(3)
    following.sent(ramp(standing, np.array([0.5, 0.0, 0.0]), 0))
    assert {following.judge(window(standing, 0), now_ns) for now_ns in range(0, 3 * 10**9, TICK_NS)} == {""}


def test_nothing_is_expected_of_an_arm_without_a_command() -> None:
    following = watch()
    assert following.judge(window(np.zeros(3), 0), 0) == ""
    following.sent(ramp(np.zeros(3), np.ones(3), 0))
    following.judge(window(np.zeros(3), 100_000_000), 100_000_000)
    following.reset()
    assert following.judge(window(np.zeros(3), 10**9), 10**9) == ""
