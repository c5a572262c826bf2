"""The scene around the arm, as a node of a simulation or of a fixture lays it out: by seed and instruction."""

from __future__ import annotations

import time
from typing import Any

from rclpy.client import Client
from std_msgs.msg import Int64, String
from std_srvs.srv import Trigger

from vlaq_ros.errors import VlaqError
from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.ros.station import ANSWER_TIMEOUT_S, Station


class SceneError(VlaqError):
    """The scene was not laid out."""

    def __init__(self, service: str, expected: str, got: str) -> None:
        super().__init__(f"service {service} answered {got!r}, expected {expected!r}; read its node's output")


class Scene:
    """One node with the service `reset` and the topics `seed` and `instruction`.

    Args:
        station: whose node publishes and calls.
        name: of the scene's node.
    """

    def __init__(self, station: Station, name: str) -> None:
        self._station = station
        self._seed = station.node.create_publisher(Int64, f"{name}/seed", LATCHED)
        self._instruction = station.node.create_publisher(String, f"{name}/instruction", LATCHED)
        self._reset: Client[Any, Any] = station.node.create_client(Trigger, f"{name}/reset")

    def lay_out(self, seed: int, instruction: str) -> None:
        """Lay the scene out anew.

        Raises:
            SilentServiceError: the service does not answer.
            SceneError: it answers that it did something else.
        """
        self._seed.publish(Int64(data=seed))
        self._instruction.publish(String(data=instruction))
        expected, end_s = f"{seed}: {instruction}", time.monotonic() + ANSWER_TIMEOUT_S
        # an answer that names another episode was given before the messages above came
        while (got := self._station.call(self._reset, Trigger.Request()).message) != expected:
            if time.monotonic() > end_s:
                raise SceneError(self._reset.service_name, expected, got)
