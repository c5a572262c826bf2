"""How finely the arm moves now: the kinematic monitor of DyQ-VLA (arXiv 2603.07904), from measured joint positions.

The paper reads the commands of one control step: a translation a_xyz and a rotation vector a_rot. Here both are
measured, over the same control period T, so that the monitor sees what the arm does and needs no policy:

    motion fineness  M = 1 - |a_xyz| / mu        mu, nu: 95th percentiles on demonstrations (`MotionNorms`)
    angular jerk     J = |a_rot - a_rot before| / nu
    sensitivity      S = max(0, w M~ + (1 - w) J~)        M~, J~: trailing means

Poses come from joint positions averaged over two periods, which overlap by one. That makes S independent of the
sampling rate, and takes encoder noise down before the norms rectify it into a bias (one period instead of two more than
doubles that bias). It costs one period of delay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PPoly

from vlaq_ros.control.kinematics import Kinematics, rotation_vectors
from vlaq_ros.datatypes import FloatArray, JointWindow, Motion, MotionScales

_AVERAGED = 2  # periods that each pose is a mean over


def motion_scales(
    kinematics: Kinematics, episodes: Iterable[FloatArray], step_s: float, period_s: float
) -> MotionScales:
    """Measure the 95th percentiles over episodes, by the same path as the monitor.

    Args:
        kinematics: of the arm that moved.
        episodes: joint positions [N, J] rad (m) at a fixed rate; those too short to tell are passed over.
        step_s: time between two rows of an episode.
        period_s: control period to measure over.
    """
    displacements, changes = [], []
    for positions in episodes:
        times_s = np.arange(len(positions), dtype=np.float64) * step_s
        periods = int(times_s[-1] / period_s + 1e-6)  # rounding must not cost the last one
        if periods >= _AVERAGED + 2:
            displacement, change = _motion_per_period(kinematics, times_s, positions, period_s, periods)
            displacements.append(displacement)
            changes.append(change)
    return MotionScales(
        period_s=period_s,
        displacement_m=float(np.percentile(np.concatenate(displacements), 95)),
        rotation_rad=float(np.percentile(np.concatenate(changes), 95)),
    )


@dataclass(frozen=True, slots=True)
class MonitorConfig:
    """Windows and weight of the fusion; the paper's 10 and 5 control steps, said in seconds of a 20 Hz policy."""

    macro_s: float = 0.5  # trailing mean of motion fineness
    micro_s: float = 0.25  # trailing mean of angular jerk
    fineness_weight: float = 0.5  # the paper's lambda


class KinematicMonitor:
    """Stateless: everything it says follows from the window it is given."""

    def __init__(self, kinematics: Kinematics, scales: MotionScales, config: MonitorConfig) -> None:
        self._kinematics = kinematics
        self._scales = scales
        self._config = config
        self._macro = max(1, round(config.macro_s / scales.period_s))
        self._micro = max(1, round(config.micro_s / scales.period_s))
        # a displacement lies between two poses, a change of rotation between two turns, that is three poses
        self._periods = _AVERAGED + max(self._macro, self._micro + 1)

    @property
    def span_s(self) -> float:
        """How long a window must be."""
        return self._periods * self._scales.period_s

    def motion(self, window: JointWindow) -> Motion | None:
        """Say how the arm moves at the newest sample.

        Args:
            window: columns in the order of the kinematics' `joint_names`, at any rate, evenly sampled or not.

        Returns:
            None where the motion is unknown: the window is shorter than `span_s`, misses samples for longer than the
            micro window, or holds a position that is no number.
        """
        ages_ns = window.stamp_ns - window.stamps_ns
        if (
            ages_ns[0] < round(self.span_s * 1e9)
            or -np.diff(ages_ns).min() > self._config.micro_s * 1e9
            or not np.isfinite(window.positions).all()
        ):
            return None
        displacement_m, change_rad = _motion_per_period(
            self._kinematics, ages_ns.astype(np.float64) * -1e-9, window.positions, self._scales.period_s, self._periods
        )
        fineness = float(1 - displacement_m[-self._macro :].mean() / self._scales.displacement_m)
        jerk = float(change_rad[-self._micro :].mean() / self._scales.rotation_rad)
        weight = self._config.fineness_weight
        return Motion(window.stamp_ns, fineness, jerk, sensitivity=max(0.0, weight * fineness + (1 - weight) * jerk))


def _motion_per_period(
    kinematics: Kinematics, times_s: FloatArray, positions: FloatArray, period_s: float, periods: int
) -> tuple[FloatArray, FloatArray]:
    """Tool motion over the last `periods` (P) periods before the newest sample.

    Returns:
        Displacements [P - 2] m, and changes [P - 3] rad between successive turns, in the root link.
    """
    edges_s = times_s[-1] - period_s * np.arange(periods, -1, -1)
    slopes = np.diff(positions, axis=0) / np.diff(times_s)[:, None]  # of straight lines, so the integral is exact
    integral = PPoly(np.stack([slopes, positions[:-1]]), times_s).antiderivative()(edges_s)
    mean_positions = (integral[_AVERAGED:] - integral[:-_AVERAGED]) / (_AVERAGED * period_s)  # [P - 1, J]
    translations, rotations = kinematics.forward(mean_positions)
    turns = rotation_vectors(rotations[1:] @ rotations[:-1].transpose(0, 2, 1))
    displacements = np.linalg.norm(np.diff(translations, axis=0), axis=1)
    return displacements, np.linalg.norm(np.diff(turns, axis=0), axis=1)
