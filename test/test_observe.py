"""The observer: what blocks an observation, in which words, and that what it gives belongs together."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros import observe
from vlaq_ros.datatypes import Observation, Stale
from vlaq_ros.observe import JOINT_STATES, JointRing, Observer

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND
NAMES = ("a", "b")


def header(stamp_ns: int) -> SimpleNamespace:
    sec, nanosec = divmod(stamp_ns, SECOND)
    return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec))


def image(stamp_ns: int, value: int = 0, encoding: str = "rgb8") -> Any:
    data = np.full(12, value, dtype=np.uint8)
    return SimpleNamespace(header=header(stamp_ns), height=2, width=2, step=6, encoding=encoding, data=data)


def joints(stamp_ns: int, positions: list[float], names: tuple[str, ...] = NAMES) -> Any:
    velocity = [10 * value for value in positions]
    return SimpleNamespace(header=header(stamp_ns), name=list(names), position=positions, velocity=velocity)


def observer(**ages: float) -> Observer:
    limits = {"max_image_age_s": 0.3, "max_camera_skew_s": 0.1, "max_joint_age_s": 0.2} | ages
    return Observer(("front", "wrist"), NAMES, **limits)


def ready(**ages: float) -> Observer:
    """Both images 50 ms old, joints from 150 ms to 0 ms old, an instruction."""
    watching = observer(**ages)
    for age_ms in (150, 100, 50, 0):
        stamp_ns = NOW - age_ms * 1_000_000
        watching.push_joints(joints(stamp_ns, [-age_ms / 100, 1.0]))
    watching.push_image("front", image(NOW - SECOND // 20, 1))
    watching.push_image("wrist", image(NOW - SECOND // 20, 2))
    watching.push_instruction("pick up the red cube")
    return watching


def reasons(watching: Observer, now_ns: int = NOW) -> tuple[str, ...]:
    sampled = watching.sample(now_ns)
    assert isinstance(sampled, Stale)
    return sampled.reasons


def test_an_observation_holds_what_was_pushed() -> None:
    sampled = ready().sample(NOW)
    assert isinstance(sampled, Observation)
    assert sampled.stamp_ns == NOW - SECOND // 20
    assert sampled.instruction == "pick up the red cube"
    assert sampled.joint_names == NAMES
    np.testing.assert_allclose(sampled.joint_positions, [-0.5, 1.0], atol=1e-12)
    assert {name: pixels.max() for name, pixels in sampled.images.items()} == {"front": 1, "wrist": 2}
    assert sampled.images["front"].shape == (2, 2, 3)


def test_every_missing_input_is_named() -> None:
    assert reasons(observer()) == (
        "instruction: none given",
        "camera front: no image received",
        "camera wrist: no image received",
        "joint states: none received",
    )


def test_a_camera_that_stopped_blocks_and_recovers() -> None:
    watching = ready()
    watching.push_image("front", image(NOW + SECOND // 2))
    watching.push_joints(joints(NOW + SECOND // 2, [0.0, 0.0]))
    assert reasons(watching, NOW + SECOND // 2) == ("camera wrist: 0.55 s old, allowed 0.30 s",)
    watching.push_image("wrist", image(NOW + SECOND // 2))
    assert isinstance(watching.sample(NOW + SECOND // 2), Observation)


def test_joint_states_that_stopped_block() -> None:
    assert reasons(ready(max_image_age_s=1.0), NOW + SECOND // 4) == ("joint states: 0.25 s old, allowed 0.20 s",)


def test_images_that_do_not_belong_together_block() -> None:
    watching = ready()
    watching.push_image("wrist", image(NOW - SECOND // 5))
    assert reasons(watching) == ("cameras wrist, front: 0.15 s apart, allowed 0.10 s",)


def test_stamps_of_another_clock_block() -> None:
    watching = ready()
    assert reasons(watching, NOW - SECOND) == (
        "camera front: stamped 0.95 s in the future; synchronise the clocks",
        "camera wrist: stamped 0.95 s in the future; synchronise the clocks",
        "joint states: stamped 1.00 s in the future; synchronise the clocks",
    )


def test_an_image_that_cannot_be_decoded_blocks() -> None:
    watching = ready()
    watching.push_image("front", image(NOW, encoding="16UC1"))
    assert reasons(watching) == (
        "camera front: the image has encoding '16UC1'; expected one of rgb8, bgr8, rgba8, bgra8, mono8",
    )


def test_joint_states_without_a_joint_are_refused_once_in_words() -> None:
    watching = observer()
    for age in (2, 1):
        watching.push_joints(joints(NOW - age, [1.0, 2.0], ("a", "c")))
    text = "joint states: the joint state has no joint named b; it has: a, c; correct the robot's YAML file"
    assert reasons(watching).count(text) == 1
    assert watching.joints(1.0) is None
    watching.push_joints(joints(NOW, [1.0, 2.0]))
    assert not any(reason.startswith("joint states") for reason in reasons(watching))


def test_a_refusal_explains_why_joint_states_grew_old() -> None:
    watching = ready(max_image_age_s=1.0)
    watching.push_joints(joints(NOW + SECOND // 4, [1.0], ("a",)))
    assert reasons(watching, NOW + SECOND // 4) == (
        "joint states: the joint state has no joint named b; it has: a; correct the robot's YAML file",
    )


def test_an_image_newer_than_the_joints_takes_the_newest_joints() -> None:
    watching = ready()
    watching.push_image("front", image(NOW + SECOND // 10))
    watching.push_image("wrist", image(NOW + SECOND // 10))
    sampled = watching.sample(NOW + SECOND // 10)
    assert isinstance(sampled, Observation)
    np.testing.assert_array_equal(sampled.joint_positions, [0.0, 1.0])


def test_joints_are_not_extrapolated_to_an_image_before_them() -> None:
    watching = observer()
    watching.push_instruction("go")
    for camera in ("front", "wrist"):
        watching.push_image(camera, image(NOW - SECOND // 5))
    watching.push_joints(joints(NOW - SECOND // 10, [0.0, 0.0]))
    assert reasons(watching) == ("joint states: the first one came 0.10 s after the image",)


@given(st.floats(0, 0.149), st.integers(0, 2**32))
def test_joints_are_interpolated_linearly_to_the_image(age_s: float, seed: int) -> None:
    slope, offset = np.random.default_rng(seed).normal(size=(2, 2))
    watching = observer()
    watching.push_instruction("go")
    for age_ms in range(150, -1, -7):
        stamp_ns = NOW - age_ms * 1_000_000
        watching.push_joints(joints(stamp_ns, list(offset - slope * age_ms / 1000)))
    image_ns = NOW - round(age_s * 1e9)
    for camera in ("front", "wrist"):
        watching.push_image(camera, image(image_ns))
    sampled = watching.sample(NOW)
    assert isinstance(sampled, Observation)
    newest_joints_s = 0.003  # held from there on, never extrapolated
    np.testing.assert_allclose(sampled.joint_positions, offset - slope * max(age_s, newest_joints_s), atol=1e-9)


def test_a_jump_back_in_time_forgets_what_was_before() -> None:
    watching = ready()
    epoch = watching.epoch
    watching.push_joints(joints(NOW - 100 * SECOND, [5.0, 5.0]))
    assert watching.epoch == epoch + 1
    window = watching.joints(10.0)
    assert window is not None
    np.testing.assert_array_equal(window.positions, [[5.0, 5.0]])
    assert reasons(watching, NOW - 100 * SECOND) == (
        "camera front: no image received",
        "camera wrist: no image received",
    )


@pytest.mark.parametrize("late_ns", [0, 1, SECOND // 5])
def test_a_late_or_repeated_joint_state_is_dropped(late_ns: int) -> None:
    watching = ready()
    epoch = watching.epoch
    watching.push_joints(joints(NOW - late_ns, [5.0, 5.0]))
    window = watching.joints(10.0)
    assert window is not None
    assert (np.diff(window.stamps_ns) > 0).all()
    assert 5.0 not in window.positions
    assert watching.epoch == epoch


def test_only_another_instruction_starts_an_epoch() -> None:
    watching = ready()
    epoch = watching.epoch
    watching.push_instruction("pick up the red cube")
    assert watching.epoch == epoch
    watching.push_instruction("pick up the blue cube")
    assert (watching.epoch, watching.instruction) == (epoch + 1, "pick up the blue cube")
    watching.push_instruction("")
    assert watching.epoch == epoch + 2
    assert reasons(watching) == ("instruction: none given",)


def test_ages() -> None:
    ages_s = ready().ages_s(NOW + SECOND // 20)
    assert ages_s == pytest.approx({"front": 0.1, "wrist": 0.1, JOINT_STATES: 0.05})
    assert all(np.isnan(age) for age in observer().ages_s(NOW).values())


@given(st.integers(1, 40), st.integers(0, 60), st.integers(0, 70))
def test_ring_gives_the_fewest_newest_samples_that_cover_a_span(capacity: int, count: int, span_ns: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(observe, "_JOINT_HISTORY", capacity)
        ring = JointRing(1)
        pushed = [(2 * i, float(i)) for i in range(count)]
        for stamp_ns, value in pushed:
            ring.append(stamp_ns, np.array([value]), np.array([-value]))
        stamps_ns, positions, velocities = ring.last(span_ns)
    kept = len(stamps_ns)
    np.testing.assert_array_equal(stamps_ns, [stamp for stamp, _ in pushed[count - kept :]])
    np.testing.assert_array_equal(positions[:, 0], [value for _, value in pushed[count - kept :]])
    np.testing.assert_array_equal(velocities, -positions)
    if kept > 1:
        assert stamps_ns[-1] - stamps_ns[1] < span_ns
    if kept < min(count, capacity):
        assert stamps_ns[-1] - stamps_ns[0] >= span_ns
    assert ring.newest_ns() == (pushed[-1][0] if pushed else None)


def test_windows_do_not_alias_the_ring() -> None:
    watching = ready()
    window = watching.joints(0.1)
    assert window is not None
    window.positions[:] = 9.0
    again = watching.joints(0.1)
    assert again is not None
    assert again.positions.max() == 1.0
    assert again.stamp_ns == NOW


def test_pushing_and_sampling_from_two_threads() -> None:
    watching = ready(max_image_age_s=100.0, max_joint_age_s=100.0)

    def push() -> None:
        for i in range(1, 10_000):
            watching.push_joints(joints(NOW + i, [float(i), -float(i)]))

    pushing = threading.Thread(target=push)
    pushing.start()
    while pushing.is_alive():
        window = watching.joints(1.0)
        assert window is not None
        rows = window.stamps_ns > NOW
        np.testing.assert_array_equal(window.positions[rows, 0], window.stamps_ns[rows] - NOW)
        np.testing.assert_array_equal(window.positions[rows, 1], -window.positions[rows, 0])
    pushing.join()
    assert watching.joints(0.0).stamp_ns == NOW + 9_999
