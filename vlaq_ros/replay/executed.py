"""The commands of a replay as they would have been executed: one after the other, each until the next takes over."""

from __future__ import annotations

import numpy as np

from vlaq_ros.control.interpolation import sample
from vlaq_ros.datatypes import FloatArray, Trajectory
from vlaq_ros.evaluate.smoothness import rms_jerk

_PERIOD_NS = 10_000_000  # between two samples of what is executed
_SAME_RAD = 1e-6  # a command that begins further from the one before did not continue it


class Executed:
    """Follows commands; of what is past it keeps numbers.

    Attributes:
        jumps_rad: of every seam, how far the position that the new chunk by itself asks for lies from the commanded one
            when it takes over, in the arm joint where it is most.
        speed_jumps_rad_s: likewise of the velocity.
        restarts: commands that began where the arm was measured, because it did not follow the one before: an arm of a
            recording follows its own commands.
    """

    def __init__(self) -> None:
        self.jumps_rad: list[float] = []
        self.speed_jumps_rad_s: list[float] = []
        self.restarts = 0
        self._running: Trajectory | None = None
        self._rows: FloatArray | None = None  # [3, J - 1] at most: the last samples of the arm
        self._next_ns = 0  # when the next sample is due
        self._squares = 0.0  # of the jerk, summed over samples
        self._samples = 0

    @property
    def jerk_rad_s3(self) -> float | None:
        """Root mean square over time and arm joints while commands move; None before there is any."""
        return float(np.sqrt(self._squares / self._samples)) if self._samples else None

    def take_over(self, command: Trajectory, asked: Trajectory, now_ns: int) -> None:
        """Let a command take over.

        Args:
            command: that left.
            asked: what its chunk by itself asks for.
            now_ns: when it begins.
        """
        ran = self._begin(command, now_ns)
        if ran is not None:
            apart = np.abs(np.stack(sample(asked, now_ns)[:2])[:, :-1] - ran).max(axis=1)
            self.jumps_rad.append(float(apart[0]))
            self.speed_jumps_rad_s.append(float(apart[1]))
        elif self._running is not None:
            self.restarts += 1
        self._running = command

    def hold(self, trajectory: Trajectory, now_ns: int) -> None:
        """Let a brake take over; what comes after it continues nothing."""
        self._begin(trajectory, now_ns)
        self._running = trajectory
        self.end(trajectory.stamp_ns + int(trajectory.times_ns[-1]))

    def end(self, now_ns: int) -> None:
        """Nothing comes any more."""
        self._advance(now_ns)
        self._running = None

    def _begin(self, motion: Trajectory, now_ns: int) -> FloatArray | None:
        """Position and velocity of the arm [2, J - 1] that a motion continues; None where it continues nothing."""
        self._advance(now_ns)
        ran = None
        if self._running is not None:
            ran = np.stack(sample(self._running, now_ns)[:2])[:, :-1]
            if np.abs(motion.positions[0, :-1] - ran[0]).max() > _SAME_RAD:
                ran = None
        if ran is None or now_ns > self._next_ns:  # another motion, or the same after a rest
            self._rows, self._next_ns = None, max(now_ns, self._next_ns)
        return ran

    def _advance(self, until_ns: int) -> None:
        """Sample what runs, until then or until it rests."""
        if self._running is None:
            return
        end_ns = min(until_ns, self._running.stamp_ns + int(self._running.times_ns[-1]))
        stamps_ns = np.arange(self._next_ns, end_ns, _PERIOD_NS)
        rows = sample(self._running, stamps_ns)[0][:, :-1]
        if self._rows is not None:
            rows = np.vstack([self._rows, rows])
        if len(rows) > 3:
            count = len(rows) - 3  # third differences
            self._squares += count * rms_jerk(rows, _PERIOD_NS * 1e-9) ** 2
            self._samples += count
        self._rows = rows[-3:]
        self._next_ns += len(stamps_ns) * _PERIOD_NS
