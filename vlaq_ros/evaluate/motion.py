"""What the kinematic monitor divides by and where precisions switch, from how a policy itself moves the arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.motion import KinematicMonitor, MonitorConfig, motion_scales
from vlaq_ros.datatypes import FloatArray, JointWindow
from vlaq_ros.policy.manifest import Manifest

FINER_SHARE = 0.35  # of the time, S asks for more than the next coarser precision
_LOOK_S = 0.1  # between two values of S


def on_policy(manifest: Manifest, kinematics: Kinematics, episodes: Sequence[FloatArray], period_s: float) -> Manifest:
    """Measure scales and thresholds on the policy's own episodes.

    A threshold is a percentile of S, the rule where nothing is known of the errors of the precisions: S asks for more
    than the coarsest precision in `FINER_SHARE` of the time, for still more in that share of it, and so on.

    Args:
        manifest: its control period and the names of its precisions stay.
        kinematics: of the arm.
        episodes: joint positions [K, J] rad (m) every `period_s`.
        period_s: between two rows.
    """
    scales = motion_scales(kinematics, episodes, period_s, manifest.motion.period_s)
    monitor = KinematicMonitor(kinematics, scales, MonitorConfig())
    rows, stride = 2 + round(monitor.span_s / period_s), max(1, round(_LOOK_S / period_s))
    stamps_ns = np.arange(1, rows + 1) * round(period_s * 1e9)
    motions = [
        monitor.motion(JointWindow(kinematics.joint_names, stamps_ns, joints[end - rows : end], np.zeros((rows, 1))))
        for joints in episodes
        for end in range(rows, len(joints), stride)
    ]
    sensitivities = [motion.sensitivity for motion in motions if motion is not None]
    shares = [FINER_SHARE ** (1 + finer) for finer in reversed(range(len(manifest.precisions) - 1))]
    thresholds = [*(float(np.quantile(sensitivities, 1 - share)) for share in shares), 0.0]
    precisions = tuple(
        replace(plan, threshold=round(threshold, 4))
        for plan, threshold in zip(manifest.precisions, thresholds, strict=True)
    )
    return replace(manifest, motion=scales, precisions=precisions)
