"""Splicing a chunk into the running motion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.control.chunks import at_rest, commitment, splice, step_times
from vlaq_ros.control.interpolation import sample
from vlaq_ros.datatypes import FloatArray, Trajectory

OBSERVED_NS = 1_700_000_000_000_000_000
STEP_NS = 50_000_000
STEPS = 16
JOINTS = ("a", "b", "gripper")


def running(seed: int) -> Trajectory:
    """A random motion that began before the observation and ends at rest after the chunk."""
    rng = np.random.default_rng(seed)
    times_ns = np.arange(12, dtype=np.int64) * 150_000_000
    velocities = rng.normal(size=(12, 3))
    velocities[-1] = 0
    positions = np.cumsum(rng.normal(size=(12, 3)) * 0.1, axis=0)
    return Trajectory(OBSERVED_NS - 300_000_000, JOINTS, times_ns, positions, velocities)


def chunk(seed: int) -> FloatArray:
    return np.random.default_rng(seed + 1).normal(size=(STEPS, 3))


def spliced(seed: int, latency_ns: int, **changes: Any) -> Trajectory:
    arguments = {
        "targets": chunk(seed),
        "observation_stamp_ns": OBSERVED_NS,
        "step_s": 0.05,
        "now_ns": OBSERVED_NS + latency_ns,
        "running": running(seed),
        "blend_s": 0.1,
    }
    return splice(**(arguments | changes))


seeds = st.integers(0, 10_000)
latencies_ns = st.integers(0, 1_200_000_000)


@given(seeds, latencies_ns)
def test_the_first_point_is_now_where_the_running_motion_is(seed: int, latency_ns: int) -> None:
    result = spliced(seed, latency_ns)
    assert (result.stamp_ns, result.times_ns[0], result.joint_names) == (OBSERVED_NS, latency_ns, JOINTS)
    np.testing.assert_array_equal(result.positions[0], sample(running(seed), OBSERVED_NS + latency_ns)[0])


@given(seeds, latencies_ns)
def test_exactly_the_steps_at_least_one_step_ahead_are_kept_at_their_times(seed: int, latency_ns: int) -> None:
    every_step_ns = STEP_NS * np.arange(1, STEPS + 1)
    expected = every_step_ns[every_step_ns - latency_ns >= STEP_NS]
    np.testing.assert_array_equal(spliced(seed, latency_ns).times_ns[1:], expected)


@given(seeds, latencies_ns)
def test_after_the_blend_the_chunk_is_followed_and_before_it_lies_between(seed: int, latency_ns: int) -> None:
    result = spliced(seed, latency_ns)
    for time_ns, position in zip(result.times_ns[1:], result.positions[1:], strict=True):
        target = chunk(seed)[time_ns // STEP_NS - 1]
        before = sample(running(seed), OBSERVED_NS + int(time_ns))[0]
        share = (time_ns - latency_ns) / 100_000_000
        if share >= 1:
            np.testing.assert_allclose(position, target, atol=1e-12)
        else:
            assert np.all(position >= np.minimum(before, target))
            assert np.all(position <= np.maximum(before, target))


def test_the_blend_is_a_smoothstep() -> None:
    still = at_rest(JOINTS, np.zeros(3), OBSERVED_NS)
    result = spliced(0, 0, targets=np.ones((STEPS, 3)), running=still, blend_s=0.2)
    np.testing.assert_allclose(result.positions[:, 0], [0, 0.15625, 0.5, 0.84375] + [1] * 13)


@given(seeds, latencies_ns)
def test_without_a_blend_the_chunk_is_followed_from_its_first_kept_step(seed: int, latency_ns: int) -> None:
    result = spliced(seed, latency_ns, blend_s=0.0)
    kept = len(result.times_ns) - 1
    np.testing.assert_allclose(result.positions[1:], chunk(seed)[STEPS - kept :], atol=1e-12)


@given(seeds, latencies_ns)
def test_a_chunk_that_agrees_with_the_running_motion_changes_nothing(seed: int, latency_ns: int) -> None:
    motion = running(seed)
    agreeing = np.stack([sample(motion, OBSERVED_NS + STEP_NS * (k + 1))[0] for k in range(STEPS)])
    result = spliced(seed, latency_ns, targets=agreeing)
    for time_ns, position in zip(result.times_ns, result.positions, strict=True):
        np.testing.assert_allclose(position, sample(motion, OBSERVED_NS + int(time_ns))[0], atol=1e-12)


@pytest.mark.parametrize("latency_ns", [STEP_NS * (STEPS - 1) + 1, STEP_NS * STEPS, 10**12])
def test_a_chunk_that_is_past_leaves_one_point(latency_ns: int) -> None:
    result = spliced(3, latency_ns)
    np.testing.assert_array_equal(result.times_ns, [latency_ns])
    np.testing.assert_array_equal(result.positions[0], sample(running(3), OBSERVED_NS + latency_ns)[0])


def test_an_arm_at_rest_stands_where_it_was_measured() -> None:
    still = at_rest(JOINTS, np.array([0.1, 0.2, 0.3]), OBSERVED_NS)
    for stamp_ns in (OBSERVED_NS - 10**9, OBSERVED_NS, OBSERVED_NS + 10**9):
        positions, velocities, _ = sample(still, stamp_ns)
        np.testing.assert_array_equal(positions, [0.1, 0.2, 0.3])
        np.testing.assert_array_equal(velocities, 0)


def test_commitment_is_the_papers_soft_mask() -> None:
    """Arithmetic of arXiv 2506.07339, eq. 5, in steps: d = 3 are executed, H - s = 11 are commanded."""
    weights = commitment(step_times(16, 0.05), delay_ns=3 * STEP_NS, end_ns=11 * STEP_NS)
    share = (11 - np.arange(3, 11)) / (11 - 3 + 1)
    soft = share * (np.exp(share) - 1) / (np.e - 1)
    np.testing.assert_allclose(weights, [*[1] * 3, *soft, *[0] * 5], atol=1e-12)


@given(st.integers(0, 2_000_000_000), st.integers(-500_000_000, 2_000_000_000))
def test_what_is_executed_binds_fully_and_what_is_not_commanded_not_at_all(delay_ns: int, end_ns: int) -> None:
    times_ns = step_times(STEPS, 0.05)
    weights = commitment(times_ns, delay_ns=delay_ns, end_ns=end_ns)
    commanded = times_ns <= end_ns
    np.testing.assert_array_equal(weights[~commanded], 0)
    np.testing.assert_array_equal(weights[commanded & (times_ns <= delay_ns)], 1)
    assert np.all((weights[commanded] > 0) & (weights[commanded] <= 1))
    assert np.all(np.diff(weights) <= 0)
