"""Scales and threshold from episodes: percentiles of what the monitor itself would have said."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.motion import KinematicMonitor, MonitorConfig, motion_scales
from vlaq_ros.datatypes import FloatArray, JointWindow
from vlaq_ros.evaluate.motion import FINE_SHARE, on_policy
from vlaq_ros.policy.spec import PolicySpec
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


def sensitivities(spec: PolicySpec) -> FloatArray:
    monitor = KinematicMonitor(KINEMATICS, spec.motion, MonitorConfig())
    rows = 2 + round(monitor.span_s / PERIOD_S)
    stamps_ns = np.arange(1, rows + 1) * round(PERIOD_S * 1e9)
    found = [
        monitor.motion(JointWindow(panda.JOINT_NAMES, stamps_ns, joints[end - rows : end], np.zeros((rows, 8))))
        for joints in EPISODES
        for end in range(rows, len(joints))
    ]
    return np.array([motion.sensitivity for motion in found if motion is not None])


@pytest.fixture
def spec(tiny_bundle: Path) -> PolicySpec:
    return PolicySpec.load(tiny_bundle)


def test_scales_are_those_of_the_episodes(spec: PolicySpec) -> None:
    measured = on_policy(spec, KINEMATICS, EPISODES, PERIOD_S)
    assert measured.motion == motion_scales(KINEMATICS, EPISODES, PERIOD_S, spec.motion.period_s)


def test_the_finest_precision_is_asked_for_in_its_share_of_the_time(spec: PolicySpec) -> None:
    measured = on_policy(spec, KINEMATICS, EPISODES, PERIOD_S)
    assert np.mean(sensitivities(measured) > measured.fine_threshold) == pytest.approx(FINE_SHARE, abs=0.05)


def test_nothing_else_changes(spec: PolicySpec) -> None:
    measured = on_policy(spec, KINEMATICS, EPISODES, PERIOD_S)
    kept = {field.name for field in fields(PolicySpec)} - {"motion", "fine_threshold"}
    assert all(getattr(measured, name) is getattr(spec, name) for name in kept)
