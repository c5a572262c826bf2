"""A gripper that is commanded by an action: a goal where the target has moved on, which preempts the one before."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from rclpy.action.client import ActionClient
from rclpy.node import Node
from rclpy.task import Future

from vlaq_ros.config import GripperConfig
from vlaq_ros.errors import MissingDependencyError

Goals = Callable[[float], Any]  # a goal from a position in the controller's unit


def action(config: GripperConfig, joint: str) -> tuple[Any, Goals]:
    """Find the action of a gripper, and how its goals are made.

    Args:
        config: its `type` is GripperCommand or ParallelGripperCommand.
        joint: name of the gripper's joint in messages.

    Raises:
        MissingDependencyError: control_msgs is not installed.
    """
    try:
        kind: Any = getattr(import_module("control_msgs.action"), config.type)
    except ModuleNotFoundError:
        raise MissingDependencyError("control_msgs") from None

    def gap(position: float) -> Any:
        goal = kind.Goal()
        goal.command.position, goal.command.max_effort = position, config.max_effort
        return goal

    def parallel(position: float) -> Any:
        goal = kind.Goal()
        goal.command.name, goal.command.position = [joint], [position]
        goal.command.effort = [config.max_effort] if config.max_effort else []
        return goal

    return kind, {"GripperCommand": gap, "ParallelGripperCommand": parallel}[config.type]


class GripperAction:
    """Sends goals to a gripper's action server; nobody waits for their results, the joint states tell them.

    Args:
        node: that it is a client of.
        kind: type of the action.
        name: of the action.
        goals: makes a goal from a position.
        step: a target that has moved further than this from the last goal is a new goal.
    """

    def __init__(self, node: Node, kind: Any, name: str, goals: Goals, step: float) -> None:
        self._logger = node.get_logger()
        self._client: ActionClient[Any, Any, Any] = ActionClient(node, kind, name)
        self._name, self._goals, self._step = name, goals, step
        self._sent: float | None = None

    def follow(self, position: float, *, resting: bool) -> None:
        """Command a target; at rest, every remaining difference is made up for."""
        if self._sent is not None and abs(position - self._sent) <= (0.0 if resting else self._step):
            return
        if not self._client.server_is_ready():
            self._logger.warning(f"no gripper answers to the action {self._name}", throttle_duration_sec=10.0)
            return
        self._sent = position
        self._client.send_goal_async(self._goals(position)).add_done_callback(self._report)

    def close(self) -> None:
        """Free the client."""
        self._client.destroy()

    def _report(self, answer: Future[Any]) -> None:
        handle = answer.result()
        if handle is not None and not handle.accepted:
            self._sent = None
            self._logger.error(f"the action {self._name} rejected a goal", throttle_duration_sec=10.0)
