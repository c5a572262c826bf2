"""Joints by name: closed forms of units, signs and offsets, their inverse, the order, and what misses in words."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vlaq_ros.config import JointConfig, RobotConfig
from vlaq_ros.errors import JointNamesError
from vlaq_ros.joints import JointMap

PANDA = RobotConfig.load("sim_panda")
# Three joints that count in degrees, the other way round from an offset, and in shares of a stroke.
ROBOT = replace(
    PANDA,
    arm_joints=("pan", "lift"),
    gripper_joint="jaw",
    joints={
        "pan": JointConfig(unit="deg", message="1"),
        "lift": JointConfig(scale=-1.0, offset=math.pi / 2, policy="shoulder"),
        "jaw": JointConfig(unit="mm", scale=0.8, offset=-0.01, policy="gripper", message="6"),
    },
)
VALUE = st.floats(-1e4, 1e4).map(lambda value: round(value, 9))  # tiny numbers have fewer digits to lose
ANY = arrays(np.float64, st.tuples(st.integers(0, 4), st.just(3)), elements=VALUE)
JOINT = st.builds(
    JointConfig,
    unit=st.sampled_from(["si", "deg", "mm"]),
    scale=st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3),
    offset=st.floats(-10, 10),
)


def test_a_joint_that_is_not_described_is_the_same_everywhere() -> None:
    joints = JointMap.whole(PANDA)
    assert joints.policy == joints.urdf == joints.message == PANDA.joint_names
    values = np.arange(8.0)
    for convert in (joints.positions, joints.rates, joints.message_positions, joints.message_rates):
        np.testing.assert_array_equal(convert(values), values)


def test_degrees_signs_offsets_and_strokes() -> None:
    joints = JointMap.whole(ROBOT)
    assert joints.policy == ("pan", "shoulder", "gripper")
    assert joints.urdf == ("pan", "lift", "jaw")
    assert joints.message == ("1", "lift", "6")
    told = np.array([180.0, 0.25, 50.0])
    np.testing.assert_allclose(joints.positions(told), [math.pi, math.pi / 2 - 0.25, 0.03], rtol=1e-15)
    np.testing.assert_allclose(joints.rates(told), [math.pi, -0.25, 0.04], rtol=1e-15)  # no offset


def test_columns_follow_the_policy() -> None:
    joints = JointMap(ROBOT, ("gripper", "pan"))
    assert joints.urdf == ("jaw", "pan")
    assert joints.message == ("6", "1")
    np.testing.assert_allclose(joints.positions(np.array([50.0, 180.0])), [0.03, math.pi])


@given(st.tuples(JOINT, JOINT, JOINT), ANY)
def test_commands_are_the_inverse_of_states(described: tuple[JointConfig, ...], values: np.ndarray) -> None:
    joints = JointMap.whole(replace(ROBOT, joints=dict(zip(ROBOT.joint_names, described, strict=True))))
    positions = joints.positions(values)
    assert positions.shape == values.shape
    # An offset that is large beside the values takes digits from them.
    lost = 1e-12 * max(abs(joint.offset / joint.scale) for joint in described) * 1e3
    np.testing.assert_allclose(joints.message_positions(positions), values, rtol=1e-12, atol=lost)
    np.testing.assert_allclose(joints.message_rates(joints.rates(values)), values, rtol=1e-12)


@given(st.tuples(JOINT, JOINT, JOINT), ANY)
def test_rates_are_differences_of_positions(described: tuple[JointConfig, ...], values: np.ndarray) -> None:
    joints = JointMap.whole(replace(ROBOT, joints=dict(zip(ROBOT.joint_names, described, strict=True))))
    moved = joints.positions(values) - joints.positions(np.zeros_like(values))
    np.testing.assert_allclose(joints.rates(values), moved, rtol=1e-9, atol=1e-9)


def test_a_joint_that_the_robot_file_does_not_know_is_told_with_those_it_knows() -> None:
    with pytest.raises(JointNamesError) as mistake:
        JointMap(ROBOT, ("pan", "elbow", "lift"))
    assert str(mistake.value) == (
        "the robot file has no joint named elbow, lift; it has: pan, shoulder, gripper; correct the robot's YAML file"
    )
