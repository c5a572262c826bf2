"""What ROS does on this machine, as one line of JSON: `python -m vlaq_ros.ros.survey [ROBOT NAMESPACE]`.

A process of its own, for a ROS that cannot be loaded, or a middleware that hangs, takes its process with it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible, qos_profile_sensor_data
from rclpy.serialization import deserialize_message
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, Float64MultiArray, Int64, String
from trajectory_msgs.msg import JointTrajectory

from vlaq_ros.config import RobotConfig
from vlaq_ros.ros.beacon import COUNT_TOPIC, IMAGE_TOPIC
from vlaq_ros.ros.lifetime import ros_lifetime
from vlaq_ros.ros.processes import NodeProcess
from vlaq_ros.ros.qos import LATCHED

_PATIENCE_S = 10.0  # for two processes to find each other
_WATCH_S = 2.0
_TYPES = {kind.__name__: kind for kind in (CompressedImage, Float64MultiArray, Image, JointTrajectory)}
_COMMAND = QoSProfile(depth=1)


class _Input:
    """A topic that the pilot subscribes to: who publishes it, how well that fits, and what arrives."""

    def __init__(self, node: Node, topic: str, kind: type[Any], qos: QoSProfile, rate_hz: float | None = None) -> None:
        self._node, self._kind, self._qos, self._rate_hz = node, kind, qos, rate_hz
        self._subscription = node.create_subscription(kind, topic, self._take, qos, raw=True)
        self._received, self._age_s = 0, 0.0
        self._before = 0  # received before the watch began

    @property
    def found(self) -> bool:
        return bool(self._node.get_publishers_info_by_topic(self._subscription.topic_name))

    def watch(self) -> None:
        self._before = self._received

    def facts(self) -> dict[str, Any]:
        topic = self._subscription.topic_name
        publishers = self._node.get_publishers_info_by_topic(topic)
        return {
            "topic": topic,
            "nodes": [info.node_name for info in publishers],
            "misfits": _misfits(self._kind, publishers, lambda offered: qos_check_compatible(offered, self._qos)),
            "received": self._received,
            "received_hz": (self._received - self._before) / _WATCH_S,
            "expected_hz": self._rate_hz,
            "age_s": self._age_s,  # of the newest stamp when it arrived; 0 without a header
        }

    def _take(self, message: bytes) -> None:
        self._received += 1
        if "header" in self._kind.get_fields_and_field_types():
            stamp = deserialize_message(message, self._kind).header.stamp
            self._age_s = (self._node.get_clock().now().nanoseconds - stamp.sec * 10**9 - stamp.nanosec) / 1e9


def _output(node: Node, topic: str, kind: type[Any]) -> dict[str, Any]:
    """Give who listens to a topic that the pilot publishes, and who else publishes on it."""
    name = node.resolve_topic_name(topic)
    listeners = node.get_subscriptions_info_by_topic(name)
    return {
        "topic": name,
        "nodes": [info.node_name for info in listeners],
        "misfits": _misfits(kind, listeners, lambda wanted: qos_check_compatible(_COMMAND, wanted)),
        "commanders": [info.node_name for info in node.get_publishers_info_by_topic(name)],
    }


def _misfits(
    kind: type[Any], endpoints: Iterable[Any], check: Callable[[QoSProfile], tuple[QoSCompatibility, str]]
) -> list[str]:
    """Say which endpoints cannot talk with the pilot, and why."""
    wanted = f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"
    said = []
    for info in endpoints:
        fit, why = check(info.qos_profile)
        if info.topic_type != wanted:
            said.append(f"{info.node_name} has the type {info.topic_type}, not {wanted}")
        elif fit == QoSCompatibility.ERROR:
            said.append(f"{info.node_name}: {why.rstrip('; ')}")
    return said


def _robot(node: Node, executor: SingleThreadedExecutor, robot: RobotConfig) -> dict[str, Any]:
    """Look at a robot's topics, and count what arrives for a while."""
    inputs = [
        _Input(
            node,
            camera.topic,
            _TYPES[camera.type],
            QoSProfile(depth=5, reliability=ReliabilityPolicy[camera.reliability.upper()]),
            camera.rate_hz,
        )
        for camera in robot.cameras.values()
    ]
    inputs += [
        _Input(node, robot.joint_state_topic, JointState, qos_profile_sensor_data),
        _Input(node, robot.description_topic, String, LATCHED),
    ]
    if robot.estop_topic:
        inputs.append(_Input(node, robot.estop_topic, Bool, LATCHED))
    outputs = {robot.arm.topic: robot.arm.type}
    if robot.gripper.type in _TYPES:
        outputs[robot.gripper.topic] = robot.gripper.type
    _spin(executor, _PATIENCE_S, lambda: all(each.found for each in inputs))
    for each in inputs:
        each.watch()
    _spin(executor, _WATCH_S)
    return {
        "inputs": [each.facts() for each in inputs],
        "outputs": [_output(node, topic, _TYPES[kind]) for topic, kind in outputs.items()],
        "clock": bool(node.get_publishers_info_by_topic("/clock")),
    }


def _middleware(node: Node, executor: SingleThreadedExecutor) -> dict[str, Any]:
    """Start a beacon in another process and tell what of it arrives."""
    counts: list[int] = []
    arrived = 0

    def take(_: bytes) -> None:
        nonlocal arrived
        arrived += bool(counts)  # as those that are counted, from the first count on

    with tempfile.TemporaryDirectory() as folder:
        start_s = time.monotonic()
        with NodeProcess("vlaq_ros.ros.beacon", {}, {}, Path(folder) / "log") as process:
            private = f"/vlaq_beacon_{process.pid}/"
            node.create_subscription(Image, IMAGE_TOPIC.replace("~/", private), take, qos_profile_sensor_data, raw=True)
            node.create_subscription(
                Int64, COUNT_TOPIC.replace("~/", private), lambda message: counts.append(message.data), 10
            )
            _spin(executor, _PATIENCE_S, lambda: bool(counts))
            found_s = time.monotonic() - start_s
            process.check()
            _spin(executor, _WATCH_S)
    return {
        "found_s": found_s if counts else None,
        "images_sent": counts[-1] - counts[0] if counts else 0,
        "images_received": arrived,
    }


def _spin(executor: SingleThreadedExecutor, duration_s: float, done: Callable[[], bool] = lambda: False) -> None:
    end_s = time.monotonic() + duration_s
    while (left_s := end_s - time.monotonic()) > 0 and not done():
        executor.spin_once(timeout_sec=min(left_s, 0.1))


def main() -> None:
    """Survey the middleware, and the topics of a robot where one is named."""
    with ros_lifetime("survey"):
        robot, namespace = sys.argv[1:] or ("", "")
        node, executor = Node("vlaq_doctor", namespace=namespace), SingleThreadedExecutor()
        executor.add_node(node)
        facts = {"rmw": get_rmw_implementation_identifier(), "middleware": _middleware(node, executor)}
        if robot:
            facts["robot"] = _robot(node, executor, RobotConfig.load(robot))
        executor.shutdown()
        node.destroy_node()
    print(json.dumps(facts))  # noqa: T201 - what it is run for


if __name__ == "__main__":
    main()
