"""When a gripper opens and closes, and how far one motion of it is behind another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from vlaq_ros.datatypes import FloatArray, IntArray

_HYSTERESIS = 0.1  # of the opening, to both sides of its half: what trembles there does not cross it
_LEAST_TRAVEL = 0.1  # of the gripper's range: it has moved where it moved by as much
_GAP_NS = 500_000_000  # longer without a position, nothing is known of what happened meanwhile
_APART_NS = 1_000_000_000  # crossings further apart are none of the same event


@dataclass(frozen=True, slots=True)
class Crossing:
    """The gripper passes the half of its opening."""

    stamp_ns: int  # by a straight line between the two positions around it
    opens: bool


@dataclass(frozen=True, slots=True)
class Timing:
    """How crossings that were predicted lie to those that were recorded."""

    delays_s: FloatArray  # [M] of the predicted ones behind the recorded ones of the same direction, at most 1 s apart
    missed: int  # recorded, and none predicted
    extra: int  # predicted, and none recorded


class Crossings:
    """Finds crossings in positions that come piece by piece.

    Args:
        opening_m: closed and open position, between which the half lies.

    Attributes:
        found: the crossings until now.
    """

    def __init__(self, opening_m: tuple[float, float]) -> None:
        closed_m, open_m = opening_m
        self._half_m = (closed_m + open_m) / 2
        self._band_m = _HYSTERESIS * (open_m - closed_m)
        self.found: list[Crossing] = []
        self.pause()

    def pause(self) -> None:
        """Nothing is known between what came and what will come."""
        self._open: bool | None = None
        self._last: tuple[int, float] | None = None  # stamp and height over the half
        self._passed_ns = 0  # when the half was last passed

    def push(self, stamps_ns: IntArray, positions_m: FloatArray) -> None:
        """Go on with positions [K]; nan or a long gap is a pause, and what is not later is passed over."""
        for stamp_ns, height_m in zip(stamps_ns.tolist(), (positions_m - self._half_m).tolist(), strict=True):
            if self._last is not None and stamp_ns <= self._last[0]:
                continue
            if np.isnan(height_m) or (self._last is not None and stamp_ns - self._last[0] > _GAP_NS):
                self.pause()
            if not np.isnan(height_m):
                self._step(stamp_ns, height_m)

    def _step(self, stamp_ns: int, height_m: float) -> None:
        if self._last is not None and (self._last[1] > 0) != (height_m > 0):
            before_ns, before_m = self._last
            self._passed_ns = before_ns + round((stamp_ns - before_ns) * before_m / (before_m - height_m))
        self._last = stamp_ns, height_m
        if abs(height_m) < self._band_m:
            return
        opens = height_m > 0
        if self._open is not None and opens != self._open:
            self.found.append(Crossing(self._passed_ns, opens))
        self._open = opens


def opening(recorded_m: FloatArray, limits_m: FloatArray) -> tuple[float, float]:
    """Say what closed and open are: the least and the greatest position that was recorded.

    An object keeps a gripper from closing further, so its range says less; it is taken where the gripper hardly moved.

    Args:
        recorded_m: positions [N]; nan where unknown.
        limits_m: lower and upper [2] of the robot description, infinite where it has none.
    """
    known = recorded_m[np.isfinite(recorded_m)]
    travelled = np.ptp(known) if len(known) else 0.0
    if np.isfinite(limits_m).all() and travelled <= _LEAST_TRAVEL * np.ptp(limits_m):
        return float(limits_m[0]), float(limits_m[1])
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)


def timing(recorded: Sequence[Crossing], predicted: Sequence[Crossing]) -> Timing:
    """Match crossings of the same direction, the nearest first, each once."""
    near = (
        (abs(p.stamp_ns - r.stamp_ns), i, j)
        for (i, r), (j, p) in product(enumerate(recorded), enumerate(predicted))
        if r.opens == p.opens and abs(p.stamp_ns - r.stamp_ns) <= _APART_NS
    )
    matched: dict[int, int] = {}
    for _, i, j in sorted(near):
        if i not in matched and j not in matched.values():
            matched[i] = j
    delays_ns = [predicted[j].stamp_ns - recorded[i].stamp_ns for i, j in sorted(matched.items())]
    return Timing(
        np.array(delays_ns, dtype=np.float64) * 1e-9, len(recorded) - len(matched), len(predicted) - len(matched)
    )
