"""A `Trajectory` as a function of time, with the semantics of ros2_controllers' joint_trajectory_controller.

Linear between the points where only positions are given, cubic Hermite with velocities, quintic with accelerations too.
Each basis maps the values at both ends of a segment to polynomial coefficients over its unit time u in [0, 1].
"""

from __future__ import annotations

import numpy as np

from vlaq_ros.datatypes import FloatArray, Trajectory

# Rows: powers of u, ascending. Columns: values at both ends, p0 p1, v0 v1, a0 a1.
_BASES = {
    "linear": np.array([[1, 0], [-1, 1]], dtype=np.float64),
    "cubic": np.array([[1, 0, 0, 0], [0, 0, 1, 0], [-3, 3, -2, -1], [2, -2, 1, 1]], dtype=np.float64),
    "quintic": np.array(
        [
            [1, 0, 0, 0, 0, 0],
            [0, 0, 1, 0, 0, 0],
            [0, 0, 0, 0, 0.5, 0],
            [-10, 10, -6, -4, -1.5, 0.5],
            [15, -15, 8, 7, 1.5, -1],
            [-6, 6, -3, -3, -0.5, 0.5],
        ]
    ),
}


def sample(trajectory: Trajectory, stamp_ns: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Evaluate a trajectory at one time.

    Before its first point it stands at that point, from its last point on it holds that point.

    Args:
        trajectory: its `stamp_ns` is the absolute start: replace the 0 of "starts when received" before calling.
        stamp_ns: absolute time on the same clock.

    Returns:
        Positions [J] rad (m), velocities [J] rad/s (m/s) and accelerations [J] rad/s^2 (m/s^2).
    """
    elapsed_ns = stamp_ns - trajectory.stamp_ns
    times_ns = trajectory.times_ns
    after = int(np.searchsorted(times_ns, elapsed_ns, side="right"))
    if after in (0, len(times_ns)):
        still = trajectory.positions[max(after - 1, 0)]
        return still.copy(), np.zeros_like(still), np.zeros_like(still)

    ends = slice(after - 1, after + 1)
    duration_s = float(times_ns[after] - times_ns[after - 1]) * 1e-9
    unit = float(elapsed_ns - times_ns[after - 1]) * 1e-9 / duration_s

    kind, boundary = "linear", [trajectory.positions[ends]]
    if trajectory.velocities is not None:
        kind = "cubic"
        boundary.append(trajectory.velocities[ends] * duration_s)
        if trajectory.accelerations is not None:
            kind = "quintic"
            boundary.append(trajectory.accelerations[ends] * duration_s**2)
    coefficients = _BASES[kind] @ np.concatenate(boundary)  # [K, J]

    power = np.arange(len(coefficients))
    first = power[1:]
    second = power[2:] * (power[2:] - 1)
    return (
        unit**power @ coefficients,
        (first * unit ** power[:-1]) @ coefficients[1:] / duration_s,
        (second * unit ** power[:-2]) @ coefficients[2:] / duration_s**2,
    )
