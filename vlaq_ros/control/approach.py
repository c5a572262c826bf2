"""From one pose to another while no policy runs: straight in joint space, from rest to rest."""

from __future__ import annotations

import numpy as np

from vlaq_ros.control.safety import JointLimits
from vlaq_ros.datatypes import FloatArray, Trajectory

# Largest rates of 10 u^3 - 15 u^4 + 6 u^5, which leads from 0 to 1 over u in [0, 1] with no rate but its own inside
_PEAK_VELOCITY, _PEAK_ACCELERATION, _PEAK_JERK = 15 / 8, 10 / np.sqrt(3), 60.0
_SHORTEST_S = 0.5  # so that the end still lies ahead when a controller of a busy machine receives it


def approach(
    joint_names: tuple[str, ...],
    start: FloatArray,
    goal: FloatArray,
    limits: JointLimits,
    *,
    velocity_share: float,
    stamp_ns: int,
) -> Trajectory:
    """Lead all joints to a pose at once, as slowly as the slowest of them needs.

    Two points with zero velocity and acceleration: the quintic between them, which is what joint_trajectory_controller
    interpolates, has the least integral of squared jerk (Flash and Hogan 1985).

    Args:
        joint_names: of all columns.
        start: positions [J] rad (m) where the arm rests.
        goal: positions [J] rad (m).
        limits: of which acceleration and jerk hold whole.
        velocity_share: of the velocity limits, above 0 and up to 1.
        stamp_ns: when it starts.
    """
    way = np.abs(goal - start)
    durations_s = np.stack(
        [
            _PEAK_VELOCITY * way / (velocity_share * limits.velocities),
            np.sqrt(_PEAK_ACCELERATION * way / limits.accelerations),
            np.cbrt(_PEAK_JERK * way / limits.jerks),
        ]
    )
    duration_ns = int(np.ceil(max(float(durations_s.max()), _SHORTEST_S) * 1e9))
    rest = np.zeros((2, len(joint_names)))
    return Trajectory(
        stamp_ns,
        joint_names,
        np.array([0, duration_ns]),
        np.stack([start, goal]),
        velocities=rest,
        accelerations=rest,
    )
