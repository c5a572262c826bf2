"""Serialized messages: what is read where it lies is what rclpy deserializes, however many are read at once."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Header

from vlaq_ros import messages
from vlaq_ros.config import RobotConfig
from vlaq_ros.errors import JointNamesError, UnusableMessageError
from vlaq_ros.joints import JointMap
from vlaq_ros.observe import Observer
from vlaq_ros.ros import serialized
from vlaq_ros.ros.serialized import JointLayout, JointStates

NAMES = ("a", "b")
ROBOT = replace(RobotConfig.load("sim_panda"), arm_joints=("a",), gripper_joint="b")
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
STORE = get_typestore(Stores.ROS2_KILTED)
START_S = 1_700_000_000

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)
numbers = st.floats(allow_nan=False, allow_infinity=False)


def state(time_ns: int, names: tuple[str, ...] = NAMES, frame: str = "base", **numbers: list[float]) -> JointState:
    seconds, nanoseconds = divmod(time_ns, 10**9)
    header = Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=frame)
    return JointState(header=header, name=names, **({"position": [time_ns * 1e-9] * len(names)} | numbers))


def layout(message: JointState) -> JointLayout:
    return JointLayout(serialize_message(message), message, NAMES)


def assert_read(found: JointLayout, raws: list[bytes]) -> None:
    """What a layout reads is what rclpy does."""
    read = found.read(raws)
    assert read is not None
    each = [deserialize_message(raw, JointState) for raw in raws]
    assert read[0].tolist() == [messages.stamp_ns(message.header.stamp) for message in each]
    for ours, theirs in zip(
        read[1:], zip(*(messages.joint_state(one, NAMES) for one in each), strict=True), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@st.composite
def alike(draw: st.DrawFn) -> list[JointState]:
    """Messages that differ in nothing but numbers; other joints may be among them."""
    others = draw(st.lists(texts.filter(lambda text: text not in NAMES), max_size=4))
    names, frame = tuple(draw(st.permutations([*NAMES, *others]))), draw(texts)
    sizes = {"position": len(names)} | {
        field: draw(st.sampled_from([0, 1, len(names)])) for field in ("velocity", "effort")
    }
    values = {field: st.lists(numbers, min_size=size, max_size=size) for field, size in sizes.items()}
    times_ns = st.integers(-(2**31) * 10**9, 2**31 * 10**9 - 1)
    return [
        state(time_ns, names, frame, **draw(st.fixed_dictionaries(values)))
        for time_ns in draw(st.lists(times_ns, min_size=1, max_size=4))
    ]


@given(alike())
def test_joint_states_that_differ_in_numbers_alone_are_read_at_once(states: list[JointState]) -> None:
    assert_read(layout(states[-1]), [serialize_message(message) for message in states])


@settings(max_examples=15)
@given(alike(), st.integers(1, 255))
def test_a_byte_that_changes_is_read_as_rclpy_reads_it_or_not_at_all(states: list[JointState], change: int) -> None:
    """A number, or a byte that aligns the next field, which serializers need not clear; never a text or a length."""
    raw = serialize_message(states[0])
    found, read = layout(states[0]), 0
    for position in range(len(raw)):
        changed = raw[:position] + bytes([raw[position] ^ change]) + raw[position + 1 :]
        if found.read([changed]) is not None:
            assert_read(found, [changed])
            read += 1
    assert read >= 8  # the bytes of the stamp


@pytest.mark.parametrize(
    "other",
    [
        state(2, ("b", "a")),
        state(2, frame="bass"),
        state(2, ("a", "b", "c")),
        state(2, velocity=[1.0, 2.0]),
        state(2, position=[1.0, float("nan")]),
    ],
)
def test_one_joint_state_that_is_otherwise_keeps_all_from_being_read_at_once(other: JointState) -> None:
    same = [serialize_message(state(time_ns)) for time_ns in range(3)]
    found = layout(state(1))
    assert found.read(same) is not None
    assert found.read([*same, serialize_message(other)]) is None


def test_only_little_endian_is_laid_out() -> None:
    types, message = STORE.types, state(1)
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](0, 1), message.header.frame_id)
    values = (np.asarray(getattr(message, field)) for field in ("position", "velocity", "effort"))
    same, kind = types["sensor_msgs/msg/JointState"](header, message.name, *values), "sensor_msgs/msg/JointState"
    little, big = (bytes(STORE.serialize_cdr(same, kind, little_endian=order)) for order in (True, False))
    found = JointLayout(little, message, NAMES)
    assert_read(found, [little])
    assert found.read([big]) is None
    with pytest.raises(UnusableMessageError) as caught:
        JointLayout(big, message, NAMES)
    assert str(caught.value) == "the joint state is encoded as 0000; expected 0001"


def test_a_joint_state_that_cannot_be_used_has_no_layout() -> None:
    with pytest.raises(JointNamesError):
        layout(state(1, ("a", "c")))
    with pytest.raises(UnusableMessageError):
        layout(state(1, position=[1.0]))


MS = 1_000_000
CAME = [  # ms after the start, and what is otherwise about a joint state
    *[(10 * i, {}) for i in range(5)],
    *[(35, {}), (60, {"names": ("x", "b", "a")}), (70, {"names": ("x", "b", "a")}), (80, {}), (80, {})],
    *[(90, {"position": [1.0, float("inf")]}), (100, {"names": ("a",)}), (110, {"velocity": [3.0, 4.0]})],
    *[(120, {"velocity": [5.0, 6.0]}), (-5_000, {}), (-4_990, {}), (-4_980, {"frame": ""}), (130, {}), (-4_970, {})],
]


@given(st.lists(st.integers(1, 6), min_size=1))
def test_an_observer_sees_the_same_however_many_come_at_once(sizes: list[int]) -> None:
    """Late ones, doubles, jumps in time, other layouts, and what cannot be used."""

    def observer() -> Observer:
        return Observer((), JointMap.whole(ROBOT), max_image_age_s=0.3, max_camera_skew_s=0.1, max_joint_age_s=0.2)

    def told(watching: Observer) -> Any:
        window = watching.joints(10.0)
        arrays = () if window is None else (window.stamps_ns, window.positions, window.velocities)
        said = watching.epoch, watching.kept, watching.ages_s(START_S * 10**9), watching.blocking(START_S * 10**9)
        return [array.tolist() for array in arrays], said

    one_by_one, at_once = observer(), observer()
    inputs = JointStates(at_once)
    states = [state(START_S * 10**9 + came_ms * MS, **how) for came_ms, how in CAME]
    for size in sizes:
        some, states = states[:size], states[size:]
        for message in some:
            one_by_one.push_joints(message)
        if some:
            inputs.push([serialize_message(message) for message in some])
        np.testing.assert_equal(told(at_once), told(one_by_one))


def images() -> dict[str, bytes]:
    data = array("B", cv2.imencode(".png", PIXELS[..., ::-1])[1].tobytes())
    plain = Image(height=4, width=6, encoding="rgb8", step=18, data=array("B", PIXELS.tobytes()))
    return {
        "Image": serialize_message(plain),
        "CompressedImage": serialize_message(CompressedImage(format="png", data=data)),
    }


def test_images_come_back() -> None:
    for kind, raw in images().items():
        np.testing.assert_array_equal(serialized.image(kind, raw), PIXELS)


def test_pixels_are_not_copied() -> None:
    raw = images()["Image"]
    assert np.shares_memory(serialized.image("Image", raw), np.frombuffer(raw, np.uint8))


def test_an_image_that_is_cut_short_is_unusable() -> None:
    for kind, raw in images().items():
        for length in range(0, len(raw) - 3, 7):
            with pytest.raises(UnusableMessageError, match=r"^the image cannot be read \(.*\); expected a whole"):
                serialized.image(kind, raw[:length])
