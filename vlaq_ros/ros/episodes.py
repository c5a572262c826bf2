"""Episodes from outside: a client that resets `sim_robot`, instructs `pilot` and watches for success."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.client import Client
from rclpy.node import Node
from std_msgs.msg import Bool, Float64, Int64, String
from std_srvs.srv import Trigger

from vlaq_ros.errors import VlaqError
from vlaq_ros.evaluate import recording
from vlaq_ros.evaluate.referee import TIME_LIMIT_S, Referee
from vlaq_ros.ros.qos import LATCHED

READY_TIMEOUT_S = 90.0  # to load a policy on a busy machine
ANSWER_TIMEOUT_S = 20.0
LOST_AFTER_S = 2.0  # a call without an answer is repeated
SETTLE_S = 1.0  # after a reset, until no window of the kinematic monitor holds the jump of the arm


class NoAnswerError(VlaqError):
    """A node did not do what it was asked for."""

    def __init__(self, service: str, expected: str, got: str, waited_s: float) -> None:
        super().__init__(
            f"service {service} answered {got!r} for {waited_s:.0f} s, expected {expected!r}; see that the nodes run, "
            "and read their output"
        )


@dataclass(slots=True)
class Status:
    """What an onlooker wants to know; nan or empty until it was first published."""

    instruction: str = ""
    precision: str = ""
    sensitivity: float = float("nan")
    inference_ms: float = float("nan")
    success: bool = False


class EpisodeClient:
    """Runs one episode after the other.

    Args:
        node: on which to publish, subscribe and call.
        tick: lets messages in for a moment; called over and over while waiting, and may raise to stop everything.
    """

    def __init__(self, node: Node, tick: Callable[[], None]) -> None:
        self.status = Status()
        self._tick = tick
        self._instruct = node.create_publisher(String, recording.INSTRUCTION, LATCHED)
        self._seed = node.create_publisher(Int64, recording.SEED, LATCHED)
        self._task = node.create_publisher(String, "/sim_robot/instruction", LATCHED)
        self._reset: Client[Any, Any] = node.create_client(Trigger, "/sim_robot/reset")
        self._change: Client[Any, Any] = node.create_client(ChangeState, "/pilot/change_state")
        self._state: Client[Any, Any] = node.create_client(GetState, "/pilot/get_state")
        for topic, message_class, name, qos in (
            (recording.SUCCESS, Bool, "success", LATCHED),
            (recording.PRECISION, String, "precision", LATCHED),
            (recording.SENSITIVITY, Float64, "sensitivity", 1),
            (recording.INFERENCE_MS, Float64, "inference_ms", 1),
        ):
            node.create_subscription(message_class, topic, self._keep(name), qos)

    def wait_until_ready(self) -> None:
        """Wait until `pilot` is active.

        Raises:
            NoAnswerError: it is not in time.
        """
        self._await_state("active", READY_TIMEOUT_S)

    def run(self, seed: int, instruction: str, limit_s: float = TIME_LIMIT_S) -> bool:
        """Run one episode and return whether it succeeded.

        The pilot is inactive while the robot is reset, or its hold of the old pose could reach the robot afterwards.

        Raises:
            NoAnswerError: a node did not follow in time.
        """
        self._bring(Transition.TRANSITION_DEACTIVATE, "inactive")
        self._reset_to(seed, instruction)
        settled_s = time.monotonic() + SETTLE_S
        while time.monotonic() < settled_s:
            self._tick()
        self._bring(Transition.TRANSITION_ACTIVATE, "active")
        self._tell(instruction)
        referee = Referee(time.monotonic_ns(), limit_s)
        while not referee.over(self.status.success, failed=False, now_ns=time.monotonic_ns()):
            self._tick()
        self._tell("")
        return self.status.success

    def _reset_to(self, seed: int, instruction: str) -> None:
        self._seed.publish(Int64(data=seed))
        self._task.publish(String(data=instruction))
        # An answer that names another episode was given before the messages above came.
        episode = f"{seed}: {instruction}"
        self._ask(self._reset, Trigger.Request(), lambda answer: str(answer.message), episode)

    def _bring(self, transition: int, state: str) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        self._ask(self._change, request, lambda _: "anything", "anything")
        self._await_state(state, ANSWER_TIMEOUT_S)

    def _await_state(self, state: str, limit_s: float) -> None:
        self._ask(self._state, GetState.Request(), lambda answer: str(answer.current_state.label), state, limit_s)

    def _tell(self, instruction: str) -> None:
        self.status.instruction = instruction
        self._instruct.publish(String(data=instruction))

    def _keep(self, name: str) -> Callable[[Any], None]:
        return lambda message: setattr(self.status, name, message.data)

    def _ask(
        self,
        client: Client[Any, Any],
        request: Any,
        read: Callable[[Any], str],
        expected: str,
        limit_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        """Call a service until it answers as expected; again and again, as a node that dies leaves calls unanswered."""
        deadline_s = time.monotonic() + limit_s
        got = "nothing"
        while time.monotonic() < deadline_s:
            future = client.call_async(request)
            lost_s = time.monotonic() + LOST_AFTER_S
            while not future.done() and time.monotonic() < lost_s:
                self._tick()
            if not future.done():
                client.remove_pending_request(future)
                continue
            got = read(future.result())
            if got == expected:
                return
        raise NoAnswerError(client.service_name, expected, got, limit_s)
