"""Node `sim_robot` from outside, over DDS: what it publishes, follows, refuses and resets to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from rcl_interfaces.msg import Log
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float64, Float64MultiArray, Int64, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vlaq_ros import messages
from vlaq_ros.ros import domain
from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.ros.sim_robot_node import SLICE_NS, SimRobotNode
from vlaq_ros.sim import panda
from vlaq_ros.sim.robot import SimRobot

DOMAIN_ID = domain.claim()
PATIENCE_S = 30.0  # discovery alone may take seconds
CAMERA_TOPICS = ("camera/front/image_raw", "camera/wrist/image_raw")
TARGET = dict(zip(panda.JOINT_NAMES, (0.3, -0.2, 0.1, -2.2, 0.2, 2.2, 0.5, 0.01), strict=True))


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vlaq_ros.ros.sim_robot_node", *arguments]
    settings = {"ROS_DOMAIN_ID": str(DOMAIN_ID), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=os.environ | settings | environment, stderr=subprocess.PIPE, text=True)


class Client:
    """Whatever talks to a robot: it keeps every message that it hears."""

    def __init__(self, context: Context) -> None:
        self.node = Node("client", context=context, enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.node)
        self.heard: dict[str, list[Any]] = {}
        self.commands = self.node.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", 10)

    def listen(self, kind: type, topic: str, qos: QoSProfile | int = 10) -> list[Any]:
        heard = self.heard.setdefault(topic, [])
        self.node.create_subscription(kind, topic, heard.append, qos)
        return heard

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S} s"
            self._executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        context = Context()
        rclpy.init(context=context, domain_id=DOMAIN_ID)
        yield context
        rclpy.shutdown(context=context)


@pytest.fixture(scope="module")
def robot(context: Context) -> Iterator[Client]:
    """A client of a robot with default parameters, which must end well at the end."""
    process, client = start(), Client(context)
    try:
        joint_states = client.listen(JointState, "joint_states", 1000)
        client.listen(Log, "/rosout", 100)
        client.wait(lambda: joint_states and client.commands.get_subscription_count(), "the robot answers")
        yield client
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors
    finally:
        process.kill()
        client.close()


def point(time_s: float, positions: list[float], velocities: list[float]) -> JointTrajectoryPoint:
    made = JointTrajectoryPoint(positions=positions, velocities=velocities)
    made.time_from_start.sec, made.time_from_start.nanosec = divmod(round(time_s * 1e9), 10**9)
    return made


def reach(target: dict[str, float], time_s: float, end_velocity: float = 0.0) -> JointTrajectory:
    names = sorted(target, reverse=True)  # not the robot's order
    return JointTrajectory(
        joint_names=names,
        points=[point(time_s, [target[name] for name in names], [end_velocity] * len(names))],
    )


def error_rad(joint_state: JointState, target: dict[str, float]) -> float:
    return max(
        abs(position - target[name]) for name, position in zip(joint_state.name, joint_state.position, strict=True)
    )


def test_joint_states_come_every_slice_on_the_system_clock(robot: Client) -> None:
    states = robot.heard["joint_states"]
    states.clear()
    robot.wait(lambda: len(states) >= 100, "a hundred joint states")
    assert list(states[0].name) == list(panda.JOINT_NAMES)
    assert all(len(state.position) == len(state.velocity) == len(panda.JOINT_NAMES) for state in states)
    stamps_ns = np.array([messages.stamp_ns(state.header.stamp) for state in states])
    steps_ns = np.diff(stamps_ns)
    assert steps_ns.min() >= SLICE_NS  # more only where the machine was too slow
    assert np.median(steps_ns) <= 10_000_000  # 100 Hz
    assert abs(time.time_ns() - stamps_ns[-1]) < 10 * 10**9  # the clock of other processes


def test_images_are_stamped_at_a_joint_state(robot: Client) -> None:
    """Exposure and measurement are the same instant of the simulation."""
    listening = [robot.listen(Image, topic, qos_profile_sensor_data) for topic in CAMERA_TOPICS]
    states = robot.heard["joint_states"]
    robot.wait(lambda: all(len(images) >= 5 for images in listening), "five images of each camera")
    cameras = [list(images) for images in listening]
    exposures_ns = {messages.stamp_ns(image.header.stamp) for images in cameras for image in images}
    robot.wait(lambda: messages.stamp_ns(states[-1].header.stamp) > max(exposures_ns), "a later joint state")
    assert exposures_ns <= {messages.stamp_ns(state.header.stamp) for state in states}
    fronts, wrists = cameras
    assert fronts[-1].header.frame_id == "front_camera_optical_frame"
    assert messages.image(fronts[-1]).shape == (96, 96, 3)
    assert messages.image(fronts[-1]).std() > 10  # it shows something
    assert bytes(fronts[-1].data) != bytes(wrists[-1].data)


def test_the_urdf_is_latched(robot: Client) -> None:
    heard = robot.listen(String, "robot_description", LATCHED)
    robot.wait(lambda: heard, "the URDF, long after it was published")
    assert heard[0].data == panda.urdf()


def test_a_trajectory_moves_arm_and_gripper_to_its_end_where_they_stay(robot: Client) -> None:
    states = robot.heard["joint_states"]
    assert error_rad(states[-1], TARGET) > 0.1
    robot.commands.publish(reach(TARGET, time_s=0.5))
    robot.wait(lambda: error_rad(states[-1], TARGET) < 0.01, "the arm reaches the target")
    arrived = len(states)
    robot.wait(lambda: len(states) >= arrived + 50, "it stays a while")
    assert max(error_rad(state, TARGET) for state in states[arrived:]) < 0.01
    assert np.abs(states[-1].velocity).max() < 0.01


def test_a_trajectory_that_is_under_way_is_entered_where_it_is(robot: Client) -> None:
    """Stamped on the system clock; its first point is past and would take the arm the other way."""
    states = robot.heard["joint_states"]
    elsewhere = TARGET | {"panda_joint1": -2.0}
    goal = TARGET | {"panda_joint1": 0.6}
    names = sorted(goal)
    under_way = JointTrajectory(
        joint_names=names,
        points=[
            point(0.0, [elsewhere[name] for name in names], []),
            point(9.9, [TARGET[name] for name in names], []),
            point(11.0, [goal[name] for name in names], []),
        ],
    )
    under_way.header.stamp = states[-1].header.stamp
    under_way.header.stamp.sec -= 10
    before = len(states)
    robot.commands.publish(under_way)
    robot.wait(lambda: error_rad(states[-1], goal) < 0.01, "the arm reaches the goal")
    swept = [state.position[states[-1].name.index("panda_joint1")] for state in states[before:]]
    assert 0.25 < min(swept) <= max(swept) < 0.65


@pytest.mark.parametrize(
    ("trajectory", "reason"),
    [
        (
            reach(TARGET, time_s=0.5, end_velocity=0.25),
            "velocity of last trajectory point of joint panda_joint7 is not zero: 0.250000000000000",
        ),
        (
            reach({"panda_joint1": 0.0}, time_s=0.5),
            "joints on incoming trajectory don't match the controller joints: got panda_joint1; "
            f"expected {', '.join(panda.JOINT_NAMES)}",
        ),
        (
            JointTrajectory(joint_names=["panda_joint1"], points=[point(0.5, [0.0, 0.0], [])]),
            "the trajectory for 1 joints has points with 2 positions; "
            "expected 1 positions at every point, or none at all",
        ),
    ],
)
def test_a_rejected_trajectory_is_told_in_the_log_and_moves_nothing(
    robot: Client, trajectory: JointTrajectory, reason: str
) -> None:
    states, logs = robot.heard["joint_states"], robot.heard["/rosout"]
    robot.wait(lambda: np.abs(states[-1].velocity).max() < 1e-4, "the arm rests")
    before = dict(zip(states[-1].name, states[-1].position, strict=True))
    trajectory.points[0].positions = [value + 0.5 for value in trajectory.points[0].positions]
    robot.commands.publish(trajectory)
    robot.wait(lambda: any(log.msg == f"trajectory rejected: {reason}" for log in logs), "the rejection is logged")
    rejected = len(states)
    robot.wait(lambda: len(states) >= rejected + 100, "the arm had time to move")
    assert max(error_rad(state, before) for state in states[rejected:]) < 1e-3


def test_a_reset_needs_an_episode_and_starts_exactly_that_one(robot: Client) -> None:
    reset = robot.node.create_client(Trigger, "sim_robot/reset")
    seed = robot.node.create_publisher(Int64, "sim_robot/seed", LATCHED)
    instruction = robot.node.create_publisher(String, "sim_robot/instruction", LATCHED)
    success = robot.listen(Bool, "sim_robot/success", LATCHED)
    robot.wait(lambda: success and seed.get_subscription_count() and instruction.get_subscription_count(), "matched")
    robot.wait(reset.service_is_ready, "the service is there")

    def answer() -> tuple[bool, str]:
        future = reset.call_async(Trigger.Request())
        robot.wait(future.done, "the answer of the service")
        return future.result().success, future.result().message

    def answers(expected: tuple[bool, str]) -> bool:
        return answer() == expected

    unknown = "no episode is known to reset to; publish ~/seed (0 or more) and ~/instruction first"
    assert answer() == (False, unknown)

    states = robot.heard["joint_states"]
    seed.publish(Int64(data=5))
    instruction.publish(String(data="put the green cube in the bin"))
    told = len(success)
    robot.wait(lambda: answers((True, "5: put the green cube in the bin")), "the reset to the episode")
    robot.wait(lambda: len(success) > told, "success is told anew")
    assert not success[-1].data
    reference = SimRobot()
    reference.reset(5, "put the green cube in the bin")
    laid_out = dict(zip(reference.joint_names, reference.joint_state()[0], strict=True))
    robot.wait(lambda: error_rad(states[-1], laid_out) < 1e-3, "the arm stands where this seed puts it")

    instruction.publish(String(data="dance"))
    robot.wait(lambda: "dance" in answer()[1], "the refusal")
    refused, sentence = answer()
    assert not refused
    assert sentence.startswith("no task knows the instruction 'dance'; ")

    seed.publish(Int64(data=-1))
    robot.wait(lambda: answers((False, unknown)), "a negative seed is none")


def test_success_is_told_when_the_cube_lies_in_the_bin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    rclpy.init(domain_id=DOMAIN_ID)
    node, executor, told = SimRobotNode(), SingleThreadedExecutor(), []
    executor.add_node(node)
    node.create_subscription(Bool, "~/success", lambda message: told.append(message.data), LATCHED)
    scene = node._robot.scene  # no expert here: the cube is put into the bin by hand
    scene.reset(0, "put the red cube in the bin")

    def until(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, told
            node.step()
            executor.spin_once(timeout_sec=0.0)

    until(lambda: told == [False])
    cube = scene.model.joint("red").qposadr[0]
    scene.data.qpos[cube : cube + 3] = scene.receptacle_position() + np.array([0, 0, 0.03])
    until(lambda: told == [False, True])
    scene.data.qpos[cube : cube + 3] = (0.5, 0.0, 0.03)
    until(lambda: told == [False, True, False])

    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()


def test_forward_controllers_move_arm_and_gripper(context: Context) -> None:
    process = start("--ros-args", "-r", "__ns:=/streamed", "-p", "controller:=Float64MultiArray")
    client = Client(context)
    arm = client.node.create_publisher(Float64MultiArray, "streamed/position_controller/commands", 1)
    gripper = client.node.create_publisher(Float64MultiArray, "streamed/gripper_controller/commands", 1)
    try:
        states, log = client.listen(JointState, "streamed/joint_states", 1000), client.listen(Log, "/rosout", 100)
        both = (arm, gripper)
        client.wait(lambda: states and all(map(Publisher.get_subscription_count, both)), "the robot answers")
        assert client.node.count_subscribers("/streamed/arm_controller/joint_trajectory") == 0
        goal = np.array(states[-1].position) + np.array([0.05] * 7 + [-0.02])
        arm.publish(Float64MultiArray(data=goal[:-1].tolist()))
        gripper.publish(Float64MultiArray(data=goal[-1:].tolist()))
        client.wait(lambda: np.abs(np.array(states[-1].position) - goal).max() < 3e-3, "both at their goals")
        arm.publish(Float64MultiArray(data=[0.1]))
        rejected = "command rejected: got [0.1], expected 7 finite positions"
        client.wait(lambda: any(entry.msg == rejected for entry in log), "the rejection")
    finally:
        process.kill()
        process.communicate()
        client.close()


def test_simulated_time_is_published_and_stamped(context: Context) -> None:
    process = start(
        *("--ros-args", "-r", "__ns:=/left", "-p", "publish_clock:=true", "-p", "real_time_factor:=2.0"),
        *("-p", "image_reliability:=reliable", "-p", "camera_rate_hz:=12.5"),
    )
    client = Client(context)
    try:
        clock = client.listen(Clock, "/clock", 1000)
        states = client.listen(JointState, "left/joint_states", 1000)
        images = client.listen(Image, "left/camera/front/image_raw", 1000)
        factors = client.listen(Float64, "left/sim_robot/real_time_factor")
        client.wait(lambda: len(images) >= 5 and factors, "images and a real-time factor")
        offered = client.node.get_publishers_info_by_topic("/left/camera/front/image_raw")
        assert [each.qos_profile.reliability for each in offered] == [ReliabilityPolicy.RELIABLE]
        times_ns = np.array([messages.stamp_ns(message.clock) for message in clock])
        stamps_ns = np.array([messages.stamp_ns(state.header.stamp) for state in states])
        exposures_ns = np.array([messages.stamp_ns(image.header.stamp) for image in images])
        assert (np.diff(times_ns) == SLICE_NS).all()
        assert (np.diff(stamps_ns) == SLICE_NS).all()
        assert (np.diff(exposures_ns) == 80_000_000).all()
        assert 0 < stamps_ns[0] < 60 * 10**9  # simulated time began when the node did
        assert 0 < factors[0].data < 2.5
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # a terminal and a launcher both send one
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors
    finally:
        process.kill()
        client.close()


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (
            ["-p", "real_time_factor:=2.0"],
            {},
            "sim_robot: real_time_factor in the parameters of sim_robot is 2.0; expected 1.0, or publish_clock set, "
            "as only simulated time can pass at another speed\n",
        ),
        (
            ["-p", "frame_rate:=30.0"],
            {},
            "sim_robot: unknown key 'frame_rate' in the parameters of sim_robot; known keys: camera_rate_hz, "
            "image_reliability, controller, publish_clock, real_time_factor\n",
        ),
        (
            [],
            {"MUJOCO_GL": "none"},
            "sim_robot: MuJoCo cannot render the cameras",
        ),
    ],
    ids=["speed without a clock", "unknown parameter", "no GL"],
)
def test_what_cannot_start_says_why_in_one_sentence(
    arguments: list[str], environment: dict[str, str], sentence: str
) -> None:
    process = start("--ros-args", *arguments, **environment)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert errors.startswith(sentence)
    assert errors.count("\n") == 1
