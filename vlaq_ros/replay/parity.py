"""Whether a replay repeats what was recorded: decision by decision and command by command."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from vlaq_ros.bags.reference import Reference
from vlaq_ros.bags.topics import Topics
from vlaq_ros.datatypes import Decision, Trajectory
from vlaq_ros.journal import Tick
from vlaq_ros.replay.journal import entries
from vlaq_ros.replay.replayed import Answer, Event, Held, Look

_ROUNDING = 1e-6  # of S, from one version of the package or its libraries to the next


class Parity:
    """A sink of a replay's events.

    Commands are found by the stamp that they were sent with, decisions by the tick that they were made in. Decisions of
    the first moments, when the recorded pilot knew more of the motion than the recording, are not compared.

    Args:
        bag: that is replayed.
        reference: what is known of it.
        topics: of the robot.

    Attributes:
        recorded: commands, how many.
        commands: how many of them were replayed.
        largest: the largest difference of their points, in position [rad, m], velocity, acceleration or, in seconds,
            time; inf where they have not as many points.
        unmatched: how many were replayed only.
        decisions: how many were replayed and recorded.
        decisions_equal: how many of them are the same precision for the same S, but for rounding.
    """

    def __init__(self, bag: Path, reference: Reference, topics: Topics) -> None:
        self._recorded = {_begin_ns(command): command for command in reference.commands}
        self.recorded = len(reference.commands)
        self._entries = entries(bag, topics)
        self._knows = False  # how the arm moves
        self.commands = self.unmatched = self.decisions = self.decisions_equal = 0
        self.largest = 0.0

    def take(self, event: Event) -> None:
        """Compare what an event says with what was recorded."""
        if isinstance(event, Look):
            self._knows = self._knows or event.motion is not None
            self._compare(event.stamp_ns, event.decision)
        elif isinstance(event, Held):
            self._hold(event.trajectory)
        elif isinstance(event, Answer) and event.command is not None:
            self._hold(event.command.trajectory)

    def _compare(self, stamp_ns: int, decision: Decision) -> None:
        for entry in self._entries:
            if isinstance(entry, Tick) and entry.now_ns == stamp_ns:
                if not self._knows and entry.sensitivity is not None:
                    return
                sensitivity = math.nan if entry.sensitivity is None else entry.sensitivity
                same = np.isclose(decision.sensitivity, sensitivity, rtol=0, atol=_ROUNDING, equal_nan=True)
                self.decisions += 1
                self.decisions_equal += bool(same) and decision.precision == entry.precision
                return

    def _hold(self, replayed: Trajectory) -> None:
        recorded = self._recorded.get(_begin_ns(replayed))
        if recorded is None:
            self.unmatched += 1
            return
        self.commands += 1
        self.largest = max(self.largest, _difference(recorded, replayed))


def _begin_ns(trajectory: Trajectory) -> tuple[int, int]:
    return trajectory.stamp_ns, int(trajectory.times_ns[0])


def _difference(a: Trajectory, b: Trajectory) -> float:
    pairs = [
        (a.times_ns * 1e-9, b.times_ns * 1e-9),
        (a.positions, b.positions),
        (a.velocities, b.velocities),
        (a.accelerations, b.accelerations),
    ]
    largest = 0.0
    for one, other in pairs:
        if one is None or other is None:
            continue
        if one.shape != other.shape:
            return math.inf
        largest = max(largest, float(np.nanmax(np.abs(one - other), initial=0.0)))
    return largest
