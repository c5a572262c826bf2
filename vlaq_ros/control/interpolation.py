"""A `Trajectory` as a function of time, with the semantics of ros2_controllers' joint_trajectory_controller.

Linear between the points where only positions are given, cubic Hermite with velocities, quintic with accelerations too.
Each basis maps the values at both ends of a segment to polynomial coefficients over its unit time u in [0, 1].
"""

from __future__ import annotations

import numpy as np

from vlaq_ros.datatypes import FloatArray, IntArray, Trajectory

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


def sample(trajectory: Trajectory, stamps_ns: IntArray | int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Evaluate a trajectory at one time or at many.

    Before its first point it stands at that point, from its last point on it holds that point.

    Args:
        trajectory: its `stamp_ns` is the absolute start: replace the 0 of "starts when received" before calling.
        stamps_ns: absolute times on the same clock, of any shape; () for one.

    Returns:
        Positions [*, J] rad (m), velocities [*, J] rad/s (m/s) and accelerations [*, J] rad/s^2 (m/s^2), where * is the
        shape of `stamps_ns`.
    """
    elapsed_ns = np.asarray(stamps_ns) - trajectory.stamp_ns
    times_ns = trajectory.times_ns
    after = np.searchsorted(times_ns, elapsed_ns, side="right")[..., None]  # [*, 1]
    moves = (after > 0) & (after < len(times_ns))
    ends = np.clip(after - (1, 0), 0, len(times_ns) - 1)  # [*, 2]
    start_ns, end_ns = times_ns[ends[..., :1]], times_ns[ends[..., 1:]]
    duration_s = np.where(moves, end_ns - start_ns, 1e9) * 1e-9
    unit = np.where(moves, elapsed_ns[..., None] - start_ns, 0) * 1e-9 / duration_s

    kind, boundary = "linear", [trajectory.positions[ends]]
    if trajectory.velocities is not None:
        kind = "cubic"
        boundary.append(trajectory.velocities[ends] * duration_s[..., None])
        if trajectory.accelerations is not None:
            kind = "quintic"
            boundary.append(trajectory.accelerations[ends] * duration_s[..., None] ** 2)
    coefficients = _BASES[kind] @ np.concatenate(boundary, axis=-2)  # [*, K, J]

    power = np.arange(coefficients.shape[-2])
    first = power[1:]
    second = power[2:] * (power[2:] - 1)

    def at(basis: FloatArray, order: int) -> FloatArray:
        value: FloatArray = (basis[..., None, :] @ coefficients[..., order:, :])[..., 0, :]
        return value

    return (
        at(unit**power, 0),
        np.where(moves, at(first * unit ** power[:-1], 1) / duration_s, 0.0),
        np.where(moves, at(second * unit ** power[:-2], 2) / duration_s**2, 0.0),
    )
