"""Launch files, through the recorder: what they name exists, and the command line they mean starts the real node."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import rclpy
import yaml
from launch_recorder import DeclareLaunchArgument, LaunchDescription, record
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_profile_sensor_data,
)
from sensor_msgs.msg import Image, JointState
from sources import ROOT, setup_arguments
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from vlaq_ros import messages
from vlaq_ros.config import PilotConfig, RobotConfig, SimRobotConfig
from vlaq_ros.ros import domain
from vlaq_ros.ros.inputs import INSTRUCTION_TOPIC
from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.sim import panda

FILES = sorted((ROOT / "launch").glob("*.launch.py"))
SHARE = Path("share/vlaq_ros")
DOMAIN_ID = domain.claim()
PATIENCE_S = 90.0  # a busy machine needs half a minute to import a policy
LOGIC = (ast.If, ast.IfExp, ast.For, ast.While, ast.Try, ast.With, ast.Lambda, ast.comprehension, ast.BoolOp)
HOME = [*panda.HOME_RAD, panda.FINGER_OPEN_M]
TASK = "pick up the red cube"
SIMULATED_NS = 10**12  # a simulation begins at 0, the system's clock in 1970

SUBSCRIBED = {
    "camera/front/image_raw": "sensor_msgs/msg/Image",
    "camera/wrist/image_raw": "sensor_msgs/msg/Image",
    "joint_states": "sensor_msgs/msg/JointState",
    "robot_description": "std_msgs/msg/String",
    "instruction": "std_msgs/msg/String",
}
PUBLISHED = {
    "arm_controller/joint_trajectory": "trajectory_msgs/msg/JointTrajectory",
    "pilot/precision": "std_msgs/msg/String",
    "pilot/sensitivity": "std_msgs/msg/Float64",
    "pilot/upswitch_ms": "std_msgs/msg/Float64",
}
SHARED = {"/diagnostics", "/parameter_events", "/rosout"}  # topics that belong to the graph, not to an arm


def described(name: str) -> LaunchDescription:
    return record(ROOT / "launch" / f"{name}.launch.py")


@pytest.fixture(scope="module")
def installed() -> dict[str, Any]:
    """Where setup.py installs which files, and which executables it makes."""
    arguments = setup_arguments()
    scripts = dict(entry.split(" = ") for entry in arguments["entry_points"]["console_scripts"])
    files = {f"{folder}/{Path(file).name}" for folder, files in arguments["data_files"] for file in files}
    return {"scripts": scripts, "files": files}


@pytest.fixture(autouse=True)
def leave_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Temporary files go where pytest removes them."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_the_launch_files_are_there() -> None:
    assert [file.name for file in FILES] == ["demo.launch.py", "pilot.launch.py", "record.launch.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_launch_file_is_short_without_logic_and_documented(file: Path, installed: dict[str, Any]) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 60
    assert [type(node).__name__ for node in ast.walk(ast.parse(text)) if isinstance(node, LOGIC)] == []
    description = record(file)
    assert all(argument.description for argument in description.declared)
    assert f"{SHARE}/launch/{file.name}" in installed["files"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_a_launch_file_names_is_installed(file: Path, installed: dict[str, Any]) -> None:
    description = record(file)
    for node in description.nodes:
        assert node.package == "vlaq_ros"
        assert node.executable in installed["scripts"]
        words = description.ros_arguments(node, SHARE)
        for flag, value in pairwise(words):
            if flag == "--params-file":
                assert value in installed["files"]


def test_the_recorder_refuses_what_was_not_declared_and_misses_what_was_not_given() -> None:
    description = LaunchDescription([DeclareLaunchArgument("a", "1", "first")])
    with pytest.raises(AssertionError, match="not declared"):
        description.ros_arguments(described("pilot").nodes[0], SHARE, b="2")
    with pytest.raises(AssertionError, match=r"not given: {'record'}"):
        described("record").commands(ROOT)


def told(words: list[str], flag: str) -> dict[str, str]:
    """What a command line assigns with `-p` or `-r`."""
    return dict(value.split(":=") for name, value in pairwise(words) if name == flag)


def test_what_the_pilot_is_told() -> None:
    description = described("pilot")
    [pilot] = description.nodes
    words = description.ros_arguments(pilot, SHARE)
    defaults = {"robot": "sim_panda", "model": "tabletop_pi0_calibrated"}
    off = dict.fromkeys(("autostart", "enabled", "dry_run", "use_sim_time"), "false")
    assert words[:5] == ["--ros-args", "--log-level", "info", "--params-file", f"{SHARE}/config/pilot.yaml"]
    assert told(words, "-p") == defaults | off
    assert told(words, "-r") == {"instruction": "instruction"}

    mine = {"robot": "my_arm.yaml", "model": "my_model", **dict.fromkeys(off, "true")}
    others = {"params_file": "mine.yaml", "namespace": "left", "instruction": "/instruction", "log_level": "debug"}
    words = description.ros_arguments(pilot, SHARE, **mine, **others)
    assert words[:3] == ["--ros-args", "--log-level", "debug"]
    assert words[words.index("--params-file") + 1] == "mine.yaml"
    assert told(words, "-p") == mine
    assert told(words, "-r") == {"__ns": "/left", "instruction": "/instruction"}
    assert {argument.name for argument in description.declared} == {*mine, *others, "record"}


def test_what_the_demo_starts() -> None:
    description = described("demo")
    sim_robot, pilot = description.nodes
    assert (sim_robot.executable, pilot.executable) == ("sim_robot", "pilot")
    given = {"use_sim_time": "true", "namespace": "left"}
    assert told(description.ros_arguments(sim_robot, SHARE, **given), "-p") == {"publish_clock": "true"}
    own = {"model": "tabletop_pi0_calibrated", "autostart": "true", "enabled": "true", "use_sim_time": "true"}
    assert told(description.ros_arguments(pilot, SHARE, **given), "-p") == own
    assert all("__ns:=/left" in description.ros_arguments(node, SHARE, **given) for node in description.nodes)


@pytest.mark.parametrize("name", ["demo", "pilot"])
def test_nothing_is_recorded_unless_asked_for(name: str, installed: dict[str, Any]) -> None:
    assert described(name).included(SHARE) == []
    assert described(name).commands(ROOT) == []
    (included,) = described(name).included(SHARE, record="out/bag")
    assert str(included) in installed["files"]


def test_the_recorder_hears_what_the_pilot_hears_and_says() -> None:
    robot = RobotConfig.load("ur5e")
    given = {"robot": "ur5e", "namespace": "left", "instruction": "/instruction", "record": "out/bag"}
    (command,) = described("pilot").commands(ROOT, **given)
    regex = command[command.index("--regex") + 1]
    assert command[:3] == ["ros2", "bag", "record"]
    assert command[command.index("--output") + 1] == "out/bag"
    assert command[command.index("--storage") + 1] == "mcap"
    heard = {f"/left/{topic}" for topic in ("joint_states", "robot_description", robot.arm.topic)}
    heard |= {f"/left/{camera.topic}" for camera in robot.cameras.values()}
    said = {f"/left/pilot/{name}" for name in ("session", "journal", "precision", "sensitivity", "shadow/any")}
    for topic in (*heard, *said, "/instruction", "/diagnostics", "/clock"):
        assert re.search(regex, topic), topic
    for topic in ("/left/front/color/image_raw/compressed", "/right/joint_states", "/joint_states", "/left/pilots"):
        assert not re.search(regex, topic), topic
    (demo,) = described("demo").commands(ROOT, record="out/bag")
    assert re.search(demo[demo.index("--regex") + 1], "/arm_controller/joint_trajectory")


def test_the_recorder_can_hear_whoever_publishes(tmp_path: Path) -> None:
    """The file of overrides, read as ros2bag reads it (ros2bag/api), against what publishers offer."""
    (command,) = described("record").commands(ROOT, robot=streamed_robot(tmp_path), record="out/bag")
    file = Path(command[command.index("--qos-profile-overrides-path") + 1])
    asked = {topic: profile(said) for topic, said in yaml.safe_load(file.read_text()).items()}
    latched = {"/robot_description", "/pilot/session", "/pilot/precision"}
    often = {"/joint_states": [QoSProfile(depth=10), qos_profile_sensor_data], "/positions": [QoSProfile(depth=1)]}
    offered = {topic: [LATCHED] for topic in latched} | often
    assert asked.keys() == offered.keys()
    for topic, offers in offered.items():
        for offer in offers:
            assert qos_check_compatible(offer, asked[topic])[0] != QoSCompatibility.ERROR
    assert {topic for topic, qos in asked.items() if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL} == latched


def streamed_robot(folder: Path) -> str:
    """The simulated Panda, commanded by positions."""
    return robot_file(folder / "streamed.yaml", "", arm={"type": "Float64MultiArray", "topic": "positions"})


def profile(said: dict[str, Any]) -> QoSProfile:
    """What ros2bag makes of a topic's overrides."""
    policies = {"history": HistoryPolicy, "reliability": ReliabilityPolicy, "durability": DurabilityPolicy}
    named = {name: policies[name].get_from_short_key(value) for name, value in said.items() if name in policies}
    return QoSProfile(**{**said, **named})


def test_the_robots_images_get_the_profile_that_lets_them_through(installed: dict[str, Any]) -> None:
    variables = described("demo").environment(SHARE)
    assert [*variables] == ["FASTDDS_DEFAULT_PROFILES_FILE"]
    assert {*variables.values()} <= installed["files"]
    mine = described("demo").environment(SHARE, fastdds_profile="mine.xml")
    assert mine == {"FASTDDS_DEFAULT_PROFILES_FILE": "mine.xml"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_a_node_is_told_it_knows(file: Path) -> None:
    settings = {"pilot": PilotConfig, "sim_robot": SimRobotConfig}
    description = record(file)
    for node in description.nodes:
        words = description.ros_arguments(node, SHARE)
        known = {item.name for item in fields(settings[node.executable])} | {"use_sim_time"}
        assert told(words, "-p").keys() <= known
        assert told(words, "-r").keys() <= {INSTRUCTION_TOPIC}


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node that looks at the graph."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rclpy.init(domain_id=DOMAIN_ID)
    node = Node("onlooker")
    yield node
    node.destroy_node()
    rclpy.shutdown()


def wait(node: Node, condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {PATIENCE_S} s: {what}"
        rclpy.spin_once(node, timeout_sec=0.1)


def call(node: Node, kind: Any, name: str, request: Any) -> Any:
    client = node.create_client(kind, name)
    wait(node, client.service_is_ready, name)
    future = client.call_async(request)
    wait(node, future.done, f"the answer of {name}")
    node.destroy_client(client)
    return future.result()


def state(node: Node) -> str:
    return str(call(node, GetState, "/left/pilot/get_state", GetState.Request()).current_state.label)


@contextlib.contextmanager
def started(installed: dict[str, Any], executable: str, words: list[str], **variables: str) -> Iterator[Any]:
    """A real process with the command line that a launch file means; SIGINT must end it well."""
    module = installed["scripts"][executable].removesuffix(":main")
    environment = os.environ | {"ROS_DOMAIN_ID": str(DOMAIN_ID), "OMP_NUM_THREADS": "1"} | variables
    with subprocess.Popen([sys.executable, "-m", module, *words], env=environment) as process:
        try:
            yield process
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


class Arm:
    """An arm in its namespace, which stands still and shows what is asked of it."""

    def __init__(self, node: Node, namespace: str, urdf: str, joints: tuple[str, ...]) -> None:
        self._node, self._joints = node, joints
        self._description = node.create_publisher(String, f"/{namespace}/robot_description", LATCHED)
        self._description.publish(String(data=urdf))
        self._states = node.create_publisher(JointState, f"/{namespace}/joint_states", 10)
        self._cameras = [
            node.create_publisher(Image, f"/{namespace}/camera/{name}/image_raw", qos_profile_sensor_data)
            for name in ("front", "wrist")
        ]

    def show(self) -> None:
        state = JointState(name=self._joints, position=HOME)
        image = Image(height=96, width=96, encoding="rgb8", step=288, data=array("B", bytes(96 * 96 * 3)))
        state.header.stamp = image.header.stamp = self._node.get_clock().now().to_msg()
        self._states.publish(state)
        for camera in self._cameras:
            camera.publish(image)


def robot_file(path: Path, prefix: str, **changes: Any) -> str:
    """The simulated Panda's file for an arm whose joints have a prefix."""
    values = yaml.safe_load((ROOT / "config/robots/sim_panda.yaml").read_text())
    limits = yaml.safe_load((ROOT / "config/joint_limits/sim_panda.yaml").read_text())["joint_limits"]
    named = {"joint_limits": {prefix + name: limit for name, limit in limits.items()}}
    limits_file = path.with_suffix(".limits.yaml")
    limits_file.write_text(yaml.safe_dump(named))
    values["arm_joints"] = [prefix + name for name in values["arm_joints"]]
    values["gripper_joint"] = prefix + values["gripper_joint"]
    values["joints"] = {prefix + name: {"policy": name} for name in panda.JOINT_NAMES}
    values["safety"]["joint_limits"] = str(limits_file)
    path.write_text(yaml.safe_dump(values | changes))
    return str(path)


def test_the_command_line_starts_the_real_node(graph: Node, installed: dict[str, Any], tiny_bundle: Path) -> None:
    description = described("pilot")
    [pilot] = description.nodes
    words = description.ros_arguments(pilot, ROOT, model=str(tiny_bundle), namespace="left")
    with started(installed, pilot.executable, words):
        wait(graph, lambda: ("pilot", "/left") in graph.get_node_names_and_namespaces(), "the node")
        assert state(graph) == "unconfigured"
        description_publisher = graph.create_publisher(String, "/left/robot_description", LATCHED)
        description_publisher.publish(String(data=panda.urdf()))
        configure = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
        assert call(graph, ChangeState, "/left/pilot/change_state", configure).success
        assert state(graph) == "inactive"
        for topics, look in (
            (PUBLISHED, graph.get_publishers_info_by_topic),
            (SUBSCRIBED, graph.get_subscriptions_info_by_topic),
        ):
            for name, kind in topics.items():
                wait(graph, lambda topic=f"/left/{name}", look=look: look(topic), name)
                assert [info.topic_type for info in look(f"/left/{name}")] == [kind]


def test_two_arms_and_two_nodes_in_one_graph(
    graph: Node, installed: dict[str, Any], tiny_bundle: Path, tmp_path: Path
) -> None:
    """Arms with other joints and other controllers, and one instruction for both."""
    streamed = {"type": "Float64MultiArray", "topic": "position_controller/commands"}
    files = {
        "left": robot_file(tmp_path / "left.yaml", "l_"),
        "right": robot_file(tmp_path / "right.yaml", "r_", arm=streamed),
    }
    arms = {
        side: Arm(
            graph,
            side,
            panda.urdf().replace("panda_joint", f"{side[0]}_panda_joint").replace("panda_f", f"{side[0]}_panda_f"),
            tuple(f"{side[0]}_{name}" for name in panda.JOINT_NAMES),
        )
        for side in files
    }
    lefts: list[JointTrajectory] = []
    rights: list[Float64MultiArray] = []
    graph.create_subscription(JointTrajectory, "/left/arm_controller/joint_trajectory", lefts.append, 10)
    graph.create_subscription(Float64MultiArray, "/right/position_controller/commands", rights.append, 10)
    graph.create_publisher(String, "/instruction", LATCHED).publish(String(data=TASK))
    shown = ["left"]
    graph.create_timer(0.02, lambda: [arms[side].show() for side in shown])

    description = described("pilot")
    [pilot] = description.nodes
    common = {"model": str(tiny_bundle), "instruction": "/instruction", "autostart": "true", "enabled": "true"}
    with contextlib.ExitStack() as running:
        for side, file in files.items():
            words = description.ros_arguments(pilot, ROOT, robot=file, namespace=side, **common)
            running.enter_context(started(installed, pilot.executable, words))
        for side in files:
            heard = f"/{side}/camera/front/image_raw"
            wait(graph, lambda heard=heard: graph.count_subscribers(heard), f"{side} listens")
        wait(graph, lambda: lefts, "the left arm is commanded")
        assert rights == []
        assert {*lefts[0].joint_names} == {f"l_{name}" for name in panda.JOINT_NAMES}
        shown.append("right")
        wait(graph, lambda: rights, "the right arm is commanded")
        assert len(rights[0].data) == len(HOME)
        for side in files:
            for look in (graph.get_publisher_names_and_types_by_node, graph.get_subscriber_names_and_types_by_node):
                topics = {name for name, _ in look("pilot", f"/{side}")}
                assert {name for name in topics if not name.startswith(f"/{side}/")} <= SHARED | {"/instruction"}


def test_the_demo_runs_in_simulated_time(graph: Node, installed: dict[str, Any], tiny_bundle: Path) -> None:
    commands: list[JointTrajectory] = []
    graph.create_subscription(JointTrajectory, "/left/arm_controller/joint_trajectory", commands.append, 10)
    graph.create_publisher(String, "/left/instruction", LATCHED).publish(String(data=TASK))
    description = described("demo")
    given = {"model": str(tiny_bundle), "namespace": "left", "use_sim_time": "true"}
    with contextlib.ExitStack() as running:
        for node in description.nodes:
            words = description.ros_arguments(node, ROOT, **given)
            variables = description.environment(ROOT, **given)
            running.enter_context(started(installed, node.executable, words, **variables))
        wait(graph, lambda: commands, "a command in simulated time")
    stamp_ns = messages.stamp_ns(commands[0].header.stamp)
    assert 0 < stamp_ns < SIMULATED_NS
