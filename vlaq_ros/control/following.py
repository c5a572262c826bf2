"""Whether the arm does what it is told: a controller that rejects a trajectory from a topic answers nothing."""

from __future__ import annotations

import numpy as np

from vlaq_ros.control.interpolation import sample
from vlaq_ros.datatypes import FloatArray, IntArray, JointWindow, Trajectory

_NEVER = np.iinfo(np.int64).max


class FollowingWatch:
    """Finds a command that moved nothing, joint by joint; the gripper is not watched, as an object may keep it open.

    A joint that has moved half of the tolerance since it was last looked at moves; how well it tracks is not judged.

    Args:
        tolerance_rad: a joint must be commanded further away than this to be expected to move.
        timeout_s: how long it may take to begin.
    """

    def __init__(self, tolerance_rad: float, timeout_s: float) -> None:
        self._tolerance_rad = tolerance_rad
        self._timeout_ns = round(timeout_s * 1e9)
        self._trajectory: Trajectory | None = None
        self._stood: FloatArray | None = None  # [J - 1] rad: where each joint was when it last moved
        self._asked_ns: IntArray = np.empty(0, dtype=np.int64)  # [J - 1] since when it should have moved from there

    def sent(self, trajectory: Trajectory) -> None:
        """Note what is commanded from now on; its last column is the gripper."""
        self._trajectory = trajectory

    def reset(self) -> None:
        """Forget what was commanded and how the arm stood."""
        self._trajectory = self._stood = None

    def judge(self, window: JointWindow, now_ns: int) -> str:
        """Say which joint has not moved although it was told to.

        Args:
            window: joint states in the columns of the command; the newest counts.
            now_ns: for where the command wants the arm to be.

        Returns:
            A sentence with the measured values; empty where every joint moves, or need not.
        """
        if self._trajectory is None:
            return ""
        measured = window.positions[-1, :-1]
        if self._stood is None:
            self._stood, self._asked_ns = measured, np.full(len(measured), _NEVER)
        travels_rad = np.abs(measured - self._stood)
        moves = travels_rad >= self._tolerance_rad / 2
        self._stood = np.where(moves, measured, self._stood)
        asked_rad = np.abs(sample(self._trajectory, now_ns)[0][:-1] - self._stood)
        asked_ns = np.where(moves, _NEVER, self._asked_ns)
        self._asked_ns = np.where(asked_rad > self._tolerance_rad, np.minimum(asked_ns, now_ns), asked_ns)

        joint = int(self._asked_ns.argmin())
        waited_ns = window.stamp_ns - int(self._asked_ns[joint])
        if waited_ns < self._timeout_ns:
            return ""
        return (
            f"{window.names[joint]} is commanded {asked_rad[joint]:.3f} rad away and has moved "
            f"{travels_rad[joint]:.3f} rad in {waited_ns * 1e-9:.2f} s, expected {self._tolerance_rad / 2:.3f} rad or "
            "more; see the controller's log for a rejected trajectory, and whether the joint is blocked"
        )
