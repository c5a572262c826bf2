"""What ROS does on this machine, as one line of JSON: `python -m vlaq_ros.ros.survey [ROBOT NAMESPACE]`.

A process of its own, for a ROS that cannot be loaded, or a middleware that hangs, takes its process with it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import Image
from std_msgs.msg import Int64, String

from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.datatypes import Stale
from vlaq_ros.joints import JointMap
from vlaq_ros.observe import Observer
from vlaq_ros.ros.beacon import COUNT_TOPIC, IMAGE_TOPIC
from vlaq_ros.ros.inputs import Inputs, starved
from vlaq_ros.ros.lifetime import ros_lifetime
from vlaq_ros.ros.processes import NodeProcess
from vlaq_ros.ros.qos import LATCHED

_PATIENCE_S = 10.0  # for processes to find each other
_TAKE_S = 0.02
_WATCH_S = 2.5  # longer than what the observer counts rates over
_COMMANDS = {
    "JointTrajectory": "trajectory_msgs/msg/JointTrajectory",
    "Float64MultiArray": "std_msgs/msg/Float64MultiArray",
}


def _robot(executor: SingleThreadedExecutor, robot: RobotConfig, namespace: str, *, simulated: bool) -> dict[str, Any]:
    """Listen to a robot as the pilot does, and say what would block it."""
    time_source = Parameter("use_sim_time", value=simulated)
    node = Node("vlaq_doctor_robot", namespace=namespace, parameter_overrides=[time_source])
    executor.add_node(node)
    config = PilotConfig()
    observer = Observer(
        tuple(robot.cameras),
        JointMap.whole(robot),
        max_image_age_s=config.max_image_age_s,
        max_camera_skew_s=config.max_camera_skew_s,
        max_joint_age_s=config.max_joint_age_s,
    )
    inputs = Inputs(node, robot, observer, on_estop=lambda _: None)
    node.create_timer(_TAKE_S, inputs.take)
    observer.push_instruction("look")  # without one there is no observation
    descriptions: list[String] = []
    node.create_subscription(String, robot.description_topic, descriptions.append, LATCHED)
    heard = [camera.topic for camera in robot.cameras.values()] + [robot.joint_state_topic, robot.description_topic]
    heard += [robot.estop_topic] if robot.estop_topic else []

    def publishers(topic: str) -> list[str]:
        return [info.node_name for info in node.get_publishers_info_by_topic(topic)]

    _spin(executor, _PATIENCE_S, lambda: all(map(publishers, heard)))
    _spin(executor, _WATCH_S)
    now_ns = node.get_clock().now().nanoseconds
    sampled = observer.sample(now_ns)
    commands = [_command(node, robot.arm.topic, robot.arm.type)]
    if robot.gripper.type in _COMMANDS:
        commands.append(_command(node, robot.gripper.topic, robot.gripper.type))
    seen = {
        "publishers": {node.resolve_topic_name(topic): publishers(topic) for topic in heard},
        "faults": [*inputs.faults().values(), *starved(observer, robot, now_ns).values()],
        "blocking": sampled.reasons if isinstance(sampled, Stale) else (),
        "described": bool(descriptions),
        "commands": commands,
        "simulated": simulated,
    }
    node.destroy_node()
    return seen


def _command(node: Node, topic: str, kind: str) -> dict[str, Any]:
    """Give who listens to a topic that the pilot would publish, by types, and who publishes there already."""
    name = node.resolve_topic_name(topic)
    return {
        "topic": name,
        "type": _COMMANDS[kind],
        "listeners": {info.node_name: info.topic_type for info in node.get_subscriptions_info_by_topic(name)},
        "commanders": [info.node_name for info in node.get_publishers_info_by_topic(name)],
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
        node, executor = Node("vlaq_doctor"), SingleThreadedExecutor()
        executor.add_node(node)
        facts = {"rmw": get_rmw_implementation_identifier(), "middleware": _middleware(node, executor)}
        if robot:
            simulated = bool(node.get_publishers_info_by_topic("/clock"))
            facts["robot"] = _robot(executor, RobotConfig.load(robot), namespace, simulated=simulated)
        executor.shutdown()
        node.destroy_node()
    print(json.dumps(facts))  # noqa: T201 - what it is run for


if __name__ == "__main__":
    main()
