"""Stand-ins for the pilot and the scene, and an ideal arm: what is asked of them is noted, and they can be spoiled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from node_bench import DOMAIN_ID, Robot
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from std_msgs.msg import Bool, Float64, Int64, String
from std_srvs.srv import SetBool, Trigger

from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.sim import panda


class PilotStandIn(LifecycleNode):
    """Sends chunks while it is enabled and instructed, and can be spoiled.

    Attributes:
        chunks: whether any are sent.
        silent: whether it says nothing of itself.
        health: component -> level and message of /diagnostics.
        falls_back_to: precision of the chunks, whatever is asked for; empty: what is asked for.
        on_chunk, on_enable: called with every chunk, and when it is enabled.
        log: what was asked of it.
    """

    def __init__(self) -> None:
        super().__init__("pilot")
        self.chunks, self.silent, self.falls_back_to = True, False, ""
        self.health: dict[str, tuple[bytes, str]] = {}
        self.on_chunk: Callable[[], None] = lambda: None
        self.on_enable: Callable[[], None] = lambda: None
        self.log: list[str] = []
        self.enabled, self.stopped, self.instruction = False, "", ""
        self.declare_parameter("model", "one")
        self.declare_parameter("precision", "auto")
        self._said = [
            self.create_publisher(Bool, "~/enabled", LATCHED),
            self.create_publisher(String, "~/stopped", LATCHED),
        ]
        self._precision = self.create_publisher(String, "~/precision", LATCHED)
        self._inference = self.create_publisher(Float64, "~/inference_ms", 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self.create_service(SetBool, "~/enable", self._enable)
        self.create_subscription(String, "instruction", self._instruct, LATCHED)
        self.create_timer(0.05, self._tick)
        self.create_timer(0.1, self._diagnose)
        self.say()

    def say(self) -> None:
        self._said[0].publish(Bool(data=self.enabled and not self.stopped))
        self._said[1].publish(String(data=self.stopped))

    def stop(self, why: str) -> None:
        self.stopped = why
        self.say()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.log.append(f"configured with {self.get_parameter('model').value}")
        return super().on_configure(state)

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if request.data != self.enabled:  # a call whose answer was late is repeated
            self.enabled = request.data
            self.log.append("enabled" if self.enabled else "disabled")
            if self.enabled:
                self.on_enable()
        response.success = True
        response.message = f"stopped: {self.stopped}; call ~/release" if self.stopped else ""
        self.say()
        return response

    def _instruct(self, message: String) -> None:
        if message.data != self.instruction:
            self.log.append(f"told {message.data!r}")
        self.instruction = message.data

    def _tick(self) -> None:
        if self.enabled and not self.stopped and self.instruction and self.chunks:
            precision = self.falls_back_to or self.get_parameter("precision").value
            self._precision.publish(String(data=precision))
            self._inference.publish(Float64(data=40.0))
            self.on_chunk()

    def _diagnose(self) -> None:
        if not self.silent:
            said = [
                DiagnosticStatus(level=level, name=f"pilot: {name}", message=text)
                for name, (level, text) in self.health.items()
            ]
            self._diagnostics.publish(DiagnosticArray(status=[DiagnosticStatus(name="pilot: state"), *said]))


class SceneStandIn(Node):
    """Is laid out by seed and instruction, and succeeds when it is told to.

    Attributes:
        log: episodes that it was reset to.
    """

    def __init__(self) -> None:
        super().__init__("sim_robot")
        self.log: list[str] = []
        self._seed, self._instruction = -1, ""
        self._success = self.create_publisher(Bool, "~/success", LATCHED)
        self.succeed(False)
        self.create_subscription(Int64, "~/seed", lambda message: setattr(self, "_seed", message.data), LATCHED)
        self.create_subscription(String, "~/instruction", lambda m: setattr(self, "_instruction", m.data), LATCHED)
        self.create_service(Trigger, "~/reset", self._reset)

    def succeed(self, success: bool) -> None:
        self._success.publish(Bool(data=success))

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = True, f"{self._seed}: {self._instruction}"
        self.log.append(response.message)
        self.succeed(False)
        return response


class Stage:
    """All stand-ins, spun by a thread of their own."""

    def __init__(self) -> None:
        self.pilot, self.scene, self.robot = PilotStandIn(), SceneStandIn(), Robot(panda.urdf())
        self._executor = SingleThreadedExecutor()
        for node in (self.pilot, self.scene, self.robot):
            self._executor.add_node(node)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        while not self._over.is_set():
            self._executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._executor.shutdown()
        for node in (self.pilot, self.scene, self.robot):
            node.destroy_node()


def staged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Give the stand-ins, in a domain of this machine; afterwards they are gone."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rclpy.init(domain_id=DOMAIN_ID)
    stage = Stage()
    yield stage
    stage.close()
    rclpy.try_shutdown()
