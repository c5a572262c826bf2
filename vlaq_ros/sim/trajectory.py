"""The arm's controller: ros2_controllers' joint_trajectory_controller (5.17, its defaults) with time as an argument."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vlaq_ros.control import interpolation
from vlaq_ros.datatypes import FloatArray, IntArray, Trajectory

REST = float(np.finfo(np.float32).eps)  # rad/s (m/s); the real controller's tolerance on the last velocity


class TrajectoryController:
    """Follows one trajectory at a time and holds where it ends; an accepted one replaces it at once.

    Where its first point still lies ahead, the way there starts at the measured state, as the default
    `interpolate_from_desired_state: false` has it. Non-finite values are rejected; the real controller takes them and
    stands still.
    """

    def __init__(self, joint_names: tuple[str, ...], positions: FloatArray, now_ns: int) -> None:
        self._joint_names = joint_names
        self._trajectory = Trajectory(now_ns, joint_names, np.zeros(1, dtype=np.int64), positions[None].copy())

    def accept(self, trajectory: Trajectory, now_ns: int, positions: FloatArray, velocities: FloatArray) -> str | None:
        """Take a new motion, or keep the present one and say why.

        Args:
            trajectory: all joints of the controller, in any order; stamped on the clock of `now_ns`.
            now_ns: the current time.
            positions: measured [J] rad (m), in the controller's order.
            velocities: measured [J] rad/s (m/s).

        Returns:
            None if accepted, else the reason in one sentence.
        """
        fault = next(_faults(trajectory, self._joint_names, now_ns), None)
        if fault is not None:
            return fault

        columns = [trajectory.joint_names.index(name) for name in self._joint_names]
        start_ns = trajectory.stamp_ns or now_ns
        # The measured state goes in front; where the first point is past already, that segment is never sampled.
        lead_ns = min(now_ns - start_ns, int(trajectory.times_ns[0]) - 1)

        def led(state: FloatArray, rows: FloatArray) -> FloatArray:
            return np.vstack([state, rows[:, columns]])

        self._trajectory = Trajectory(
            start_ns,
            self._joint_names,
            np.append(lead_ns, trajectory.times_ns),
            led(positions, trajectory.positions),
            None if trajectory.velocities is None else led(velocities, trajectory.velocities),
            None if trajectory.accelerations is None else led(np.zeros_like(positions), trajectory.accelerations),
        )
        return None

    def sample(self, stamps_ns: IntArray | int) -> tuple[FloatArray, FloatArray]:
        """Desired positions [*, J] rad (m) and velocities [*, J] rad/s (m/s), at times not before the last acceptance.

        * is the shape of `stamps_ns`: () for one time.
        """
        positions, velocities, _ = interpolation.sample(self._trajectory, stamps_ns)
        return positions, velocities


def _faults(trajectory: Trajectory, joint_names: tuple[str, ...], now_ns: int) -> Iterator[str]:
    """Yield why a trajectory is rejected, in the words of the real controller; each check relies on those before."""
    names, times_ns = trajectory.joint_names, trajectory.times_ns
    if sorted(names) != sorted(joint_names):
        yield (
            "joints on incoming trajectory don't match the controller joints: "
            f"got {', '.join(names) or 'none'}; expected {', '.join(joint_names)}"
        )
    if not len(times_ns):
        yield "empty trajectory received"

    values = {"positions": trajectory.positions}
    if trajectory.velocities is not None:
        values["velocities"] = trajectory.velocities
    if trajectory.accelerations is not None:
        values["accelerations"] = trajectory.accelerations
    for field, rows in values.items():
        if rows.shape != (len(times_ns), len(names)):
            yield f"mismatch between {len(times_ns)} points of {len(names)} joints and {field} of shape {rows.shape}"
        if not np.isfinite(rows).all():
            point, joint = np.argwhere(~np.isfinite(rows))[0]
            yield f"{field} of joint {names[joint]} at point {point} is {rows[point, joint]}, not a finite number"

    if trajectory.velocities is not None:
        joint = int(np.abs(trajectory.velocities[-1]).argmax())
        if abs(trajectory.velocities[-1, joint]) > REST:
            yield (
                f"velocity of last trajectory point of joint {names[joint]} is not zero: "
                f"{trajectory.velocities[-1, joint]:.15f}"
            )

    end_ns = trajectory.stamp_ns + int(times_ns[-1])
    if trajectory.stamp_ns != 0 and end_ns < now_ns:
        yield (
            f"received trajectory with non-zero start time ({trajectory.stamp_ns * 1e-9:f}) that ends in the past "
            f"({end_ns * 1e-9:f}), now is {now_ns * 1e-9:f}"
        )

    stuck = np.flatnonzero(np.diff(times_ns) <= 0)
    if len(stuck):
        first = int(stuck[0])
        yield (
            f"time between points {first} and {first + 1} is not strictly increasing, it is "
            f"{times_ns[first] * 1e-9:f} and {times_ns[first + 1] * 1e-9:f} respectively"
        )
