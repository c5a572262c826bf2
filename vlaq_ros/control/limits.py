"""The last step before a motion leaves: nothing beyond the joints' limits, and always an end at rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import PchipInterpolator

from vlaq_ros.control.chunks import at_rest
from vlaq_ros.control.interpolation import sample
from vlaq_ros.datatypes import FloatArray, Trajectory
from vlaq_ros.errors import NonFiniteActionError

_SHORTEST_BRAKE_S = 0.1  # so that the end of a motion still lies ahead when the controller receives it


@dataclass(frozen=True, slots=True)
class JointLimits:
    """What each joint may do."""

    positions: FloatArray  # [J, 2] lower and upper, rad (m)
    velocities: FloatArray  # [J] rad/s (m/s)
    accelerations: FloatArray  # [J] rad/s^2 (m/s^2), of the brake


def enforce(trajectory: Trajectory, running: Trajectory, limits: JointLimits) -> tuple[Trajectory, int]:
    """Complete what `chunks.splice` made into a motion that may be sent.

    Positions are clipped to their limits and then each step to the velocity limit, so that the arm lags behind a chunk
    that runs away and catches up where it can. Velocities are the slopes of the shape-preserving cubic through the
    clipped points (Fritsch and Butland 1984): with them the controller's interpolation stays between neighbouring
    points, hence within the position limits, where central differences overshoot (a closing gripper always would), and
    its speed inside a step stays below 1.5 times the limit. The first velocity is that of `running`: where the chunk
    turns sharply away from it, the first step alone may exceed both. The last velocity is that of the last step. A
    brake of constant deceleration follows, in the time that the slowest-stopping joint needs.

    Args:
        trajectory: positions alone; its first point is where `running` is at that time.
        running: what is commanded until then.
        limits: in the columns of both.

    Returns:
        The motion with velocities, zero at its end, and how many values were clipped.

    Raises:
        NonFiniteActionError: a position is nan or infinite.
    """
    if not np.isfinite(trajectory.positions).all():
        point, joint = np.argwhere(~np.isfinite(trajectory.positions))[0]
        raise NonFiniteActionError(
            trajectory.joint_names[joint],
            float(trajectory.times_ns[point]) * 1e-9,
            float(trajectory.positions[point, joint]),
        )
    times_s = trajectory.times_ns.astype(np.float64) * 1e-9
    steps_s = np.diff(times_s)
    positions = _clip(trajectory.positions, steps_s, limits)
    clipped = int(np.count_nonzero(positions != trajectory.positions))

    velocities = np.zeros_like(positions)
    if len(times_s) > 1:
        velocities[1:-1] = PchipInterpolator(times_s, positions).derivative()(times_s[1:-1])
        velocities[-1] = (positions[-1] - positions[-2]) / steps_s[-1]
    velocities[0] = sample(running, trajectory.stamp_ns + int(trajectory.times_ns[0]))[1]
    return _brake(replace(trajectory, positions=positions), velocities, limits), clipped


def stop(running: Trajectory, now_ns: int, limits: JointLimits) -> Trajectory:
    """Brake from what is commanded now, as hard as the acceleration limits allow."""
    positions, velocities, _ = sample(running, now_ns)
    return _brake(at_rest(running.joint_names, positions, now_ns), velocities[None], limits)


def _clip(positions: FloatArray, steps_s: FloatArray, limits: JointLimits) -> FloatArray:
    """Positions [T, J] within the limits; the first is where the arm is already sent and stays."""
    clipped = np.clip(positions, *limits.positions.T)
    clipped[0] = positions[0]
    for point, step_s in enumerate(steps_s):
        reach = limits.velocities * step_s
        clipped[point + 1] = np.clip(clipped[point + 1], clipped[point] - reach, clipped[point] + reach)
    return clipped


def _brake(points: Trajectory, velocities: FloatArray, limits: JointLimits) -> Trajectory:
    """Give the points their velocities [T, J] and append the point of rest.

    The cubic from velocity v to rest over v T / 2 in T is a constant deceleration. Where a position limit is closer
    than that, the last velocity is lowered to what stops there.
    """
    last = points.positions[-1]
    longest_s = float((np.abs(velocities[-1]) / limits.accelerations).max())
    duration_ns = int(np.ceil(max(longest_s, _SHORTEST_BRAKE_S) * 1e9))
    half_s = duration_ns * 0.5e-9
    rest = np.clip(last + velocities[-1] * half_s, *limits.positions.T)
    return replace(
        points,
        times_ns=np.append(points.times_ns, points.times_ns[-1] + duration_ns),
        positions=np.vstack([points.positions, rest]),
        velocities=np.vstack([velocities[:-1], (rest - last) / half_s, np.zeros_like(last)]),
    )
