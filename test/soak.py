"""An hour of simulated flight with a fault every few seconds: `python test/soak.py`, which is `make soak`.

The real pilot, in a process of its own, flies the simulated robot, which runs here, as fast as the machine goes. Faults
come in a seeded order. Held against docs/safety.md: every command stays within the limits and begins at the arm, what
is to stop the pilot stops it, it goes on after every fault, and its memory does not grow.

What the arm executes is told beside: a command travels as long as ever while simulated time runs faster, so that an arm
that starts late catches up with it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from node_bench import robot_file
from rclpy.executors import SingleThreadedExecutor
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from std_msgs.msg import Bool, Int64, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory
from within import excess

from vlaq_ros import messages
from vlaq_ros.config import RobotConfig
from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.safety import JointLimits
from vlaq_ros.datatypes import FloatArray
from vlaq_ros.ros import domain
from vlaq_ros.ros.processes import NodeProcess
from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.ros.sim_robot_node import SimRobotNode
from vlaq_ros.sim import panda

SECOND = 1_000_000_000
DOMAIN_ID = domain.claim()
TASKS = ("pick up the red cube", "put the blue cube in the bin")
READY_S, RECOVERY_S = 600.0, 10.0  # of simulated time
SETTLE_S = 2.0  # from a fault until what blocks has stopped the chunks, and the arm rests
SLICES = 2  # of the robot between two looks at what came in
LEAP_RAD = 0.2  # from the arm to a command: what the pilot tolerates itself (tracking_tolerance_rad)
MEMORY = 0.03  # of the pilot's: how much more it may hold at the end than after the first quarter

Spoil = Callable[[Any], Iterable[Any]]


class Wire:
    """A publisher whose messages may get lost, changed or held up on their way."""

    def __init__(self, publisher: Any) -> None:
        self._publisher = publisher
        self.spoil: Spoil | None = None

    def publish(self, message: Any) -> None:
        for arriving in [message] if self.spoil is None else self.spoil(message):
            self._publisher.publish(arriving)


class SpoiledRobot(SimRobotNode):
    """The simulated robot, whose sensors are wired through `wires`, by topic."""

    def __init__(self) -> None:
        self.wires: dict[str, Wire] = {}
        super().__init__()

    @property
    def time_ns(self) -> int:
        """Simulated time."""
        return self._robot.time_ns

    def joints(self) -> tuple[FloatArray, FloatArray]:
        """Positions [J] rad (m) and velocities [J] rad/s (m/s), as executed."""
        return self._robot.joint_state()

    def create_publisher(self, kind: Any, topic: str, *args: Any, **kwargs: Any) -> Any:
        publisher = super().create_publisher(kind, topic, *args, **kwargs)
        if topic != "joint_states" and not topic.startswith("camera/"):
            return publisher
        self.wires[topic] = Wire(publisher)
        return self.wires[topic]


@dataclass
class Outcome:
    """What became of one kind of fault."""

    count: int = 0
    recoveries_s: list[float] = field(default_factory=list)
    fastest: float = 0.0
    farthest_rad: float = 0.0
    broken: list[str] = field(default_factory=list)


class Soak:
    """A robot, a pilot and what goes wrong between them.

    Args:
        pilot: its process.
        robot: the simulated one.
        config: its robot file.
        random: decides what goes wrong, and when.
    """

    def __init__(
        self, pilot: NodeProcess, robot: SpoiledRobot, config: RobotConfig, random: np.random.Generator
    ) -> None:
        self.pilot, self.robot, self._config, self._random = pilot, robot, config, random
        self._kinematics = Kinematics(panda.urdf(), panda.JOINT_NAMES, config.tool_frame)
        self._velocities = JointLimits.of(self._kinematics, config).velocities
        self._executor = SingleThreadedExecutor()
        self._node = rclpy.create_node("soak")
        for node in (robot, self._node):
            self._executor.add_node(node)
        self.chunks = 0
        self.commands = 0
        self.violations: list[str] = []
        self.fastest = 0.0  # executed velocity of an arm's joint since the last fault, in limits
        self.farthest_rad = 0.0  # from the arm to where a command wants it at that moment, since the last fault
        self.policy: dict[str, str] = {}
        self._instruct = self._node.create_publisher(String, "instruction", LATCHED)
        self._estop = self._node.create_publisher(Bool, "estop", LATCHED)
        self._seed = self._node.create_publisher(Int64, "/sim_robot/seed", LATCHED)
        self._task = self._node.create_publisher(String, "/sim_robot/instruction", LATCHED)
        self._node.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", self._judge, 100)
        self._node.create_subscription(String, "/pilot/precision", self._count, LATCHED)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, 10)
        self._services = {
            name: self._node.create_client(kind, name)
            for name, kind in {
                "/pilot/enable": SetBool,
                "/pilot/stop": Trigger,
                "/pilot/release": Trigger,
                "/sim_robot/reset": Trigger,
            }.items()
        }
        self._estop.publish(Bool(data=False))

    # ---- time

    def run(self, seconds: float, until: Callable[[], object] = lambda: False) -> bool:
        """Let simulated time pass; whether `until` came true."""
        end_ns = self.robot.time_ns + round(seconds * SECOND)
        while self.robot.time_ns < end_ns:
            for _ in range(SLICES):
                self.robot.step()
            rates = np.abs(self.robot.joints()[1]) / self._velocities
            self.fastest = max(self.fastest, float(rates[:-1].max()))  # fingers slip off what they hold
            self._executor.spin_once(timeout_sec=max(self.robot.wait_ns(), 0) * 1e-9)
            if until():
                return True
        self.pilot.check()
        return False

    def flies(self, seconds: float) -> float:
        """Wait for the next chunk, and give how long it took in simulated time; nan where none came."""
        start_ns, before = self.robot.time_ns, self.chunks
        came = self.run(seconds, lambda: self.chunks > before)
        return (self.robot.time_ns - start_ns) / SECOND if came else np.nan

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pilot.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    # ---- what is asked of the pilot and the robot

    def say(self, instruction: str) -> None:
        self._instruct.publish(String(data=instruction))

    def call(self, name: str, **request: Any) -> None:
        client = self._services[name]
        self.run(READY_S, client.service_is_ready)
        answer = client.call_async(client.srv_type.Request(**request))
        if not self.run(READY_S, answer.done):
            sys.exit(f"soak: {name} does not answer")

    def new_scene(self) -> None:
        """Another task from the start, while the pilot is disabled: it could not know why the arm is elsewhere."""
        task = str(self._random.choice(TASKS))
        self.call("/pilot/enable", data=False)
        self.run(SETTLE_S)
        self._seed.publish(Int64(data=int(self._random.integers(10_000))))
        self._task.publish(String(data=task))
        self.run(SETTLE_S)
        self.call("/sim_robot/reset")
        self.run(SETTLE_S)
        self.say(task)
        self.call("/pilot/enable", data=True)

    # ---- what goes wrong

    def faults(self) -> dict[str, tuple[bool, Callable[[], AbstractContextManager[object]]]]:
        """Of every fault by its name: whether it stops the chunks, and what begins and cures it."""
        camera, joints, both = (
            "camera/wrist/image_raw",
            "joint_states",
            ("camera/front/image_raw", "camera/wrist/image_raw"),
        )
        sensors = (*both, joints)
        return {
            "a camera stops": (True, lambda: self._wired(_silent, camera)),
            "a camera freezes": (True, lambda: self._wired(_frozen(), camera)),
            "all cameras stop": (True, lambda: self._wired(_silent, *both)),
            "images of 16 bits": (True, lambda: self._wired(_deep, camera)),
            "20 % of all messages are lost": (False, lambda: self._wired(self._lossy, *sensors)),
            "images overtake each other": (False, lambda: self._wired(_swapped(), camera)),
            "stamps lie in the future": (True, lambda: self._wired(_ahead, camera)),
            "joint states stop": (True, lambda: self._wired(_silent, joints)),
            "joint states hold NaN": (True, lambda: self._wired(_nan, joints)),
            "joint states lack a joint": (True, lambda: self._wired(_short, joints)),
            "joint states jump": (False, lambda: self._wired(_glitching(), joints)),
            "the instruction is empty": (True, lambda: self._told("")),
            "no task knows the instruction": (True, lambda: self._told("dance")),
            "the instruction changes": (False, lambda: self._told(TASKS[0])),
            "it is stopped": (True, self._stopped),
            "it is disabled": (True, self._disabled),
            "the emergency stop is pressed": (True, self._pressed),
            "the pilot's computer freezes": (True, self._frozen_pilot),
        }

    @contextmanager
    def _wired(self, spoil: Spoil, *topics: str) -> Iterator[None]:
        for topic in topics:
            self.robot.wires[topic].spoil = spoil
        yield
        for topic in topics:
            self.robot.wires[topic].spoil = None

    def _lossy(self, message: Any) -> Iterable[Any]:
        return [message] if self._random.random() > 0.2 else []

    @contextmanager
    def _told(self, instruction: str) -> Iterator[None]:
        self.say(instruction)
        yield
        self.say(TASKS[1])

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        self.call("/pilot/stop")
        yield
        self.call("/pilot/release")

    @contextmanager
    def _disabled(self) -> Iterator[None]:
        self.call("/pilot/enable", data=False)
        yield
        self.call("/pilot/enable", data=True)

    @contextmanager
    def _pressed(self) -> Iterator[None]:
        self._estop.publish(Bool(data=True))
        yield
        self._estop.publish(Bool(data=False))
        self.run(1.0)
        self.call("/pilot/release")

    @contextmanager
    def _frozen_pilot(self) -> Iterator[None]:
        os.kill(self.pilot.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pilot.pid, signal.SIGCONT)

    # ---- what is heard

    def _judge(self, message: JointTrajectory) -> None:
        self.commands += 1
        command, now_ns = messages.trajectory(message), self.robot.time_ns
        beyond = excess(command, self._kinematics, self._config)
        self.violations += [f"command {self.commands}: {name} {what}" for name, what in beyond.items()]
        if command.stamp_ns + command.times_ns[-1] > now_ns:  # else the controller rejects it
            leaps = np.abs(sample(command, now_ns)[0] - self.robot.joints()[0])[:-1]
            self.farthest_rad = max(self.farthest_rad, float(leaps.max()))

    def _count(self, _: String) -> None:
        self.chunks += 1

    def _diagnose(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "pilot: policy":
                self.policy = {item.key: item.value for item in status.values}


def _silent(_: Any) -> Iterable[Any]:
    return []


def _frozen() -> Spoil:
    kept: list[Any] = []

    def spoil(message: Any) -> Iterable[Any]:
        kept[1:] = []
        kept.append(message)
        return kept[:1]

    return spoil


def _swapped() -> Spoil:
    held: list[Any] = []

    def spoil(message: Any) -> Iterable[Any]:
        if not held:
            held.append(message)
            return []
        return [message, held.pop()]

    return spoil


def _glitching() -> Spoil:
    count = iter(range(10**9))

    def spoil(message: Any) -> Iterable[Any]:
        if next(count) % 100 == 0:
            message.position[1] += 0.8
        return [message]

    return spoil


def _deep(image: Any) -> Iterable[Any]:
    image.encoding = "16UC1"
    return [image]


def _ahead(message: Any) -> Iterable[Any]:
    stamp = message.header.stamp
    message.header.stamp = Time(sec=stamp.sec + 1, nanosec=stamp.nanosec)  # the robot's clock has the same object
    return [message]


def _nan(state: Any) -> Iterable[Any]:
    state.position[2] = np.nan
    return [state]


def _short(state: Any) -> Iterable[Any]:
    state.name, state.position, state.velocity = state.name[:-1], state.position[:-1], state.velocity[:-1]
    return [state]


def endure(
    soak: Soak, minutes: float, random: np.random.Generator, show: Callable[[float], object]
) -> tuple[dict[str, Outcome], list[int]]:
    """Fly, break something, look, cure it, look again, until the time is over.

    Args:
        soak: what is broken.
        minutes: of simulated time.
        random: decides.
        show: told the seconds that have passed.

    Returns:
        What became of every kind of fault, and the pilot's memory after each.
    """
    outcomes: dict[str, Outcome] = defaultdict(Outcome)
    resident: list[int] = []
    faults = soak.faults()
    start_ns, duration_s = soak.robot.time_ns, 60 * minutes
    while (passed_s := (soak.robot.time_ns - start_ns) / SECOND) < duration_s:
        show(passed_s)
        if len(resident) % 10 == 0:
            soak.new_scene()
        name = str(random.choice(list(faults)))
        blocks, fault = faults[name]
        outcome = outcomes[name]
        outcome.count += 1
        with fault():
            soak.run(SETTLE_S)
            before = soak.chunks
            soak.run(random.uniform(1.0, 3.0))
            if blocks != (soak.chunks == before):
                outcome.broken.append(f"{soak.chunks - before} chunks while {name}")
        recovery_s = soak.flies(RECOVERY_S)
        outcome.recoveries_s.append(recovery_s)
        if np.isnan(recovery_s):
            outcome.broken.append(f"no chunk for {RECOVERY_S} s after {name}")
        soak.run(random.uniform(1.0, 3.0))
        outcome.fastest = max(outcome.fastest, soak.fastest)
        outcome.farthest_rad = max(outcome.farthest_rad, soak.farthest_rad)
        soak.fastest = soak.farthest_rad = 0.0
        resident.append(soak.resident_bytes())
    return outcomes, resident


def main() -> None:
    """Run, print what became of every fault, and a line of JSON; exit code 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="of simulated time")
    parser.add_argument("--factor", type=float, default=2.0, help="simulated seconds per second, where the machine can")
    parser.add_argument("--model", default="tabletop_pi0_calibrated")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random = np.random.default_rng(given.seed)
    words = ["-p", "sim_robot:publish_clock:=true", "-p", f"sim_robot:real_time_factor:={given.factor}"]
    rclpy.init(args=["--ros-args", *words], domain_id=DOMAIN_ID)
    with tempfile.TemporaryDirectory() as folder:
        path = robot_file(Path(folder), estop_topic="estop")
        parameters = {
            "use_sim_time": "true",
            "autostart": "true",
            "enabled": "true",
            "robot": path,
            "model": given.model,
        }
        log = Path(folder) / "pilot.log"
        environment = {"ROS_DOMAIN_ID": str(DOMAIN_ID), "OMP_NUM_THREADS": "1"}
        with NodeProcess("vlaq_ros.ros.pilot_node", parameters, environment, log) as pilot:
            soak = Soak(pilot, SpoiledRobot(), RobotConfig.load(path), random)
            soak.say(TASKS[1])
            if np.isnan(soak.flies(READY_S)):
                sys.exit(f"soak: the pilot does not fly: {log.read_text()[-500:]}")
            start_ns = soak.robot.time_ns
            with Progress(console=Console(stderr=True)) as bar:
                passed = bar.add_task("simulated seconds", total=60 * given.minutes)
                outcomes, resident = endure(soak, given.minutes, random, lambda s: bar.update(passed, completed=s))
    broken = soak.violations + [text for outcome in outcomes.values() for text in outcome.broken]
    quarter = max(len(resident) // 4, 1)
    grown = np.median(resident[-quarter:]) / np.median(resident[quarter : 2 * quarter]) - 1.0
    if grown > MEMORY:
        broken.append(f"memory grew by {100 * grown:.1f} %, allowed {100 * MEMORY:g} %")
    for name, outcome in outcomes.items():
        if outcome.farthest_rad > LEAP_RAD:
            broken.append(f"{name}: a command began {outcome.farthest_rad:.2f} rad from the arm")
    table = Table("fault", "times", "back after, s: median", "longest", "fastest of limit", "farthest, rad", "broken")
    for name, outcome in sorted(outcomes.items()):
        back_s = np.array(outcome.recoveries_s)
        numbers = (np.median(back_s), back_s.max(), outcome.fastest, outcome.farthest_rad)
        table.add_row(name, str(outcome.count), *(f"{number:.2f}" for number in numbers), str(len(outcome.broken)))
    Console().print(table)
    summary = {
        "simulated_s": (soak.robot.time_ns - start_ns) / SECOND,
        "faults": sum(outcome.count for outcome in outcomes.values()),
        "commands": soak.commands,
        "policy": soak.policy,
        "fastest_of_limit": max(outcome.fastest for outcome in outcomes.values()),
        "farthest_rad": max(outcome.farthest_rad for outcome in outcomes.values()),
        "resident_mb": [round(value / 1e6, 1) for value in (resident[0], max(resident), resident[-1])],
        "grown": grown,
        "broken": broken,
    }
    print(json.dumps(summary))  # noqa: T201  # the last line, for machines
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
