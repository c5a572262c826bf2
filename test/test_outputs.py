"""Commands as they leave: real nodes on DDS, a robot of two joints and a gripper whose messages count in degrees."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.action import ActionServer, GoalResponse
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from test_msgs.action import Fibonacci
from trajectory_msgs.msg import JointTrajectory

from vlaq_ros import messages
from vlaq_ros.config import ArmConfig, GripperConfig, RobotConfig, build
from vlaq_ros.datatypes import Trajectory
from vlaq_ros.errors import BadValueError, JointNamesError, MissingDependencyError
from vlaq_ros.joints import JointMap
from vlaq_ros.ros import domain, gripper
from vlaq_ros.ros.outputs import Outputs
from vlaq_ros.sim import panda

DOMAIN_ID = domain.claim()
PATIENCE_S = 90.0  # a busy machine needs half a minute to start a process
ARM, FINGER = ("shoulder", "elbow"), "finger"
POLICY = ("e", "s", "f")  # another order than the controller's
STAMP_NS = 5_000_000_000


def robot(tmp_path: Path, **changed: Any) -> RobotConfig:
    limits = tmp_path / "limits.yaml"
    bounds = "max_acceleration: 5, max_jerk: 50, min_position: 0.0, max_position: 0.04"
    limits.write_text("joint_limits:\n" + "".join(f"  {name}: {{{bounds}}}\n" for name in (*ARM, FINGER)))
    values = {
        "tool_frame": "tool",
        "arm_joints": list(ARM),
        "gripper_joint": FINGER,
        "cameras": {},
        "joint_state_topic": "joint_states",
        "description_topic": "robot_description",
        "arm": {"topic": "arm_controller/joint_trajectory"},
        "gripper": {"type": "joint"},
        "safety": {
            "joint_limits": str(limits),
            "workspace_lower_m": [-1, -1, -1],
            "workspace_upper_m": [1, 1, 1],
            "max_first_action_rad": 0.5,
            "max_action_step_rad": 0.5,
        },
        "joints": {
            "shoulder": {"policy": "s", "message": "m_shoulder", "unit": "deg", "scale": -1.0, "offset": 0.1},
            "elbow": {"policy": "e"},
            "finger": {"policy": "f", "unit": "mm"},
        },
    }
    return build(RobotConfig, values | changed, "the test")


def motion(stamp_ns: int = STAMP_NS) -> Trajectory:
    """One second to the other side, in the columns of the policy: elbow, shoulder, finger."""
    times_ns = np.linspace(0, 10**9, 11).astype(np.int64)
    share = np.linspace(0.0, 1.0, 11)[:, None]
    return Trajectory(
        stamp_ns,
        ("elbow", "shoulder", FINGER),
        times_ns,
        share * [1.0, -0.5, 0.04],
        np.tile([1.0, -0.5, 0.04], (11, 1)),
        np.zeros((11, 3)),
    )


class Graph:
    """A pilot's node in simulated time, and one that hears what it sends."""

    def __init__(self, context: Context) -> None:
        simulated = [Parameter("use_sim_time", value=True)]
        self.pilot = Node("pilot", context=context, enable_rosout=False, parameter_overrides=simulated)
        self.other = Node("other", context=context, enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.pilot)
        self._executor.add_node(self.other)
        self._clock = self.other.create_publisher(Clock, "/clock", 10)
        self.wait(self._clock.get_subscription_count, "the clock is heard")

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s, f"not within {PATIENCE_S} s: {what}"
            self._executor.spin_once(timeout_sec=0.02)

    def idle(self) -> None:
        """Let everything through that is under way."""
        until_s = time.monotonic() + 0.1
        while time.monotonic() < until_s:
            self._executor.spin_once(timeout_sec=0.02)

    def pass_to(self, stamp_ns: int) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(stamp_ns, 10**9)
        self._clock.publish(message)
        self.wait(lambda: self.pilot.get_clock().now().nanoseconds == stamp_ns, "time passes")
        self.idle()

    def listen(self, kind: type, topic: str) -> list[Any]:
        heard: list[Any] = []
        subscription = self.other.create_subscription(kind, topic, heard.append, 100)
        self.wait(lambda: self.pilot.count_publishers(subscription.topic_name), topic)
        self.idle()
        return heard

    def close(self) -> None:
        self._executor.shutdown()
        self.pilot.destroy_node()
        self.other.destroy_node()


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        context = Context()
        rclpy.init(context=context, domain_id=DOMAIN_ID)
        yield context
        rclpy.shutdown(context=context)


@pytest.fixture
def graph(context: Context) -> Iterator[Graph]:
    made = Graph(context)
    yield made
    made.close()


@pytest.fixture
def outputs(graph: Graph) -> Iterator[Callable[..., Outputs]]:
    """Makes active outputs of the pilot's node."""
    made: list[Outputs] = []

    def make(config: RobotConfig, *, dry_run: bool = False) -> Outputs:
        made.append(Outputs(graph.pilot, config, JointMap(config, POLICY), dry_run=dry_run))
        made[-1].activate()
        return made[-1]

    yield make
    for outputs in made:
        outputs.close()


def test_a_trajectory_leaves_whole_in_the_names_units_and_order_of_the_controller(
    graph: Graph, outputs: Callable[..., Outputs], tmp_path: Path
) -> None:
    sender = outputs(robot(tmp_path))
    heard = graph.listen(JointTrajectory, "arm_controller/joint_trajectory")
    sender.send(motion())
    graph.wait(lambda: heard, "the trajectory")
    got, sent = messages.trajectory(heard[0]), motion()
    assert (got.stamp_ns, got.joint_names) == (STAMP_NS, ("m_shoulder", "elbow", "finger"))
    assert got.times_ns.tolist() == sent.times_ns.tolist()
    assert got.velocities is not None
    assert got.accelerations is not None
    elbow, shoulder, finger = sent.positions.T
    expected = np.column_stack([-np.degrees(shoulder - 0.1), elbow, 1e3 * finger])
    np.testing.assert_allclose(got.positions, expected, atol=1e-9)
    np.testing.assert_allclose(got.velocities, np.tile([np.degrees(0.5), 1.0, 40.0], (11, 1)))
    np.testing.assert_array_equal(got.accelerations, np.zeros((11, 3)))


def test_nothing_leaves_while_inactive(graph: Graph, outputs: Callable[..., Outputs], tmp_path: Path) -> None:
    sender = outputs(robot(tmp_path))
    heard = graph.listen(JointTrajectory, "arm_controller/joint_trajectory")
    sender.deactivate()
    sender.send(motion())
    sender.activate()
    sender.send(motion(STAMP_NS + 1))
    graph.wait(lambda: heard, "the second trajectory")
    assert [messages.stamp_ns(message.header.stamp) for message in heard] == [STAMP_NS + 1]


def test_a_controller_that_replaces_is_sent_what_lies_ahead(
    graph: Graph, outputs: Callable[..., Outputs], tmp_path: Path
) -> None:
    arm = {"topic": "arm_controller/joint_trajectory", "replacement": True}
    sender = outputs(robot(tmp_path, arm=arm))
    heard = graph.listen(JointTrajectory, "arm_controller/joint_trajectory")
    graph.pass_to(STAMP_NS + 250_000_000)
    sender.send(motion())
    graph.wait(lambda: heard, "the trajectory")
    got = messages.trajectory(heard[0])
    assert got.stamp_ns == STAMP_NS + 270_000_000  # the old motion goes on until this one has arrived
    assert got.times_ns.tolist() == [30_000_000 + 100_000_000 * step for step in range(8)]
    np.testing.assert_allclose(got.positions[:, 1], np.linspace(0.3, 1.0, 8))


def test_positions_are_streamed_on_the_nodes_clock_until_the_arm_rests(
    graph: Graph, outputs: Callable[..., Outputs], tmp_path: Path
) -> None:
    arm = {"topic": "position_controller/commands", "type": "Float64MultiArray", "rate_hz": 10.0}
    sender = outputs(robot(tmp_path, arm=arm))
    heard = graph.listen(Float64MultiArray, "position_controller/commands")
    graph.pass_to(STAMP_NS)
    sender.send(motion())
    for passed_ns in range(100_000_000, 1_500_000_000, 100_000_000):
        heard.clear()
        graph.pass_to(STAMP_NS + passed_ns)
        graph.wait(lambda: heard, "a position")
        share = min(passed_ns * 1e-9, 1.0)
        expected = [-np.degrees(-0.5 * share - 0.1), share, 40.0 * share]
        np.testing.assert_allclose(heard[-1].data, expected, atol=1e-9)
    graph.pass_to(STAMP_NS + 1_600_000_000)
    heard.clear()
    graph.pass_to(STAMP_NS + 1_700_000_000)
    assert heard == []


def test_a_motion_that_time_has_jumped_away_from_is_not_streamed(
    graph: Graph, outputs: Callable[..., Outputs], tmp_path: Path
) -> None:
    arm = {"topic": "position_controller/commands", "type": "Float64MultiArray"}
    sender = outputs(robot(tmp_path, arm=arm))
    heard = graph.listen(Float64MultiArray, "position_controller/commands")
    graph.pass_to(STAMP_NS - 600_000_000)
    sender.send(motion())
    graph.pass_to(STAMP_NS - 580_000_000)
    assert heard == []


def test_what_is_streamed_ends_at_rest_before_the_outputs_do(
    graph: Graph, outputs: Callable[..., Outputs], tmp_path: Path
) -> None:
    arm = {"topic": "position_controller/commands", "type": "Float64MultiArray"}
    sender = outputs(robot(tmp_path, arm=arm))
    heard = graph.listen(Float64MultiArray, "position_controller/commands")
    graph.pass_to(STAMP_NS + 900_000_000)
    sender.send(motion())
    sender.deactivate()
    graph.wait(lambda: heard and heard[-1].data[1] == 1.0, "the end of the motion")
    elbow = [message.data[1] for message in heard]
    assert elbow == sorted(elbow)
    sender.send(motion())
    heard.clear()
    graph.pass_to(STAMP_NS + 950_000_000)
    assert heard == []


def test_a_gripper_with_a_controller_of_its_own_is_not_in_the_arms_command(
    graph: Graph, outputs: Callable[..., Outputs], tmp_path: Path
) -> None:
    sender = outputs(robot(tmp_path, gripper={"type": "Float64MultiArray", "topic": "gripper_controller/commands"}))
    arm = graph.listen(JointTrajectory, "arm_controller/joint_trajectory")
    opening = graph.listen(Float64MultiArray, "gripper_controller/commands")
    graph.pass_to(STAMP_NS)
    sender.send(motion())
    graph.pass_to(STAMP_NS + 500_000_000)
    graph.wait(lambda: arm and opening, "both commands")
    assert list(arm[0].joint_names) == ["m_shoulder", "elbow"]
    assert len(arm[0].points[0].positions) == len(arm[0].points[0].velocities) == 2
    np.testing.assert_allclose(opening[-1].data, [20.0])


def test_a_simulated_arm_with_forward_controllers_goes_where_it_is_streamed(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = RobotConfig.load("sim_panda")
    config = replace(
        shipped,
        arm=ArmConfig(topic="position_controller/commands", type="Float64MultiArray"),
        gripper=GripperConfig(type="Float64MultiArray", topic="gripper_controller/commands"),
    )
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN_ID))
    command = [sys.executable, "-m", "vlaq_ros.ros.sim_robot_node", "--ros-args", "-p", "controller:=Float64MultiArray"]
    node, states = Node("pilot", context=context, enable_rosout=False), list[JointState]()
    node.create_subscription(JointState, "joint_states", states.append, 1)
    joints = JointMap(config, panda.JOINT_NAMES)
    sender = Outputs(node, config, joints, dry_run=False)
    sender.activate()
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def wait(condition: Callable[[], object], what: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s, f"not within {PATIENCE_S} s: {what}"
            executor.spin_once(timeout_sec=0.02)

    with subprocess.Popen(command) as process:
        try:
            wait(lambda: states and node.count_subscribers(config.gripper.topic), "the robot answers")
            start = np.array(states[-1].position)
            goal = start + np.array([0.1] * 7 + [-0.02])
            now_ns = node.get_clock().now().nanoseconds
            still = np.zeros((2, 8))
            sender.send(Trajectory(now_ns, joints.urdf, np.array([0, 10**9]), np.array([start, goal]), still, still))
            wait(lambda: np.abs(np.array(states[-1].position) - goal).max() < 3e-3, "arm and gripper at their goals")
        finally:
            process.kill()
    sender.close()
    executor.shutdown()
    node.destroy_node()


def test_a_dry_run_moves_everything_to_shadow_topics(
    graph: Graph, outputs: Callable[..., Outputs], tmp_path: Path
) -> None:
    action = {"type": "GripperCommand", "topic": "/hand/gripper_cmd"}
    sender = outputs(robot(tmp_path, gripper=action), dry_run=True)
    arm = graph.listen(JointTrajectory, "/pilot/shadow/arm_controller/joint_trajectory")
    opening = graph.listen(Float64MultiArray, "/pilot/shadow/hand/gripper_cmd")
    graph.pass_to(STAMP_NS)
    sender.send(motion())
    graph.pass_to(STAMP_NS + 500_000_000)
    graph.wait(lambda: arm and opening, "both commands")
    assert graph.pilot.count_publishers("/arm_controller/joint_trajectory") == 0


def test_others_that_command_the_arm_are_named(graph: Graph, outputs: Callable[..., Outputs], tmp_path: Path) -> None:
    sender = outputs(robot(tmp_path))
    graph.wait(lambda: graph.pilot.count_publishers("/arm_controller/joint_trajectory") == 1, "our own publisher")
    assert sender.commanders() == ()
    second = graph.other.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", 1)
    graph.wait(sender.commanders, "the second commander")
    assert sender.commanders() == ("/other",)
    graph.other.destroy_publisher(second)
    graph.wait(lambda: sender.commanders() == (), "it is gone")


def test_closing_leaves_no_publisher_behind(graph: Graph, outputs: Callable[..., Outputs], tmp_path: Path) -> None:
    config = robot(tmp_path, gripper={"type": "Float64MultiArray", "topic": "gripper_controller/commands"})
    before = len(list(graph.pilot.publishers)), len(list(graph.pilot.timers))
    for _ in range(5):
        outputs(config).close()
    assert (len(list(graph.pilot.publishers)), len(list(graph.pilot.timers))) == before


def test_a_joint_that_the_policy_does_not_command_is_refused(graph: Graph, tmp_path: Path) -> None:
    config = robot(tmp_path)
    with pytest.raises(JointNamesError, match="the policy's state has no joint named shoulder; it has: elbow, finger"):
        Outputs(graph.pilot, config, JointMap(config, ("e", "f")), dry_run=False)


@pytest.mark.parametrize("kind", ["GripperCommand", "ParallelGripperCommand"])
def test_an_action_without_its_messages_is_refused(
    graph: Graph, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "control_msgs", None)
    config = robot(tmp_path, gripper={"type": kind, "topic": "gripper_cmd"})
    before = len(list(graph.pilot.publishers))
    with pytest.raises(MissingDependencyError, match="'control_msgs' is needed and not installed; install ros-"):
        Outputs(graph.pilot, config, JointMap(config, POLICY), dry_run=False)
    assert len(list(graph.pilot.publishers)) == before


def test_goals_are_filled_as_control_msgs_defines_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """control_msgs is on no registry: objects with the fields of its definitions stand in for its messages."""
    package = ModuleType("control_msgs.action")
    for kind in ("GripperCommand", "ParallelGripperCommand"):
        setattr(package, kind, SimpleNamespace(Goal=lambda: SimpleNamespace(command=SimpleNamespace())))
    monkeypatch.setitem(sys.modules, "control_msgs", ModuleType("control_msgs"))
    monkeypatch.setitem(sys.modules, "control_msgs.action", package)

    def command(kind: str, effort: float) -> dict[str, Any]:
        config = GripperConfig(type=kind, topic="gripper_cmd", max_effort=effort)
        _, goals = gripper.action(config, "finger")
        return vars(goals(0.03).command)

    assert command("GripperCommand", 20.0) == {"position": 0.03, "max_effort": 20.0}
    assert command("ParallelGripperCommand", 0.0) == {"name": ["finger"], "position": [0.03], "effort": []}
    assert command("ParallelGripperCommand", 20.0)["effort"] == [20.0]


def test_a_goal_is_sent_where_the_target_has_moved_on_and_at_rest(graph: Graph) -> None:
    """A real action client and server, of another type than the gripper's."""
    goals: list[int] = []
    accepted: list[bool] = [False, True]

    def execute(handle: Any) -> Fibonacci.Result:
        handle.succeed()
        return Fibonacci.Result()

    def accept(goal: Fibonacci.Goal) -> GoalResponse:
        goals.append(goal.order)
        return GoalResponse.ACCEPT if accepted.pop(0) else GoalResponse.REJECT

    client = gripper.GripperAction(
        graph.pilot, Fibonacci, "gripper_cmd", lambda position: Fibonacci.Goal(order=round(position)), 5.0
    )
    client.follow(100.0, resting=False)  # nobody answers yet: it is not taken as sent
    server = ActionServer(graph.other, Fibonacci, "gripper_cmd", execute, goal_callback=accept)

    def until(count: int) -> Callable[[], bool]:
        def sent() -> bool:
            client.follow(100.0, resting=False)
            return len(goals) == count

        return sent

    graph.wait(until(1), "the first goal")
    graph.wait(until(2), "the first goal again, as it was rejected")
    graph.idle()
    accepted += [True, True]
    for position, resting in ((96.0, False), (94.0, False), (91.0, False), (90.0, True), (90.0, True)):
        client.follow(position, resting=resting)
        graph.idle()
    graph.wait(lambda: len(goals) >= 4, "two more goals")
    graph.idle()
    assert goals == [100, 100, 94, 90]
    server.destroy()
    client.close()


def test_an_action_needs_the_range_of_its_joint(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gripper, "action", lambda *_: (Fibonacci, Fibonacci.Goal))
    config = robot(tmp_path, gripper={"type": "GripperCommand", "topic": "gripper_cmd"})
    Path(config.safety.joint_limits).write_text(
        "joint_limits:\n" + "".join(f"  {name}: {{max_acceleration: 5, max_jerk: 50}}\n" for name in (*ARM, FINGER))
    )
    with pytest.raises(BadValueError, match=r"finger in .* is \[-inf, inf\]; expected min_position and max_position"):
        Outputs(graph.pilot, config, JointMap(config, POLICY), dry_run=False)
