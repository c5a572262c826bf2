"""What the kinematic monitor divides by and when it asks for the finest precision, from how a policy moves the arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.motion import KinematicMonitor, MonitorConfig, motion_scales
from vlaq_ros.datatypes import FloatArray, JointWindow, MotionScales
from vlaq_ros.policy.spec import PolicySpec

FINE_SHARE = 0.35  # of the time, S asks for the finest precision
_LOOK_S = 0.1  # between two values of S
_LEAST = 1e-6  # m and rad in a period: less is rounding
_LEAST_THRESHOLD = 1e-4  # policy.json takes no 0


@dataclass(frozen=True, slots=True)
class PolicyMotion:
    """How an arm moves under a policy."""

    scales: MotionScales
    sensitivities: FloatArray  # [N] S under these scales


@dataclass(frozen=True, slots=True)
class UnknownMotion:
    """Nothing is known of how an arm moves under a policy."""

    why: str  # a clause


def measure(
    kinematics: Kinematics, episodes: Sequence[FloatArray], step_s: float, period_s: float
) -> PolicyMotion | UnknownMotion:
    """Measure scales, and what the monitor would have said under them.

    Args:
        kinematics: of the arm.
        episodes: joint positions [K, J] rad (m) every `step_s`; the short ones are passed over.
        step_s: between two rows.
        period_s: control period to measure over.
    """
    still = KinematicMonitor(kinematics, MotionScales(period_s, 1.0, 1.0), MonitorConfig())
    rows, stride = 2 + round(still.span_s / step_s), max(1, round(_LOOK_S / step_s))
    episodes = [joints for joints in episodes if len(joints) >= rows]
    if not episodes:
        return UnknownMotion(f"the arm was not seen moving for {rows * step_s:.1f} s on end")
    scales = motion_scales(kinematics, episodes, step_s, period_s)
    if min(scales.displacement_m, scales.rotation_rad) < _LEAST:
        return UnknownMotion("the arm hardly moves")
    monitor = KinematicMonitor(kinematics, scales, MonitorConfig())
    stamps_ns = np.arange(1, rows + 1) * round(step_s * 1e9)
    motions = [
        monitor.motion(JointWindow(kinematics.joint_names, stamps_ns, joints[end - rows : end], np.zeros((rows, 1))))
        for joints in episodes
        for end in range(rows, len(joints) + 1, stride)
    ]
    return PolicyMotion(scales, np.array([motion.sensitivity for motion in motions if motion is not None]))


def on_policy(spec: PolicySpec, motion: PolicyMotion) -> PolicySpec:
    """Give a policy the scales and the threshold of its own motion.

    The threshold is a percentile of S, the rule where nothing is known of the errors of the precisions.
    """
    threshold = float(np.quantile(motion.sensitivities, 1 - FINE_SHARE))
    return replace(spec, motion=motion.scales, fine_threshold=max(round(threshold, 4), _LEAST_THRESHOLD))
