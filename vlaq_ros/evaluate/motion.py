"""What the kinematic monitor divides by and when it asks for the finest precision, from how a policy moves the arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.motion import KinematicMonitor, MonitorConfig, motion_scales
from vlaq_ros.datatypes import FloatArray, JointWindow
from vlaq_ros.policy.spec import PolicySpec

FINE_SHARE = 0.35  # of the time, S asks for the finest precision
_LOOK_S = 0.1  # between two values of S


def on_policy(spec: PolicySpec, kinematics: Kinematics, episodes: Sequence[FloatArray], period_s: float) -> PolicySpec:
    """Measure scales and threshold on the policy's own episodes.

    The threshold is a percentile of S, the rule where nothing is known of the errors of the precisions.

    Args:
        spec: its control period and all else stays.
        kinematics: of the arm.
        episodes: joint positions [K, J] rad (m) every `period_s`.
        period_s: between two rows.
    """
    scales = motion_scales(kinematics, episodes, period_s, spec.motion.period_s)
    monitor = KinematicMonitor(kinematics, scales, MonitorConfig())
    rows, stride = 2 + round(monitor.span_s / period_s), max(1, round(_LOOK_S / period_s))
    stamps_ns = np.arange(1, rows + 1) * round(period_s * 1e9)
    motions = [
        monitor.motion(JointWindow(kinematics.joint_names, stamps_ns, joints[end - rows : end], np.zeros((rows, 1))))
        for joints in episodes
        for end in range(rows, len(joints), stride)
    ]
    sensitivities = [motion.sensitivity for motion in motions if motion is not None]
    threshold = float(np.quantile(sensitivities, 1 - FINE_SHARE))
    return replace(spec, motion=scales, fine_threshold=round(threshold, 4))
