"""What the pilot says of itself: plain scalars that plot well, below the node's own name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from std_msgs.msg import Float64, String

from vlaq_ros.datatypes import Command, Decision, Motion, Violations
from vlaq_ros.flight_log import FlightLog
from vlaq_ros.observe import JOINT_STATES
from vlaq_ros.ros.qos import LATCHED, SILENT_PUBLISHER

_JOURNAL = QoSProfile(depth=100)  # a gap in it ends what can be repeated
_OF_MOTION = ("sensitivity", "motion_fineness", "angular_jerk", "image_age_ms", "joint_age_ms", "late_ms")
_OF_COMMAND = ("precision_index", "inference_ms", "upswitch_ms")  # with every command, after its precision
_OF_MODEL = ("bytes_over_bf16/linears", "bytes_over_bf16/all")  # once, latched
_OF_LOG = (
    *("latency_ms/p50", "latency_ms/p95", "deadline_misses", "rejected"),
    *(f"violations/{item.name}" for item in fields(Violations)),
)


class Status:
    """Publishes; it creates its topics on `node`, under `~/`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._precision = self._publisher(String, "precision", LATCHED)
        self._scalars = {
            name: self._publisher(Float64, name, LATCHED if name in _OF_MODEL else 10)
            for name in (*_OF_MOTION, *_OF_COMMAND, *_OF_MODEL, *_OF_LOG)
        }
        self._session = self._publisher(String, "session", LATCHED)
        self._journal = self._publisher(String, "journal", _JOURNAL)
        self._precisions: tuple[str, ...] = ()

    def say_model(self, precisions: tuple[str, ...], bytes_over_bf16: Mapping[str, float]) -> None:
        """Publish the bytes that a model takes; its precisions, finest first, are those of the commands to come."""
        self._precisions = precisions
        for name in (f"precision_share/{precision}" for precision in precisions):
            if name not in self._scalars:
                self._scalars[name] = self._publisher(Float64, name, 10)
        for name, share in bytes_over_bf16.items():
            self._say(f"bytes_over_bf16/{name}", share)

    def say_session(self, session: str) -> None:
        """Publish what the node is configured with."""
        self._session.publish(String(data=session))

    def say_journal(self, entries: str) -> None:
        """Publish entries of the flight's journal."""
        self._journal.publish(String(data=entries))

    def say_motion(self, decision: Decision, motion: Motion | None, ages_s: Mapping[str, float], late_s: float) -> None:
        """Publish how the arm moves, how old the inputs are (nan where that is unknown) and how late the policy is."""
        image_ages_s = [age_s for name, age_s in ages_s.items() if name != JOINT_STATES]
        self._say("sensitivity", decision.sensitivity)
        self._say("motion_fineness", motion.motion_fineness if motion else np.nan)
        self._say("angular_jerk", motion.angular_jerk if motion else np.nan)
        self._say("image_age_ms", 1e3 * float(np.max(image_ages_s)))
        self._say("joint_age_ms", 1e3 * ages_s[JOINT_STATES])
        self._say("late_ms", 1e3 * late_s)

    def say_command(self, command: Command, upswitch_s: float | None) -> None:
        """Publish what a command was computed at, and how long that took.

        Args:
            command: that has just been sent.
            upswitch_s: from the decision for a finer precision to this command, where it is the answer.
        """
        self._precision.publish(String(data=command.decision.precision))
        self._say("precision_index", self._precisions.index(command.decision.precision))
        self._say("inference_ms", 1e3 * command.inference_s)
        if upswitch_s is not None:
            self._say("upswitch_ms", 1e3 * upswitch_s)

    def say_log(self, log: FlightLog) -> None:
        """Publish what was counted and timed."""
        for percent in (50, 95):
            self._say(f"latency_ms/p{percent}", 1e3 * log.latency_s(percent))
        self._say("deadline_misses", log.deadline_misses)
        self._say("rejected", log.rejected.total())
        for item in fields(Violations):
            self._say(f"violations/{item.name}", log.violations[item.name])
        shares = log.precision_shares()
        for precision in self._precisions:
            self._say(f"precision_share/{precision}", shares.get(precision, 0.0))

    def _publisher(self, kind: type[Any], name: str, qos: QoSProfile | int) -> Publisher[Any]:
        return self._node.create_publisher(kind, f"~/{name}", qos, event_callbacks=SILENT_PUBLISHER)

    def _say(self, name: str, value: float) -> None:
        self._scalars[name].publish(Float64(data=float(value)))
