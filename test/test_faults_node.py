"""Faults at the node `pilot`, over DDS, against an ideal robot that is spoiled: what it is told, and what is said."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from node_bench import (
    HOME,
    MS,
    PATIENCE_S,
    SECOND,
    SUCCESS,
    TASK,
    Bench,
    Robot,
    at_rest_at_the_end,
    initialised,
    robot_file,
)
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory
from within import excess

from vlaq_ros.config import RobotConfig
from vlaq_ros.control.chunks import at_rest
from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import ActionChunk, FloatArray, Guide, Observation, Trajectory
from vlaq_ros.flight import Flight
from vlaq_ros.policy.engine import Engine
from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.sim import panda

Start = Callable[..., Bench]


class Policy:
    """The tiny bundle's policy, which a test makes ill.

    Attributes:
        before: called with the precision before an inference, in its thread.
        after: changes the actions [T, A] of an answer.
    """

    def __init__(self) -> None:
        self.before: Callable[[str], object] = lambda _: None
        self.after: Callable[[FloatArray], FloatArray] = lambda actions: actions


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> Policy:
    ill, healthy = Policy(), Engine.infer

    def infer(
        engine: Engine, observation: Observation, precision: str, noise: FloatArray, guide: Guide | None = None
    ) -> ActionChunk:
        ill.before(precision)
        chunk = healthy(engine, observation, precision, noise, guide)
        return replace(chunk, actions=ill.after(chunk.actions))

    monkeypatch.setattr(Engine, "infer", infer)
    return ill


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> Iterator[Start]:
    """Makes the bench, with parameters of the pilot beside those of all tests."""
    made: list[Bench] = []
    ros = initialised(monkeypatch)
    initialise = next(ros)

    def start_with(time_ns: int | None = None, **given: object) -> Bench:
        initialise(**({"model": str(tiny_bundle), "replan_period_s": 0.2, "enabled": True} | given))
        made.append(Bench(Robot(panda.urdf(), time_ns)))
        return made[0]

    yield start_with
    for bench in made:
        bench.close()
    next(ros, None)


def goes_on(bench: Bench, count: int = 2) -> None:
    """Until the arm is commanded again."""
    before = len(bench.robot.commands)
    bench.wait(lambda: len(bench.robot.commands) >= before + count, "commands go on")


def resident_bytes() -> int:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def stands_still(bench: Bench) -> None:
    """Nothing is commanded any more, and what was commanded last ends at rest."""
    bench.wait_for_silence()
    assert all(at_rest_at_the_end(command) for command in bench.robot.commands[-1:])


def begin_ns(command: Trajectory) -> int:
    return command.stamp_ns + int(command.times_ns[0])


def continuous(commands: list[Trajectory]) -> None:
    """Every command begins as the one before it moves: in position, velocity and acceleration."""
    for running, command in pairwise(commands):
        for new, old in zip(sample(command, begin_ns(command)), sample(running, begin_ns(command)), strict=True):
            np.testing.assert_allclose(new, old, atol=1e-6)


# ---- inputs


def test_a_camera_that_never_comes_keeps_the_arm_still(start: Start) -> None:
    bench = start()
    bench.robot.cameras_on["wrist"] = False
    node = bench.pilot()
    assert node.trigger_configure() == node.trigger_activate() == SUCCESS
    bench.robot.say(TASK)
    bench.wait_for_health("cameras", DiagnosticStatus.WARN, "camera wrist: no image received")
    assert bench.robot.commands == []
    bench.robot.cameras_on["wrist"] = True
    goes_on(bench)


def test_an_image_of_another_size_is_taken(start: Start) -> None:
    bench = start()
    bench.flying()

    def small(_: str, image: Image) -> Image:
        image.height, image.width, image.step, image.data = 48, 64, 192, bytes(48 * 192)
        return image

    bench.robot.spoil_image = small
    goes_on(bench, 3)
    bench.wait_for_health("cameras", DiagnosticStatus.OK, "fresh")


def test_an_image_of_16_bits_stops_commands_until_it_has_8_again(start: Start) -> None:
    bench = start()
    bench.flying()

    def deep(camera: str, image: Image) -> Image:
        image.encoding = "16UC1" if camera == "front" else image.encoding
        return image

    bench.robot.spoil_image = deep
    bench.wait_for_health("cameras", DiagnosticStatus.WARN, "camera front: the image has encoding '16UC1'; expected .*")
    stands_still(bench)
    bench.robot.spoil_image = lambda _, image: image
    goes_on(bench)


def test_joint_states_with_nan_stop_commands_until_they_are_numbers_again(start: Start) -> None:
    bench = start()
    bench.flying()

    def broken(state: JointState) -> JointState:
        state.position[2] = np.nan
        return state

    bench.robot.spoil_joints = broken
    bench.wait_for_health(
        "joint states", DiagnosticStatus.WARN, "joint states: the joint state has a position that is not finite; .*"
    )
    stands_still(bench)
    assert all(np.isfinite(command.positions).all() for command in bench.robot.commands)
    bench.robot.spoil_joints = lambda state: state
    goes_on(bench)


def glitching(period: int) -> Callable[[JointState], JointState]:
    """One joint state of so many is nonsense."""
    count = itertools.count()

    def glitch(state: JointState) -> JointState:
        state.position[1] += 0.8 if next(count) % period == 0 else 0.0
        return state

    return glitch


def test_joint_states_that_jump_brake_the_arm_and_no_command_believes_them(start: Start) -> None:
    bench = start()
    bench.flying()
    bench.robot.spoil_joints = glitching(70)
    bench.wait(lambda: jumps(bench) >= 4, "jumps are counted")
    bench.robot.spoil_joints = lambda state: state
    goes_on(bench)
    continuous(bench.robot.commands)
    bench.wait_for_health("joint states", DiagnosticStatus.OK, "fresh")


def test_joint_states_that_jump_all_the_time_never_lead_the_arm_astray(start: Start) -> None:
    bench = start()
    bench.robot.spoil_joints = glitching(9)
    node = bench.pilot()
    assert node.trigger_configure() == node.trigger_activate() == SUCCESS
    bench.robot.say(TASK)
    bench.wait(lambda: jumps(bench) >= 30, "jumps are counted")
    bench.robot.spoil_joints = lambda state: state
    goes_on(bench)
    continuous([at_rest(panda.JOINT_NAMES, HOME, 0), *bench.robot.commands])


def test_an_arm_that_was_put_elsewhere_is_taken_where_it_is(start: Start) -> None:
    bench = start()
    bench.flying()
    elsewhere = HOME + 0.6 * np.eye(8)[1]
    bench.robot.put(elsewhere)
    bench.robot.follows = False
    count = len(bench.robot.commands)
    bench.wait(lambda: jumps(bench), "the jump is counted")
    bench.wait(
        lambda: any(np.allclose(command.positions[0, :-1], elsewhere[:-1]) for command in bench.robot.commands[count:]),
        "a command from there",
    )
    bench.robot.follows = True
    goes_on(bench)


def jumps(bench: Bench) -> int:
    status = bench.robot.diagnostics.get("pilot: joint states", DiagnosticStatus())
    return sum(int(item.value) for item in status.values if item.key == "jumps")


# ---- policy


def test_a_policy_of_400_ms_keeps_the_arm_moving_without_a_jump(start: Start, policy: Policy) -> None:
    bench = start(time_ns=100 * SECOND, use_sim_time=True, stall_timeout_s=PATIENCE_S)  # that is on another clock
    bench.flying()
    robot = bench.robot

    def wait(_: str) -> None:
        end_ns = robot.now_ns() + 400 * MS
        while robot.now_ns() < end_ns:
            time.sleep(1e-3)
        robot.paused = True  # what the tiny policy itself takes depends on the machine

    def answer(actions: FloatArray) -> FloatArray:
        robot.paused = False
        return actions

    policy.before, policy.after = wait, answer
    goes_on(bench, 2)
    first = len(robot.commands) - 1
    goes_on(bench, 4)
    continuous(robot.commands)
    for running, command in pairwise(robot.commands[first:]):
        assert begin_ns(command) < running.stamp_ns + running.times_ns[-1], "the arm still moves"
    policy.before = lambda _: None
    robot.time_ns += SECOND  # for the inference that waits


def test_a_policy_of_3_s_lets_the_arm_rest_and_its_late_answer_is_dropped(start: Start, policy: Policy) -> None:
    bench = start(stall_timeout_s=1.0)
    bench.flying()
    slow = threading.Event()
    slow.set()
    policy.before = lambda _: time.sleep(3.0) if slow.is_set() else None
    bench.wait_for_health("policy", DiagnosticStatus.ERROR, "an inference has not ended within 1.0 s; .*")
    last = bench.robot.commands[-1]
    assert at_rest_at_the_end(last)
    slow.clear()
    goes_on(bench)
    assert bench.robot.commands[-1].stamp_ns > last.stamp_ns + 2 * SECOND
    bench.wait_for_health("policy", DiagnosticStatus.OK)


def test_a_policy_that_hangs_lets_the_arm_rest_and_the_node_end(start: Start, policy: Policy) -> None:
    bench = start(stall_timeout_s=0.5)
    node = bench.flying()
    free = threading.Event()
    policy.before = lambda _: free.wait(PATIENCE_S)
    bench.wait_for_health("policy", DiagnosticStatus.ERROR, "an inference has not ended within 0.5 s; .*")
    stands_still(bench)
    began_s = time.monotonic()
    assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_cleanup() == SUCCESS
    assert time.monotonic() - began_s < PATIENCE_S / 2, "it does not wait for what hangs"
    free.set()


@pytest.mark.parametrize("kind", ["nan", "infinite", "first action", "action step"])
def test_a_chunk_that_no_robot_can_follow_is_rejected_and_said(start: Start, policy: Policy, kind: str) -> None:
    bench = start()
    bench.flying()

    def wrong(actions: FloatArray) -> FloatArray:
        actions = actions.copy()
        if kind == "first action":
            actions[:, 1] = 0.8
        elif kind == "action step":
            actions[5:, 1] += 0.7
        else:
            actions[7, 2] = np.nan if kind == "nan" else np.inf
        return actions

    policy.after = wrong
    words = {
        "first action": "the chunk begins .* rad from where panda_joint2 is measured",
        "action step": "action 5 .*",
    }
    bench.wait_for_health(
        "policy", DiagnosticStatus.ERROR, words.get(kind, "action 7 .* panda_joint3 to (nan|inf)") + ".*"
    )
    stands_still(bench)
    assert all(np.isfinite(command.positions).all() for command in bench.robot.commands)
    policy.after = lambda actions: actions
    goes_on(bench)
    bench.wait_for_health("policy", DiagnosticStatus.OK)


def test_a_policy_that_wants_everything_at_once_is_held_to_every_limit(start: Start, policy: Policy) -> None:
    bench = start()
    random = np.random.default_rng(0)

    def wild(actions: FloatArray) -> FloatArray:
        steps = random.choice([-0.28, 0.28], size=(len(actions), 7)) + random.uniform(-0.02, 0.02, (len(actions), 7))
        return np.column_stack([np.cumsum(steps, axis=0), random.choice([-1.0, 1.0], len(actions))])

    policy.after = wild
    bench.flying()
    goes_on(bench, 12)
    counts = {item.key: item.value for item in bench.wait_for_health("policy", DiagnosticStatus.OK).values}
    assert all(int(counts[f"{kind} limited"]) for kind in ("position", "velocity", "acceleration", "workspace"))
    robot = RobotConfig.load("sim_panda")
    kinematics = Kinematics(panda.urdf(), panda.JOINT_NAMES, robot.tool_frame)
    for command in bench.robot.commands:
        assert excess(command, kinematics, robot) == {}


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("a kernel failed")], ids=["memory", "kernel"]
)
def test_a_precision_that_fails_is_lost_and_the_finest_that_works_takes_its_place(
    start: Start, policy: Policy, error: Exception
) -> None:
    bench = start(precision="coarse")
    bench.flying()
    bench.wait(lambda: bench.robot.precisions[-1:] == ["coarse"], "the precision that was asked for")

    def fails(precision: str) -> None:
        if precision == "coarse":
            raise error

    policy.before = fails
    bench.wait(lambda: bench.robot.precisions[-3:] == ["fine"] * 3, "the finest that works")
    bench.wait_for_health("policy", DiagnosticStatus.WARN, f".*coarse.*{error}.*")


def test_a_policy_without_a_precision_left_holds_the_arm(start: Start, policy: Policy) -> None:
    bench = start()
    bench.flying()

    def fails(_: str) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    policy.before = fails
    bench.wait_for_health("policy", DiagnosticStatus.ERROR, ".*CUDA out of memory.*")
    stands_still(bench)
    assert bench.robot.commands[-1].times_ns[-1] < SECOND, "a brake"


def test_a_precision_that_fails_while_it_is_loaded_is_lost_alone(start: Start, policy: Policy) -> None:
    bench = start()

    def fails(precision: str) -> None:
        if precision == "fine":
            raise torch.OutOfMemoryError("CUDA out of memory")

    policy.before = fails
    bench.flying()
    goes_on(bench)
    assert set(bench.robot.precisions) == {"coarse"}
    bench.wait_for_health("policy", DiagnosticStatus.WARN, ".*fine.*CUDA out of memory.*")


# ---- the robot and the graph


def test_a_controller_that_rejects_is_found_by_the_joints_that_do_not_move(start: Start, policy: Policy) -> None:
    bench = start()
    policy.after = lambda actions: actions + np.outer(np.linspace(0.05, 0.4, len(actions)), np.eye(8)[3])
    bench.robot.follows = False
    bench.flying()
    bench.wait_for_health(
        "controller", DiagnosticStatus.ERROR, r"panda_joint\d is commanded .* and has moved 0\.000 rad .*"
    )
    bench.robot.follows = True
    bench.wait_for_health("controller", DiagnosticStatus.OK)


def test_a_second_commander_is_named_and_goes(start: Start) -> None:
    bench = start()
    bench.flying()
    other = bench.robot.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", 10)
    bench.wait_for_health("controller", DiagnosticStatus.WARN, ".*/robot.*")
    bench.robot.destroy_publisher(other)
    bench.wait_for_health("controller", DiagnosticStatus.OK)


def test_a_camera_with_qos_that_cannot_be_heard_is_named(start: Start, tmp_path: Path) -> None:
    cameras = {
        name: {"topic": f"camera/{name}/image_raw", "rate_hz": 20.0, "reliability": "reliable"}
        for name in ("front", "wrist")
    }
    bench = start(robot=robot_file(tmp_path, cameras=cameras))
    node = bench.pilot()
    assert node.trigger_configure() == node.trigger_activate() == SUCCESS
    bench.wait_for_health(
        "topics",
        DiagnosticStatus.ERROR,
        "/camera/front/image_raw cannot be heard from /robot, which offers best_effort volatile, expected reliable .*",
    )
    assert bench.robot.commands == []


# ---- the operator


def call(bench: Bench, kind: type, name: str, **request: Any) -> Any:
    client = bench.robot.create_client(kind, f"/pilot/{name}")
    bench.wait(client.service_is_ready, f"the service {name}")
    future = client.call_async(kind.Request(**request))
    bench.wait(future.done, f"an answer of {name}")
    bench.robot.destroy_client(client)
    return future.result()


def brakes(bench: Bench, count: int) -> None:
    """After `count` commands the next is a brake, from the motion that runs, and nothing follows it."""
    bench.wait(lambda: len(bench.robot.commands) > count, "a brake")
    stands_still(bench)
    running, brake = bench.robot.commands[-2:]
    assert brake.times_ns[-1] < 0.8 * SECOND < running.times_ns[-1]
    continuous([running, brake])


def test_the_arm_is_not_commanded_before_it_is_enabled(start: Start) -> None:
    bench = start(enabled=False)
    node = bench.pilot()
    assert node.trigger_configure() == node.trigger_activate() == SUCCESS
    enabled = bench.robot.listen(Bool, "enabled", LATCHED)
    bench.robot.say(TASK)
    bench.wait_for_health("safety gate", DiagnosticStatus.WARN, "not enabled: call ~/enable")
    assert bench.robot.commands == []
    assert enabled == [False]
    assert call(bench, SetBool, "enable", data=True).success
    goes_on(bench)
    assert enabled[-1]


def test_disabling_in_mid_motion_brakes(start: Start) -> None:
    bench = start()
    bench.flying()
    goes_on(bench)
    count = len(bench.robot.commands)
    assert call(bench, SetBool, "enable", data=False).success
    brakes(bench, count)
    assert call(bench, SetBool, "enable", data=True).success
    goes_on(bench)


def test_a_stop_brakes_and_stays_until_it_is_released(start: Start) -> None:
    bench = start()
    bench.flying()
    stopped = bench.robot.listen(String, "stopped", LATCHED)
    goes_on(bench)
    count = len(bench.robot.commands)
    assert call(bench, Trigger, "stop").success
    brakes(bench, count)
    assert stopped[-1]
    assert call(bench, SetBool, "enable", data=True)
    stands_still(bench)
    assert call(bench, Trigger, "release").success
    goes_on(bench)
    assert stopped[-1] == ""


def test_an_emergency_stop_brakes_and_stays_until_it_is_let_go_and_released(start: Start, tmp_path: Path) -> None:
    bench = start(robot=robot_file(tmp_path, estop_topic="estop"))
    estop = bench.robot.create_publisher(Bool, "estop", LATCHED)
    estop.publish(Bool(data=False))
    bench.flying()
    goes_on(bench)
    count = len(bench.robot.commands)
    estop.publish(Bool(data=True))
    brakes(bench, count)
    bench.wait_for_health("safety gate", DiagnosticStatus.WARN, "stopped: the emergency stop on .* was pressed.*")
    answer = call(bench, Trigger, "release")
    assert (answer.success, answer.message) == (False, "the emergency stop on estop is pressed")
    estop.publish(Bool(data=False))
    stands_still(bench)
    bench.wait(lambda: call(bench, Trigger, "release").success, "the release")
    goes_on(bench)


def test_an_emergency_stop_that_is_never_heard_keeps_the_arm_still(start: Start, tmp_path: Path) -> None:
    bench = start(robot=robot_file(tmp_path, estop_topic="estop"))
    node = bench.pilot()
    assert node.trigger_configure() == node.trigger_activate() == SUCCESS
    bench.robot.say(TASK)
    bench.wait_for_health("safety gate", DiagnosticStatus.WARN, "the emergency stop on estop is not heard")
    assert bench.robot.commands == []


def test_an_emergency_stop_whose_publisher_goes_counts_as_pressed(start: Start, tmp_path: Path) -> None:
    bench = start(robot=robot_file(tmp_path, estop_topic="estop"))
    estop = bench.robot.create_publisher(Bool, "estop", LATCHED)
    estop.publish(Bool(data=False))
    bench.flying()
    count = len(bench.robot.commands)
    bench.robot.destroy_publisher(estop)
    brakes(bench, count)
    bench.wait_for_health(
        "safety gate", DiagnosticStatus.WARN, "stopped: the emergency stop on estop has no publisher .*"
    )


def test_a_dry_run_commands_a_shadow_and_never_the_arm(start: Start) -> None:
    bench = start(dry_run=True)
    shadow: list[JointTrajectory] = []
    bench.robot.create_subscription(JointTrajectory, "/pilot/shadow/arm_controller/joint_trajectory", shadow.append, 10)
    node = bench.pilot()
    assert node.trigger_configure() == node.trigger_activate() == SUCCESS
    bench.robot.say(TASK)
    bench.wait(lambda: len(shadow) > 3, "commands on the shadow topic")
    assert bench.robot.commands == []


# ---- time


def test_time_that_jumps_ahead_blocks_until_inputs_are_fresh(start: Start) -> None:
    bench = start(time_ns=100 * SECOND, use_sim_time=True)
    bench.flying()
    bench.robot.time_ns += 30 * SECOND
    jumped_ns = bench.robot.time_ns
    goes_on(bench, 3)
    assert bench.robot.commands[-1].stamp_ns > jumped_ns


@pytest.mark.parametrize("back_s", [1, 60])
def test_time_that_jumps_back_forgets_what_was_and_goes_on(start: Start, back_s: int) -> None:
    bench = start(time_ns=100 * SECOND, use_sim_time=True)
    bench.flying()
    goes_on(bench, 3)
    bench.robot.time_ns -= back_s * SECOND
    jumped_ns = bench.robot.time_ns
    bench.wait(
        lambda: jumped_ns < bench.robot.commands[-1].stamp_ns < jumped_ns + 20 * SECOND, "commands in the new time"
    )
    goes_on(bench, 3)


def test_simulated_time_that_stands_still_commands_nothing_new(start: Start) -> None:
    bench = start(time_ns=100 * SECOND, use_sim_time=True)
    bench.flying()
    bench.robot.paused = True
    stands_still(bench)
    bench.robot.paused = False
    goes_on(bench)


# ---- life


def test_a_parameter_that_cannot_change_is_refused_and_the_arm_goes_on(start: Start) -> None:
    bench = start()
    node = bench.flying()
    [fixed] = node.set_parameters([Parameter("max_image_age_s", value=1.0)])
    [model] = node.set_parameters([Parameter("model", value="tabletop_pi0")])
    assert not fixed.successful
    assert (model.successful, model.reason) == (
        False,
        "model cannot change while the node is configured; clean it up first",
    )
    goes_on(bench)


def test_a_hundred_lifecycles_leave_nothing_behind(start: Start) -> None:
    bench = start()
    node = bench.pilot()
    bench.robot.say(TASK)

    def cycle() -> tuple[int, ...]:
        assert node.trigger_configure() == node.trigger_activate() == SUCCESS
        goes_on(bench, 1)
        assert node.trigger_deactivate() == node.trigger_cleanup() == SUCCESS
        made = (node.publishers, node.subscriptions, node.timers, node.services, node.clients, node.guards)
        return (threading.active_count(), *(len(list(kind)) for kind in made))

    def kept() -> int:
        gc.collect()
        return sum(isinstance(thing, Engine | Flight) for thing in gc.get_objects())

    others = kept()  # of tests before
    for _ in range(20):
        first = cycle()
    before = resident_bytes()
    for _ in range(80):
        assert cycle() == first
    assert kept() <= others
    assert resident_bytes() < before + 20e6
