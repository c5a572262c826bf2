"""Faults that take a process: the real pilot against the real simulated robot, over DDS, and how the arm ends."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from node_bench import DOMAIN_ID, PATIENCE_S, SECOND, TASK, at_rest_at_the_end
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory
from within import excess

from vlaq_ros import messages
from vlaq_ros.config import RobotConfig
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import Trajectory
from vlaq_ros.ros.processes import NodeDiedError, NodeProcess
from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.sim import panda

ROBOT = RobotConfig.load("sim_panda")
STILL_RAD_S = 0.01  # the simulated arm trembles less than this where it rests
LATE_NS = 300 * 1_000_000  # a busy machine may carry out a command this late


HANGS = """
import itertools, time
from vlaq_ros.policy.engine import Engine
from vlaq_ros.ros import pilot_node
infer, calls = Engine.infer, itertools.count()
def hang(*given, **named):
    if next(calls) > 20:
        print("it hangs", flush=True)
        time.sleep(3600.0)
    return infer(*given, **named)
Engine.infer = hang
pilot_node.main()
"""
RAISES = """
import itertools
from vlaq_ros.ros import pilot_node
from vlaq_ros.flight import Flight
tick, calls = Flight.tick, itertools.count()
def fail(*given):
    if next(calls) > 200:
        raise RuntimeError("a bug in the executor's thread")
    tick(*given)
Flight.tick = fail
pilot_node.main()
"""


class Cell:
    """A pilot and a simulated robot as processes, and who watches them."""

    def __init__(self, folder: Path, model: Path) -> None:
        self._environment = {"ROS_DOMAIN_ID": str(DOMAIN_ID), "OMP_NUM_THREADS": "1"}
        self._folder = folder
        self._model = model
        self._processes = ExitStack()
        self.commands: list[Trajectory] = []
        self.joint_states: list[JointState] = []
        self.diagnostics: dict[str, str] = {}
        rclpy.init(domain_id=DOMAIN_ID)
        self._node = rclpy.create_node("watcher")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._instruction = self._node.create_publisher(String, "instruction", LATCHED)
        self._node.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", self._hear, 10)
        self._node.create_subscription(JointState, "joint_states", self.joint_states.append, qos_profile_sensor_data)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, 10)

    def robot(self) -> NodeProcess:
        return self._start("robot", "vlaq_ros.ros.sim_robot_node", {"publish_clock": "true"})

    def pilot(self, program: str = "") -> NodeProcess:
        """The pilot, or a program that is the pilot with a defect."""
        given = {"model": str(self._model), "replan_period_s": "0.2"}
        given |= dict.fromkeys(("autostart", "enabled", "use_sim_time"), "true")
        if not program:
            return self._start("pilot", "vlaq_ros.ros.pilot_node", given)
        (self._folder / "defect.py").write_text(program)
        self._environment["PYTHONPATH"] = str(self._folder)
        return self._start("pilot", "defect", given)

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def say(self, instruction: str) -> None:
        self._instruction.publish(String(data=instruction))

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s, f"not within {PATIENCE_S} s: {what}; {self.diagnostics}"
            self._executor.spin_once(timeout_sec=0.05)

    def flies(self, count: int = 3) -> None:
        """Until the arm is commanded some more."""
        before = len(self.commands)
        self.wait(lambda: len(self.commands) >= before + count, "commands")

    def rests(self) -> None:
        """The arm comes to rest by the end of what it was commanded, and stays there for a second.

        A brake that a busy machine delivers too late is rejected; then it is the chunk before it that ends at rest.
        """
        self.wait(lambda: stamp_ns(self.joint_states[-1]) > self._end_ns() + SECOND, "joint states after the end")
        after = [np.array(state.velocity) for state in self.joint_states if stamp_ns(state) > self._end_ns()]
        assert np.abs(after).max() < STILL_RAD_S

    def _end_ns(self) -> int:
        return max(command.stamp_ns + int(command.times_ns[-1]) for command in self.commands[-2:]) + LATE_NS

    def close(self) -> None:
        self._processes.close()
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def _start(self, name: str, module: str, parameters: dict[str, str]) -> NodeProcess:
        process = NodeProcess(module, parameters, self._environment, self._folder / f"{name}.log")
        return self._processes.enter_context(process)

    def _hear(self, message: JointTrajectory) -> None:
        self.commands.append(messages.trajectory(message))

    def _diagnose(self, message: DiagnosticArray) -> None:
        self.diagnostics |= {status.name: status.message for status in message.status}


def stamp_ns(message: Any) -> int:
    return messages.stamp_ns(message.header.stamp)


def ended(process: NodeProcess) -> bool:
    try:
        process.check()
    except NodeDiedError:
        return True
    return False


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Path) -> Iterator[Cell]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    made = Cell(tmp_path, tiny_bundle)
    yield made
    made.close()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGSEGV], ids=lambda number: number.name
)
def test_however_the_pilot_ends_the_arm_comes_to_rest_within_its_limits(cell: Cell, number: signal.Signals) -> None:
    cell.robot()
    pilot = cell.pilot()
    cell.say(TASK)
    cell.flies()
    os.kill(pilot.pid, number)
    asked = number in {signal.SIGTERM, signal.SIGINT}
    cell.wait(lambda: ended(pilot), "the pilot ends")
    assert pilot.stop() == (0 if asked else -number)
    cell.rests()
    kinematics = Kinematics(panda.urdf(), panda.JOINT_NAMES, ROBOT.tool_frame)
    for command in cell.commands:
        assert at_rest_at_the_end(command)
        assert excess(command, kinematics, ROBOT) == {}
    assert (cell.commands[-1].times_ns[-1] < 0.8 * SECOND) == asked, "a brake where it was asked to end"


def test_an_interrupt_that_comes_twice_does_not_cut_the_brake_short(cell: Cell) -> None:
    cell.robot()
    pilot = cell.pilot()
    cell.say(TASK)
    cell.flies()
    for _ in range(3):
        os.kill(pilot.pid, signal.SIGINT)
    cell.wait(lambda: ended(pilot), "the pilot ends")
    assert pilot.stop() == 0
    cell.rests()
    assert cell.commands[-1].times_ns[-1] < 0.8 * SECOND, "a brake"


def test_a_pilot_whose_policy_hangs_still_ends_when_it_is_asked_to(cell: Cell) -> None:
    cell.robot()
    pilot = cell.pilot(HANGS)
    cell.say(TASK)
    cell.wait(lambda: "it hangs" in cell.log("pilot"), "the policy hangs")
    os.kill(pilot.pid, signal.SIGTERM)
    cell.wait(lambda: ended(pilot), "the pilot ends")
    assert pilot.stop() == 1
    cell.rests()


def test_a_bug_in_the_node_itself_ends_it_with_a_brake(cell: Cell) -> None:
    cell.robot()
    pilot = cell.pilot(RAISES)
    cell.say(TASK)
    cell.wait(lambda: ended(pilot), "the pilot ends")
    assert pilot.stop() == 1
    assert "a bug in the executor's thread" in cell.log("pilot")
    cell.rests()
    assert cell.commands[-1].times_ns[-1] < 0.8 * SECOND, "a brake"


def test_a_pilot_that_waits_for_its_robot_ends_when_it_is_asked_to(cell: Cell) -> None:
    pilot = cell.pilot()
    cell.wait(lambda: "pilot: state" in cell.diagnostics or "no robot description" in cell.log("pilot"), "it waits")
    os.kill(pilot.pid, signal.SIGTERM)
    cell.wait(lambda: ended(pilot), "the pilot ends")
    assert pilot.stop() == 0
    assert cell.commands == []


def test_a_robot_that_is_killed_and_started_again_is_commanded_again(cell: Cell) -> None:
    robot = cell.robot()
    cell.pilot()
    cell.say(TASK)
    cell.flies()
    os.kill(robot.pid, signal.SIGKILL)
    cell.wait(lambda: "time stands still" in cell.diagnostics.get("pilot: state", ""), "its clock stands still")
    killed_ns = stamp_ns(cell.joint_states[-1])
    cell.robot()
    cell.wait(lambda: cell.commands[-1].stamp_ns > killed_ns + SECOND, "commands for the new robot")
    cell.flies()


def test_a_full_disk_keeps_nobody_from_flying(cell: Cell) -> None:
    cell.robot()
    pilot = cell.pilot()
    cell.say(TASK)
    cell.flies()
    # From here on no file can grow, its own log and ROS's among them.
    resource.prlimit(pilot.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    said = cell.log("pilot")
    for _ in range(3):
        cell.say("dance")
        cell.wait(lambda: "no task knows" in cell.diagnostics["pilot: policy"], "an error that would be logged")
        cell.say(TASK)
        cell.flies()
    assert cell.log("pilot") == said, "the disk was full"
    pilot.check()
