"""One side of a link between processes, run as `camera_link.py send|receive SECONDS`; prints what it saw as JSON.

Two cameras of 640x480 at 30 Hz, best effort, on the topics of the simulated Panda.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from vlaq_ros.config import RobotConfig
from vlaq_ros.datatypes import ImageArray
from vlaq_ros.joints import JointMap
from vlaq_ros.observe import Observer
from vlaq_ros.ros.inputs import Inputs, starved

RATE_HZ = 30.0
PANDA = RobotConfig.load("sim_panda")
ROBOT = replace(PANDA, cameras={name: replace(camera, rate_hz=RATE_HZ) for name, camera in PANDA.cameras.items()})


class Counting(Observer):
    """Remembers the stamps of all images."""

    def __init__(self) -> None:
        limits = {"max_image_age_s": 0.3, "max_camera_skew_s": 0.1, "max_joint_age_s": 0.2}
        super().__init__(tuple(ROBOT.cameras), JointMap.whole(ROBOT), **limits)
        self.stamps_ns: dict[str, list[int]] = {name: [] for name in ROBOT.cameras}

    def push_image(self, camera: str, stamp_ns: int, decode: Callable[[], ImageArray]) -> None:
        self.stamps_ns[camera].append(stamp_ns)
        super().push_image(camera, stamp_ns, decode)


def send(node: Node, seconds: float) -> dict[str, Any]:
    """Show images as soon as both topics are listened to."""
    data = array("B", bytes(640 * 480 * 3))
    publishers = [
        node.create_publisher(Image, camera.topic, qos_profile_sensor_data) for camera in ROBOT.cameras.values()
    ]
    while not all(publisher.get_subscription_count() for publisher in publishers):
        time.sleep(0.05)
    start_s, sent = time.monotonic(), 0
    while sent < seconds * RATE_HZ:
        header = Header(stamp=node.get_clock().now().to_msg())
        for publisher in publishers:
            publisher.publish(Image(header=header, height=480, width=640, encoding="rgb8", step=1920, data=data))
        sent += 1
        time.sleep(max(0.0, start_s + sent / RATE_HZ - time.monotonic()))
    return {"sent": sent}


def receive(node: Node, seconds: float) -> dict[str, Any]:
    """Listen from the first image on, a little longer than is sent; what is starved is asked while it is sent."""
    observer = Counting()
    node.create_timer(0.02, Inputs(node, ROBOT, observer, lambda _: None).take)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not any(observer.stamps_ns.values()):
        executor.spin_once(timeout_sec=0.1)
    start_s = time.monotonic()

    def listen(until_s: float) -> None:
        while time.monotonic() < start_s + until_s:
            executor.spin_once(timeout_sec=0.1)

    listen(seconds - 0.5)
    now_ns = int(node.get_clock().now().nanoseconds)
    said = starved(observer, ROBOT, now_ns)
    listen(seconds + 1.0)
    return {"stamps_ns": observer.stamps_ns, "now_ns": now_ns, "starved": said}


if __name__ == "__main__":
    rclpy.init()
    side = {"send": send, "receive": receive}[sys.argv[1]]
    print(json.dumps(side(Node(sys.argv[1]), float(sys.argv[2]))))  # noqa: T201 - the answer to the parent
