"""Episodes of the simulated robot from outside: a client lays the scene out, instructs `pilot`, watches success."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from std_msgs.msg import Bool, Float64, String

from vlaq_ros.bags import recording
from vlaq_ros.errors import VlaqError
from vlaq_ros.evaluate.referee import TIME_LIMIT_S, Referee
from vlaq_ros.ros.pilot_client import PilotClient
from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.ros.scene import Scene
from vlaq_ros.ros.station import Station

SETTLE_S = 1.0  # after a reset, until no window of the kinematic monitor holds the jump of the arm


class NotCommandingError(VlaqError):
    """The pilot keeps its commands in."""

    def __init__(self, why: str) -> None:
        super().__init__(f"/pilot does not command: {why}")


@dataclass(slots=True)
class Status:
    """What an onlooker wants to know; nan or empty until it was first published."""

    instruction: str = ""
    precision: str = ""
    sensitivity: float = float("nan")
    inference_ms: float = float("nan")
    success: bool = False


class EpisodeClient:
    """Runs one episode after the other; `station` publishes, subscribes and calls."""

    def __init__(self, station: Station) -> None:
        self.status = Status()
        self._station = station
        self._pilot = PilotClient(station, "/pilot")
        self._scene = Scene(station, "/sim_robot")
        for topic, message_class, name, qos in (
            (recording.SUCCESS, Bool, "success", LATCHED),
            (recording.PRECISION, String, "precision", LATCHED),
            (recording.SENSITIVITY, Float64, "sensitivity", 1),
            (recording.INFERENCE_MS, Float64, "inference_ms", 1),
        ):
            station.node.create_subscription(message_class, topic, self._keep(name), qos)

    def wait_until_ready(self) -> None:
        """Make `pilot` active with the model that it has.

        Raises:
            SilentServiceError, TransitionError: it is not in time.
        """
        self._pilot.load("")

    def run(self, seed: int, instruction: str, limit_s: float = TIME_LIMIT_S) -> bool:
        """Run one episode and return whether it succeeded.

        The pilot is disabled while the robot is reset, or its hold of the old pose could reach the robot afterwards.

        Raises:
            SilentServiceError, SceneError: a node did not follow in time.
            NotCommandingError: the pilot was stopped.
        """
        self._pilot.enable(False)
        self._scene.lay_out(seed, instruction)
        self._station.wait(lambda: False, SETTLE_S)
        if why := self._pilot.enable(True):
            raise NotCommandingError(why)
        self._tell(instruction)
        referee = Referee(self._station.now_ns(), limit_s)
        while not referee.over(self.status.success, failed=False, now_ns=self._station.now_ns()):
            self._station.tick()
        self._tell("")
        return self.status.success

    def _tell(self, instruction: str) -> None:
        self.status.instruction = instruction
        self._pilot.instruct(instruction)

    def _keep(self, name: str) -> Callable[[Any], None]:
        return lambda message: setattr(self.status, name, message.data)
