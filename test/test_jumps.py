"""Jumps of joint states: what no motion within twice the limits explains, each found once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.control.jumps import JumpWatch
from vlaq_ros.datatypes import JointWindow

MS = 1_000_000
LIMITS = np.array([2.0, 0.5])


def window(stamps_ms: list[int], positions: list[tuple[float, float]]) -> JointWindow:
    rows = np.array(positions)
    return JointWindow(("a", "b"), np.array(stamps_ms, dtype=np.int64) * MS, rows, np.zeros_like(rows))


def watch() -> JumpWatch:
    return JumpWatch(LIMITS, tolerance_rad=0.1)


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=30))
def test_motion_within_twice_the_limits_is_no_jump(steps: list[tuple[int, float, float]]) -> None:
    stamps = np.cumsum([step[0] for step in steps])
    speeds = 2 * LIMITS * np.array([step[1:] for step in steps])
    positions = np.cumsum(speeds * np.array([step[0] for step in steps])[:, None] * 1e-3, axis=0)
    looks = watch()
    for end in range(1, len(steps) + 1):
        assert looks.look(window(stamps[:end].tolist(), positions[:end].tolist())) is None


def test_a_jump_is_told_with_what_was_possible_and_what_was_before() -> None:
    looks = watch()
    assert looks.look(window([0], [(0, 0)])) is None
    jump = looks.look(window([0, 10, 20, 30], [(0, 0), (0, 0), (0, 0.3), (0, 0.3)]))
    assert jump is not None
    assert jump.sentence == "b is 0.30 rad (m) from where it was 10 ms before, possible are 0.11"
    assert jump.before.stamp_ns == 10 * MS
    np.testing.assert_array_equal(jump.before.positions[-1], 0)


def test_a_jump_is_found_once() -> None:
    looks = watch()
    looks.look(window([0], [(0, 0)]))
    held = window([0, 10], [(0, 0), (1, 0)])
    assert looks.look(held) is not None
    assert looks.look(held) is None
    assert looks.look(window([0, 10, 20], [(0, 0), (1, 0), (1, 0)])) is None


@pytest.mark.parametrize("before", [[], [900]])
def test_what_came_before_the_first_look_or_before_time_jumped_does_not_count(before: list[int]) -> None:
    looks = watch()
    for stamp in before:
        looks.look(window([stamp], [(5, 5)]))
    assert looks.look(window([0, 10], [(0, 0), (1, 0)])) is None


def test_after_a_reset_the_arm_is_where_it_is() -> None:
    looks = watch()
    looks.look(window([0], [(0, 0)]))
    looks.reset()
    assert looks.look(window([0, 10], [(0, 0), (1, 0)])) is None


def test_a_long_gap_explains_a_long_way() -> None:
    looks = watch()
    looks.look(window([0], [(0, 0)]))
    assert looks.look(window([0, 500], [(0, 0), (2.05, 0)])) is None
    assert looks.look(window([0, 500, 1000], [(0, 0), (2.05, 0), (4.2, 0)])) is not None
