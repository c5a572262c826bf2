"""What a robot sends at its busiest: two cameras of 640x480 at 30 Hz and joint states at 500 Hz, of an ideal arm."""

from __future__ import annotations

import json
import os
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import MessageInfo
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory

from vlaq_ros import messages
from vlaq_ros.config import RobotConfig
from vlaq_ros.control.interpolation import sample
from vlaq_ros.datatypes import Trajectory
from vlaq_ros.errors import VlaqError
from vlaq_ros.ros.inputs import INSTRUCTION_TOPIC, PROFILE
from vlaq_ros.ros.processes import NodeProcess
from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.ros.traced_pilot import TRACE, WAY
from vlaq_ros.sim import panda

CAMERA_HZ, JOINTS_HZ = 30.0, 500.0
_WIDTH, _HEIGHT = 640, 480
_START_S = 120.0  # what a pilot may take to load and to send its first command
_WARM_S = 3.0


class NoCommandError(VlaqError):
    """The pilot commanded nothing."""

    def __init__(self, log: str) -> None:
        lines = log.strip().splitlines() or ["nothing"]
        super().__init__(f"the pilot sent no command within {_START_S:.0f} s; it said last: {lines[-1]}")


class Load(Node):
    """An ideal arm and its cameras.

    Attributes:
        received_ns: when commands arrived, by the time at which they take over; ns of the system clock.
    """

    def __init__(self, robot: RobotConfig, context: Context) -> None:
        super().__init__("load", context=context)
        self.received_ns: dict[int, int] = {}
        self._command: Trajectory | None = None
        self._image = Image(
            height=_HEIGHT, width=_WIDTH, encoding="rgb8", step=3 * _WIDTH, data=array("B", bytes(3 * _WIDTH * _HEIGHT))
        )
        self._joints = self.create_publisher(JointState, robot.joint_state_topic, 10)
        self._state = JointState(name=panda.JOINT_NAMES, position=[*panda.HOME_RAD, 0.04])
        for camera in robot.cameras.values():
            images = self.create_publisher(Image, camera.topic, qos_profile_sensor_data)
            self.create_timer(1 / CAMERA_HZ, lambda images=images: self._show(images))
        self.create_timer(1 / JOINTS_HZ, self._tell)
        self.create_publisher(String, robot.description_topic, LATCHED).publish(String(data=panda.urdf()))
        self._instruction = self.create_publisher(String, INSTRUCTION_TOPIC, LATCHED)
        self.create_subscription(JointTrajectory, robot.arm.topic, self._follow, 10)

    def instruct(self, sentence: str) -> None:
        """Say what the pilot shall do."""
        self._instruction.publish(String(data=sentence))

    def _show(self, images: Any) -> None:
        self._image.header = self._header()
        images.publish(self._image)

    def _tell(self) -> None:
        self._state.header = self._header()
        if self._command is not None:
            self._state.position = array("d", sample(self._command, self._now_ns())[0])
        self._joints.publish(self._state)

    def _follow(self, message: JointTrajectory, info: MessageInfo) -> None:
        self._command = command = messages.trajectory(message)
        self.received_ns[command.stamp_ns + int(command.times_ns[0])] = info["received_timestamp"]

    def _header(self) -> Header:
        return Header(stamp=self.get_clock().now().to_msg())

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds


def measure(model: Path, instruction: str, way: str, seconds: float, domain_id: int) -> dict[str, Any]:
    """Let a real pilot process fly the ideal arm under load.

    Args:
        model: bundle directory.
        instruction: one that it knows.
        way: of running it, of `traced_pilot.WAYS`.
        seconds: how long is measured, after some seconds of warming up.
        domain_id: ROS domain that nothing else uses.

    Returns:
        The trace of the pilot, with `received_ns` of the commands, and of the time that was measured `begin_ns`,
        `end_ns` and `threads_s`: the CPU time of every thread, by its id, the process' first.

    Raises:
        NoCommandError: the pilot did not start.
        NodeDiedError: it ended.
    """
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"  # read when a context starts, here and there
    os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = str(PROFILE)
    context = Context()
    rclpy.init(context=context, domain_id=domain_id, signal_handler_options=SignalHandlerOptions.NO)
    node = Load(RobotConfig.load("sim_panda"), context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin(seconds: float, done: Callable[[], bool] = lambda: False) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s and not done():
            executor.spin_once(timeout_sec=0.05)

    given = {"model": str(model), "autostart": "true", "enabled": "true"}
    with tempfile.TemporaryDirectory() as folder:
        trace, log = Path(folder) / "trace.json", Path(folder) / "log"
        own = {"ROS_DOMAIN_ID": str(domain_id), TRACE: str(trace), WAY: way}
        with NodeProcess("vlaq_ros.ros.traced_pilot", given, own, log) as pilot:
            node.instruct(instruction)
            spin(_START_S, lambda: bool(node.received_ns))
            pilot.check()
            if not node.received_ns:
                raise NoCommandError(log.read_text(encoding="utf-8", errors="replace"))
            spin(_WARM_S)
            begin_ns, begun_s = node.get_clock().now().nanoseconds, _threads_s(pilot.pid)
            spin(seconds)
            end_ns, ended_s = node.get_clock().now().nanoseconds, _threads_s(pilot.pid)
            pilot.check()
        seen: dict[str, Any] = json.loads(trace.read_text(encoding="utf-8"))
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)
    threads_s = {thread: spent_s - begun_s.get(thread, 0.0) for thread, spent_s in ended_s.items()}
    return {**seen, "received_ns": node.received_ns, "begin_ns": begin_ns, "end_ns": end_ns, "threads_s": threads_s}


def _threads_s(pid: int) -> dict[int, float]:
    """CPU time of every thread of a process, user and system (proc(5))."""
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    spent_s = {}
    for task in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda task: int(task.name)):
        fields = (task / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        spent_s[int(task.name)] = (int(fields[11]) + int(fields[12])) * tick_s
    return spent_s
