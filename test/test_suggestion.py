"""Robot files proposed for bags of robots that have none: what is seen, what is guessed and why, what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bag_writer import (
    SECOND,
    START,
    Entry,
    compressed,
    cut,
    header,
    image,
    joint_state,
    positions,
    text,
    trajectory,
    write,
)
from sources import ROOT
from ur5e import ARM, KNUCKLE, completed, urdf

from vlaq_ros.bags.suggestion import suggest
from vlaq_ros.config import RobotConfig
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.safety import JointLimits
from vlaq_ros.errors import BadValueError, JointLimitsFileError, NothingToSuggestError
from vlaq_ros.joints import JointMap
from vlaq_ros.sim import panda

PIXELS = np.zeros((48, 64, 3), dtype=np.uint8)


def at(times_s: float) -> int:
    return START + round(times_s * SECOND)


def joints(topic: str, names: Sequence[str], positions: Any, rate_hz: float = 100.0) -> list[Entry]:
    """Joint states [N, J]."""
    return [joint_state(at(k / rate_hz), names, row, topic) for k, row in enumerate(positions)]


def images(topic: str, rate_hz: float, show: Callable[..., Entry] = image, seconds: float = 2.0) -> list[Entry]:
    return [show(at(k / rate_hz), topic, PIXELS) for k in range(round(seconds * rate_hz))]


def told(topic: str, names: Sequence[str]) -> Entry:
    return trajectory(at(0.5), topic, names, [], [])


def waves(lowest: Sequence[float], highest: Sequence[float], seconds: float = 2.0, rate_hz: float = 100.0) -> Any:
    """Positions [N, J] that swing between two poses."""
    share = 0.5 - 0.5 * np.cos(np.linspace(0, 2 * np.pi, round(seconds * rate_hz)))[:, None]
    return np.array(lowest) + share * (np.array(highest) - np.array(lowest))


def line(proposal: str, key: str) -> str:
    [found] = [line.strip() for line in proposal.splitlines() if line.strip().startswith(f"{key}:")]
    return found


@pytest.fixture(scope="module")
def panda_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = [*panda.HOME_RAD, panda.FINGER_OPEN_M]
    names = [*panda.JOINT_NAMES, "panda_finger_joint2"]
    return write(
        tmp_path_factory.mktemp("suggestion") / "panda",
        [
            *joints("/joint_states", names, waves([*home, 0.04], [*(q + 0.2 for q in home[:-1]), 0.0, 0.0])),
            *images("/camera/front/image_raw", 20.0),
            *images("/camera/wrist/image_raw", 20.0),
            text(START, panda.urdf(), "/robot_description"),
            text(START, "pick up the red cube", "/instruction"),
            told("/arm_controller/joint_trajectory", panda.JOINT_NAMES),
        ],
    )


@pytest.fixture(scope="module")
def ur5e_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shuffled = ["elbow_joint", KNUCKLE, *(name for name in ARM if name != "elbow_joint")]
    return write(
        tmp_path_factory.mktemp("suggestion") / "ur5e",
        [
            *joints("/joint_states", shuffled, waves([-100, 0, *[-90] * 5], [-60, 45, *[170] * 5])),
            *images("/cam_high/color/image_raw/compressed", 15.0, compressed),
            *images("/wrist_camera/color/image_raw/compressed", 25.0, compressed),
            *images("/wrist_camera/aligned/image_raw", 25.0, partial(image, encoding="16UC1")),
            *images("/wrist_camera/depth/image_raw", 25.0),
            text(START, urdf(), "/robot_description"),
            told("/scaled_joint_trajectory_controller/joint_trajectory", ARM),
            positions(at(0.5), "/gripper_controller/commands", [0.0] * 1),
        ],
    )


def test_a_bag_of_the_simulated_panda_gives_its_shipped_file(panda_bag: Path, tmp_path: Path) -> None:
    robot, shipped = completed(suggest(panda_bag), tmp_path / "panda.yaml"), RobotConfig.load("sim_panda")
    for name in ("tool_frame", "arm_joints", "gripper_joint", "cameras", "joint_state_topic", "description_topic"):
        assert getattr(robot, name) == getattr(shipped, name)
    assert (robot.arm, robot.gripper, robot.joints) == (shipped.arm, shipped.gripper, {})
    assert robot.joint_limits() == shipped.joint_limits()


def test_what_is_guessed_says_why(panda_bag: Path) -> None:
    proposal = suggest(panda_bag)
    assert line(proposal, "gripper_joint").endswith("# guessed by its name")
    assert line(proposal, "tool_frame").endswith(
        "# guessed: of the links behind panda_joint7 the one called like a tool"
    )
    assert line(proposal, "arm_joints").endswith("# the order of /arm_controller/joint_trajectory")
    assert line(proposal, "joint_limits").endswith("# guessed: it has joints of these names; is it of your arm?")
    assert line(proposal, "joint_state_topic") == "joint_state_topic: joint_states"
    assert line(proposal, "front") == "front: {topic: camera/front/image_raw, rate_hz: 20.0}  # 64 x 48"


def test_the_file_is_refused_until_every_limit_is_filled_in(panda_bag: Path, tmp_path: Path) -> None:
    path, proposal = tmp_path / "mine.yaml", suggest(panda_bag)
    for key, value in (
        ("workspace_lower_m", "[0.0, -0.5, 0.0]"),
        ("workspace_upper_m", "[0.5, 0.5, 0.5]"),
        ("max_first_action_rad", "0.3"),
        ("max_action_step_rad", "0.2"),
    ):
        path.write_text(proposal)
        with pytest.raises(BadValueError, match=rf"^{key} in .*mine.yaml: safety is 'TODO: .*; expected a "):
            RobotConfig.load(str(path))
        proposal = re.sub(rf"(  {key}): 'TODO.*", rf"\1: {value}", proposal)
    path.write_text(proposal)
    RobotConfig.load(str(path))


def test_where_the_tool_went_is_told_beside_the_box(panda_bag: Path) -> None:
    told = [yaml.safe_load(found) for found in re.findall(r"it went to (\[.*?\])", suggest(panda_bag))]
    home = np.array([*panda.HOME_RAD, panda.FINGER_OPEN_M])
    swing = np.linspace(home, home + np.array([*[0.2] * 7, 0.0]), 200)
    places, _ = Kinematics(panda.urdf(), tuple(panda.JOINT_NAMES), "panda_hand_tcp").forward(swing)
    np.testing.assert_allclose(told, [places.min(axis=0), places.max(axis=0)], atol=1e-3)


def test_degrees_other_rates_and_other_cameras(ur5e_bag: Path, tmp_path: Path) -> None:
    proposal = suggest(ur5e_bag)
    robot = completed(proposal, tmp_path / "ur5e.yaml")
    assert robot.arm_joints == ARM
    assert robot.gripper_joint == KNUCKLE
    assert robot.tool_frame == "tool0"
    assert {name: (c.topic, c.rate_hz, c.type) for name, c in robot.cameras.items()} == {
        "high": ("cam_high/color/image_raw/compressed", 15.0, "CompressedImage"),
        "wrist": ("wrist_camera/color/image_raw/compressed", 25.0, "CompressedImage"),
    }
    assert robot.arm.topic == "scaled_joint_trajectory_controller/joint_trajectory"
    assert (robot.gripper.type, robot.gripper.topic) == ("Float64MultiArray", "gripper_controller/commands")
    np.testing.assert_allclose(JointMap.whole(robot).positions(np.full(7, 90.0)), math.pi / 2)
    assert line(proposal, "elbow_joint").endswith("# guessed: shoulder_pan_joint went to 170, and reaches 6.28 rad")
    assert line(proposal, KNUCKLE).endswith("# guessed: it went from 0 to 45, and reaches 0.8")


@pytest.mark.parametrize(
    ("gripper", "limit", "highest", "counted"),
    [
        ('type="prismatic"', (0.0, 0.04), 0.04, None),
        ('type="prismatic"', (0.0, 0.04), 40.0, "{unit: mm}"),
        ('type="prismatic"', (0.0, 0.04), 1.0, "{scale: 0.04, offset: 0.0}"),
        ('type="prismatic"', (0.0, 0.04), 100.0, "{scale: 0.0004, offset: 0.0}"),
        ('type="revolute"', (0.0, 0.8), 0.7, None),
        ('type="revolute"', (0.0, 0.8), 1.0, "{scale: 0.8, offset: 0.0}"),
        ('type="revolute"', (-0.2, 1.0), 100.0, "{scale: 0.012, offset: -0.2}"),
        ('type="continuous"', (0.0, 0.0), 300.0, None),
    ],
)
def test_the_gripper_is_counted_as_stays_within_its_limits(
    gripper: str, limit: tuple[float, float], highest: float, counted: str | None, tmp_path: Path
) -> None:
    said = f'lower="{limit[0]}" upper="{limit[1]}" velocity="1" effort="1"'
    entries = [
        *joints("/joint_states", [*ARM, KNUCKLE], waves([0.0] * 7, [*[1.0] * 6, highest])),
        text(START, urdf(gripper, said), "/robot_description"),
    ]
    proposal = suggest(write(tmp_path / "bag", entries))
    if counted is None:
        assert "joints: {}" in proposal
    else:
        assert line(proposal, KNUCKLE).startswith(
            f"{KNUCKLE}: {counted}  # guessed: it went from 0 to {highest:.3g}, and "
        )


def test_without_a_description_what_needs_it_is_left_to_a_person(tmp_path: Path) -> None:
    names = ["motor_1", "motor_2", "motor_3", "motor_4", "motor_5", "motor_6"]
    bag = write(
        tmp_path / "bag",
        [
            *joints("/joint_states", names, waves([-170.0] * 5 + [0.0], [120.0] * 5 + [0.07])),
            *images("/image_raw", 30.0),
            *images("/image_raw/compressed", 30.0, compressed),
            positions(at(0.5), "/position_controller/commands", [0.0] * 5),
        ],
    )
    proposal = suggest(bag)
    assert line(proposal, "description_topic").endswith("# usual; the bag has no URDF: give it with --urdf")
    assert line(proposal, "tool_frame") == "tool_frame: 'TODO: the frame of the URDF that actions move'"
    assert "which need not be the controller's" in line(proposal, "arm_joints")
    assert "guessed by its range: the last joint goes from 0 to 0.07, as fingers in m" in line(
        proposal, "gripper_joint"
    )
    assert line(proposal, "motor_1").endswith("# guessed: motor_1 went to 170, and reaches 6.28 rad")
    assert line(proposal, "camera") == "camera: {topic: image_raw, rate_hz: 30.0}  # 64 x 48"
    assert "type: Float64MultiArray" in line(proposal, "arm")
    robot = completed(proposal.replace(line(proposal, "gripper"), "gripper: {type: joint}"), tmp_path / "mine.yaml")
    assert (robot.arm_joints, robot.gripper_joint) == (tuple(names[:5]), "motor_6")
    with pytest.raises(JointLimitsFileError, match="TODO: the file of joint limits that the end of this file begins"):
        robot.joint_limits()


def test_the_limits_file_at_the_end_is_one_once_it_is_filled_in(tmp_path: Path) -> None:
    names = [f"a_{name}" for name in ARM]
    tree = re.sub(r'joint name="(\w+_joint)"', r'joint name="a_\1"', urdf()).replace("a_robotiq", "robotiq")
    bag = write(
        tmp_path / "bag",
        [
            *joints("/joint_states", [*names, KNUCKLE], waves([0.0] * 7, [0.5] * 7)),
            text(START, tree, "/robot_description"),
        ],
    )
    proposal = suggest(bag)
    limits = "\n".join(line[3:] for line in proposal.splitlines() if line.startswith("#| "))
    (tmp_path / "limits.yaml").write_text(limits)
    filled = proposal.replace(line(proposal, "joint_limits"), "joint_limits: limits.yaml")
    filled = filled.replace(line(filled, "arm"), "arm: {topic: arm}").replace(
        line(filled, "gripper"), "gripper: {type: joint}"
    )
    filled = filled.replace(line(filled, "cameras"), "cameras: {}")
    robot = completed(filled, tmp_path / "mine.yaml")
    with pytest.raises(BadValueError, match=r"^max_acceleration in .*limits.yaml: a_shoulder_pan_joint is 'TODO'"):
        robot.joint_limits()
    (tmp_path / "limits.yaml").write_text(
        limits.replace("max_acceleration: TODO", "max_acceleration: 5.0").replace("max_jerk: TODO", "max_jerk: 50.0")
    )
    kinematics = Kinematics(tree, robot.joint_names, robot.tool_frame)
    np.testing.assert_allclose(JointLimits.of(kinematics, robot).velocities, [*[3.14] * 6, 2.0])


def test_what_a_bag_lacks_is_refused_by_its_own_words(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", joints("/joint_states", [*ARM, "gripper"], waves([0.0] * 7, [1.0] * 7)))
    path, proposal = tmp_path / "mine.yaml", suggest(bag)
    for key, value in (("cameras", "{}"), ("arm", "{topic: arm}"), ("gripper", "{type: joint}")):
        path.write_text(proposal)
        with pytest.raises(BadValueError, match=r"^\w+ in .*mine.yaml.* is 'TODO: "):
            RobotConfig.load(str(path))
        proposal = proposal.replace(line(proposal, key), f"{key}: {value}")
    completed(proposal, path)


def test_controllers_are_guessed_from_what_they_say(tmp_path: Path) -> None:
    bag = write(
        tmp_path / "bag",
        [
            *joints("/joint_states", [*ARM, KNUCKLE], waves([0.0] * 7, [1.0] * 6 + [0.5])),
            text(START, "of any type: the name counts", "/joint_trajectory_controller/controller_state"),
        ],
    )
    expected = (
        "arm: {topic: joint_trajectory_controller/joint_trajectory}  # guessed from /joint_trajectory_controller/"
    )
    assert line(suggest(bag), "arm").startswith(expected)


def test_joints_of_the_messages_are_found_in_the_urdf_by_the_end_of_their_names(tmp_path: Path) -> None:
    names = [f"left_{name}" for name in (*ARM, KNUCKLE)]
    bag = write(
        tmp_path / "bag",
        [*joints("/joint_states", names, waves([0.0] * 7, [0.5] * 7)), text(START, urdf(), "/robot_description")],
    )
    proposal = suggest(bag)
    assert yaml.safe_load(line(proposal, "arm_joints"))["arm_joints"] == list(ARM)
    assert line(proposal, "elbow_joint") == "elbow_joint: {message: left_elbow_joint}  # guessed: its name ends so"


def test_two_robots_in_one_bag(tmp_path: Path) -> None:
    entries: list[Entry] = [*images("/scene/image_raw", 10.0)]
    for side, high in (("left", 1.0), ("right", 2.0)):
        entries += [
            *joints(f"/{side}/joint_states", [*ARM, KNUCKLE], waves([0.0] * 7, [*[high] * 6, 0.5])),
            *images(f"/{side}/wrist/image_raw", 15.0),
            text(START, urdf(), f"/{side}/robot_description"),
            told(f"/{side}/arm/joint_trajectory", [*ARM, KNUCKLE]),
        ]
    bag = write(tmp_path / "bag", entries)
    left, right = suggest(bag), suggest(bag, "right")
    assert "# Names are relative to /left: give --namespace left." in left
    assert "# There is another robot in this bag, on /right/joint_states: --namespace right proposes its file." in left
    assert "# Names are relative to /right: give --namespace right." in right
    for proposal in (left, right):
        values = yaml.safe_load(proposal)
        assert values["joint_state_topic"] == "joint_states"
        assert values["arm"] == {"topic": "arm/joint_trajectory"}
        assert {name: camera["topic"] for name, camera in values["cameras"].items()} == {
            "wrist": "wrist/image_raw",
            "scene": "/scene/image_raw",
        }


def test_one_robot_on_two_topics_is_one(tmp_path: Path) -> None:
    rows = waves([0.0] * 7, [*[1.0] * 6, 0.5])
    bag = write(
        tmp_path / "bag",
        [
            *joints("/arm/joint_states", ARM, rows[:, :6]),
            *joints("/joint_states", [*ARM, KNUCKLE], rows),
            *joints("/wheels/joint_states", ["left", "right"], rows[:, :2]),
        ],
    )
    proposal = suggest(bag)
    assert "another robot" not in proposal
    assert yaml.safe_load(proposal)["joint_state_topic"] == "joint_states"


def test_publishers_that_take_turns_on_one_topic_are_both_read(tmp_path: Path) -> None:
    rows = waves([0.0] * 7, [*[1.0] * 6, 0.5])
    turns = [*joints("/joint_states", ARM, rows[:, :6]), *joints("/joint_states", [KNUCKLE], rows[:, 6:])]
    proposal = yaml.safe_load(suggest(write(tmp_path / "bag", turns)))
    assert (proposal["arm_joints"], proposal["gripper_joint"]) == ([*ARM], KNUCKLE)


def test_a_lone_robot_in_a_namespace_is_told_where_its_instruction_is(tmp_path: Path) -> None:
    bag = write(
        tmp_path / "bag",
        [
            *joints("/left/joint_states", [*ARM, KNUCKLE], waves([0.0] * 7, [0.5] * 7)),
            text(START, "pick up the red cube", "/left/instruction"),
            text(START, "a scene of another node", "/left/sim_robot/instruction"),
        ],
    )
    proposal = suggest(bag)
    assert "give --namespace left." in proposal
    assert yaml.safe_load(proposal)["joint_state_topic"] == "joint_states"


def test_joint_states_without_stamps_have_ranges(tmp_path: Path) -> None:
    rows = waves([0.0] * 7, [*[120.0] * 6, 30.0])
    states = [
        (when_ns, topic, kind, {**fields, "header": header(0)})
        for when_ns, topic, kind, fields in joints("/joint_states", [*ARM, KNUCKLE], rows)
    ]
    proposal = suggest(write(tmp_path / "bag", [*states, text(START, urdf(), "/robot_description")]))
    assert "elbow_joint 0 to 120" in proposal
    assert yaml.safe_load(line(proposal, "elbow_joint"))["elbow_joint"] == {"unit": "deg"}


def test_of_a_bag_that_breaks_off_what_can_be_read_is_proposed(tmp_path: Path) -> None:
    entries = [
        *joints("/joint_states", [*ARM, KNUCKLE], waves([0.0] * 7, [1.0] * 6 + [0.5], seconds=40.0)),
        text(START, urdf(), "/robot_description"),
    ]
    bag = cut(write(tmp_path / "bag", entries), 0.7)
    assert yaml.safe_load(suggest(bag))["arm_joints"] == [*ARM]


def test_a_bag_without_an_arm_is_refused_in_a_sentence(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", [*images("/image_raw", 10.0), *joints("/joint_states", ["a", "b"], np.zeros((3, 2)))])
    with pytest.raises(NothingToSuggestError) as told:
        suggest(bag)
    assert str(told.value) == (
        f"bag '{bag}' shows no arm; expected sensor_msgs/msg/JointState with positions of four joints or more, and it "
        "has: /image_raw, /joint_states; record joint states, or correct --namespace"
    )


def test_no_robot_in_that_namespace_is_refused(panda_bag: Path) -> None:
    with pytest.raises(NothingToSuggestError, match="shows no arm in namespace 'left'; expected"):
        suggest(panda_bag, "left")


def test_the_robots_guide_tells_of_it() -> None:
    assert "--suggest" in (ROOT / "docs/robots/README.md").read_text()
