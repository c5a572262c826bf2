"""Episodes from outside: a client that resets `sim_robot`, instructs `pilot` and watches for success."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.client import Client
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool, Float64, Int64, String
from std_srvs.srv import Trigger

from vlaq_ros.errors import VlaqError
from vlaq_ros.evaluate import recording
from vlaq_ros.evaluate.referee import TIME_LIMIT_S, Referee

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
READY_TIMEOUT_S = 90.0  # to load a policy on a busy machine
RESET_TIMEOUT_S = 15.0
LOST_AFTER_S = 2.0  # a call without an answer is repeated
SETTLE_S = 0.7  # after a reset, until no window of the kinematic monitor holds the jump of the arm


class NoAnswerError(VlaqError):
    """A node did not do what it was asked for."""

    def __init__(self, expected: str, waited_s: float, answer: object) -> None:
        super().__init__(
            f"waited {waited_s:.0f} s for {expected}, and got: {answer}; see that sim_robot and pilot run, and read "
            "their output"
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

        def active(answer: GetState.Response) -> bool:
            return bool(answer.current_state.id == State.PRIMARY_STATE_ACTIVE)

        self._ask(self._state, GetState.Request(), active, "pilot to be active", READY_TIMEOUT_S)

    def run(self, seed: int, instruction: str, limit_s: float = TIME_LIMIT_S) -> bool:
        """Run one episode and return whether it succeeded.

        Raises:
            NoAnswerError: `sim_robot` did not reset to it in time.
        """
        self._tell("")  # the arm comes to rest and waits
        self._seed.publish(Int64(data=seed))
        self._task.publish(String(data=instruction))
        episode = f"{seed}: {instruction}"

        def reset(answer: Trigger.Response) -> bool:
            return bool(answer.message == episode)  # another one was answered before our messages came

        self._ask(self._reset, Trigger.Request(), reset, f"sim_robot to reset to {episode!r}", RESET_TIMEOUT_S)
        settled_s = time.monotonic() + SETTLE_S
        while time.monotonic() < settled_s:
            self._tick()
        self._tell(instruction)
        referee = Referee(time.monotonic_ns(), limit_s)
        while not referee.over(self.status.success, time.monotonic_ns()):
            self._tick()
        self._tell("")
        return self.status.success

    def _tell(self, instruction: str) -> None:
        self.status.instruction = instruction
        self._instruct.publish(String(data=instruction))

    def _keep(self, name: str) -> Callable[[Any], None]:
        return lambda message: setattr(self.status, name, message.data)

    def _ask(
        self, client: Client[Any, Any], request: Any, accepted: Callable[[Any], bool], expected: str, limit_s: float
    ) -> None:
        """Call a service until its answer is accepted; again and again, as a node that dies leaves calls unanswered."""
        deadline_s = time.monotonic() + limit_s
        answer: object = "no answer"
        while time.monotonic() < deadline_s:
            future = client.call_async(request)
            lost_s = time.monotonic() + LOST_AFTER_S
            while not future.done() and time.monotonic() < lost_s:
                self._tick()
            if not future.done():
                client.remove_pending_request(future)
                continue
            answer = future.result()
            if accepted(answer):
                return
        raise NoAnswerError(expected, limit_s, answer)
