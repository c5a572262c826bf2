"""The kinematic monitor: closed forms for simple motions, and what must not matter (rate, jitter, noise, epoch)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.motion import KinematicMonitor, MonitorConfig, motion_scales
from vlaq_ros.datatypes import FloatArray, JointWindow, Motion
from vlaq_ros.sim import panda

Path = Callable[[FloatArray], FloatArray]  # times [N] s -> joint positions [N, J]

KINEMATICS = Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME)
HOME = np.array([*panda.HOME_RAD, 0.04])
RADIUS_M = float(np.linalg.norm(KINEMATICS.forward(HOME[None])[0][0, :2]))  # of the tool about the first axis
PERIOD_S = 0.05
EPOCH_NS = 1_700_000_000_000_000_000
FIRST = np.eye(8)[0]


def waypoints(times_s: FloatArray) -> FloatArray:
    """Minimum-jerk moves of 0.8 s between random poses near home, with rests of 0.4 s."""
    rng = np.random.default_rng(5)
    poses = HOME + rng.uniform(-0.3, 0.3, (8, 8)) * ([1] * 7 + [0])
    leg, since = np.divmod(np.clip(times_s, 0, 8.39), 1.2)
    u = np.minimum(since / 0.8, 1)[:, None]
    blend = u**3 * (10 - 15 * u + 6 * u**2)
    index = leg.astype(int)
    return poses[index] + blend * (poses[index + 1] - poses[index])


SCALES = motion_scales(KINEMATICS, [waypoints(np.arange(0, 8.4, 0.02))], 0.02, PERIOD_S)
MONITOR = KinematicMonitor(KINEMATICS, SCALES, MonitorConfig())


def window(path: Path, end_s: float, rate_hz: float, noise_rad: float = 0, jitter: float = 0) -> JointWindow:
    rng = np.random.default_rng(int(rate_hz))
    count = int(MONITOR.span_s * rate_hz * 1.2) + 3
    before_s = np.arange(count)[::-1] / rate_hz
    before_s[1:-1] += jitter / rate_hz * rng.uniform(-0.5, 0.5, count - 2)
    positions = path(end_s - before_s) + noise_rad * rng.normal(size=(count, 8))
    stamps_ns = EPOCH_NS + np.round((end_s - before_s) * 1e9).astype(np.int64)
    return JointWindow(panda.JOINT_NAMES, stamps_ns, positions, np.zeros_like(positions))


def motion(path: Path, end_s: float = 5.0, rate_hz: float = 1000, noise_rad: float = 0, jitter: float = 0) -> Motion:
    result = MONITOR.motion(window(path, end_s, rate_hz, noise_rad, jitter))
    assert result is not None
    return result


def test_at_rest_fineness_is_one_and_jerk_zero() -> None:
    still = motion(lambda t: np.tile(HOME, (len(t), 1)))
    assert (still.motion_fineness, still.angular_jerk, still.sensitivity) == pytest.approx((1, 0, 0.5), abs=1e-9)
    assert still.stamp_ns == EPOCH_NS + 5_000_000_000


@given(st.floats(-1, 1), st.sampled_from([100, 250, 1000]))
def test_turning_at_constant_speed_is_the_chord_and_has_no_jerk(speed_rad_s: float, rate_hz: float) -> None:
    turning = motion(lambda t: HOME + speed_rad_s * t[:, None] * FIRST, rate_hz=rate_hz)
    chord_m = 2 * RADIUS_M * abs(np.sin(speed_rad_s * PERIOD_S / 2))
    assert turning.motion_fineness == pytest.approx(1 - chord_m / SCALES.displacement_m, abs=1e-6)
    assert turning.angular_jerk == pytest.approx(0, abs=1e-5)


@given(st.floats(-2, 2), st.sampled_from([100, 250, 1000]))
def test_constant_angular_acceleration_is_constant_jerk(acceleration_rad_s2: float, rate_hz: float) -> None:
    swinging = motion(lambda t: HOME + 0.5 * acceleration_rad_s2 * (t[:, None] - 5) ** 2 * FIRST, rate_hz=rate_hz)
    expected = abs(acceleration_rad_s2) * PERIOD_S**2 / SCALES.rotation_rad
    assert swinging.angular_jerk == pytest.approx(expected, abs=1e-5)


def test_sensitivity_fuses_by_weight_and_is_never_negative() -> None:
    moving = window(waypoints, 2.9, 500)
    parts = MONITOR.motion(moving)
    assert parts is not None
    for weight in (0.0, 0.3, 1.0):
        fused = KinematicMonitor(KINEMATICS, SCALES, MonitorConfig(fineness_weight=weight)).motion(moving)
        assert fused is not None
        expected = weight * parts.motion_fineness + (1 - weight) * parts.angular_jerk
        assert fused.sensitivity == pytest.approx(expected)
    fast = motion(lambda t: HOME + 2 * t[:, None] * FIRST)
    assert fast.motion_fineness < -0.2
    assert fast.sensitivity == 0


@settings(max_examples=40)
@given(st.floats(0.8, 8.3), st.sampled_from([100, 250, 500]), st.floats(0, 0.8))
def test_the_same_motion_gives_the_same_sensitivity_at_any_rate(end_s: float, rate_hz: float, jitter: float) -> None:
    reference = motion(waypoints, end_s, rate_hz=1000)
    sampled = motion(waypoints, end_s, rate_hz, jitter=jitter)
    assert sampled.sensitivity == pytest.approx(reference.sensitivity, rel=0.02)


@pytest.mark.parametrize(("rate_hz", "allowed"), [(100, 0.03), (250, 0.02), (500, 0.015), (1000, 0.01)])
def test_encoder_noise_of_a_tenth_of_a_milliradian_hardly_moves_the_sensitivity(rate_hz: float, allowed: float) -> None:
    ends_s = np.arange(1.0, 8.3, 0.11)
    clean = np.array([motion(waypoints, end_s, rate_hz).sensitivity for end_s in ends_s])
    noisy = np.array([motion(waypoints, end_s, rate_hz, noise_rad=1e-4).sensitivity for end_s in ends_s])
    assert np.abs(noisy - clean).max() < allowed


def test_encoder_steps_of_a_tenth_of_a_milliradian_hardly_move_the_sensitivity() -> None:
    for end_s in np.arange(1.0, 8.3, 0.11):
        stepped = motion(lambda t: np.round(waypoints(t) / 1e-4) * 1e-4, end_s, 100)
        assert stepped.sensitivity == pytest.approx(motion(waypoints, end_s, 100).sensitivity, abs=0.02)


def test_span_covers_the_longer_of_both_windows() -> None:
    def span_s(macro_s: float, micro_s: float) -> float:
        return KinematicMonitor(KINEMATICS, SCALES, MonitorConfig(macro_s, micro_s)).span_s

    assert span_s(0.5, 0.25) == pytest.approx(0.6)  # 10 displacements of poses that are means over 0.1 s
    assert span_s(0.25, 0.5) == pytest.approx(0.65)  # 10 changes between 11 turns
    assert span_s(0, 0) == pytest.approx(0.2)  # at least one of each


def test_a_window_just_long_enough_is_known_and_a_shorter_one_is_not() -> None:
    full = window(waypoints, 3.0, 100)
    samples = round(MONITOR.span_s * 100) + 1

    def newest(count: int) -> JointWindow:
        return JointWindow(full.names, full.stamps_ns[-count:], full.positions[-count:], full.velocities[-count:])

    shortest, longer = MONITOR.motion(newest(samples)), MONITOR.motion(full)
    assert shortest is not None
    assert longer is not None
    assert shortest.sensitivity == pytest.approx(longer.sensitivity)
    assert MONITOR.motion(newest(samples - 1)) is None
    assert MONITOR.motion(newest(1)) is None


def test_samples_missing_for_longer_than_the_micro_window_make_it_unknown() -> None:
    full = window(waypoints, 3.0, 100)

    def without(first: int, last: int) -> JointWindow:
        keep = np.r_[0 : len(full.stamps_ns) - last, len(full.stamps_ns) - first : len(full.stamps_ns)]
        return JointWindow(full.names, full.stamps_ns[keep], full.positions[keep], full.velocities[keep])

    assert MONITOR.motion(without(10, 30)) is not None
    assert MONITOR.motion(without(10, 40)) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_position_that_is_no_number_makes_it_unknown(value: float) -> None:
    broken = window(waypoints, 3.0, 100)
    broken.positions[7, 2] = value
    assert MONITOR.motion(broken) is None


def test_norms_of_a_constant_turn_are_its_chord() -> None:
    times_s = np.arange(0, 3, PERIOD_S)
    scales = motion_scales(KINEMATICS, [HOME + 0.8 * times_s[:, None] * FIRST], PERIOD_S, PERIOD_S)
    assert scales.period_s == PERIOD_S
    assert scales.displacement_m == pytest.approx(2 * RADIUS_M * np.sin(0.8 * PERIOD_S / 2))
    assert scales.rotation_rad == pytest.approx(0, abs=1e-9)


def test_norms_are_the_95th_percentile_over_all_episodes() -> None:
    """Ninety-four turns at one acceleration and six at another: the percentile is the second one's."""
    times_s = np.arange(0, 5, 1) * PERIOD_S  # four periods: one change of rotation each
    episodes = [HOME + 0.5 * acceleration * times_s[:, None] ** 2 * FIRST for acceleration in [1.0] * 94 + [3.0] * 6]
    scales = motion_scales(KINEMATICS, episodes, PERIOD_S, PERIOD_S)
    assert scales.rotation_rad == pytest.approx(3.0 * PERIOD_S**2)
    too_short = [HOME + times_s[:4, None] ** 2 * 50 * FIRST]
    assert motion_scales(KINEMATICS, [*too_short, *episodes], PERIOD_S, PERIOD_S) == scales


def test_norms_hardly_depend_on_the_rate_of_the_demonstrations() -> None:
    slow = motion_scales(KINEMATICS, [waypoints(np.arange(0, 8.4, PERIOD_S))], PERIOD_S, PERIOD_S)
    assert slow.displacement_m == pytest.approx(SCALES.displacement_m, rel=0.03)
    assert slow.rotation_rad == pytest.approx(SCALES.rotation_rad, rel=0.03)
