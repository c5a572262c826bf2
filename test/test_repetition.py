"""Flights of every kind, told by their journal alone, are repeated to the bit: what is not in it follows from the bag.

The recorded flight infers in its tick and the repetition when the answer is fetched; that they agree says that nothing
else is read on the way. test_replay_parity.py has the threads and DDS.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bag_writer import SECOND, START, Entry, image, joint_state, text, write
from swaying import TASK, Swaying

from vlaq_ros.bags.reference import Reference
from vlaq_ros.bags.topics import Topics
from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.jumps import JumpWatch
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.precision import rules
from vlaq_ros.control.safety import JointLimits
from vlaq_ros.datatypes import Command, FloatArray, Trajectory
from vlaq_ros.errors import PrecisionFailedError
from vlaq_ros.flight import Flight
from vlaq_ros.gate import Gate
from vlaq_ros.joints import JointMap
from vlaq_ros.journal import Fetch, Journal, parse
from vlaq_ros.observe import Observer
from vlaq_ros.pilot import Pilot
from vlaq_ros.replay.replay import RECORDED, replay
from vlaq_ros.replay.replayed import Answer, Event, Held, Look
from vlaq_ros.sim import panda

MS = SECOND // 1000
SEEDS = range(8)
QUEUE = 3  # joint states that wait for a tick: older ones are lost
ROBOT = RobotConfig.load("sim_panda")
CAMERAS = ("front", "wrist")
TOPICS = Topics.of(ROBOT, CAMERAS)
JOINTS = JointMap.whole(ROBOT)
HOME = np.array([*panda.HOME_RAD, 0.04])
KINEMATICS = Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME)
CONFIG = replace(PilotConfig(), flow_seed=3, replan_period_s=0.1, stall_timeout_s=0.4)


class Moody(Swaying):
    """Cannot compute precisions that are named, and answers wildly where the image is dark in a corner."""

    def __init__(self) -> None:
        super().__init__(*CAMERAS)
        self.failing: set[str] = set()

    def infer(self, observation: Any, precision: str, noise: FloatArray, guide: Any = None) -> Any:
        if precision in self.failing:
            raise MemoryError("no room")
        self.reach_rad = 0.4 if observation.images["front"][0, 0, 0] < 20 else 0.003
        return super().infer(observation, precision, noise, guide)


class AtOnce(Executor):
    """Computes at once, and answers later."""

    def __init__(self) -> None:
        self.answer: Callable[[], None] | None = None

    def submit(self, task: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            result = task(*given, **named)
        except Exception as error:
            raised = error
            self.answer = lambda: future.set_exception(raised)
        else:
            self.answer = lambda: future.set_result(result)
        return future


@dataclass
class Flown:
    """A recorded flight: what is in the bag, what was sent, what every tick decided."""

    entries: list[Entry]
    sent: list[tuple[Trajectory, Command | None]]
    decided: list[tuple[int, str, float]]


class Live:
    """A pilot with an arm that follows it, both recorded; what happens to them is drawn."""

    def __init__(self, seed: int) -> None:
        self.draws = np.random.default_rng(seed)
        self.flown = Flown([text(START, panda.urdf(), "/robot_description")], [], [])
        self.now_ns = START
        self.policy = Moody()
        self.executor = AtOnce()
        self.clock: Iterator[int] = repeat(0)
        self.arrives_ns = 0
        self.offset = np.zeros(8)
        self.arrived_ns: dict[str, int] = {}
        self.images: list[Callable[[], None]] = []
        self.joints: deque[SimpleNamespace] = deque(maxlen=QUEUE)
        self.configure()

    def configure(self) -> None:
        pilot = Pilot(
            self.policy,  # type: ignore[arg-type]  # its spec holds what is read
            KINEMATICS,
            scales=self.policy.spec.motion,
            rules=rules(self.policy.plans, ""),
            robot=ROBOT,
            config=CONFIG,
            seed=CONFIG.flow_seed,
        )
        ages = {"max_image_age_s": 0.3, "max_camera_skew_s": 0.1, "max_joint_age_s": 0.2}
        self.observer = Observer(CAMERAS, JOINTS, **ages)
        self.gate = Gate(enabled=True, estop="")
        limits = JointLimits.of(KINEMATICS, ROBOT)
        self.flight = Flight(
            pilot,
            self.observer,
            self.gate,
            jumps=JumpWatch(limits.velocities, CONFIG.tracking_tolerance_rad),
            following=None,
            config=CONFIG,
            executor=self.executor,
            clock=lambda: next(self.clock),
            send=lambda trajectory, command: self.flown.sent.append((trajectory, command)),
            wake=lambda: None,
            say=lambda _: None,
            note=Journal(lambda page: self.flown.entries.append(text(self.now_ns, page, "/pilot/journal"))).note,
        )
        self.executor.answer = None
        self.images.clear()
        self.joints.clear()
        self.observer.push_instruction(TASK)

    def chance(self, share: float) -> bool:
        return bool(self.draws.random() < share)

    def run(self, steps: int) -> Flown:
        """Let 10 ms pass, again and again."""
        for step in range(steps):
            self.now_ns += 10 * MS
            self.move()
            if step % 5 == 0:
                for camera in CAMERAS:
                    self.show(camera)
            if self.executor.answer is not None and self.now_ns >= self.arrives_ns:
                self.executor.answer()
                self.executor.answer = None
                self.flight.fetch(self.now_ns)
            if step % 2 == 0 and not self.chance(0.1):
                self.tick()
            self.happen()
        self.flight.land(self.now_ns)
        return self.flown

    def move(self) -> None:
        if self.flown.sent:
            positions = sample(self.flown.sent[-1][0], self.now_ns)[0] + self.offset
        else:
            positions = HOME + self.offset
        entry = joint_state(self.now_ns, panda.JOINT_NAMES, positions)
        self.record(entry)
        self.joints.append(SimpleNamespace(**entry[3]))

    def show(self, camera: str) -> None:
        pixels = self.draws.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        stamp_ns = self.now_ns
        self.record(image(stamp_ns, f"/camera/{camera}/image_raw", pixels))
        if not self.chance(0.05):  # else the recorder alone has it
            self.images.append(lambda: self.observer.push_image(camera, stamp_ns, lambda: pixels))

    def record(self, entry: Entry) -> None:
        """Keep what the recorder has some time later, in the order of its topic."""
        arrived_ns, topic, *rest = entry
        late_ns = int(self.draws.integers(0, 20)) * 8 * MS
        self.arrived_ns[topic] = max(arrived_ns + late_ns, self.arrived_ns.get(topic, 0))
        self.flown.entries.append((self.arrived_ns[topic], topic, *rest))

    def tick(self) -> None:
        for take in self.images:
            take()
        for state in self.joints:
            self.observer.push_joints(state)
        self.images.clear()
        self.joints.clear()
        waits = self.executor.answer is None
        begin_ns = self.now_ns + int(self.draws.integers(0, 3)) * MS
        end_ns = begin_ns + int(self.draws.choice([5, 40, 90, 150, 600], p=[0.2, 0.3, 0.3, 0.15, 0.05])) * MS
        self.clock = chain([begin_ns], repeat(end_ns))
        self.flight.tick(self.now_ns, self.now_ns - START)
        decision = self.flight.pilot.decision
        self.flown.decided.append((self.now_ns, decision.precision, decision.sensitivity))
        if waits:
            self.arrives_ns = end_ns + int(self.draws.integers(0, 15)) * MS

    def happen(self) -> None:
        """Something from outside, now and then."""
        if not self.chance(0.02):
            return
        match int(self.draws.integers(0, 7)):
            case 0:
                self.gate.enabled = not self.gate.enabled
            case 1:
                self.flight.select(str(self.draws.choice(["auto", "fine", "coarse"])))
            case 2:
                self.observer.push_instruction(str(self.draws.choice(["", TASK, "dance", "dance"])))
            case 3:
                self.flight.land(self.now_ns)
            case 4:
                self.policy.failing = {"fine"} ^ self.policy.failing
            case 5:
                self.offset[1] = 0.0 if self.offset[1] else 0.7
            case 6:
                self.flight.land(self.now_ns)
                self.configure()
                if self.chance(0.5):
                    self.flight.lose(PrecisionFailedError("coarse", MemoryError("no room")))


@cache
def fly(seed: int) -> Flown:
    return Live(seed).run(500)


def repeated(bag: Path, policy: Swaying) -> list[Event]:
    reference = Reference.read(bag, TOPICS, JOINTS)
    how = {"robot": ROBOT, "config": CONFIG, "shadows": {}, "latency": RECORDED}
    return list(replay(bag, policy, reference, TOPICS, JOINTS, **how))  # type: ignore[arg-type]  # its spec holds what is read


@pytest.mark.parametrize("seed", SEEDS)
def test_a_flight_is_repeated_to_the_bit(seed: int, tmp_path: Path) -> None:
    flown = fly(seed)
    bag = write(tmp_path / "bag", flown.entries)
    events = repeated(bag, Moody())
    looks = [event for event in events if isinstance(event, Look)]
    decided = [(look.stamp_ns, look.decision.precision, look.decision.sensitivity) for look in looks]
    assert [repr(decision) for decision in decided] == [repr(decision) for decision in flown.decided]
    sent = [told for event in events if (told := motion(event)) is not None]
    assert len(sent) == len(flown.sent)
    for replayed, (recorded, command) in zip(sent, flown.sent, strict=True):
        assert (replayed.stamp_ns, replayed.joint_names) == (recorded.stamp_ns, recorded.joint_names), command
        for name in ("times_ns", "positions", "velocities", "accelerations"):
            np.testing.assert_array_equal(getattr(replayed, name), getattr(recorded, name))


def motion(event: Event) -> Trajectory | None:
    if isinstance(event, Held):
        return event.trajectory
    return event.command.trajectory if isinstance(event, Answer) and event.command is not None else None


def test_these_flights_have_seen_everything() -> None:
    seen: Counter[str] = Counter()
    for flown in map(fly, SEEDS):
        pages = [parse(said["data"]) for _, topic, _, said in flown.entries if topic == TOPICS.journal]
        noted = [entry for _, entries in pages for entry in entries]
        seen.update(type(entry).__name__ for entry in noted)
        fetched = [entry for entry in noted if isinstance(entry, Fetch)]
        seen.update(entry.why.split(" ")[0].rstrip(":") or "sent" for entry in fetched)
        seen["failed"] += sum(entry.failed for entry in fetched)
        seen["held"] += sum(command is None for _, command in flown.sent)
        seen["configured"] += sum(first == 0 for first, _ in pages)
    expected = {
        "sent",
        "held",
        "failed",
        "dropped",
        "action",
        "camera",
        "instruction",
        "no",
        "configured",
        "Lose",
        "Land",
    }
    assert {what for what in expected if seen[what] < 3} == set(), seen
