"""The arm, written once: its URDF and its MJCF are the same robot, and that robot is the published Panda."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pinocchio as pin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.sim import panda
from vlaq_ros.sim.scene import Scene, mujoco  # the scene sets MUJOCO_GL first

# Franka Emika's documentation of the Panda: "Robot limits", and its Denavit-Hartenberg parameters
LOWER_RAD = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973)
UPPER_RAD = (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973)
VELOCITY_RAD_S = (2.1750, 2.1750, 2.1750, 2.1750, 2.6100, 2.6100, 2.6100)
EFFORT_NM = (87, 87, 87, 87, 12, 12, 12)

LIMITS = np.array([*zip(LOWER_RAD, UPPER_RAD, strict=True), (0, panda.FINGER_OPEN_M)])
shares = st.tuples(*[st.floats(0, 1)] * len(panda.JOINT_NAMES)).map(np.array)  # of the way between the limits


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


@pytest.fixture(scope="module")
def robot() -> pin.Model:
    return pin.buildModelFromXML(panda.urdf())


@pytest.fixture(scope="module")
def joints() -> dict[str, ElementTree.Element]:
    return {joint.attrib["name"]: joint for joint in ElementTree.fromstring(panda.urdf()).iter("joint")}


def pose(scene: Scene, positions: np.ndarray) -> None:
    """Put the arm there, the second finger opposite to the first."""
    for name, position in zip((*panda.JOINT_NAMES, "panda_finger_joint2"), [*positions, positions[-1]], strict=True):
        scene.data.qpos[scene.model.joint(name).qposadr[0]] = position
    mujoco.mj_kinematics(scene.model, scene.data)


@given(shares)
@settings(deadline=None)
def test_forward_kinematics_of_the_urdf_are_those_of_mujoco(scene: Scene, robot: pin.Model, share: np.ndarray) -> None:
    positions = LIMITS[:, 0] + share * (LIMITS[:, 1] - LIMITS[:, 0])
    pose(scene, positions)

    tool, rotation = Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME).forward(positions[None])
    np.testing.assert_allclose(tool[0], scene.tool_pose()[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(rotation[0], scene.tool_pose()[1], rtol=0, atol=1e-6)

    data = robot.createData()
    pin.framesForwardKinematics(robot, data, np.append(positions, positions[-1]))
    for link in (*(f"panda_link{i}" for i in range(8)), "panda_hand", "panda_finger1", "panda_finger2"):
        placement, body = data.oMf[robot.getFrameId(link)], scene.data.body(link)
        np.testing.assert_allclose(placement.translation, body.xpos, rtol=0, atol=1e-6, err_msg=link)
        np.testing.assert_allclose(placement.rotation, body.xmat.reshape(3, 3), rtol=0, atol=1e-6, err_msg=link)


def test_the_tool_is_where_the_published_lengths_put_it() -> None:
    kinematics = Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME)
    tool, rotation = kinematics.forward(np.zeros((1, 8)))
    np.testing.assert_allclose(tool[0], [0.088, 0, 0.333 + 0.316 + 0.384 - 0.107 - 0.1034], atol=1e-9)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(rotation[0], [[half, half, 0], [half, -half, 0], [0, 0, -1]], atol=1e-9)


def test_at_home_the_tool_points_down_in_front_of_the_base() -> None:
    tool, rotation = Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME).forward(
        np.array([[*panda.HOME_RAD, panda.FINGER_OPEN_M]])
    )
    np.testing.assert_allclose(rotation[0], np.diag([1, -1, -1]), atol=1e-3)
    assert tool[0, 0] > 0.3
    assert abs(tool[0, 1]) < 1e-6


def test_every_joint_of_the_urdf_has_the_published_limits(joints: dict[str, ElementTree.Element]) -> None:
    assert set(panda.JOINT_NAMES) < set(joints)
    for i, name in enumerate(panda.ARM_JOINTS):
        limit = {key: float(value) for key, value in joints[name].find("limit").attrib.items()}
        assert limit == {
            "lower": LOWER_RAD[i],
            "upper": UPPER_RAD[i],
            "velocity": VELOCITY_RAD_S[i],
            "effort": EFFORT_NM[i],
        }, name


def test_the_limits_of_the_urdf_are_those_of_the_mjcf(scene: Scene, joints: dict[str, ElementTree.Element]) -> None:
    for name in (*panda.JOINT_NAMES, "panda_finger_joint2"):
        limit = joints[name].find("limit").attrib
        assert scene.model.joint(name).limited
        assert tuple(scene.model.joint(name).range) == (float(limit["lower"]), float(limit["upper"])), name


def test_the_second_finger_mimics_the_first(scene: Scene, joints: dict[str, ElementTree.Element]) -> None:
    assert joints["panda_finger_joint2"].find("mimic").attrib == {"joint": panda.FINGER_JOINT}
    scene.reset(0, scene.instruction)
    closing = scene.joint_state()[0]
    closing[-1] = 0.01
    for _ in range(100):
        scene.step(closing, np.zeros(8))
    for name in (panda.FINGER_JOINT, "panda_finger_joint2"):
        assert scene.data.joint(name).qpos[0] == pytest.approx(0.01, abs=1e-3)


def test_a_tree_of_links_hangs_from_the_base(joints: dict[str, ElementTree.Element]) -> None:
    links = [link.attrib["name"] for link in ElementTree.fromstring(panda.urdf()).iter("link")]
    children = [joint.find("child").attrib["link"] for joint in joints.values()]
    assert len(set(links)) == len(links)
    assert sorted([*children, "panda_link0"]) == sorted(links)
    assert {joint.find("parent").attrib["link"] for joint in joints.values()} < set(links)
