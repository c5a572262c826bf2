"""How an arm moved, by its joint states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlaq_ros.datatypes import FloatArray, IntArray

_GAP_NS = 500_000_000  # nothing is known of an arm between joint states further apart


@dataclass(frozen=True, slots=True)
class Measured:
    """Joint positions over time."""

    stamps_ns: IntArray  # [N] rising, one at least
    positions: FloatArray  # [N, J] rad (m)

    def at(self, stamps_ns: IntArray) -> FloatArray:
        """Positions [K, J] at some times [K], interpolated; nan in gaps, before the first and after the last."""
        after = np.searchsorted(self.stamps_ns, stamps_ns)
        ends = np.clip([after - 1, after], 0, len(self.stamps_ns) - 1)  # [2, K]
        before_ns, after_ns = self.stamps_ns[ends]
        before, behind = self.positions[ends]
        share = (stamps_ns - before_ns) / np.maximum(after_ns - before_ns, 1)
        between = (before_ns <= stamps_ns) & (stamps_ns <= after_ns) & (after_ns - before_ns <= _GAP_NS)
        known = between | (stamps_ns == after_ns)
        return np.where(known[:, None], before + share[:, None] * (behind - before), np.nan)
