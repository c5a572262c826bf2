"""Scales and threshold from episodes: percentiles of what the monitor itself would have said."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.motion import KinematicMonitor, MonitorConfig, motion_scales
from vlaq_ros.datatypes import FloatArray, JointWindow
from vlaq_ros.evaluate.motion import FINE_SHARE, PolicyMotion, UnknownMotion, measure, on_policy
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


def measured(spec: PolicySpec) -> PolicyMotion:
    motion = measure(KINEMATICS, EPISODES, PERIOD_S, spec.motion.period_s)
    assert isinstance(motion, PolicyMotion)
    return motion


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
    assert on_policy(spec, measured(spec)).motion == motion_scales(KINEMATICS, EPISODES, PERIOD_S, spec.motion.period_s)


def test_the_finest_precision_is_asked_for_in_its_share_of_the_time(spec: PolicySpec) -> None:
    changed = on_policy(spec, measured(spec))
    assert np.mean(sensitivities(changed) > changed.fine_threshold) == pytest.approx(FINE_SHARE, abs=0.05)


def test_nothing_else_changes(spec: PolicySpec) -> None:
    changed = on_policy(spec, measured(spec))
    kept = {field.name for field in fields(PolicySpec)} - {"motion", "fine_threshold"}
    assert all(getattr(changed, name) is getattr(spec, name) for name in kept)


def test_sensitivities_are_what_the_monitor_says_every_tenth_of_a_second(spec: PolicySpec) -> None:
    motion = measured(spec)
    every = sensitivities(replace(spec, motion=motion.scales)).reshape(len(EPISODES), -1)
    looked = motion.sensitivities.reshape(len(EPISODES), -1)
    np.testing.assert_allclose(looked[:, : every[:, ::5].shape[1]], every[:, ::5])


def test_a_threshold_of_0_is_lifted_to_what_a_file_can_hold(spec: PolicySpec, tmp_path: Path) -> None:
    lifted = on_policy(spec, PolicyMotion(spec.motion, np.zeros(9)))
    lifted.save(tmp_path)
    assert PolicySpec.load(tmp_path).fine_threshold == lifted.fine_threshold == 1e-4


def test_an_arm_that_stands_or_is_seen_too_shortly_tells_nothing(spec: PolicySpec) -> None:
    period_s = spec.motion.period_s
    standing = np.repeat(EPISODES[0][:1], 200, axis=0)
    assert measure(KINEMATICS, [standing], PERIOD_S, period_s) == UnknownMotion("the arm hardly moves")
    span_s = KinematicMonitor(KINEMATICS, spec.motion, MonitorConfig()).span_s
    rows = 2 + round(span_s / PERIOD_S)
    short = measure(KINEMATICS, [joints[: rows - 1] for joints in EPISODES], PERIOD_S, period_s)
    assert short == UnknownMotion(f"the arm was not seen moving for {rows * PERIOD_S:.1f} s on end")
    assert measure(KINEMATICS, [], PERIOD_S, period_s) == short
    enough = measure(KINEMATICS, [joints[:rows] for joints in EPISODES], PERIOD_S, period_s)
    assert isinstance(enough, PolicyMotion)
    assert len(enough.sensitivities) == len(EPISODES)
