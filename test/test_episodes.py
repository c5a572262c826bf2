"""The client of an evaluation, against stand-ins for both nodes that note what reaches them and in which order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from std_msgs.msg import Bool, Float64, Int64, String
from std_srvs.srv import Trigger

from vlaq_ros.ros import episodes
from vlaq_ros.ros.episodes import EpisodeClient, NoAnswerError
from vlaq_ros.ros.qos import LATCHED


class PilotStandIn(LifecycleNode):
    """Says a precision and S once it is instructed."""

    def __init__(self, context: Context, log: list[str]) -> None:
        super().__init__("pilot", context=context)
        self.log = log
        self.precision = self.create_publisher(String, "~/precision", LATCHED)
        self.sensitivity = self.create_publisher(Float64, "~/sensitivity", LATCHED)
        self.create_subscription(String, "instruction", self.instruct, LATCHED)
        self.trigger_configure()
        self.trigger_activate()

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.log.append("active")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.log.append("inactive")
        return super().on_deactivate(state)

    def instruct(self, message: String) -> None:
        self.log.append(f"instruction {message.data!r}")
        self.precision.publish(String(data="coarse"))
        self.sensitivity.publish(Float64(data=0.25))


class SimRobotStandIn(Node):
    """Succeeds as soon as it is asked for the red cube."""

    def __init__(self, context: Context, log: list[str]) -> None:
        super().__init__("sim_robot", context=context)
        self.log = log
        self.seed, self.task = -1, ""
        self.success = self.create_publisher(Bool, "~/success", LATCHED)
        self.create_subscription(Int64, "~/seed", lambda message: setattr(self, "seed", message.data), LATCHED)
        self.create_subscription(String, "~/instruction", lambda message: setattr(self, "task", message.data), LATCHED)
        self.create_subscription(String, "/instruction", self.instruct, LATCHED)
        self.create_service(Trigger, "~/reset", self.reset)

    def reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = f"{self.seed}: {self.task}"
        self.log.append(f"reset to {response.message}")
        self.success.publish(Bool(data=False))
        return response

    def instruct(self, message: String) -> None:
        if message.data == "pick up the red cube":
            self.success.publish(Bool(data=True))


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[SingleThreadedExecutor]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setattr(episodes, "SETTLE_S", 0.1)
    context = Context()
    rclpy.init(context=context, domain_id=1 + os.getpid() % 100)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(Node("client", context=context))
    yield executor
    for node in executor.get_nodes():
        node.destroy_node()
    executor.shutdown()
    rclpy.shutdown(context=context)


def connect(executor: SingleThreadedExecutor) -> EpisodeClient:
    (node,) = executor.get_nodes()
    return EpisodeClient(node, lambda: executor.spin_once(timeout_sec=0.02))


def test_episodes_run_with_the_pilot_inactive_during_the_reset(executor: SingleThreadedExecutor) -> None:
    client = connect(executor)
    log: list[str] = []
    context = executor.context
    executor.add_node(PilotStandIn(context, log))
    executor.add_node(SimRobotStandIn(context, log))
    client.wait_until_ready()
    log.clear()

    assert client.run(7, "pick up the red cube")
    assert client.status.precision == "coarse"
    assert client.status.sensitivity == 0.25
    assert not client.run(8, "pick up the blue cube", limit_s=0.3)
    following = iter(log)  # a reset may be asked for twice, before its messages came
    for step in (
        "inactive",
        "reset to 7: pick up the red cube",
        "active",
        "instruction 'pick up the red cube'",
        "instruction ''",
        "inactive",
        "reset to 8: pick up the blue cube",
        "active",
        "instruction 'pick up the blue cube'",
    ):
        assert step in following
    states = [entry for entry in log if entry in {"active", "inactive"} or entry.startswith("reset")]
    assert all(before != "active" for before, after in pairwise(states) if after.startswith("reset"))


def test_silence_is_told_with_what_was_expected(
    executor: SingleThreadedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episodes, "READY_TIMEOUT_S", 0.4)
    monkeypatch.setattr(episodes, "LOST_AFTER_S", 0.1)
    with pytest.raises(NoAnswerError) as silence:
        connect(executor).wait_until_ready()
    assert str(silence.value) == (
        "service /pilot/get_state answered 'nothing' for 0 s, expected 'active'; see that the nodes run, and read "
        "their output"
    )
