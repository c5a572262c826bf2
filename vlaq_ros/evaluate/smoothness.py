"""How smoothly an arm has moved: the jerk of what was executed, not of what was commanded."""

from __future__ import annotations

import numpy as np

from vlaq_ros.datatypes import FloatArray


def rms_jerk(positions: FloatArray, period_s: float) -> float:
    """Root of the mean square of the third derivative, over time and columns.

    Args:
        positions: [K, C], one row every `period_s`; in rad the jerk is in rad/s^3, in m in m/s^3.
        period_s: between two rows.

    Raises:
        ValueError: fewer than 4 rows have no third difference.
    """
    if len(positions) < 4:
        raise ValueError(f"got {len(positions)} positions, expected at least 4 for a third difference")
    return float(np.sqrt(np.mean(np.diff(positions, 3, axis=0) ** 2)) / period_s**3)
