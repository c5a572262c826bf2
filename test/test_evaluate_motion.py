"""Scales and thresholds from episodes: percentiles of what the monitor itself would have said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.motion import KinematicMonitor, MonitorConfig, motion_scales
from vlaq_ros.datatypes import FloatArray, JointWindow
from vlaq_ros.evaluate.motion import FINER_SHARE, on_policy
from vlaq_ros.policy.manifest import Manifest, PrecisionPlan
from vlaq_ros.sim import panda

PERIOD_S = 0.02
KINEMATICS = Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME)


def episode(seed: int) -> FloatArray:
    """Smooth joint motion of four seconds, faster in its middle."""
    rng = np.random.default_rng(seed)
    times_s = np.arange(0, 4, PERIOD_S)[:, None]
    swing = 0.2 * np.sin(2 * np.pi * times_s * rng.uniform(0.2, 0.6, 8) + rng.uniform(0, 6, 8))
    return np.array([*panda.HOME_RAD, 0.02]) + swing * np.sin(np.pi * times_s / 4) ** 2


EPISODES = [episode(seed) for seed in range(6)]


def sensitivities(manifest: Manifest) -> FloatArray:
    monitor = KinematicMonitor(KINEMATICS, manifest.motion, MonitorConfig())
    rows = 2 + round(monitor.span_s / PERIOD_S)
    stamps_ns = np.arange(1, rows + 1) * round(PERIOD_S * 1e9)
    found = [
        monitor.motion(JointWindow(panda.JOINT_NAMES, stamps_ns, joints[end - rows : end], np.zeros((rows, 8))))
        for joints in EPISODES
        for end in range(rows, len(joints))
    ]
    return np.array([motion.sensitivity for motion in found if motion is not None])


def test_scales_are_those_of_the_episodes(tiny_bundle: Path) -> None:
    manifest = on_policy(Manifest.load(tiny_bundle), KINEMATICS, EPISODES, PERIOD_S)
    period_s = Manifest.load(tiny_bundle).motion.period_s
    assert manifest.motion == motion_scales(KINEMATICS, EPISODES, PERIOD_S, period_s)


def test_the_finer_precision_is_asked_for_in_its_share_of_the_time(tiny_bundle: Path) -> None:
    manifest = on_policy(Manifest.load(tiny_bundle), KINEMATICS, EPISODES, PERIOD_S)
    fine, coarse = manifest.precisions
    assert coarse.threshold == 0.0
    assert np.mean(sensitivities(manifest) > fine.threshold) == pytest.approx(FINER_SHARE, abs=0.05)


def test_every_finer_precision_gets_its_share_of_what_the_next_one_has(tiny_bundle: Path) -> None:
    plans = (PrecisionPlan("a", 8, 8, 3.0), PrecisionPlan("b", 8, 8, 2.0), PrecisionPlan("c", 4, 8, 1.0))
    manifest = on_policy(replace(Manifest.load(tiny_bundle), precisions=plans), KINEMATICS, EPISODES, PERIOD_S)
    found = sensitivities(manifest)
    shares = [float(np.mean(found > plan.threshold)) for plan in manifest.precisions[:-1]]
    assert shares == pytest.approx([FINER_SHARE**2, FINER_SHARE], abs=0.05)
    assert [plan.name for plan in manifest.precisions] == ["a", "b", "c"]
