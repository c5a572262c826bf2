"""Launch files, through the recorder: what they name exists, and the command line they mean starts the real node."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
from sources import ROOT, setup_arguments
from std_msgs.msg import String

from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.sim import panda

FILES = sorted((ROOT / "launch").glob("*.launch.py"))
SHARE = Path("share/vlaq_ros")
DOMAIN_ID = 101 + os.getpid() % 100
PATIENCE_S = 90.0  # a busy machine needs half a minute to import a policy
LOGIC = (ast.If, ast.IfExp, ast.For, ast.While, ast.Try, ast.With, ast.Lambda, ast.comprehension, ast.BoolOp)

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


def described(name: str) -> LaunchDescription:
    return record(ROOT / "launch" / f"{name}.launch.py")


@pytest.fixture(scope="module")
def installed() -> dict[str, Any]:
    """Where setup.py installs which files, and which executables it makes."""
    arguments = setup_arguments()
    scripts = dict(entry.split(" = ") for entry in arguments["entry_points"]["console_scripts"])
    files = {f"{folder}/{Path(file).name}" for folder, files in arguments["data_files"] for file in files}
    return {"scripts": scripts, "files": files}


def test_both_launch_files_are_there() -> None:
    assert [file.name for file in FILES] == ["demo.launch.py", "pilot.launch.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_launch_file_is_short_without_logic_and_documented(file: Path, installed: dict[str, Any]) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 30
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


def test_the_recorder_refuses_what_was_not_declared() -> None:
    description = LaunchDescription([DeclareLaunchArgument("a", "1", "first")])
    with pytest.raises(AssertionError, match="not declared"):
        description.ros_arguments(described("pilot").nodes[0], SHARE, b="2")


def test_what_the_pilot_is_told() -> None:
    description = described("pilot")
    [pilot] = description.nodes
    params = ["--params-file", f"{SHARE}/config/pilot.yaml"]
    assert description.ros_arguments(pilot, SHARE) == ["--ros-args", *params, "-p", "autostart:=false"]
    given = description.ros_arguments(pilot, SHARE, params_file="mine.yaml", namespace="left", autostart="true")
    expected = ["--ros-args", "-r", "__ns:=/left", "--params-file", "mine.yaml", "-p", "autostart:=true"]
    assert given == expected


def test_what_the_demo_starts() -> None:
    description = described("demo")
    sim_robot, pilot = description.nodes
    assert (sim_robot.executable, pilot.executable) == ("sim_robot", "pilot")
    assert description.ros_arguments(sim_robot, SHARE) == ["--ros-args"]
    params = ["--params-file", f"{SHARE}/config/pilot.yaml"]
    assert description.ros_arguments(pilot, SHARE) == ["--ros-args", *params, "-p", "autostart:=true"]


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


def test_the_command_line_starts_the_real_node(
    graph: Node, installed: dict[str, Any], tiny_bundle: Path, tmp_path: Path
) -> None:
    values = yaml.safe_load((ROOT / "config/pilot.yaml").read_text())
    values["/**"]["ros__parameters"]["model"] = str(tiny_bundle)
    params_file = tmp_path / "pilot.yaml"
    params_file.write_text(yaml.safe_dump(values))
    description = described("pilot")
    [pilot] = description.nodes
    words = description.ros_arguments(pilot, SHARE, params_file=str(params_file), namespace="left", autostart="false")
    module = installed["scripts"][pilot.executable].removesuffix(":main")
    environment = os.environ | {"ROS_DOMAIN_ID": str(DOMAIN_ID), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-m", module, *words], env=environment) as process:
        try:
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
            process.send_signal(signal.SIGINT)
            wait(graph, lambda: process.poll() is not None, "its end")
        finally:
            process.kill()
    assert process.returncode == 0
