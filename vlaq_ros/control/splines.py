"""Motions that continue a state and end at rest, as linear maps of a few numbers: what a solver can choose from."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import BSpline

from vlaq_ros.datatypes import FloatArray, IntArray


class Splines:
    """Motions of a joint that leave a given state at the first knot and rest at the last.

    Twice differentiable cubic splines in the B-spline basis (de Boor, A Practical Guide to Splines, 1978), in which a
    least-squares fit is well conditioned. Velocities and higher are per `unit_s`, not per second.

    Args:
        times_ns: of the knots, from 0 on.

    Attributes:
        steps: between the knots [K - 1], in `unit_s`.
        position, velocity, acceleration: of the N control points [K, N], at the knots.
        jerk: of the control points [K - 1, N], between the knots.
        rows: [M, N] of the control points, the `hull` of the basis.
        quantity: [M] what a row of a hull is of: 0 position, 1 velocity, 2 acceleration, 3 jerk.
        interval: [M] the interval that a row of a hull belongs to.
    """

    def __init__(self, times_ns: IntArray) -> None:
        self.times_ns = times_ns
        self.unit_s = float(times_ns[-1] - times_ns[-2]) * 1e-9
        knots = times_ns * 1e-9 / self.unit_s
        steps = np.diff(knots)
        clamped = np.concatenate([knots[:1].repeat(3), knots, knots[-1:].repeat(3)])
        self._basis = BSpline(clamped, np.eye(len(knots) + 2), 3)
        self.position, self.velocity, self.acceleration = (self._basis(knots, order) for order in range(3))
        self.jerk = np.diff(self.acceleration, axis=0) / steps[:, None]
        self.steps = steps

        self.rows = self.hull(self.position, self.velocity, self.acceleration)
        every = np.arange(len(steps))
        self.quantity = np.repeat(np.arange(4), [3 * len(steps) - 2, 2 * len(steps) - 2, len(steps) - 1, len(steps)])
        self.interval = np.concatenate([every, *[every[1:]] * 5, every])

    def hull(self, position: FloatArray, velocity: FloatArray, acceleration: FloatArray) -> FloatArray:
        """Give the control points (Bernstein coefficients) of every interval's polynomials, which bound them.

        Takes positions, velocities and accelerations [K, C] at the knots, per `unit_s`, and returns [M, C] likewise,
        as `quantity` says. Those of the first interval that the state at the start decides are left out.
        """
        p, v, a = position[1:-1], velocity[1:-1], acceleration[1:-1]
        third = self.steps[1:, None] / 3
        jerk = np.diff(acceleration, axis=0) / self.steps[:, None]
        middles = p + third * v, p + third * (2 * v + 1.5 * third * a)
        return np.vstack([position[1:], *middles, v, v + 1.5 * third * a, a, jerk])

    def at(self, elapsed_ns: IntArray) -> FloatArray:
        """Positions [M, N] of the control points at times after the first knot."""
        positions: FloatArray = self._basis(elapsed_ns * 1e-9 / self.unit_s)
        return positions

    def start(self, state: FloatArray) -> FloatArray:
        """Return the first three control points [3, J], which the state [3, J] at the start decides."""
        position, velocity, acceleration = state * self.unit_s ** np.arange(3)[:, None]
        first, second = self.steps[:2]
        near = position + velocity * first / 3
        return np.stack([position, near, near + (velocity + acceleration * first / 2) * (first + second) / 3])

    @staticmethod
    def free(values: FloatArray) -> FloatArray:
        """Sum the columns [M, N] of control points to those that are free [M, N - 5]: the last three are one."""
        return np.column_stack([values[:, 3:-3], values[:, -3:].sum(axis=1)])
