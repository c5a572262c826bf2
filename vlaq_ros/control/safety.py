"""The last step before a motion leaves: what a robot's limits allow of it, and always an end at rest.

A chunk is rejected where a limit has no nearest motion (`admit`), otherwise replaced by the nearest motion that holds
every limit (`enforce`). Motions are cubic splines: their jerk is constant between knots, and the quintic through the
positions, velocities and accelerations at its knots, which is what joint_trajectory_controller interpolates, is the
spline itself. What is sent therefore holds its limits as executed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import daqp
import numpy as np

from vlaq_ros.config import RobotConfig
from vlaq_ros.control.braking import SHORTEST_S, brake, braking_s
from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.splines import Splines
from vlaq_ros.datatypes import FloatArray, Trajectory, Violations
from vlaq_ros.errors import (
    ActionStepError,
    FirstActionError,
    NoMotionError,
    NonFiniteActionError,
    UnlimitedJointError,
)

# Knots lie at multiples of this on the clock of the stamps: those of the running motion are the new motion's too, so
# that to go on with what runs is always among the motions that are chosen from.
_KNOT_NS = 50_000_000
_SHORTEST_NS = 10_000  # below, the accelerations of an interval would be rounding errors
_MARGIN = 0.01  # of velocity, acceleration and jerk: limits hold to the solver's tolerance
_MARGIN_RAD = 1e-5  # of position (m for a prismatic joint), likewise
_MARGIN_M = 2e-3  # of the workspace, whose sides the tool may cross between two of the checked points
_SMOOTHING = 0.1  # weight of the jerk, in rad per knot^3, against the distance, in rad
_BRAKING = 0.1  # weight of the velocity after the last target, in rad per knot
_TOLERANCE = 1e-9  # of limits, in rad per knot
_STEERED = 1e-6  # limits on what the free control points move less than this are left to the state at the start
_HELD = 1e-4  # a limit holds a motion back where it does so by about this much, rad


@dataclass(frozen=True, slots=True)
class JointLimits:
    """What each joint may do, in the columns of `Kinematics.joint_names`."""

    positions: FloatArray  # [J, 2] lower and upper, rad (m); infinite for a continuous joint
    velocities: FloatArray  # [J] rad/s (m/s)
    accelerations: FloatArray  # [J] rad/s^2 (m/s^2)
    jerks: FloatArray  # [J] rad/s^3 (m/s^3)

    @classmethod
    def of(cls, kinematics: Kinematics, robot: RobotConfig) -> Self:
        """Take the stricter of the robot description and the robot's file of limits.

        Raises:
            ConfigError: the file cannot be used.
            UnlimitedJointError: neither gives a joint's velocity, or their positions leave the joint nowhere to be.
        """
        said = robot.joint_limits()
        files = [said[name] for name in kinematics.joint_names]
        described = kinematics.velocity_limits
        described = np.where(described > 0, described, np.inf)  # a URDF writes 0 where it does not know
        limits = cls(
            np.column_stack(
                [
                    np.maximum(kinematics.position_limits[:, 0], [file.min_position for file in files]),
                    np.minimum(kinematics.position_limits[:, 1], [file.max_position for file in files]),
                ]
            ),
            np.minimum(described, [file.max_velocity for file in files]),
            np.array([file.max_acceleration for file in files]),
            np.array([file.max_jerk for file in files]),
        )
        for name, (lower, upper), velocity in zip(
            kinematics.joint_names, limits.positions, limits.velocities, strict=True
        ):
            if not lower < upper:
                raise UnlimitedJointError(name, "position", f"{lower:g} to {upper:g}", "the lower below the upper")
            if not np.isfinite(velocity):
                raise UnlimitedJointError(name, "velocity", "not given", "a number above 0")
        return limits


class Safety:
    """Holds one arm to its limits.

    Args:
        kinematics: of the arm; its joint names are the columns everywhere.
        robot: says the limits; there are no defaults.

    Raises:
        ConfigError, UnlimitedJointError: limits are missing, or cannot be used.
    """

    def __init__(self, kinematics: Kinematics, robot: RobotConfig) -> None:
        self._kinematics = kinematics
        self._safety = robot.safety
        limits = JointLimits.of(kinematics, robot)
        self._limits = JointLimits(
            limits.positions + _MARGIN_RAD * np.array([1, -1]),
            (1 - _MARGIN) * limits.velocities,
            (1 - _MARGIN) * limits.accelerations,
            (1 - _MARGIN) * limits.jerks,
        )

    def admit(self, targets: FloatArray, measured: FloatArray) -> None:
        """Reject a chunk that no robot should be sent near, rather than the nearest motion to it.

        The gripper, the last column, may go from open to closed in one action.

        Args:
            targets: joint positions [T, J] rad (m) of the chunk's actions.
            measured: joint positions [J] that the chunk was computed from.

        Raises:
            NonFiniteActionError: a target is nan or infinite.
            FirstActionError: the first lies further from `measured` than `max_first_action_rad`.
            ActionStepError: one lies further from the one before than `max_action_step_rad`.
        """
        names, safety = self._kinematics.joint_names, self._safety
        if not np.isfinite(targets).all():
            action, joint = np.argwhere(~np.isfinite(targets))[0]
            raise NonFiniteActionError(names[joint], int(action), float(targets[action, joint]))
        steps = np.abs(np.diff(targets[:, :-1], axis=0, prepend=measured[None, :-1]))
        joint = int(steps[0].argmax())
        if steps[0, joint] > safety.max_first_action_rad:
            raise FirstActionError(names[joint], float(steps[0, joint]), safety.max_first_action_rad)
        far = np.argwhere(steps[1:] > safety.max_action_step_rad)
        if len(far):
            action, joint = far[0] + (1, 0)
            raise ActionStepError(names[joint], int(action), float(steps[action, joint]), safety.max_action_step_rad)

    def enforce(self, desired: Trajectory, running: Trajectory) -> tuple[Trajectory, Violations]:
        """Find the motion nearest to a chunk that holds every limit, continues the running motion and ends at rest.

        Where it would take the tool out of the workspace, or further out than it is, the chunk is cut at the last
        target that does not; where even the first does, the running motion goes on to its end.

        Args:
            desired: positions alone; its first point is where `running` is at that time.
            running: what is commanded until then.

        Returns:
            The motion, with velocities and accelerations, and what of `desired` was not allowed.

        Raises:
            NoMotionError: the solver finds none.
        """
        start_ns = desired.stamp_ns + int(desired.times_ns[0])
        tool = self._kinematics.forward(desired.positions[:1])[0]
        lower = np.minimum(np.add(self._safety.workspace_lower_m, _MARGIN_M), tool)
        upper = np.maximum(np.subtract(self._safety.workspace_upper_m, _MARGIN_M), tool)

        def inside(motion: Trajectory) -> bool:
            times_ns = motion.times_ns
            between_ns = np.concatenate([times_ns, times_ns[:-1] + np.diff(times_ns) // 2])
            tools = self._kinematics.forward(sample(motion, motion.stamp_ns + between_ns)[0])[0]
            return bool(np.all((tools >= lower) & (tools <= upper)))

        motion, violations = self._nearest(desired, running)
        if inside(motion):
            return motion, violations
        motion, violations = _rest_of(running, desired.stamp_ns, start_ns), Violations()
        allowed, refused = 1, len(desired.times_ns)  # in points; the first is where the arm is
        while refused - allowed > 1:
            points = (allowed + refused) // 2
            shorter = replace(desired, times_ns=desired.times_ns[:points], positions=desired.positions[:points])
            candidate, held = self._nearest(shorter, running)
            if inside(candidate):
                allowed, motion, violations = points, candidate, held
            else:
                refused = points
        return motion, replace(violations, workspace=len(desired.times_ns) - allowed)

    def stop(self, running: Trajectory, now_ns: int) -> Trajectory:
        """Brake as hard as the acceleration and jerk limits allow, and stay there.

        There is no shorter way to rest: a position limit is crossed only where the arm cannot stop before it.

        Args:
            running: what is commanded until then.
            now_ns: when to begin.
        """
        limits = self._limits
        step_s, motion = brake(np.stack(sample(running, now_ns)), limits.accelerations, limits.jerks)
        times_ns = np.rint(step_s * 1e9 * np.arange(motion.shape[1])).astype(np.int64)
        return Trajectory(now_ns, running.joint_names, times_ns, *motion)

    def _nearest(self, desired: Trajectory, running: Trajectory) -> tuple[Trajectory, Violations]:
        """Solve for the motion nearest to the targets within the joints' limits."""
        elapsed_ns = desired.times_ns - desired.times_ns[0]
        start_ns = desired.stamp_ns + int(desired.times_ns[0])
        limits = self._limits
        brake_s = braking_s(limits.velocities, limits.accelerations, limits.jerks) + 3 * _KNOT_NS * 1e-9
        end_ns = max(start_ns + int(elapsed_ns[-1] + brake_s * 1e9), running.stamp_ns + int(running.times_ns[-1]))
        knots = np.arange((start_ns + _SHORTEST_NS) // _KNOT_NS + 1, -(-end_ns // _KNOT_NS) + 1)
        splines = Splines(np.append(0, _KNOT_NS * knots - start_ns))
        states = np.stack(sample(running, start_ns + splines.times_ns))

        weights = np.sqrt(np.diff(elapsed_ns) / _KNOT_NS)[:, None]
        braking = splines.velocity[splines.times_ns > elapsed_ns[-1]]
        jerk = np.sqrt(splines.steps)[:, None] * splines.jerk
        objective = np.vstack([weights * splines.at(elapsed_ns[1:]), _SMOOTHING * jerk, _BRAKING * braking])
        targets = np.zeros((len(objective), len(desired.joint_names)))
        targets[: len(weights)] = weights * desired.positions[1:]
        motion, forces = self._solve(splines, states, objective, targets)

        asked = (np.abs(forces) > _HELD).any(axis=1) & (splines.times_ns[splines.interval] < elapsed_ns[-1])
        counts = (len(np.unique(splines.interval[asked & (splines.quantity == quantity)])) for quantity in range(4))
        times_ns = desired.times_ns[0] + splines.times_ns
        return Trajectory(desired.stamp_ns, desired.joint_names, times_ns, *motion), Violations(*counts)

    def _solve(
        self, splines: Splines, running: FloatArray, objective: FloatArray, targets: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Minimise |objective c - targets|^2 over the control points c of every joint, within the limits.

        Args:
            splines: that are chosen from.
            running: positions, velocities and accelerations [3, K, J] of the running motion at their knots.
            objective: [R, N] of the control points.
            targets: [R, J].

        Returns:
            Positions, velocities and accelerations [3, K, J] at the knots, and the force (Lagrange multiplier) [M, J]
            with which each row of a hull holds the motion back.

        Raises:
            NoMotionError: the solver finds none.
        """
        start = splines.start(running[:, 0])
        rows, fit = splines.free(splines.rows), splines.free(objective)
        hessian = fit.T @ fit
        gradients = fit.T @ (objective[:, :3] @ start - targets)
        sizes = np.linalg.norm(rows, axis=1)
        steered = sizes > _STEERED
        sizes = sizes[steered, None]
        rows = rows[steered] / sizes
        fixed = splines.rows[:, :3] @ start
        least, most = ((bounds - fixed)[steered] / sizes for bounds in self._bounds(splines, running))

        control = np.empty((splines.rows.shape[1], running.shape[2]))
        control[:3] = start
        forces = np.zeros_like(fixed)
        for joint, name in enumerate(self._kinematics.joint_names):
            gradient, upper, lower = (values[:, joint].copy() for values in (gradients, most, least))
            solution, _, flag, facts = daqp.solve(hessian, gradient, rows, upper, lower, primal_tol=_TOLERANCE)
            if flag < 1:
                raise NoMotionError(name, flag)
            control[3:-3, joint], control[-3:, joint] = solution[:-1], solution[-1]
            forces[steered, joint] = facts["lam"] / sizes[:, 0]

        motion = np.stack([splines.position, splines.velocity, splines.acceleration]) @ control
        motion /= splines.unit_s ** np.arange(3)[:, None, None]
        motion[:, 0], motion[1:, -1] = running[:, 0], 0  # exactly
        return motion, forces

    def _bounds(self, splines: Splines, running: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Lower and upper limits [M, J] of hulls, as wide as the running motion [3, K, J] needs them to go on.

        So there is always a motion within them, and an arm that is beyond a limit gets no further out: from beyond a
        position limit it may only move inwards.
        """
        limits, start = self._limits, running[0, 0]
        lower, upper = limits.positions.T
        units = splines.unit_s ** np.arange(4)[:, None, None]
        rates = units[1:, 0] * (limits.velocities, limits.accelerations, limits.jerks)
        least, most = np.vstack([lower, -rates]), np.vstack([upper, rates])
        least[1, start < lower - _MARGIN_RAD] = 0
        most[1, start > upper + _MARGIN_RAD] = 0
        present = splines.hull(*units[:3] * running)
        return np.minimum(least[splines.quantity], present), np.maximum(most[splines.quantity], present)


def _rest_of(running: Trajectory, stamp_ns: int, start_ns: int) -> Trajectory:
    """What is left of a motion at `start_ns`, as a motion of its own that is stamped `stamp_ns`."""
    stamps_ns = running.stamp_ns + running.times_ns
    end_ns = max(int(stamps_ns[-1]), start_ns + int(SHORTEST_S * 1e9))
    between_ns = stamps_ns[(stamps_ns > start_ns + _SHORTEST_NS) & (stamps_ns < end_ns)]
    stamps_ns = np.concatenate([[start_ns], between_ns, [end_ns]])
    return Trajectory(stamp_ns, running.joint_names, stamps_ns - stamp_ns, *sample(running, stamps_ns))
