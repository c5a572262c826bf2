"""The observer: what blocks an observation, in which words, and that what it gives belongs together."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros import messages, observe
from vlaq_ros.config import JointConfig, RobotConfig
from vlaq_ros.datatypes import ImageArray, Observation, Stale
from vlaq_ros.joints import JointMap
from vlaq_ros.observe import JOINT_STATES, JointRing, Observer, Tally

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND
NAMES = ("a", "b")
ROBOT = replace(RobotConfig.load("sim_panda"), arm_joints=("a",), gripper_joint="b")
JOINTS = JointMap.whole(ROBOT)


def header(stamp_ns: int) -> SimpleNamespace:
    sec, nanosec = divmod(stamp_ns, SECOND)
    return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec))


def show(watching: Observer, camera: str, stamp_ns: int, value: int = 0, encoding: str = "rgb8") -> None:
    data = np.full(12, value, dtype=np.uint8)
    image = SimpleNamespace(height=2, width=2, step=6, encoding=encoding, data=data)
    watching.push_image(camera, stamp_ns, partial(messages.image, image))


def joints(stamp_ns: int, positions: list[float], names: tuple[str, ...] = NAMES) -> Any:
    velocity = [10 * value for value in positions]
    return SimpleNamespace(header=header(stamp_ns), name=list(names), position=positions, velocity=velocity)


def observer(**ages: float) -> Observer:
    limits = {"max_image_age_s": 0.3, "max_camera_skew_s": 0.1, "max_joint_age_s": 0.2} | ages
    return Observer(("front", "wrist"), JOINTS, **limits)


def ready(**ages: float) -> Observer:
    """Both images 50 ms old, joints from 150 ms to 0 ms old, an instruction."""
    watching = observer(**ages)
    for age_ms in (150, 100, 50, 0):
        stamp_ns = NOW - age_ms * 1_000_000
        watching.push_joints(joints(stamp_ns, [-age_ms / 100, 1.0]))
    show(watching, "front", NOW - SECOND // 20, 1)
    show(watching, "wrist", NOW - SECOND // 20, 2)
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
    show(watching, "front", NOW + SECOND // 2)
    watching.push_joints(joints(NOW + SECOND // 2, [0.0, 0.0]))
    assert reasons(watching, NOW + SECOND // 2) == ("camera wrist: 0.55 s old, allowed 0.30 s",)
    show(watching, "wrist", NOW + SECOND // 2)
    assert isinstance(watching.sample(NOW + SECOND // 2), Observation)


def test_joint_states_that_stopped_block() -> None:
    assert reasons(ready(max_image_age_s=1.0), NOW + SECOND // 4) == ("joint states: 0.25 s old, allowed 0.20 s",)


def test_images_that_do_not_belong_together_block() -> None:
    watching = ready()
    show(watching, "front", NOW + SECOND // 10)
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
    show(watching, "front", NOW, encoding="16UC1")
    assert reasons(watching) == (
        "camera front: the image has encoding '16UC1'; expected 8 bits per channel, as policies are trained on: "
        "rgb8, bgr8, rgba8, bgra8, mono8",
    )
    assert watching.blocking(NOW) == reasons(watching)  # said without decoding again
    show(watching, "front", NOW + 1)
    assert isinstance(watching.sample(NOW), Observation)
    assert watching.blocking(NOW) == ()


def test_only_images_of_an_observation_are_decoded_and_where_it_is_taken() -> None:
    watching = ready()
    decoded: list[tuple[int, int]] = []

    def decode(number: int) -> ImageArray:
        decoded.append((number, threading.get_ident()))
        return np.zeros((2, 2, 3), np.uint8)

    for number in range(1, 10):
        for camera in ("front", "wrist"):
            watching.push_image(camera, NOW + number, partial(decode, number))
    watching.ages_s(NOW)
    watching.rates_hz(NOW)
    assert watching.blocking(NOW) == ()
    assert decoded == []
    thread = threading.Thread(target=watching.sample, args=(NOW,))
    thread.start()
    identity = thread.ident
    thread.join()
    assert decoded == [(9, identity)] * 2


def test_everything_leaves_under_the_right_name_and_in_si() -> None:
    described = {
        "a": JointConfig(policy="shoulder", message="1", unit="deg", scale=-1.0, offset=1.0),
        "b": JointConfig(message="2", unit="mm"),
    }
    watching = Observer(
        ("front",),
        JointMap(replace(ROBOT, joints=described), ("b", "shoulder")),
        max_image_age_s=0.3,
        max_camera_skew_s=0.1,
        max_joint_age_s=0.2,
    )
    watching.push_instruction("go")
    watching.push_joints(joints(NOW, [180.0, 40.0], ("1", "2")))
    show(watching, "front", NOW)
    sampled, window = watching.sample(NOW), watching.joints(0.0)
    assert isinstance(sampled, Observation)
    assert window is not None
    assert (sampled.joint_names, window.names) == (("b", "shoulder"), ("b", "a"))
    np.testing.assert_allclose(sampled.joint_positions, [0.04, 1.0 - np.pi])
    np.testing.assert_allclose(window.positions, [[0.04, 1.0 - np.pi]])
    np.testing.assert_allclose(window.velocities, [[0.4, -10 * np.pi]])


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
    show(watching, "front", NOW + SECOND // 10)
    show(watching, "wrist", NOW + SECOND // 10)
    sampled = watching.sample(NOW + SECOND // 10)
    assert isinstance(sampled, Observation)
    np.testing.assert_array_equal(sampled.joint_positions, [0.0, 1.0])


def test_joints_are_not_extrapolated_to_an_image_before_them() -> None:
    watching = observer()
    watching.push_instruction("go")
    for camera in ("front", "wrist"):
        show(watching, camera, NOW - SECOND // 5)
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
        show(watching, camera, image_ns)
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


def test_an_image_between_joint_states_that_are_too_far_apart_blocks() -> None:
    watching = observer()
    watching.push_instruction("go")
    for stamp_ns in (NOW - SECOND // 4, NOW):
        watching.push_joints(joints(stamp_ns, [0.0, 0.0]))
    for camera in ("front", "wrist"):
        show(watching, camera, NOW - SECOND // 10)
    assert reasons(watching) == ("joint states: 0.25 s apart at the image, allowed 0.20 s",)
    for camera in ("front", "wrist"):
        show(watching, camera, NOW)
    assert isinstance(watching.sample(NOW), Observation)


def test_images_alone_tell_that_time_jumped_back() -> None:
    """Joint states have stopped; an inference that runs must still be told that its answer belongs to another time."""
    watching = ready()
    epoch, past = watching.epoch, NOW - 100 * SECOND
    show(watching, "wrist", past)
    assert watching.epoch == epoch + 1
    assert watching.joints(10.0) is None
    assert reasons(watching, past) == ("camera front: no image received", "joint states: none received")


def test_one_stamp_from_the_future_blocks_until_the_next_message() -> None:
    watching = ready()
    show(watching, "front", NOW + 1000 * SECOND)
    assert reasons(watching) == ("camera front: stamped 1000.00 s in the future; synchronise the clocks",)
    later = NOW + SECOND // 30
    show(watching, "front", later)
    show(watching, "wrist", later)
    watching.push_joints(joints(later, [0.0, 0.0]))
    assert isinstance(watching.sample(later), Observation)


def test_one_joint_state_from_the_future_blocks_until_the_next_message() -> None:
    watching = ready()
    watching.push_joints(joints(NOW + 1000 * SECOND, [0.0, 0.0]))
    assert reasons(watching) == ("joint states: stamped 1000.00 s in the future; synchronise the clocks",)
    later = NOW + SECOND // 30
    watching.push_joints(joints(later, [0.0, 0.0]))
    for camera in ("front", "wrist"):
        show(watching, camera, later)
    assert isinstance(watching.sample(later), Observation)


JUNK = st.tuples(st.sampled_from(["front", "wrist", JOINT_STATES]), st.floats(-2, 2) | st.floats(-1e6, 1e6))


@given(st.lists(JUNK, max_size=20))
def test_whatever_came_before_half_a_second_of_fresh_messages_is_enough(junk: list[tuple[str, float]]) -> None:
    watching = observer()
    watching.push_instruction("go")
    for name, offset_s in junk:
        stamp_ns = NOW + round(offset_s * SECOND)
        if name == JOINT_STATES:
            watching.push_joints(joints(stamp_ns, [9.0, 9.0]))
        else:
            show(watching, name, stamp_ns, 9)
    for tick in range(1, 51):
        stamp_ns = NOW + tick * SECOND // 100
        watching.push_joints(joints(stamp_ns, [0.0, 0.0]))
        if tick % 5 == 0:
            for camera in ("front", "wrist"):
                show(watching, camera, stamp_ns)
    sampled = watching.sample(NOW + SECOND // 2)
    assert isinstance(sampled, Observation)
    assert sampled.stamp_ns == NOW + SECOND // 2
    assert all(pixels.max() == 0 for pixels in sampled.images.values())
    np.testing.assert_array_equal(sampled.joint_positions, [0.0, 0.0])


@given(st.permutations(range(6)))
def test_images_that_come_out_of_order_do_not_go_back_in_time(order: list[int]) -> None:
    watching = ready()
    epoch = watching.epoch
    for number in order:
        for camera in ("front", "wrist"):
            show(watching, camera, NOW - (5 - number) * SECOND // 30, number)
    sampled = watching.sample(NOW)
    assert isinstance(sampled, Observation)
    assert sampled.stamp_ns == NOW
    assert {int(pixels.max()) for pixels in sampled.images.values()} == {5}
    assert watching.epoch == epoch


@pytest.mark.parametrize("seed", range(10))
def test_drop_outs_of_a_fifth_hardly_block_and_never_deceive(seed: int) -> None:
    """Two cameras at 30 Hz and joint states at 100 Hz: three losses in a row pull two cameras too far apart."""
    random = np.random.default_rng(seed)
    watching = observer()
    watching.push_instruction("go")
    arrivals = [(NOW + tick * SECOND // 30, camera) for tick in range(120) for camera in ("front", "wrist")]
    arrivals += [(NOW + tick * SECOND // 100, JOINT_STATES) for tick in range(400)]
    newest_joints_s, blocked = 0.0, []
    for stamp_ns, name in sorted(arrivals):
        if random.random() < 0.2:
            continue
        now_s = (stamp_ns - NOW) / SECOND
        if name == JOINT_STATES:
            watching.push_joints(joints(stamp_ns, [now_s, -now_s]))
            newest_joints_s = now_s
        else:
            show(watching, name, stamp_ns)
        sampled = watching.sample(stamp_ns)
        blocked.append(isinstance(sampled, Stale))
        if isinstance(sampled, Observation):
            at_s = min((sampled.stamp_ns - NOW) / SECOND, newest_joints_s)
            np.testing.assert_allclose(sampled.joint_positions, [at_s, -at_s], atol=1e-9)
    assert np.mean(blocked) < 0.1


def test_a_bag_that_loops_gives_the_same_observations_again() -> None:
    watching = observer()
    watching.push_instruction("go")
    loops: list[list[tuple[int, float, int]]] = [[], []]
    epochs = []
    for loop in loops:
        for tick in range(100):
            stamp_ns = NOW + tick * SECOND // 100
            watching.push_joints(joints(stamp_ns, [tick / 100, 0.0]))
            if tick % 5 == 0:
                for camera in ("front", "wrist"):
                    show(watching, camera, stamp_ns, tick)
                sampled = watching.sample(stamp_ns)
                assert isinstance(sampled, Observation)
                loop.append((sampled.stamp_ns, sampled.joint_positions[0], int(sampled.images["front"].max())))
        epochs.append(watching.epoch)
    assert loops[0] == loops[1]
    assert len(loops[0]) == 20
    assert np.diff(epochs).tolist() == [1]


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


def test_rates_are_nan_at_first_then_count_what_came() -> None:
    watching = observer()
    assert all(np.isnan(rate_hz) for rate_hz in watching.rates_hz(NOW).values())
    for tick in range(120):
        stamp_ns = NOW + tick * SECOND // 30
        if tick % 4:
            show(watching, "front", stamp_ns)
        show(watching, "wrist", stamp_ns)
        show(watching, "wrist", stamp_ns)  # a repeated frame is none
        arrived_ns = stamp_ns + SECOND // 10
        rates_hz = watching.rates_hz(arrived_ns)
        if tick > 61:
            assert rates_hz == pytest.approx({"front": 22.5, "wrist": 30.0}, abs=0.5)
        elif tick < 60:
            assert all(np.isnan(rate_hz) for rate_hz in rates_hz.values())
    assert watching.rates_hz(arrived_ns + SECOND)["wrist"] == pytest.approx(30 * 0.6, abs=1)  # 0.3 s may be travel
    assert watching.rates_hz(arrived_ns + 3 * SECOND) == {"front": 0.0, "wrist": 0.0}
    show(watching, "front", NOW)  # time jumps: counting begins anew
    assert all(np.isnan(rate_hz) for rate_hz in watching.rates_hz(NOW).values())
    show(watching, "front", NOW + 2 * SECOND)
    assert watching.rates_hz(NOW + 2 * SECOND) == {"front": 0.5, "wrist": 0.0}  # it lost everything, or never sent


@given(st.permutations(range(80)))
def test_images_are_counted_in_whatever_order_they_come(order: list[int]) -> None:
    tally = Tally()
    for number in order:
        tally.count(NOW + number * SECOND // 40)
    assert tally.rate_hz(NOW + 79 * SECOND // 40) == 40.0


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
