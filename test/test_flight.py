"""Flight without ROS: when it infers, what it sends, and that it holds the arm whenever nothing good comes of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.precision import PrecisionRule
from vlaq_ros.datatypes import ActionChunk, ActionSpace, Command, FloatArray, MotionScales, Observation, Trajectory
from vlaq_ros.errors import UnknownInstructionError
from vlaq_ros.observe import Observer
from vlaq_ros.pilot import Pilot
from vlaq_ros.ros.flight import Flight
from vlaq_ros.sim import panda

MS = 1_000_000
HOME = np.array([*panda.HOME_RAD, 0.04])
TASK = "pick up the red cube"
PATIENCE_S = 10.0


class StubbornPolicy:
    """Knows one task; moves joint 1; raises what it is told to, and can be made to take its time."""

    precisions = ("fine", "coarse")
    noise_shape = (16, 8)

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.free = threading.Event()
        self.free.set()
        self.begun = threading.Event()
        self.calls = 0

    def infer(self, observation: Observation, precision: str, noise: FloatArray) -> ActionChunk:
        self.calls += 1
        self.begun.set()
        assert self.free.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        if observation.instruction != TASK:
            raise UnknownInstructionError(observation.instruction, [TASK])
        actions = np.zeros((16, 8))
        actions[:, 0] = 0.02 * np.arange(1, 17)
        return ActionChunk(observation.stamp_ns, 0.05, ActionSpace.JOINT, actions)


class Bench:
    """A flight over an ideal arm that does at once what it is told, on a clock that the test advances."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000_000_000_000
        self.policy = StubbornPolicy()
        self.sent: list[tuple[Trajectory, Command | None]] = []
        self.logged: list[str] = []
        self.thought = threading.Event()
        self.positions = HOME
        config = PilotConfig()
        pilot = Pilot(
            self.policy,
            Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME),
            scales=MotionScales(0.05, 0.02, 0.02),
            rules=(PrecisionRule("fine", 0.45), PrecisionRule("coarse", 0.0)),
            robot=RobotConfig.load("sim_panda"),
            config=config,
            seed=0,
        )
        self.observer = Observer(
            ("front",), panda.JOINT_NAMES, max_image_age_s=0.3, max_camera_skew_s=0.1, max_joint_age_s=0.2
        )
        self.flight = Flight(
            pilot,
            self.observer,
            clock=lambda: self.now_ns,
            retry_s=config.replan_period_s,
            send=lambda trajectory, command: self.sent.append((trajectory, command)),
            wake=self.thought.set,
            log=self.logged.append,
        )

    def see(self, *, camera: bool = True) -> None:
        """Let the newest messages come in."""
        if self.sent:
            self.positions = sample(self.sent[-1][0], self.now_ns)[0]
        sec, nanosec = divmod(self.now_ns, 1_000_000_000)
        header = SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec))
        state = SimpleNamespace(header=header, name=panda.JOINT_NAMES, position=self.positions, velocity=[])
        self.observer.push_joints(state)
        if camera:
            pixels = bytes(12)
            image = SimpleNamespace(header=header, height=2, width=2, step=6, encoding="rgb8", data=pixels)
            self.observer.push_image("front", image)

    def tick(self, *, camera: bool = True) -> bool:
        """Advance 20 ms; whether an inference was begun and its answer fetched."""
        self.now_ns += 20 * MS
        self.see(camera=camera)
        self.thought.clear()
        before = self.policy.calls
        self.flight.tick()
        if self.policy.free.is_set():
            self.fetch()
        return self.policy.calls > before

    def stall(self) -> None:
        """Tick until an inference has begun, which ends once the policy is free again."""
        self.policy.free.clear()
        self.policy.begun.clear()
        while self.flight._thinking is None:
            self.tick()
        assert self.policy.begun.wait(PATIENCE_S)

    def fetch(self) -> None:
        """Wait for the inference, if one runs, and fetch its answer."""
        if self.flight._thinking is not None:
            assert self.thought.wait(PATIENCE_S)
        self.flight.fetch()

    @property
    def commands(self) -> list[Command]:
        return [command for _, command in self.sent if command is not None]

    @property
    def holds(self) -> list[Trajectory]:
        return [trajectory for trajectory, command in self.sent if command is None]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.policy.free.set()
    made.flight.land()
    made.flight.close()


def test_nothing_is_sent_before_there_is_a_task(bench: Bench) -> None:
    for _ in range(5):
        bench.tick()
    assert bench.sent == []
    assert bench.policy.calls == 0


def test_commands_follow_each_other_by_the_replan_period(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    inferred = [bench.tick() for _ in range(40)]
    assert bench.holds == []
    starts = np.flatnonzero(inferred)
    assert starts[0] == 0
    np.testing.assert_array_equal(np.diff(starts), 15)  # 0.3 s of 20 ms
    assert bench.flight.fault == ""


def test_a_camera_that_stops_stops_inference_and_recovers(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.tick()
    blind = [bench.tick(camera=False) for _ in range(60)]
    assert not any(blind[20:]), "the last image is older than 0.3 s by then"
    assert bench.holds == [], "the command that runs ends at rest by itself"
    assert bench.tick()
    assert len(bench.commands) == 1 + sum(blind) + 1


def test_an_unknown_task_holds_the_arm_once_and_is_said(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.tick()
    bench.observer.push_instruction("dance")
    inferred = sum(bench.tick() for _ in range(40))
    assert inferred > 1, "it is tried again"
    assert len(bench.holds) == 1
    assert len(bench.commands) == 1
    text = "no task knows the instruction 'dance'; this policy was trained on: pick up the red cube"
    assert bench.flight.fault == text
    assert bench.logged == [text]
    np.testing.assert_array_equal(bench.holds[0].velocities[-1], 0)

    bench.observer.push_instruction(TASK)
    bench.tick()
    assert bench.flight.fault == ""
    assert len(bench.commands) == 2


def test_an_exception_in_the_inference_is_never_silent(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.tick()
    bench.policy.error = RuntimeError("shapes do not match")
    for _ in range(40):
        bench.tick()
    assert bench.flight.fault == "the inference failed: RuntimeError: shapes do not match"
    assert len(bench.holds) == 1
    assert len(bench.logged) == 1
    assert "Traceback" in bench.logged[0]
    bench.policy.error = None
    for _ in range(20):
        bench.tick()
    assert bench.flight.fault == ""
    assert bench.commands[-1].observation_stamp_ns > bench.holds[0].stamp_ns


def test_an_empty_instruction_holds_the_arm_once(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.tick()
    bench.observer.push_instruction("")
    for _ in range(20):
        bench.tick()
    assert len(bench.holds) == 1
    assert len(bench.commands) == 1
    assert bench.flight.fault == ""


def test_an_answer_to_the_task_before_is_dropped_and_the_motion_goes_on(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.tick()
    running = bench.commands[0].trajectory
    bench.stall()
    bench.observer.push_instruction("dance")
    bench.observer.push_instruction(TASK)  # another epoch, though the same task
    bench.policy.free.set()
    bench.fetch()
    assert len(bench.commands) == 1, "the answer belongs to an epoch that is over"
    bench.tick()
    assert len(bench.commands) == 2
    after = bench.commands[1].trajectory
    seam_ns = after.stamp_ns + int(after.times_ns[0])
    np.testing.assert_allclose(sample(after, seam_ns)[0], sample(running, seam_ns)[0], atol=1e-9)


def test_a_failure_at_the_task_before_is_dropped(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.tick()
    bench.stall()
    bench.policy.error = RuntimeError("it was about the task before")
    bench.observer.push_instruction("")
    bench.observer.push_instruction(TASK)
    bench.policy.free.set()
    bench.fetch()
    bench.policy.error = None
    assert (bench.holds, bench.flight.fault, bench.logged) == ([], "", [])
    bench.tick()
    assert len(bench.commands) == 2


def test_only_one_inference_runs_at_a_time(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.stall()
    for _ in range(50):
        bench.tick()
    assert bench.policy.calls == 1
    bench.policy.free.set()
    bench.fetch()
    assert bench.commands[0].inference_s == pytest.approx(1.0), "the clock that is given is used"


def test_landing_holds_and_drops_the_inference_that_runs(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.tick()
    bench.stall()
    threading.Timer(0.1, bench.policy.free.set).start()
    bench.flight.land()
    bench.flight.fetch()
    assert len(bench.commands) == 1
    assert len(bench.holds) == 1
    assert bench.sent[-1][1] is None
    bench.tick()
    assert len(bench.commands) == 2, "it can go on"


def test_an_arm_that_was_never_seen_is_not_commanded() -> None:
    unseen = Bench()
    unseen.flight.land()
    unseen.flight.close()
    assert unseen.sent == []
