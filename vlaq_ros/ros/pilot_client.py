"""The pilot's node as its operator sees it: what it says of itself, and what can be asked of it."""

from __future__ import annotations

import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.client import Client
from rclpy.parameter import Parameter, parameter_value_to_python
from std_msgs.msg import Bool, Float64, String
from std_srvs.srv import SetBool

from vlaq_ros.errors import VlaqError
from vlaq_ros.ros.encode import ERROR, OK
from vlaq_ros.ros.inputs import INSTRUCTION_TOPIC
from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.ros.station import ANSWER_TIMEOUT_S, SilentServiceError, Station

LOAD_TIMEOUT_S = 120.0  # to load a policy on a busy machine
POLICY = "policy"  # the component whose faults are the policy's own
_UP = {"unconfigured": Transition.TRANSITION_CONFIGURE, "inactive": Transition.TRANSITION_ACTIVATE}
_DOWN = {"active": Transition.TRANSITION_DEACTIVATE, "inactive": Transition.TRANSITION_CLEANUP}
_STATES = ("unconfigured", "inactive", "active")


class TransitionError(VlaqError):
    """The pilot did not change its state."""

    def __init__(self, node: str, state: str, wanted: str) -> None:
        super().__init__(
            f"node {node} is {state} and did not become {wanted}; read its output, correct what it says, and run this "
            "again"
        )


class RefusedParameterError(VlaqError):
    """The pilot refuses a value."""

    def __init__(self, node: str, name: str, value: str, why: str) -> None:
        super().__init__(f"node {node} refuses {name} {value!r}: {why}; correct the plan")


class PilotClient:
    """One pilot.

    Args:
        station: whose node publishes, subscribes and calls; in the pilot's namespace.
        name: the pilot's fully qualified node name.

    Attributes:
        model: that `load` left it with.
        enabled: whether commands go out; None before it was said.
        stopped: why the stop is latched; empty where it is not.
        heard_s: when /diagnostics last came, on the clock of `time.monotonic`.
        health: of every component that is not OK, by its name, level and message.
        faulty_s: since when there is an ERROR of any component but the policy; None where there is none.
        chunk_s: when the last chunk was sent.
        precisions: of the chunks sent since `forget`.
        inference_ms: of the same chunks.
    """

    def __init__(self, station: Station, name: str) -> None:
        self._station, self._name = station, name
        node = station.node
        self._instruct = node.create_publisher(String, INSTRUCTION_TOPIC, LATCHED)
        self._enable: Client[Any, Any] = node.create_client(SetBool, f"{name}/enable")
        self._change: Client[Any, Any] = node.create_client(ChangeState, f"{name}/change_state")
        self._state: Client[Any, Any] = node.create_client(GetState, f"{name}/get_state")
        self._set: Client[Any, Any] = node.create_client(SetParameters, f"{name}/set_parameters")
        self._get: Client[Any, Any] = node.create_client(GetParameters, f"{name}/get_parameters")
        node.create_subscription(DiagnosticArray, "/diagnostics", self._keep_health, 10)
        node.create_subscription(Bool, f"{name}/enabled", self._keep_enabled, LATCHED)
        node.create_subscription(String, f"{name}/stopped", self._keep_stopped, LATCHED)
        node.create_subscription(String, f"{name}/precision", self._keep_precision, LATCHED)
        node.create_subscription(Float64, f"{name}/inference_ms", self._keep_inference, 10)
        self.model = ""
        self.enabled: bool | None = None
        self.stopped = ""
        self.heard_s = time.monotonic()
        self.health: dict[str, tuple[bytes, str]] = {}
        self.faulty_s: float | None = None
        self.forget()

    def forget(self) -> None:
        """Count chunks from here on."""
        self.chunk_s = self.heard_s = time.monotonic()
        self.precisions: list[str] = []
        self.inference_ms: list[float] = []

    def instruct(self, sentence: str) -> None:
        """Say what the robot shall do; nothing where it is empty."""
        self._instruct.publish(String(data=sentence))

    def enable(self, wanted: bool, limit_s: float = ANSWER_TIMEOUT_S) -> str:
        """Let commands out or keep them in.

        Returns:
            Why they do not go out, in the pilot's words; empty where they do.

        Raises:
            SilentServiceError: the pilot does not answer, or does not say that it has followed.
        """
        why: str = self._station.call(self._enable, SetBool.Request(data=wanted), limit_s=limit_s).message
        goes_out = wanted and not why
        if not self._station.wait(lambda: self.enabled is goes_out, limit_s):
            raise SilentServiceError(f"{self._name}/enable", limit_s)
        return why

    def load(self, model: str, limit_s: float = LOAD_TIMEOUT_S) -> None:
        """Make the pilot active with a model; an empty one leaves it the one that it has.

        Raises:
            SilentServiceError: the pilot does not answer.
            TransitionError: it cannot be brought to a state; its own output says why.
            RefusedParameterError: the model cannot be set.
        """
        self.model = self.parameter("model", limit_s)
        if model and self.model != model:
            self._bring("unconfigured", limit_s)
            self.set("model", model)
            self.model = model
        self._bring("active", limit_s)

    def parameter(self, name: str, limit_s: float = ANSWER_TIMEOUT_S) -> Any:
        """Value of a parameter. Raises SilentServiceError where the pilot does not answer."""
        answer = self._station.call(self._get, GetParameters.Request(names=[name]), limit_s=limit_s)
        return parameter_value_to_python(answer.values[0])

    def set(self, name: str, value: str) -> None:
        """Set a parameter.

        Raises:
            SilentServiceError: the pilot does not answer.
            RefusedParameterError: it refuses the value.
        """
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        (result,) = self._station.call(self._set, request).results
        if not result.successful:
            raise RefusedParameterError(self._name, name, value, result.reason)

    def _bring(self, wanted: str, limit_s: float) -> None:
        """Go to a lifecycle state, one transition after the other; one that is under way is waited for."""
        end_s = time.monotonic() + limit_s
        while True:
            state = self._station.call(self._state, GetState.Request(), limit_s=limit_s).current_state.label
            if state == wanted:
                return
            if time.monotonic() > end_s or state == "finalized":
                raise TransitionError(self._name, state, wanted)
            if state not in _STATES:
                self._station.tick()
                continue
            ways = _UP if _STATES.index(state) < _STATES.index(wanted) else _DOWN
            request = ChangeState.Request(transition=Transition(id=ways[state]))
            if not self._station.call(self._change, request, limit_s=limit_s, lost_s=limit_s).success:
                raise TransitionError(self._name, state, wanted)

    def _keep_health(self, message: DiagnosticArray) -> None:
        own = f"{self._name.rpartition('/')[2]}: "
        said = {status.name.removeprefix(own): status for status in message.status if status.name.startswith(own)}
        if not said:
            return
        self.heard_s = time.monotonic()
        self.health = {name: (status.level, status.message) for name, status in said.items() if status.level != OK}
        if not any(level == ERROR for name, (level, _) in self.health.items() if name != POLICY):
            self.faulty_s = None
        elif self.faulty_s is None:
            self.faulty_s = self.heard_s

    def _keep_enabled(self, message: Bool) -> None:
        self.enabled = message.data

    def _keep_stopped(self, message: String) -> None:
        self.stopped = message.data

    def _keep_precision(self, message: String) -> None:
        self.chunk_s = time.monotonic()
        self.precisions.append(message.data)

    def _keep_inference(self, message: Float64) -> None:
        self.inference_ms.append(message.data)
