"""A robot and the node `pilot` in one process, for the tests that need DDS but no processes.

The robot is ideal and can be spoiled: what it shows, tells and follows, and the clock that it stamps with.
"""

from __future__ import annotations

import json
import re
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory

from vlaq_ros import messages
from vlaq_ros.config import resolve
from vlaq_ros.control.interpolation import sample
from vlaq_ros.datatypes import FloatArray, Trajectory
from vlaq_ros.ros import domain
from vlaq_ros.ros.pilot_node import PilotNode
from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.sim import panda

DOMAIN_ID = domain.claim()
PATIENCE_S = 90.0  # a busy machine needs half a minute to import a policy, and seconds to discover
HOME = np.array([*panda.HOME_RAD, 0.04])
TASK = "pick up the red cube"
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
MS, SECOND = 1_000_000, 1_000_000_000


class Robot(Node):
    """An ideal robot: it is where it is told to be.

    Attributes:
        cameras_on, joints_on, follows: what works.
        paused: simulated time stands still, and everything with it.
        spoil_image, spoil_joints: change a message before it is sent, or give None for none.
        time_ns: simulated time, which it publishes and stamps with; None where it has none.
        commands: what it was told, oldest first.
        commanded_s: when it was told last, on the steady clock.
        diagnostics: the newest of every component.
        precisions: what was said on the topic, oldest first.
    """

    def __init__(self, urdf: str, time_ns: int | None = None) -> None:
        super().__init__("robot")
        self.cameras_on = {"front": True, "wrist": True}
        self.joints_on = self.follows = True
        self.paused = False
        self.spoil_image: Callable[[str, Image], Image | None] = lambda _, image: image
        self.spoil_joints: Callable[[JointState], JointState | None] = lambda state: state
        self.time_ns = time_ns
        self.commands: list[Trajectory] = []
        self.commanded_s = 0.0
        self._rest = HOME
        self._motion: Trajectory | None = None
        self.diagnostics: dict[str, DiagnosticStatus] = {}
        self._images = {
            name: self.create_publisher(Image, f"camera/{name}/image_raw", qos_profile_sensor_data)
            for name in self.cameras_on
        }
        self._joint_states = self.create_publisher(JointState, "joint_states", 10)
        self._clock_publisher = self.create_publisher(Clock, "/clock", 10) if time_ns is not None else None
        self._description = self.create_publisher(String, "robot_description", LATCHED)
        self.describe(urdf)
        self.instruction = self.create_publisher(String, "instruction", LATCHED)
        self.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", self._follow, 10)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, 10)
        self.precisions = self.listen(String, "precision", LATCHED)
        self.create_timer(0.01, self._tell_joints)
        self.create_timer(0.05, self._show)

    def listen(self, kind: type, name: str, qos: Any = 10) -> list[Any]:
        """Keep what the pilot says on one of its topics."""
        heard: list[Any] = []
        self.create_subscription(kind, f"/pilot/{name}", lambda message: heard.append(message.data), qos)
        return heard

    def describe(self, urdf: str) -> None:
        if urdf:
            self._description.publish(String(data=urdf))

    def say(self, instruction: str) -> None:
        self.instruction.publish(String(data=instruction))

    def positions(self) -> FloatArray:
        """Where it is now."""
        return self._rest if self._motion is None else sample(self._motion, self.now_ns())[0]

    def put(self, positions: FloatArray) -> None:
        """Be somewhere else at once, at rest."""
        self._rest, self._motion = positions, None

    def now_ns(self) -> int:
        """The time that it stamps with."""
        return self.get_clock().now().nanoseconds if self.time_ns is None else self.time_ns

    def _follow(self, message: JointTrajectory) -> None:
        self.commands.append(messages.trajectory(message))
        if self.follows:
            self._motion = self.commands[-1]
        self.commanded_s = time.monotonic()

    def _diagnose(self, message: DiagnosticArray) -> None:
        self.diagnostics = {status.name: status for status in message.status}

    def _header(self) -> Header:
        return Header(stamp=Time(nanoseconds=self.now_ns()).to_msg())

    def _tell_joints(self) -> None:
        if self.paused:
            return
        if self.time_ns is not None and self._clock_publisher is not None:
            self.time_ns += 10 * MS
            self._clock_publisher.publish(Clock(clock=Time(nanoseconds=self.time_ns).to_msg()))
        if self.joints_on:
            state = JointState(header=self._header(), name=panda.JOINT_NAMES, position=self.positions().tolist())
            if (spoiled := self.spoil_joints(state)) is not None:
                self._joint_states.publish(spoiled)

    def _show(self) -> None:
        data = array("B", bytes(96 * 96 * 3))
        for name, on in self.cameras_on.items():
            if on and not self.paused:
                image = Image(header=self._header(), height=96, width=96, encoding="rgb8", step=288, data=data)
                if (spoiled := self.spoil_image(name, image)) is not None:
                    self._images[name].publish(spoiled)


class Bench:
    """A robot and a pilot in one process, spun by one thread."""

    def __init__(self, robot: Robot) -> None:
        self.robot = robot
        self.stop = threading.Event()
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(robot)
        self._pilots: list[PilotNode] = []

    def pilot(self) -> PilotNode:
        node = PilotNode(self.stop)
        self._executor.add_node(node)
        self._pilots.append(node)
        return node

    def flying(self, instruction: str = TASK) -> PilotNode:
        """A pilot that has commanded the robot already."""
        node = self.pilot()
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        self.robot.say(instruction)
        self.wait(lambda: self.robot.commands, "the first command")
        return node

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s, f"not within {PATIENCE_S} s: {what}; {self.robot.diagnostics}"
            self._executor.spin_once(timeout_sec=0.05)

    def wait_for_silence(self) -> None:
        """Until no command came for ten replan periods; a busy machine may be late by a few."""
        self.wait(lambda: time.monotonic() > self.robot.commanded_s + 2.0, "commands end")

    def wait_for_health(self, component: str, level: bytes, pattern: str = ".*") -> DiagnosticStatus:
        def said() -> bool:
            status = self.robot.diagnostics.get(f"pilot: {component}")
            return status is not None and status.level == level and re.fullmatch(pattern, status.message) is not None

        self.wait(said, f"{component} says {pattern!r}")
        return self.robot.diagnostics[f"pilot: {component}"]

    def close(self) -> None:
        for node in self._pilots:
            node.close()
            node.destroy_node()
        self._executor.shutdown()
        self.robot.destroy_node()


def initialised(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Give what initialises ROS with parameters of the pilot; afterwards it is shut down."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

    def start(**given: object) -> None:
        words = [word for name, value in given.items() for word in ("-p", f"pilot:{name}:={json.dumps(value)}")]
        rclpy.init(args=["--ros-args", *words], domain_id=DOMAIN_ID)

    yield start
    rclpy.try_shutdown()


def at_rest_at_the_end(trajectory: Trajectory) -> bool:
    return trajectory.velocities is not None and not trajectory.velocities[-1].any()


def robot_file(folder: Path, **changes: Any) -> str:
    """The simulated Panda's file with other values."""
    shipped = resolve("sim_panda", "config/robots", ".yaml")
    values = yaml.safe_load(shipped.read_text())
    values["safety"]["joint_limits"] = str((shipped.parent / values["safety"]["joint_limits"]).resolve())
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return str(path)
