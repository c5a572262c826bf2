"""The shipped robot files: each fits a robot with its names, and keeps to what the makers publish."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sources import ROOT

from vlaq_ros.config import JointConfig, RobotConfig, build, shipped_robots
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.safety import JointLimits, Safety
from vlaq_ros.joints import JointMap

PAGES = sorted((ROOT / "docs/robots").glob("*.md"))
REAL = [name for name in shipped_robots() if name != "sim_panda"]

# libfranka's rate_limiting.h (FR3): the largest velocity towards a position limit at `edge` is -c + sqrt(a |edge - q|)
FR3_SLOWING = {  # joint: c, a, lower edge, upper edge
    "fr3_joint1": (0.30, 12.0, -2.7501, 2.7501),
    "fr3_joint2": (0.20, 5.17, -1.7918, 1.7918),
    "fr3_joint3": (0.20, 7.00, -2.9065, 2.9065),
    "fr3_joint4": (0.30, 8.00, -3.0481, -0.1458),
    "fr3_joint5": (0.35, 34.0, -2.8101, 2.8101),
    "fr3_joint6": (0.35, 11.0, 0.54092, 4.5205),
    "fr3_joint7": (0.35, 34.0, -3.0196, 3.0196),
}


def urdf(robot: RobotConfig) -> str:
    """A chain with the robot's joint names: turning joints along z and y in turn, then the gripper."""
    links = [f'<link name="link{i}"/>' for i in range(len(robot.joint_names) + 1)]
    joints = [
        f'<joint name="{name}" type="revolute"><parent link="link{i}"/><child link="link{i + 1}"/>'
        f'<origin xyz="0 0 0.1"/><axis xyz="{"0 1 0" if i % 2 else "0 0 1"}"/>'
        '<limit lower="-6" upper="6" velocity="10" effort="1"/></joint>'
        for i, name in enumerate(robot.joint_names)
    ]
    tool = (
        f'<link name="{robot.tool_frame}"/><joint name="tool" type="fixed"><parent link="link{len(robot.arm_joints)}"/>'
        f'<child link="{robot.tool_frame}"/></joint>'
    )
    return f'<robot name="chain">{"".join([*links, *joints, tool])}</robot>'


def blocks(page: Path) -> list[dict[str, Any]]:
    """The YAML of a page."""
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)]


@pytest.mark.parametrize("name", REAL)
def test_a_robot_file_fits_a_robot_with_its_names(name: str) -> None:
    robot = RobotConfig.load(name)
    joints = JointMap(robot, robot.joint_names)
    kinematics = Kinematics(urdf(robot), joints.urdf, robot.tool_frame)
    limits = JointLimits.of(kinematics, robot)
    Safety(kinematics, robot)
    assert np.isfinite(limits.velocities).all()
    assert (limits.velocities < 10).all()  # the file's, not the chain's
    step_rad = robot.safety.max_action_step_rad
    assert step_rad <= robot.safety.max_first_action_rad <= 0.5


@pytest.mark.parametrize("name", shipped_robots())
def test_every_robot_has_a_page_that_the_guide_names(name: str) -> None:
    page = ROOT / f"docs/robots/{name}.md"
    assert f"({page.name})" in (page.parent / "README.md").read_text()
    for kind in ("robots", "joint_limits"):
        assert f"config/{kind}/{name}.yaml" in page.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_controllers_on_a_page_take_what_the_pilot_sends(page: Path) -> None:
    """Whole goals, an end at rest, and a timeout that counts, as joint_trajectory_controller's parameters ask."""
    for block in blocks(page):
        for name, node in block.items():
            told = node.get("ros__parameters", {})
            if name.endswith("_controller") and "cmd_timeout" in told:
                assert told["cmd_timeout"] > told["constraints"]["goal_time"]
                assert not told.get("allow_partial_joints_goal", False)
                assert not told.get("allow_nonzero_velocity_at_trajectory_end", False)
    assert blocks(page)


def test_a_controller_of_all_joints_has_those_of_its_robot_file() -> None:
    [_, both] = [*blocks(ROOT / "docs/robots/so101.md")[0].values()]
    assert both["ros__parameters"]["joints"] == [*RobotConfig.load("so101").joint_names]
    [arm] = blocks(ROOT / "docs/robots/fr3.md")[0].values()
    assert arm["ros__parameters"]["joints"] == [*RobotConfig.load("fr3").arm_joints]
    assert [*arm["ros__parameters"]["gains"]] == arm["ros__parameters"]["joints"]


@pytest.mark.parametrize("page", ["README", "so101"])
def test_joints_on_a_page_can_be_read(page: str) -> None:
    [said] = [block["joints"] for block in blocks(ROOT / f"docs/robots/{page}.md") if "joints" in block]
    for name, values in said.items():
        build(JointConfig, values, name)


def test_the_fr3_is_allowed_its_velocity_everywhere() -> None:
    robot = RobotConfig.load("fr3")
    limits = robot.joint_limits()
    for name, (slope, curve, lower, upper) in FR3_SLOWING.items():
        file = limits[name]
        for distance in (file.min_position - lower, upper - file.max_position):
            assert -slope + math.sqrt(curve * distance) - 1e-3 >= file.max_velocity
        assert file.max_acceleration <= 10.0  # libfranka's kMaxJointAcceleration
        assert file.max_jerk <= 5000.0  # and kMaxJointJerk


def test_lerobots_numbers_of_an_so101_become_those_of_its_urdf() -> None:
    shipped = RobotConfig.load("so101")
    driver = JointMap(shipped, shipped.joint_names)
    middle, opened = np.zeros(6), np.array([*np.zeros(5), math.pi])
    np.testing.assert_allclose(driver.positions(middle), [*np.zeros(5), -0.174533])
    np.testing.assert_allclose(driver.positions(opened), [*np.zeros(5), 1.74533], atol=1e-5)

    [said] = [block["joints"] for block in blocks(ROOT / "docs/robots/so101.md") if "joints" in block]
    joints = {name: build(JointConfig, values, name) for name, values in said.items()}
    lerobot = JointMap(replace(shipped, joints=joints), shipped.joint_names)
    degrees = np.array([10.0, -20.0, 30.0, -40.0, 50.0, 100.0])
    np.testing.assert_allclose(lerobot.positions(degrees), [*np.radians(degrees[:5]), 1.74533], atol=1e-5)
    np.testing.assert_allclose(lerobot.message_positions(lerobot.positions(degrees)), degrees)
