"""The simulated robot: it follows, holds, and its clock never goes back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlaq_ros.datatypes import FloatArray, Trajectory
from vlaq_ros.errors import UnknownInstructionError
from vlaq_ros.sim import panda
from vlaq_ros.sim.robot import SimRobot
from vlaq_ros.sim.scene import CAMERAS, TIMESTEP_NS

START_NS = 1_700_000_000_000_000_000
STEP_NS = 20_000_000
PICK = "pick up the red cube"


@pytest.fixture(scope="module")
def shared() -> SimRobot:
    return SimRobot(time_ns=START_NS)


@pytest.fixture
def robot(shared: SimRobot) -> SimRobot:
    shared.reset(0, PICK)
    return shared


def swing(start: FloatArray, goal: FloatArray, duration_s: float, stamp_ns: int) -> Trajectory:
    """From rest to rest along a cosine, positions and velocities filled."""
    times_ns = np.arange(STEP_NS, round(duration_s * 1e9) + 1, STEP_NS)
    phase = np.pi * (times_ns / times_ns[-1])[:, None]
    velocities = (goal - start) * 0.5 * np.sin(phase) * np.pi / duration_s
    velocities[-1] = 0
    return Trajectory(
        stamp_ns, panda.JOINT_NAMES, times_ns, start + (goal - start) * 0.5 * (1 - np.cos(phase)), velocities
    )


@given(st.tuples(*[st.floats(-0.5, 0.5)] * 7))
@settings(max_examples=8, deadline=None)
def test_a_trajectory_is_followed_closely_and_its_end_is_held(shared: SimRobot, offset: tuple[float, ...]) -> None:
    shared.reset(0, PICK)
    start, _ = shared.joint_state()
    goal = start + np.array([*offset, -0.03])
    motion = swing(start, goal, duration_s=1.0, stamp_ns=shared.time_ns)
    assert shared.accept(motion) is None
    for positions in motion.positions:
        shared.advance(STEP_NS)
        measured, _ = shared.joint_state()
        assert np.abs(measured - positions)[:7].max() < 0.015  # rad; at up to 0.8 rad/s
        assert abs(measured[7] - positions[7]) < 0.004  # m: its servo is weak on purpose
    shared.advance(500_000_000)
    for _ in range(3):
        shared.advance(STEP_NS)
        measured, speed = shared.joint_state()
        np.testing.assert_allclose(measured, goal, atol=2e-3)
        assert np.abs(speed).max() < 0.01


def test_forwarded_positions_are_followed_at_once_and_leave_the_other_joints_alone(robot: SimRobot) -> None:
    start, _ = robot.joint_state()
    goal = start[:-1] + 0.02
    robot.forward(slice(-1), goal)
    robot.forward(slice(-1, None), np.array([0.01]))
    robot.advance(10**9)
    measured, _ = robot.joint_state()
    np.testing.assert_allclose(measured[:-1], goal, atol=2e-3)
    np.testing.assert_allclose(measured[-1], 0.01, atol=2e-3)


def test_it_rests_until_it_is_told_to_move(robot: SimRobot) -> None:
    start, _ = robot.joint_state()
    robot.advance(200_000_000)
    np.testing.assert_allclose(robot.joint_state()[0], start, atol=1e-3)


@given(st.lists(st.integers(0, 30_000_000), max_size=4))
@settings(max_examples=20, deadline=None)
def test_time_passes_in_whole_physics_steps(shared: SimRobot, durations_ns: list[int]) -> None:
    before_ns = shared.time_ns
    for duration_ns in durations_ns:
        shared.advance(duration_ns)
    assert shared.time_ns - before_ns == sum(duration_ns // TIMESTEP_NS for duration_ns in durations_ns) * TIMESTEP_NS


def test_a_reset_keeps_the_clock_and_drops_the_motion(robot: SimRobot) -> None:
    start, _ = robot.joint_state()
    robot.accept(swing(start, start + 0.3, duration_s=1.0, stamp_ns=robot.time_ns))
    robot.advance(300_000_000)
    now_ns = robot.time_ns
    robot.reset(7, "put the blue cube in the bin")
    assert robot.time_ns == now_ns >= START_NS + 300_000_000
    assert robot.instruction == "put the blue cube in the bin"
    laid_out, speed = robot.joint_state()
    assert not speed.any()
    robot.advance(300_000_000)
    np.testing.assert_allclose(robot.joint_state()[0], laid_out, atol=1e-3)


def test_an_unknown_instruction_leaves_the_motion_alone(robot: SimRobot) -> None:
    start, _ = robot.joint_state()
    goal = start + np.array([0.3] * 7 + [-0.01])
    robot.accept(swing(start, goal, duration_s=0.4, stamp_ns=robot.time_ns))
    with pytest.raises(UnknownInstructionError):
        robot.reset(1, "dance")
    robot.advance(800_000_000)
    np.testing.assert_allclose(robot.joint_state()[0], goal, atol=2e-3)


def test_a_rejection_is_answered_and_moves_nothing(robot: SimRobot) -> None:
    start, _ = robot.joint_state()
    past = swing(start, start + 0.2, duration_s=0.5, stamp_ns=robot.time_ns - 10**9)
    reason = robot.accept(past)
    assert reason is not None
    assert "ends in the past" in reason
    stranger = replace(past, stamp_ns=0, joint_names=("shoulder", *panda.JOINT_NAMES[1:]))
    assert "don't match the controller joints" in (robot.accept(stranger) or "")
    robot.advance(300_000_000)
    np.testing.assert_allclose(robot.joint_state()[0], start, atol=1e-3)


def test_what_it_shows_is_its_scene(robot: SimRobot) -> None:
    assert robot.urdf == panda.urdf()
    assert robot.joint_names == panda.JOINT_NAMES
    assert not robot.success
    images = robot.images()
    assert list(images) == list(CAMERAS)
    assert np.array_equal(images["wrist"], robot.scene.images()["wrist"])
