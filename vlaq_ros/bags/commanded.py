"""What an arm was told to do on one topic: trajectories, each in force from its beginning to its successor's.

A joint_trajectory_controller that gets a trajectory whose first point lies in the future moves there from where the arm
is measured (ros2_controllers). After its last point a trajectory counts no more unless the next one follows soon, for
something else may move the arm; a streamed position counts until the next.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlaq_ros import messages
from vlaq_ros.bags.measured import Measured
from vlaq_ros.control.interpolation import sample
from vlaq_ros.datatypes import FloatArray, IntArray, Trajectory
from vlaq_ros.errors import JointNamesError, UnusableMessageError
from vlaq_ros.joints import JointMap

PERIOD_NS = 10_000_000  # of what is kept of a stream
_FOREVER_NS = 2**63 - 1
_NEAR_NS = 100_000_000  # a first point that is nearer begins the command: when it arrived is not known better
PAUSE_NS = 500_000_000  # a stream that is silent for longer begins anew


@dataclass(frozen=True, slots=True)
class Told:
    """The commands of one topic, in the order of their arrival; columns that it does not command are nan."""

    commands: tuple[Trajectory, ...]
    columns: IntArray  # of the joints that they command
    begins_ns: IntArray  # [C] rising: when those that were ever in force came in force
    ends_ns: IntArray  # [C] after which they count no more
    in_force: tuple[Trajectory, ...]  # C

    def at(self, stamps_ns: IntArray) -> FloatArray:
        """Positions [K, J] that were commanded for some times [K]; nan where none was in force."""
        serving = np.searchsorted(self.begins_ns, stamps_ns, side="right") - 1
        values = np.full((len(stamps_ns), self.commands[0].positions.shape[1]), np.nan)
        for number in set(serving.tolist()) - {-1}:
            rows = (serving == number) & (stamps_ns <= self.ends_ns[number])
            values[rows] = sample(self.in_force[number], stamps_ns[rows])[0]
        return values


class Listener:
    """Hears the commands of one topic.

    Args:
        joints: what messages call and count otherwise.
        names: of the joints (URDF) that a Float64MultiArray tells positions of, in its order.
    """

    def __init__(self, joints: JointMap, names: Sequence[str]) -> None:
        self._joints = joints
        self._told = {place: joints.urdf.index(name) for place, name in enumerate(names) if name in joints.urdf}
        self._expected = len(names)
        self._commands: list[tuple[int, Trajectory]] = []  # when it arrived, on the robot's clock
        self._stamps_ns = array("q")  # of a stream
        self._positions = array("d")  # [N * J]

    def hear(self, now_ns: int, message: Any) -> None:
        """Take a JointTrajectory or a Float64MultiArray that arrived at a time of the robot's clock.

        Raises:
            JointNamesError: it commands none of the joints.
            UnusableMessageError: it is not what its controller takes.
        """
        if hasattr(message, "points"):
            self._commands.append((now_ns, self._whole(now_ns, messages.trajectory(message))))
        elif len(message.data) != self._expected:
            got = f"the command has {len(message.data)} positions"
            raise UnusableMessageError(got, f"{self._expected}, one for each joint that the robot file names")
        elif not self._stamps_ns or now_ns // PERIOD_NS > self._stamps_ns[-1] // PERIOD_NS:
            values = np.full(len(self._joints.urdf), np.nan)
            values[list(self._told.values())] = np.asarray(message.data)[list(self._told)]
            self._stamps_ns.append(now_ns)
            self._positions.extend(self._joints.positions(values))

    def told(self, measured: Measured) -> Told | None:
        """Say what was commanded, given what was measured; None where nothing was."""
        whole = [(now_ns, it.stamp_ns + int(it.times_ns[-1]), it) for now_ns, it in self._commands]
        commands = [*whole, *((it.stamp_ns, _FOREVER_NS, it) for it in self._runs())]
        if not commands:
            return None
        in_force: list[tuple[int, int, Trajectory]] = []
        for now_ns, end_ns, command in commands:
            begin_ns = max(now_ns, command.stamp_ns)
            first_ns = command.stamp_ns + int(command.times_ns[0])
            if begin_ns < first_ns <= begin_ns + _NEAR_NS:
                begin_ns = first_ns
            while in_force and in_force[-1][0] >= begin_ns:  # replaced before it began
                in_force.pop()
            if in_force and in_force[-1][1] < begin_ns <= in_force[-1][1] + PAUSE_NS:
                in_force[-1] = in_force[-1][0], begin_ns, in_force[-1][2]
            in_force.append((begin_ns, end_ns, _approached(command, begin_ns, measured)))
        columns = np.flatnonzero(np.any([np.isfinite(it.positions[0]) for *_, it in commands], axis=0))
        begins_ns, ends_ns, serving = zip(*in_force, strict=True)
        return Told(tuple(it for *_, it in commands), columns, np.array(begins_ns), np.array(ends_ns), serving)

    def _whole(self, now_ns: int, command: Trajectory) -> Trajectory:
        """Name and count a trajectory as the URDF does; 0 as its stamp means now."""
        columns = {name: column for column, name in enumerate(self._joints.message) if name in command.joint_names}
        if not columns:
            raise JointNamesError(self._joints.message, command.joint_names, "the command")
        if not len(command.times_ns):
            raise UnusableMessageError("the command has no point", "one or more")
        if (np.diff(command.times_ns) <= 0).any():
            raise UnusableMessageError("the command's points do not follow each other in time", "rising times")
        source = [command.joint_names.index(name) for name in columns]

        def spread(values: FloatArray) -> FloatArray:
            every = np.full((len(values), len(self._joints.urdf)), np.nan)
            every[:, list(columns.values())] = values[:, source]
            return every

        velocities, accelerations = command.velocities, command.accelerations
        return Trajectory(
            stamp_ns=command.stamp_ns or now_ns,
            joint_names=self._joints.urdf,
            times_ns=command.times_ns,
            positions=self._joints.positions(spread(command.positions)),
            velocities=None if velocities is None else self._joints.rates(spread(velocities)),
            accelerations=None if accelerations is None else self._joints.rates(spread(accelerations)),
        )

    def _runs(self) -> list[Trajectory]:
        """Make a trajectory of every part of a stream that has no pause."""
        stamps_ns = np.array(self._stamps_ns, dtype=np.int64)
        positions = np.array(self._positions).reshape(-1, len(self._joints.urdf))
        ends = [*(np.flatnonzero(np.diff(stamps_ns) > PAUSE_NS) + 1).tolist(), len(stamps_ns)]
        return [
            Trajectory(int(part[0]), self._joints.urdf, part - part[0], positions[begin:end])
            for begin, end in zip([0, *ends], ends, strict=False)
            if len(part := stamps_ns[begin:end])
        ]


def _approached(command: Trajectory, begin_ns: int, measured: Measured) -> Trajectory:
    """A command with the way to its first point, where that lies after its beginning."""
    ahead_ns = command.stamp_ns + int(command.times_ns[0]) - begin_ns
    if ahead_ns <= 0:
        return command
    still = np.zeros((1, command.positions.shape[1]))
    velocities, accelerations = command.velocities, command.accelerations
    return replace(
        command,
        stamp_ns=begin_ns,
        times_ns=np.append(0, command.times_ns - command.times_ns[0] + ahead_ns),
        positions=np.concatenate([measured.at(np.array([begin_ns])), command.positions]),
        velocities=None if velocities is None else np.concatenate([still, velocities]),
        accelerations=None if accelerations is None else np.concatenate([still, accelerations]),
    )
