"""The scripted expert: it solves the tasks from its own chunks, within its speeds, from wherever it finds the scene."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import ActionChunk, ActionSpace, FloatArray, Trajectory
from vlaq_ros.sim import expert, panda
from vlaq_ros.sim.robot import SimRobot
from vlaq_ros.sim.scene import FAMILIES, LIFTED_M, PLACES, TASKS, Scene, mujoco  # the scene sets MUJOCO_GL first
from vlaq_ros.sim.world import CUBE_HALF_M

STEP_S, STEPS = 0.05, 16
STEP_NS = round(STEP_S * 1e9)
REPLAN_STEPS = 6
PICK = "pick up the red cube"

seeds = st.integers(0, 2**31)


@pytest.fixture(scope="module")
def robot() -> SimRobot:
    return SimRobot()


@pytest.fixture(scope="module")
def kinematics() -> Kinematics:
    return Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME)


def drive(robot: SimRobot, kinematics: Kinematics, time_limit_s: float = 12.0) -> Iterator[FloatArray]:
    """Let the arm follow the expert until the task is done; each chunk on the way."""
    for _ in range(round(time_limit_s / STEP_S / REPLAN_STEPS)):
        if robot.success:
            return
        actions = expert.plan(robot.scene, STEPS, STEP_S)
        yield actions
        state, _ = robot.joint_state()
        targets = kinematics.joint_targets(ActionChunk(0, STEP_S, ActionSpace.END_EFFECTOR, actions), state)
        velocities = np.gradient(np.vstack([state, targets]), STEP_S, axis=0)[1:]
        velocities[-1] = 0
        times_ns = (1 + np.arange(STEPS)) * STEP_NS
        robot.accept(Trajectory(robot.time_ns, panda.JOINT_NAMES, times_ns, targets, velocities))
        robot.advance(REPLAN_STEPS * STEP_NS)


def drop(scene: Scene, colour: str, position: FloatArray) -> None:
    """Put a cube somewhere else."""
    scene.data.joint(colour).qpos[:3] = position
    mujoco.mj_forward(scene.model, scene.data)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(910_000, 910_003))
def test_it_solves_unseen_layouts_within_its_speeds(
    robot: SimRobot, kinematics: Kinematics, seed: int, family: str
) -> None:
    instructions = [instruction for instruction, task in TASKS.items() if task.family == family]
    robot.reset(seed, instructions[seed % len(instructions)])
    for actions in drive(robot, kinematics):
        assert actions.shape == (STEPS, 7)
        assert np.isfinite(actions).all()
        path = np.vstack([np.zeros(3), actions[:, :3]])
        assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() <= expert.TRANSIT_M_S * STEP_S + 1e-9
        turns = Rotation.from_rotvec(np.vstack([np.zeros(3), actions[:, 3:6]]))
        assert (turns[1:] * turns[:-1].inv()).magnitude().max() <= expert.TURN_RAD_S * STEP_S + 1e-9
        assert ((actions[:, 6] >= 0) & (actions[:, 6] <= panda.FINGER_OPEN_M)).all()
    assert robot.success
    assert not robot.failed


@given(seeds, st.sampled_from(list(TASKS)))
@settings(max_examples=30, deadline=None)
def test_it_turns_the_hand_and_goes_to_the_object(robot: SimRobot, seed: int, instruction: str) -> None:
    scene = robot.scene
    scene.reset(seed, instruction)
    tool, rotation = scene.tool_pose()
    actions = expert.plan(scene, 80, STEP_S)  # four seconds, enough for every layout
    position = scene.object_position(scene.task.colour)
    gaps_m = np.linalg.norm((tool + actions[:, :3] - position)[:, :2], axis=1)
    grasp = int(np.argmax(actions[:, 6] < panda.FINGER_OPEN_M))
    assert grasp > 0  # open until it is there
    assert gaps_m[grasp] < expert.CENTRED_M
    assert (np.diff(gaps_m[:grasp]) < 1e-9).all()  # straight there
    assert (tool + actions[:, :3])[:, 2].min() > CUBE_HALF_M  # never into the table
    reached = Rotation.from_rotvec(actions[-1, 3:6]) * Rotation.from_matrix(rotation)
    yaw_rad = scene.object_yaw_rad(scene.task.colour) if scene.task.family == "bar" else 0.0
    assert (reached * (Rotation.from_rotvec([0, 0, yaw_rad]) * expert.TOOL_DOWN).inv()).magnitude() < 1e-6


@given(seeds, st.floats(-np.pi, np.pi))
@settings(max_examples=30, deadline=None)
def test_a_bar_is_taken_across_by_the_shorter_turn(robot: SimRobot, seed: int, yaw_rad: float) -> None:
    scene = robot.scene
    scene.reset(seed, "pick up the red bar")
    scene.data.joint("red").qpos[3:] = np.cos(yaw_rad / 2), 0, 0, np.sin(yaw_rad / 2)
    turn = expert.turn_rad(scene)
    assert abs(turn) <= np.pi / 2 + 1e-9
    _, rotation = scene.tool_pose()
    ahead = Rotation.from_rotvec([0, 0, turn]).apply(rotation[:, 0])  # the fingers close across it
    assert abs(np.linalg.det([ahead[:2], [np.cos(yaw_rad), np.sin(yaw_rad)]])) < 1e-6  # along the bar


def test_the_tool_stays_above_a_bar_until_it_is_turned(robot: SimRobot) -> None:
    scene = robot.scene
    for seed in range(8):
        scene.reset(seed, "pick up the red bar")
        tool, rotation = scene.tool_pose()
        scene.data.joint("red").qpos[:2] = tool[:2]  # centred already
        scene.data.joint("red").qpos[3:] = np.cos(0.35), 0, 0, np.sin(0.35)
        actions = expert.plan(scene, 80, STEP_S)
        turns = Rotation.from_rotvec(actions[:, 3:6]) * Rotation.from_matrix(rotation)
        left = (Rotation.from_rotvec([0, 0, 0.7]) * expert.TOOL_DOWN * turns.inv()).magnitude()
        heights_m = tool[2] + actions[:, 2]
        assert heights_m[left > 3 * expert.TURNED_RAD].min() > 2 * CUBE_HALF_M + 0.005  # fingertips clear of it
        assert heights_m[-1] > LIFTED_M  # and at last it has it


@pytest.mark.parametrize(
    "instruction", ["put the red cube in the bin", "put the red cube on the blue cube", "put the red peg in the socket"]
)
def test_it_lets_go_over_the_destination_alone(robot: SimRobot, kinematics: Kinematics, instruction: str) -> None:
    scene = robot.scene
    robot.reset(5, instruction)
    opened = 0
    for actions in drive(robot, kinematics):
        if scene.held("red") and (actions[:6, 6] > 0.02).any():
            opened += 1
            offset = scene.object_position("red") - scene.destination_position()
            assert np.linalg.norm(offset[:2]) < PLACES[scene.task.family].reach_m
    assert opened > 0
    assert robot.success
    assert not robot.failed


@given(seeds, st.floats(-0.1, 0.1), st.floats(-0.1, 0.1))
@settings(max_examples=30, deadline=None)
def test_a_cube_that_was_pushed_away_is_followed(robot: SimRobot, seed: int, x_m: float, y_m: float) -> None:
    scene = robot.scene
    scene.reset(seed, PICK)
    tool, _ = scene.tool_pose()
    drop(scene, "red", scene.object_position("red") + np.array([x_m, y_m, 0]))
    gap = (scene.object_position("red") - tool)[:2]
    way = expert.plan(scene, 60, STEP_S)[:, :2]  # three seconds, enough for every layout
    assert abs(np.linalg.det([gap, way[STEPS - 1]])) < 1e-9  # straight there
    assert np.linalg.norm(gap - way[STEPS - 1]) < max(0.8 * np.linalg.norm(gap), expert.CENTRED_M)
    assert np.linalg.norm(gap - way[-1]) < expert.CENTRED_M


def test_low_beside_a_cube_it_rises_before_it_moves_sideways(robot: SimRobot, kinematics: Kinematics) -> None:
    scene = robot.scene
    robot.reset(2, PICK)
    for _ in drive(robot, kinematics):
        if scene.tool_pose()[0][2] < 0.06:
            break
    tool, _ = scene.tool_pose()
    drop(scene, "red", np.array([tool[0], tool[1] + 0.08, CUBE_HALF_M]))
    actions = expert.plan(scene, STEPS, STEP_S)
    risen = int(np.argmax(tool[2] + actions[:, 2] >= 0.07))
    assert risen > 0
    assert np.abs(actions[:risen, :2]).max() < 0.01
    for _ in drive(robot, kinematics):
        pass
    assert robot.success


def test_a_cube_that_slipped_would_be_picked_up_again(robot: SimRobot, kinematics: Kinematics) -> None:
    scene = robot.scene
    robot.reset(3, "put the red cube in the bin")
    for _ in drive(robot, kinematics):
        if scene.held("red") and scene.object_position("red")[2] > 0.08:
            break
    assert scene.held("red")
    drop(scene, "red", np.array([0.5, 0.0, CUBE_HALF_M]))
    actions = expert.plan(scene, STEPS, STEP_S)
    assert actions[-1, 6] == panda.FINGER_OPEN_M
    for _ in drive(robot, kinematics):
        pass
    assert robot.success


def test_after_success_it_stays_away_from_the_bin(robot: SimRobot) -> None:
    scene = robot.scene
    scene.reset(0, "put the red cube in the bin")
    drop(scene, "red", scene.receptacle_position() + np.array([0, 0, 0.03]))
    assert scene.success
    tool, _ = scene.tool_pose()
    actions = expert.plan(scene, STEPS, STEP_S)
    assert np.abs(actions[:, :2]).max() < 1e-9
    assert abs(tool[2] + actions[-1, 2] - expert.LIFT_HEIGHT_M) < 0.02
    assert (actions[:, 6] == panda.FINGER_OPEN_M).all()
