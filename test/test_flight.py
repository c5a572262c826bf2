"""Flight without ROS: when it infers, what it sends, and that it holds the arm whenever nothing good comes of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.control.following import FollowingWatch
from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.jumps import JumpWatch
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.precision import PrecisionRule
from vlaq_ros.control.safety import JointLimits
from vlaq_ros.datatypes import (
    ActionChunk,
    ActionSpace,
    Command,
    FloatArray,
    Guide,
    MotionScales,
    Observation,
    Trajectory,
)
from vlaq_ros.errors import UnknownInstructionError, UnknownPrecisionError
from vlaq_ros.flight import Flight
from vlaq_ros.gate import Gate
from vlaq_ros.joints import JointMap
from vlaq_ros.journal import Entry, Fetch, Tick
from vlaq_ros.observe import JOINT_STATES, Observer
from vlaq_ros.pilot import Pilot
from vlaq_ros.sim import panda

MS = 1_000_000
HOME = np.array([*panda.HOME_RAD, 0.04])
TASK = "pick up the red cube"
PATIENCE_S = 10.0


class StubbornPolicy:
    """Knows one task; moves joint 1; raises what it is told to, and can be made to take its time."""

    precisions = ("fine", "coarse")
    noise_shape = (16, 8)
    guidable = False

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.failing: tuple[str, ...] = ()  # precisions that raise it; all where there are none
        self.reach_rad = 0.02  # per step
        self.free = threading.Event()
        self.free.set()
        self.begun = threading.Event()
        self.asked: list[str] = []  # the precisions

    def infer(
        self, observation: Observation, precision: str, noise: FloatArray, guide: Guide | None = None
    ) -> ActionChunk:
        self.asked.append(precision)
        self.begun.set()
        assert self.free.wait(PATIENCE_S)
        if self.error is not None and precision in (self.failing or self.precisions):
            raise self.error
        if observation.instruction != TASK:
            raise UnknownInstructionError(observation.instruction, [TASK])
        actions = np.zeros((16, 8))
        actions[:, 0] = self.reach_rad * np.arange(1, 17)
        return ActionChunk(observation.stamp_ns, 0.05, ActionSpace.JOINT, actions)


class Bench:
    """A flight over an ideal arm that does at once what it is told, on clocks that the test advances."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000_000_000_000
        self.steady_ns = 0
        self.policy = StubbornPolicy()
        self.gate = Gate(enabled=True, estop="")
        self.sent: list[tuple[Trajectory, Command | None]] = []
        self.logged: list[str] = []
        self.notes: list[Entry] = []
        self.thought = threading.Event()
        self.positions = HOME
        self.follows = True
        robot = RobotConfig.load("sim_panda")
        kinematics = Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME)
        config = PilotConfig()
        pilot = Pilot(
            self.policy,
            kinematics,
            scales=MotionScales(0.05, 0.02, 0.02),
            rules=(PrecisionRule("fine", 0.45), PrecisionRule("coarse", 0.0)),
            robot=robot,
            config=config,
            seed=0,
        )
        self.observer = Observer(
            ("front",),
            JointMap(robot, panda.JOINT_NAMES),
            max_image_age_s=0.3,
            max_camera_skew_s=0.1,
            max_joint_age_s=0.2,
        )
        limits = JointLimits.of(kinematics, robot)
        self.flight = Flight(
            pilot,
            self.observer,
            self.gate,
            jumps=JumpWatch(limits.velocities, config.tracking_tolerance_rad),
            following=FollowingWatch(0.05, config.follow_timeout_s),
            config=config,
            executor=ThreadPoolExecutor(max_workers=1),
            clock=lambda: self.now_ns,
            send=lambda trajectory, command: self.sent.append((trajectory, command)),
            wake=self.thought.set,
            say=self.logged.append,
            note=self.notes.append,
        )

    def see(self, *, camera: bool = True) -> None:
        """Let the newest messages come in."""
        if self.sent and self.follows:
            self.positions = sample(self.sent[-1][0], self.now_ns)[0]
        sec, nanosec = divmod(self.now_ns, 1_000_000_000)
        header = SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec))
        state = SimpleNamespace(header=header, name=panda.JOINT_NAMES, position=self.positions, velocity=[])
        self.observer.push_joints(state)
        if camera:
            self.observer.push_image("front", self.now_ns, lambda: np.zeros((2, 2, 3), dtype=np.uint8))

    def tick(self, *, camera: bool = True) -> bool:
        """Advance 20 ms; whether an inference was begun and its answer fetched."""
        self.now_ns += 20 * MS
        self.steady_ns += 20 * MS
        self.see(camera=camera)
        self.thought.clear()
        before = len(self.policy.asked)
        self.flight.tick(self.now_ns, self.steady_ns)
        if self.policy.free.is_set():
            self.fetch()
        return len(self.policy.asked) > before

    def ticks(self, count: int) -> int:
        """Tick as often; how many inferences were begun."""
        return sum(self.tick() for _ in range(count))

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
        self.flight.fetch(self.now_ns)

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
    made.flight.land(made.now_ns)
    made.flight.close()


def test_nothing_is_sent_before_there_is_a_task(bench: Bench) -> None:
    for _ in range(5):
        bench.tick()
    assert bench.sent == []
    assert bench.policy.asked == []


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
    bench.policy.error = ValueError("shapes do not match")
    bench.ticks(40)
    assert bench.flight.fault.startswith("precision 'coarse' failed with ValueError: shapes do not match; expected ")
    assert len(bench.holds) == 1
    lost, trace = bench.logged[:2]
    assert lost.startswith("precision 'fine' failed with ValueError: shapes do not match; ")
    assert lost.endswith("; coarse takes its place")
    assert "Traceback" in trace
    assert len(bench.logged) == 2, "said once, however often it is tried"
    bench.policy.error = None
    bench.ticks(20)
    assert bench.flight.fault == ""
    assert bench.commands[-1].observation_stamp_ns > bench.holds[0].stamp_ns


def test_a_precision_that_fails_is_lost_and_the_arm_moves_on(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.tick()
    bench.policy.error, bench.policy.failing = MemoryError("no room"), ("fine",)
    bench.ticks(60)
    assert bench.holds == []
    assert bench.flight.fault == ""
    assert list(bench.flight.lost) == ["fine"]
    assert "failed with MemoryError: no room; " in bench.flight.lost["fine"]
    assert len(bench.logged) == 1
    assert {command.decision.precision for command in bench.commands[1:]} == {"coarse"}
    assert bench.policy.asked.count("fine") == 2, "it is not tried again"
    shares = bench.flight.log.precision_shares()
    assert shares["fine"] == pytest.approx(1 / len(bench.commands))


def test_a_rejected_chunk_holds_the_arm_once_and_is_counted_by_kind(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.tick()
    bench.policy.reach_rad = 0.4
    tried = bench.ticks(40)
    bench.policy.reach_rad = float("nan")
    tried_nan = bench.ticks(20)
    log = bench.flight.log
    assert dict(log.rejected) == {"action step": tried, "finiteness": tried_nan}
    assert len(bench.commands) == 1
    assert len(bench.holds) == 1
    assert len(bench.logged) == 2, "each kind is said once"
    bench.policy.reach_rad = 0.02
    bench.ticks(20)
    assert len(bench.commands) > 1
    assert bench.flight.fault == ""


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
    assert len(bench.policy.asked) == 1
    bench.policy.free.set()
    bench.fetch()
    assert bench.commands[0].inference_s == pytest.approx(1.0), "the clock that is given is used"


def test_landing_holds_and_drops_the_inference_that_runs(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.tick()
    bench.stall()
    bench.flight.land(bench.now_ns)
    assert bench.sent[-1][1] is None, "it does not wait for the inference"
    bench.policy.free.set()
    bench.fetch()
    assert len(bench.commands) == 1
    assert len(bench.holds) == 1
    bench.ticks(20)
    assert len(bench.commands) == 2, "it can go on, once the arm rests"


def test_an_arm_that_was_never_seen_is_not_commanded() -> None:
    unseen = Bench()
    unseen.flight.land(unseen.now_ns)
    unseen.flight.close()
    assert unseen.sent == []


# ---- the gate


def test_nothing_is_inferred_while_the_gate_is_closed(bench: Bench) -> None:
    bench.gate.enabled = False
    bench.observer.push_instruction(TASK)
    bench.ticks(40)
    assert bench.policy.asked == []
    assert bench.sent == []
    assert bench.flight.pilot.motion is not None, "the motion is watched all the same"
    bench.gate.enabled = True
    bench.tick()
    assert len(bench.commands) == 1


def test_a_gate_that_closes_brakes_the_arm_once_and_drops_what_is_computed(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.ticks(16)
    bench.stall()
    bench.gate.stop("test")
    bench.policy.free.set()
    bench.fetch()
    bench.ticks(40)
    assert bench.sent[-1][1] is None
    [brake] = bench.holds
    running = bench.commands[-1].trajectory
    begin_ns = brake.stamp_ns + int(brake.times_ns[0])
    for new, old in zip(sample(brake, begin_ns), sample(running, begin_ns), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-9)
    np.testing.assert_array_equal(brake.velocities[-1], 0)
    assert brake.times_ns[-1] < 0.8e9, "a brake, not the rest of the chunk"


def test_a_brake_leaves_what_was_sent_and_not_an_answer_that_was_only_computed(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.ticks(10)
    bench.stall()
    bench.policy.free.set()
    assert bench.thought.wait(PATIENCE_S), "the answer is there; it is not fetched yet"
    bench.now_ns += 60 * MS
    bench.gate.enabled = False
    bench.flight.tick(bench.now_ns, bench.steady_ns)
    (running, _), (brake, _) = bench.sent[-2:]
    for new, old in zip(sample(brake, bench.now_ns), sample(running, bench.now_ns), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-9)


def test_after_a_brake_the_arm_goes_on_from_where_it_rests(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.ticks(20)
    bench.gate.enabled = False
    bench.tick()
    bench.gate.enabled = True
    count = len(bench.commands)
    bench.ticks(40)
    [brake] = bench.holds
    after = bench.commands[count]
    assert after.observation_stamp_ns >= brake.stamp_ns + brake.times_ns[-1], "what it saw before shows a moving arm"
    np.testing.assert_allclose(after.trajectory.positions[0], brake.positions[-1], atol=1e-9)
    np.testing.assert_allclose(after.trajectory.velocities[0], 0, atol=1e-9)


def test_an_arm_that_the_pilot_does_not_move_is_left_alone(bench: Bench) -> None:
    bench.tick()
    bench.gate.stop("test")
    bench.tick()
    bench.flight.land(bench.now_ns)
    assert bench.sent == []


# ---- late and stalled


def test_a_command_without_a_successor_is_a_deadline_miss_counted_once(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.tick()
    end_ns = bench.commands[0].observation_stamp_ns + 16 * 50 * MS
    bench.stall()
    while bench.now_ns <= end_ns:
        assert bench.flight.log.deadline_misses == 0
        assert bench.flight.late_s(bench.now_ns) == 0
        bench.tick()
    bench.ticks(10)
    assert bench.flight.log.deadline_misses == 1
    assert bench.flight.late_s(bench.now_ns) == pytest.approx((bench.now_ns - end_ns) * 1e-9)
    assert bench.holds == [], "the command ends at rest by itself"
    bench.policy.free.set()
    bench.fetch()
    assert bench.flight.late_s(bench.now_ns) == 0
    bench.stall()
    bench.ticks(60)
    assert bench.flight.log.deadline_misses == 2


def test_an_inference_that_stalls_is_said_by_a_steady_clock_and_its_answer_dropped(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.tick()
    bench.stall()
    bench.now_ns += 3_000 * MS  # time that is set is no time that passes
    bench.tick()
    assert bench.flight.stalled == ""
    bench.steady_ns += 2_100 * MS
    bench.ticks(3)
    said = "an inference has not ended within 2.0 s; the arm is held until it does"
    assert bench.flight.stalled == said
    assert bench.logged == [said]
    assert bench.flight.log.deadline_misses == 1
    assert len(bench.holds) == 1
    bench.policy.free.set()
    bench.fetch()
    assert bench.flight.stalled == ""
    assert len(bench.commands) == 1, "the late answer is dropped"
    bench.ticks(20)
    assert len(bench.commands) > 1, "it recovers by itself"


def test_a_first_inference_that_stalls_is_counted_and_moves_nothing(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.stall()
    bench.steady_ns += 2_100 * MS
    bench.ticks(3)
    assert bench.flight.log.deadline_misses == 1
    assert bench.sent == []


def test_closing_does_not_wait_for_an_inference_that_hangs() -> None:
    hanging = Bench()
    hanging.observer.push_instruction(TASK)
    hanging.stall()
    hanging.flight.land(hanging.now_ns)
    hanging.flight._stall_ns = 50 * MS
    hanging.flight.close()
    assert not hanging.flight._thinking[1].done()
    hanging.policy.free.set()


# ---- the arm


def test_joint_states_that_jump_brake_along_the_command_and_are_believed_later(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.ticks(20)
    running = bench.commands[-1].trajectory
    bench.follows = False
    bench.positions = bench.positions + 0.7 * np.eye(8)[3]
    bench.tick()
    [brake] = bench.holds
    begin_ns = brake.stamp_ns + int(brake.times_ns[0])
    np.testing.assert_allclose(brake.positions[0], sample(running, begin_ns)[0], atol=1e-9)
    sentence = "panda_joint4 is 0.70 rad (m) from where it was 20 ms before, possible are 0.29"
    assert bench.flight.jump == sentence
    assert bench.logged == [f"joint states jump: {sentence}"]
    assert bench.flight.log.jumps == 1
    count = len(bench.commands)
    bench.ticks(40)
    after = bench.commands[count]
    np.testing.assert_allclose(after.trajectory.positions[0], bench.positions, atol=1e-9)
    assert bench.flight.jump == ""


def test_an_answer_that_saw_the_jump_is_dropped(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.ticks(20)
    bench.stall()
    count = len(bench.commands)
    bench.follows = False
    bench.positions = bench.positions + 0.7 * np.eye(8)[3]
    bench.now_ns += 20 * MS
    bench.see()
    bench.policy.free.set()
    bench.fetch()
    assert len(bench.commands) == count
    assert len(bench.holds) == 1


def test_a_jump_while_nothing_runs_is_not_believed(bench: Bench) -> None:
    bench.ticks(5)
    bench.follows = False
    bench.positions = HOME + 0.7 * np.eye(8)[3]
    bench.observer.push_instruction(TASK)
    bench.tick()
    bench.positions = HOME
    bench.ticks(5)
    assert bench.sent == []
    assert bench.flight.log.jumps == 2
    bench.ticks(10)
    np.testing.assert_allclose(bench.commands[0].trajectory.positions[0], HOME, atol=1e-9)


def test_an_arm_that_does_not_follow_is_said_once(bench: Bench) -> None:
    bench.follows = False
    bench.observer.push_instruction(TASK)
    bench.ticks(80)
    assert bench.flight.unfollowed.startswith("panda_joint1 is commanded ")
    assert len(bench.logged) == 1
    bench.follows = True
    bench.ticks(40)
    assert bench.flight.unfollowed == ""


def test_latencies_leave_the_first_command_out(bench: Bench) -> None:
    log = bench.flight.log
    bench.observer.push_instruction(TASK)
    bench.stall()
    bench.now_ns += 300 * MS
    bench.policy.free.set()
    bench.fetch()
    assert np.isnan(log.latency_s(50))
    bench.ticks(40)
    assert log.latency_s(50) == 0, "an inference takes no time on this clock"


def test_time_that_jumps_back_goes_on_at_once(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.ticks(20)
    bench.gate.enabled = False
    bench.tick()
    bench.gate.enabled = True
    bench.now_ns -= 60_000 * MS
    count = len(bench.commands)
    bench.ticks(20)
    assert len(bench.commands) > count, "a brake of a time that is over does not count"


# ---- what a replay repeats


def test_what_is_inferred_from_is_what_the_tick_saw(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    slow = ThreadPoolExecutor(max_workers=1)
    asked = threading.Event()
    slow.submit(asked.wait, PATIENCE_S)
    bench.flight._executor = slow  # that has not come to the inference when more is seen
    bench.now_ns += 20 * MS
    bench.see()
    seen_ns = bench.now_ns
    bench.flight.tick(bench.now_ns, bench.steady_ns)
    bench.flight.select("coarse")
    for _ in range(5):
        bench.now_ns += 20 * MS
        bench.see()
        bench.flight.tick(bench.now_ns, bench.steady_ns)
    assert bench.flight.pilot.decision.precision == "coarse"
    asked.set()
    bench.fetch()
    slow.shutdown()
    [command] = bench.commands
    assert command.observation_stamp_ns == seen_ns
    assert command.decision.precision == "fine"


def test_every_tick_is_noted_with_what_it_saw(bench: Bench) -> None:
    bench.tick()
    bench.observer.push_instruction(TASK)
    bench.gate.enabled = False
    bench.flight.select("coarse")
    bench.tick(camera=False)
    bench.gate.enabled = True
    bench.tick()
    first, closed, begun = (entry for entry in bench.notes if isinstance(entry, Tick))
    assert first == Tick(
        first.now_ns,
        20 * MS,
        {"front": first.now_ns, JOINT_STATES: first.now_ns},
        kept=1,
        instruction="",
        open=True,
        asked="auto",
        precision="fine",
        sensitivity=None,
        began=True,
    )
    assert closed.newest_ns == {"front": first.now_ns, JOINT_STATES: first.now_ns + 20 * MS}
    assert (closed.kept, closed.instruction, closed.open) == (2, TASK, False)
    assert (closed.asked, closed.precision, closed.began) == ("coarse", "coarse", False)
    assert begun.began


def test_every_answer_is_noted_and_why_it_was_not_sent(bench: Bench) -> None:
    bench.tick()
    bench.observer.push_instruction(TASK)
    bench.stall()
    bench.now_ns += 100 * MS
    bench.policy.free.set()
    bench.fetch()
    bench.stall()
    bench.gate.enabled = False
    bench.policy.free.set()
    bench.fetch()
    blocked, sent, dropped = (entry for entry in bench.notes if isinstance(entry, Fetch))
    assert (blocked.readings_ns, blocked.draws, blocked.why) == ((), 0, "instruction: none given")
    [command] = bench.commands
    begin_ns, end_ns = sent.readings_ns
    assert begin_ns == command.observation_stamp_ns
    assert end_ns == command.trajectory.stamp_ns + command.trajectory.times_ns[0]
    assert (sent.draws, sent.delays_s, sent.why, sent.precision, sent.failed) == (1, (), "", "fine", False)
    assert dropped.why.startswith("dropped: ")
    assert (dropped.draws, len(dropped.delays_s), dropped.open) == (2, 1, False)


def test_a_precision_that_fails_is_noted(bench: Bench) -> None:
    bench.observer.push_instruction(TASK)
    bench.policy.error, bench.policy.failing = MemoryError("no room"), ("fine",)
    bench.ticks(2)
    failed, sent = (entry for entry in bench.notes if isinstance(entry, Fetch))
    assert (failed.failed, failed.precision, len(failed.readings_ns)) == (True, "fine", 1)
    assert (sent.failed, sent.precision, sent.why) == (False, "coarse", "")


def test_what_is_asked_for_is_noted_once_it_is_known(bench: Bench) -> None:
    bench.flight.select("coarse")
    bench.tick()
    with pytest.raises(UnknownPrecisionError):
        bench.flight.select("w3")
    bench.tick()
    bench.flight.select("auto")
    bench.tick()
    ticks = [entry for entry in bench.notes if isinstance(entry, Tick)]
    assert [(tick.asked, tick.precision) for tick in ticks] == [("coarse", "coarse")] * 2 + [("auto", "fine")]
