"""The shortest way to rest that acceleration and jerk limits allow."""

from __future__ import annotations

import numpy as np
from scipy.integrate import cumulative_trapezoid, trapezoid

from vlaq_ros.datatypes import FloatArray

SHORTEST_S = 0.1  # so that the end of a motion still lies ahead when the controller receives it
_STEPS = 40
_BISECTIONS = 60  # to the last digit


def braking_s(velocities: FloatArray, accelerations: FloatArray, jerks: FloatArray) -> float:
    """Return a time in which every joint can stop from the velocities [J], whatever it accelerates by now.

    Args:
        velocities: [J] rad/s (m/s).
        accelerations: limits [J] rad/s^2 (m/s^2).
        jerks: limits [J] rad/s^3 (m/s^3).
    """
    return max(float((np.abs(velocities) / accelerations + 2.5 * accelerations / jerks).max()), SHORTEST_S)


def brake(state: FloatArray, accelerations: FloatArray, jerks: FloatArray) -> tuple[float, FloatArray]:
    """Bring every joint to rest, in steps of constant jerk that all joints share.

    Against its motion a joint's acceleration falls as fast as it may, stays, and rises again as fast as it may, to end
    together with the velocity: the time-optimal profile, but for the steps. A joint that brakes too hard already to end
    at rest turns first.

    Args:
        state: positions, velocities and accelerations [3, J] now.
        accelerations: limits [J] rad/s^2 (m/s^2); one that is exceeded now is not exceeded further.
        jerks: limits [J] rad/s^3 (m/s^3).

    Returns:
        The length of a step in s, of whole ns; positions, velocities and accelerations [3, K, J] between the steps.
    """
    position, velocity, acceleration = state
    # four steps more: ramps begin and end on steps
    step_s = float(np.ceil(braking_s(velocity, accelerations, jerks) / (_STEPS - 4) * 1e9) * 1e-9)
    change = jerks * step_s  # of the acceleration, in a step
    steps = np.arange(_STEPS + 1)[:, None]

    relaxing = np.sign(acceleration) * np.maximum(np.abs(acceleration) - change * steps, 0)
    onwards = np.where(velocity + trapezoid(relaxing, dx=step_s, axis=0) < 0, -1.0, 1.0)  # where it goes, once relaxed
    speed, most = onwards * velocity, np.maximum(accelerations, np.abs(acceleration))
    falling = np.maximum(onwards * acceleration - change * steps, -most)

    def braking(end: FloatArray) -> FloatArray:
        """Accelerations [K, J] along `onwards` that are back at 0 after `end` [J] steps."""
        rates: FloatArray = np.maximum(falling, -change * np.maximum(end - steps, 0))
        return rates

    early, late = np.maximum(-onwards * acceleration / change, 0), np.full_like(velocity, _STEPS)
    for _ in range(_BISECTIONS):  # the later the end, the more speed is lost
        end = (early + late) / 2
        moves = speed + trapezoid(braking(end), dx=step_s, axis=0) > 0
        early, late = np.where(moves, end, early), np.where(moves, late, end)

    rates = onwards * braking(late)
    velocities = velocity + cumulative_trapezoid(rates, dx=step_s, axis=0, initial=0)
    way = velocities[:-1] * step_s + (2 * rates[:-1] + rates[1:]) * step_s**2 / 6
    positions = position + np.vstack([np.zeros_like(position), np.cumsum(way, axis=0)])
    velocities[-1] = 0  # exactly
    return step_s, np.stack([positions, velocities, rates])
