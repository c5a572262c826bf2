from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from vlaq_ros.config import RobotConfig
from vlaq_ros.doctor.examination import examine
from vlaq_ros.ros import domain
from vlaq_ros.ros.qos import LATCHED

DOMAIN_ID = domain.claim()
ROBOT = RobotConfig.load("sim_panda")


def survey(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "vlaq_ros.ros.survey", *words],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"ROS_DOMAIN_ID": str(DOMAIN_ID), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An arm in a namespace, whose wrist camera has the wrong type, and to whose controller nothing belongs."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    context = Context()
    rclpy.init(context=context, domain_id=DOMAIN_ID)
    node = Node("arm", namespace="left", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    front = node.create_publisher(Image, ROBOT.cameras["front"].topic, qos_profile_sensor_data)
    joints = node.create_publisher(JointState, ROBOT.joint_state_topic, 10)
    node.create_publisher(String, ROBOT.cameras["wrist"].topic, 10)
    node.create_publisher(String, ROBOT.description_topic, LATCHED).publish(String(data="<robot/>"))
    image = Image(height=2, width=2, encoding="rgb8", step=6, data=bytes(12))
    names = list(ROBOT.joint_names)

    def publish() -> None:
        stamp = node.get_clock().now().to_msg()
        image.header.stamp = stamp
        front.publish(image)
        state = JointState(name=names, position=[0.0] * len(names), velocity=[0.0] * len(names))
        state.header.stamp = stamp
        joints.publish(state)

    node.create_timer(1 / ROBOT.cameras["front"].rate_hz, publish)
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.1)

    thread = threading.Thread(target=spin)
    thread.start()
    yield
    stop.set()
    thread.join()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_this_machine_is_examined_without_a_robot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN_ID))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    found = {finding.check: finding for finding in examine(None, "tabletop_pi0_calibrated", "/")}
    assert list(found) == [
        *("python", "packages", "board", "power mode", "governor", "temperature", "realtime"),
        *("torch", "torch's GPU kernels", "kernel", "memory", "disk", "shared memory"),
        *("clock steps", "clock synchronised", "rendering", "ROS", "discovery", "large images", "Fast DDS profile"),
    ]
    assert {check: found[check].level for check in ("python", "kernel", "rendering", "ROS", "discovery")} == {
        "python": "ok",
        "kernel": "ok",
        "rendering": "ok",
        "ROS": "ok",
        "discovery": "ok",
    }


@pytest.mark.usefixtures("arm")
def test_a_robot_is_seen_as_the_pilot_would_see_it() -> None:
    robot = survey("sim_panda", "/left")["robot"]
    assert robot["publishers"] == {
        f"/left/{topic}": ["arm"]
        for topic in (
            *(camera.topic for camera in ROBOT.cameras.values()),
            ROBOT.joint_state_topic,
            ROBOT.description_topic,
        )
    }
    fault, *_ = robot["faults"]  # and the camera that is not heard is starved
    assert fault.startswith(
        "/left/camera/wrist/image_raw cannot be heard from /left/arm, which sends std_msgs/msg/String"
    )
    assert robot["blocking"] == ["camera wrist: no image received"]
    assert robot["described"]
    assert not robot["simulated"]
    (command,) = robot["commands"]
    assert (command["topic"], command["listeners"]) == ("/left/arm_controller/joint_trajectory", {})
