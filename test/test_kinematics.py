"""Kinematics of the Panda against its published DH table, and inverse against forward kinematics."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import ActionChunk, ActionSpace, FloatArray
from vlaq_ros.errors import ActionSizeError, FrameNameError, JointNamesError, RobotDescriptionError
from vlaq_ros.sim import panda

# Franka Emika's "Denavit-Hartenberg parameters" (modified, Craig): a [m], alpha [rad], d [m] of joints 1..7 and flange
DH = [
    (0.0, 0.0, 0.333),
    (0.0, -np.pi / 2, 0.0),
    (0.0, np.pi / 2, 0.316),
    (0.0825, np.pi / 2, 0.0),
    (-0.0825, -np.pi / 2, 0.384),
    (0.0, np.pi / 2, 0.0),
    (0.088, np.pi / 2, 0.0),
    (0.0, 0.0, 0.107),
]
HAND = (0.0, 0.0, 0.1034)  # flange to tool centre point, turned by -45 degrees
LOWER = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973, 0.0])
UPPER = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973, 0.04])
VELOCITY = np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61, 0.1])
HOME = np.array([*panda.HOME_RAD, 0.04])

KINEMATICS = Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME)

seeds = st.integers(0, 100_000)


def dh_transform(a: float, alpha: float, d: float, theta: float) -> FloatArray:
    """Rx(alpha) Tx(a) Rz(theta) Tz(d)."""
    ca, sa, ct, st_ = np.cos(alpha), np.sin(alpha), np.cos(theta), np.sin(theta)
    return np.array(
        [[ct, -st_, 0, a], [st_ * ca, ct * ca, -sa, -sa * d], [st_ * sa, ct * sa, ca, ca * d], [0, 0, 0, 1]]
    )


def tool_pose(q: FloatArray) -> FloatArray:
    """Pose [4, 4] of the tool for joint positions [8], by the DH product."""
    angles = [*q[:7], 0.0, -np.pi / 4]
    return reduce(np.matmul, [dh_transform(*row, angle) for row, angle in zip([*DH, HAND], angles, strict=True)])


def within_limits(seed: int, margin: float = 0.1) -> FloatArray:
    """Joint positions [8], away from the limits by a share of the range."""
    share = np.random.default_rng(seed).uniform(margin, 1 - margin, len(panda.JOINT_NAMES))
    return LOWER + share * (UPPER - LOWER)


def end_effector_chunk(translations: FloatArray, rotation_vectors: FloatArray, gripper: FloatArray) -> ActionChunk:
    actions = np.column_stack([translations, rotation_vectors, gripper])
    return ActionChunk(stamp_ns=1, step_s=0.1, space=ActionSpace.END_EFFECTOR, actions=actions)


@given(seeds)
def test_forward_is_the_product_of_the_dh_matrices(seed: int) -> None:
    q = np.stack([within_limits(seed), within_limits(seed + 1)])
    positions, rotations = KINEMATICS.forward(q)
    expected = np.stack([tool_pose(row) for row in q])
    np.testing.assert_allclose(positions, expected[:, :3, 3], atol=1e-9)
    np.testing.assert_allclose(rotations, expected[:, :3, :3], atol=1e-9)


@given(seeds)
def test_columns_follow_the_names_in_any_order(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(panda.JOINT_NAMES))
    shuffled = Kinematics(panda.urdf(), tuple(panda.JOINT_NAMES[i] for i in order), panda.TOOL_FRAME)
    q = within_limits(seed)
    for ours, theirs in zip(shuffled.forward(q[None, order]), KINEMATICS.forward(q[None]), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    np.testing.assert_array_equal(shuffled.position_limits, np.column_stack([LOWER, UPPER])[order])
    np.testing.assert_array_equal(shuffled.velocity_limits, VELOCITY[order])


def test_joints_that_are_not_named_stay_at_zero() -> None:
    shoulder = Kinematics(panda.urdf(), ("panda_joint2", "panda_finger_joint1"), panda.TOOL_FRAME)
    expected = tool_pose(np.array([0, 0.4, 0, 0, 0, 0, 0, 0]))
    np.testing.assert_allclose(shoulder.forward(np.array([[0.4, 0.0]]))[0][0], expected[:3, 3], atol=1e-9)


def test_a_continuous_joint_turns_without_limits() -> None:
    urdf = (
        '<robot name="r"><link name="base"/><link name="arm"/><link name="tip"/><link name="finger"/>'
        '<joint name="turn" type="continuous"><parent link="base"/><child link="arm"/><axis xyz="0 0 1"/>'
        '<limit velocity="3" effort="1"/></joint>'
        '<joint name="reach" type="fixed"><parent link="arm"/><child link="tip"/><origin xyz="2 0 0"/></joint>'
        '<joint name="grip" type="prismatic"><parent link="tip"/><child link="finger"/><axis xyz="0 1 0"/>'
        '<limit lower="0" upper="0.1" velocity="0.5" effort="1"/></joint></robot>'
    )
    arm = Kinematics(urdf, ("turn", "grip"), "tip")
    angles = np.array([0.3, 7.0, -20.0])
    positions, rotations = arm.forward(np.column_stack([angles, np.zeros(3)]))
    np.testing.assert_allclose(
        positions, 2 * np.column_stack([np.cos(angles), np.sin(angles), np.zeros(3)]), atol=1e-12
    )
    np.testing.assert_allclose(rotations, Rotation.from_rotvec(angles[:, None] * [0, 0, 1]).as_matrix(), atol=1e-12)
    np.testing.assert_array_equal(arm.position_limits, [[-np.inf, np.inf], [0, 0.1]])
    np.testing.assert_array_equal(arm.velocity_limits, [3, 0.5])


@given(seeds)
def test_joint_actions_add_to_the_observed_positions_and_the_gripper_is_absolute(seed: int) -> None:
    rng = np.random.default_rng(seed)
    actions = rng.normal(size=(5, 8))
    q = within_limits(seed)
    targets = KINEMATICS.joint_targets(ActionChunk(1, 0.1, ActionSpace.JOINT, actions), q)
    np.testing.assert_allclose(targets[:, :7] - q[:7], actions[:, :7], atol=1e-12)
    np.testing.assert_array_equal(targets[:, 7], actions[:, 7])


@settings(max_examples=40)
@given(seeds, st.sampled_from(ActionSpace))
def test_relative_actions_are_the_inverse_of_joint_targets(seed: int, space: ActionSpace) -> None:
    rng = np.random.default_rng(seed)
    q = within_limits(seed, margin=0.2)
    targets = q + np.cumsum(rng.uniform(-0.03, 0.03, (8, 8)), axis=0)
    actions = KINEMATICS.relative_actions(targets, q, space)
    found = KINEMATICS.joint_targets(ActionChunk(1, 0.1, space, actions), q)
    np.testing.assert_array_equal(found[:, 7], targets[:, 7])
    if space is ActionSpace.JOINT:
        np.testing.assert_allclose(found, targets, atol=1e-12)
    for ours, theirs in zip(KINEMATICS.forward(found), KINEMATICS.forward(targets), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)  # seven joints reach a pose in more ways than one
    again = KINEMATICS.relative_actions(found, q, space)
    np.testing.assert_allclose(again, actions, atol=1e-4)


@settings(max_examples=40)
@given(seeds)
def test_inverse_kinematics_reaches_every_pose_that_the_arm_passes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    q = within_limits(seed, margin=0.2)
    path = q + np.cumsum(rng.uniform(-0.05, 0.05, (8, 8)), axis=0)
    positions, rotations = KINEMATICS.forward(np.vstack([q, path]))
    turns = Rotation.from_matrix(rotations[1:] @ rotations[0].T).as_rotvec()
    gripper = rng.uniform(0, 0.04, 8)
    targets = KINEMATICS.joint_targets(end_effector_chunk(positions[1:] - positions[0], turns, gripper), q)
    reached, turned = KINEMATICS.forward(targets)
    np.testing.assert_allclose(reached, positions[1:], atol=1e-4)
    assert np.all(Rotation.from_matrix(turned @ rotations[1:].transpose(0, 2, 1)).magnitude() < 1e-3)
    np.testing.assert_array_equal(targets[:, 7], gripper)
    assert np.all((targets[:, :7] >= LOWER[:7]) & (targets[:, :7] <= UPPER[:7]))


def test_end_effector_actions_are_in_the_base_frame() -> None:
    """From HOME the tool looks down: +x of the base is forward and a turn about z turns it about the vertical."""
    chunk = end_effector_chunk(np.array([[0.05, 0, 0]]), np.array([[0, 0, 0.2]]), np.array([0.0]))
    before = tool_pose(HOME)
    after = tool_pose(KINEMATICS.joint_targets(chunk, HOME)[0])
    np.testing.assert_allclose(after[:3, 3] - before[:3, 3], [0.05, 0, 0], atol=1e-4)
    turned = Rotation.from_euler("z", 0.2).as_matrix() @ before[:3, :3]
    np.testing.assert_allclose(after[:3, :3], turned, atol=1e-3)


def test_every_row_is_relative_to_the_observation_not_to_the_row_before() -> None:
    steps = np.linspace(0.01, 0.08, 8)[:, None] * [0, 1, 0]
    targets = KINEMATICS.joint_targets(end_effector_chunk(steps, np.zeros((8, 3)), np.zeros(8)), HOME)
    moved = KINEMATICS.forward(targets)[0] - KINEMATICS.forward(HOME[None])[0]
    np.testing.assert_allclose(moved, steps, atol=1e-4)


def test_a_standing_arm_is_commanded_to_stand() -> None:
    chunk = end_effector_chunk(np.zeros((4, 3)), np.zeros((4, 3)), np.full(4, 0.01))
    np.testing.assert_allclose(KINEMATICS.joint_targets(chunk, HOME)[:, :7], np.tile(HOME[:7], (4, 1)))


@settings(max_examples=25)
@given(seeds)
def test_a_pose_out_of_reach_gives_the_nearest_joints_within_the_limits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    away = rng.normal(size=3) * [1, 1, 0] + [0, 0, 0.1]
    far = 3 * away / np.linalg.norm(away)
    q = within_limits(seed)
    targets = KINEMATICS.joint_targets(end_effector_chunk(far[None], np.zeros((1, 3)), np.zeros(1)), q)
    assert np.all((targets[:, :7] >= LOWER[:7]) & (targets[:, :7] <= UPPER[:7]))
    start = KINEMATICS.forward(q[None])[0][0]
    assert np.linalg.norm(KINEMATICS.forward(targets)[0][0] - start - far) < np.linalg.norm(far)


@pytest.mark.parametrize("column", [1, 4])
def test_a_pose_that_is_no_number_gives_targets_that_are_none(column: int) -> None:
    chunk = end_effector_chunk(np.zeros((3, 3)), np.zeros((3, 3)), np.zeros(3))
    chunk.actions[1, column] = np.nan
    targets = KINEMATICS.joint_targets(chunk, HOME)
    np.testing.assert_array_equal(np.isfinite(targets[:, :7]).all(axis=1), [True, False, True])


def test_a_joint_that_the_urdf_lacks_is_named() -> None:
    with pytest.raises(JointNamesError) as caught:
        Kinematics(panda.urdf(), ("panda_joint1", "joint_a", "panda_flange_joint"), panda.TOOL_FRAME)
    assert str(caught.value) == (
        "the robot description has no joint named joint_a, panda_flange_joint; it has: panda_joint1, panda_joint2, "
        "panda_joint3, panda_joint4, panda_joint5, panda_joint6, panda_joint7, panda_finger_joint1, "
        "panda_finger_joint2; correct the robot's YAML file"
    )


def test_a_frame_that_the_urdf_lacks_is_named() -> None:
    with pytest.raises(
        FrameNameError, match=r"no frame named 'tcp'; it has: .*panda_link7.*; correct the robot's YAML"
    ):
        Kinematics(panda.urdf(), panda.JOINT_NAMES, "tcp")


@pytest.mark.parametrize("text", ["", "<robot", "<sdf/>"])
def test_a_description_that_is_no_urdf_is_one_sentence(text: str) -> None:
    with pytest.raises(RobotDescriptionError, match=r"the robot description cannot be used: .*expected the URDF text"):
        Kinematics(text, panda.JOINT_NAMES, panda.TOOL_FRAME)


@pytest.mark.parametrize(
    ("space", "columns", "expected"), [(ActionSpace.JOINT, 7, 8), (ActionSpace.END_EFFECTOR, 8, 7)]
)
def test_actions_of_another_arm_are_refused(space: ActionSpace, columns: int, expected: int) -> None:
    with pytest.raises(ActionSizeError) as caught:
        KINEMATICS.joint_targets(ActionChunk(1, 0.1, space, np.zeros((2, columns))), HOME)
    assert str(caught.value) == (
        f"the policy's {space} actions have {columns} columns, this robot takes {expected}; use a model that was "
        "trained for this robot, or correct the joints in the robot's YAML file"
    )
