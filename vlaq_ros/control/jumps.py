"""Joint states that no motion explains: a glitch of a sensor, or an arm that was put elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlaq_ros.datatypes import FloatArray, JointWindow

_MARGIN = 2.0  # on the velocity limits, which measured velocities may overshoot


@dataclass(frozen=True, slots=True)
class Jump:
    """Two successive joint states that lie further apart than the arm can move meanwhile."""

    sentence: str
    before: JointWindow  # up to the state before


class JumpWatch:
    """Looks at every joint state once.

    Args:
        velocities: limits [J] rad/s (m/s), in the columns of the windows.
        tolerance_rad: how much further than the limits allow is no jump yet (m for a prismatic joint).
    """

    def __init__(self, velocities: FloatArray, tolerance_rad: float) -> None:
        self._velocities = velocities
        self._tolerance_rad = tolerance_rad
        self._seen_ns: int | None = None  # stamp of the newest state that was looked at

    def reset(self) -> None:
        """Forget what was seen: the next state is where the arm is."""
        self._seen_ns = None

    def look(self, window: JointWindow) -> Jump | None:
        """Find the first jump among the states that are new since the last look."""
        seen_ns, self._seen_ns = self._seen_ns, window.stamp_ns
        if seen_ns is None or seen_ns > window.stamp_ns:  # time jumped: what came before does not count
            return None
        gaps_s = np.diff(window.stamps_ns) * 1e-9
        moved = np.abs(np.diff(window.positions, axis=0))
        allowed = _MARGIN * gaps_s[:, None] * self._velocities + self._tolerance_rad
        jumped = (moved > allowed) & (window.stamps_ns[1:, None] > seen_ns)
        if not jumped.any():
            return None
        row, column = np.argwhere(jumped)[0]
        before = slice(None, row + 1)
        return Jump(
            f"{window.names[column]} is {moved[row, column]:.2f} rad (m) from where it was {1e3 * gaps_s[row]:.0f} ms "
            f"before, possible are {allowed[row, column]:.2f}",
            JointWindow(window.names, window.stamps_ns[before], window.positions[before], window.velocities[before]),
        )
