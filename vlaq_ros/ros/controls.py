"""The operator's side of the gate: services to enable, stop and release, and latched topics that say how it stands."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.node import Node
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger

from vlaq_ros.gate import Gate
from vlaq_ros.ros.qos import LATCHED, SILENT_PUBLISHER


class Controls:
    """Services and topics under `~/`; they live as long as the node.

    Args:
        node: that they belong to.
        gate: what they move.
        commanding: whether commands go out now.
        changed: called after every move of the gate.
    """

    def __init__(self, node: Node, gate: Gate, commanding: Callable[[], bool], changed: Callable[[], object]) -> None:
        self._node, self._gate, self._commanding, self._changed = node, gate, commanding, changed
        self._enabled = node.create_publisher(Bool, "~/enabled", LATCHED, event_callbacks=SILENT_PUBLISHER)
        self._stopped = node.create_publisher(String, "~/stopped", LATCHED, event_callbacks=SILENT_PUBLISHER)
        self._said: tuple[bool, str] | None = None
        node.create_service(SetBool, "~/enable", self._enable)
        node.create_service(Trigger, "~/stop", self._stop)
        node.create_service(Trigger, "~/release", self._release)

    def say(self) -> None:
        """Publish how the gate stands, where that is new."""
        if self._said == (said := (self._commanding(), self._gate.stopped)):
            return
        self._said = said
        self._enabled.publish(Bool(data=said[0]))
        self._stopped.publish(String(data=said[1]))

    def estop(self, pressed: bool) -> None:
        """Take a message of the emergency stop."""
        if pressed and not self._gate.stopped:
            self._node.get_logger().error("the emergency stop is pressed; the arm brakes")
        self._gate.press(pressed)
        self._moved()

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._gate.enabled = request.data
        self._moved()
        response.success = True
        response.message = self._gate.why
        return response

    def _stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._gate.stop("~/stop was called")
        self._moved()
        response.success = True
        response.message = self._gate.why
        return response

    def _release(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = self._gate.release()
        response.success = not response.message
        self._moved()
        return response

    def _moved(self) -> None:
        self._changed()
        self.say()
