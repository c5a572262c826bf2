"""Decoding: closed forms, what is refused, and that a live message and one from a bag give the same arrays."""

from __future__ import annotations

import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Duration, Time
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vlaq_ros import messages
from vlaq_ros.errors import JointNamesError, UnusableMessageError

STAMP = Time(sec=1_700_000_000, nanosec=123_456_789)
EIGHT_BITS = "8 bits per channel, as policies are trained on: rgb8, bgr8, rgba8, bgra8, mono8"
CHANNELS = {"rgb8": "rgb", "bgr8": "bgr", "rgba8": "rgba", "bgra8": "bgra", "mono8": "m"}


def encode(pixels: np.ndarray, encoding: str, padding: int = 0) -> Image:
    """A message of RGB pixels [H, W, 3], by the definition of the encoding's name; mono8 shows red."""
    planes = {"r": pixels[..., 0], "g": pixels[..., 1], "b": pixels[..., 2], "m": pixels[..., 0]}
    planes["a"] = np.full(pixels.shape[:2], 7, dtype=np.uint8)
    packed = np.stack([planes[letter] for letter in CHANNELS[encoding]], axis=-1)
    rows = packed.reshape(len(pixels), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    return Image(
        header=Header(stamp=STAMP, frame_id="camera"),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=rows.shape[1],
        data=array.array("B", rows.tobytes()),
    )


def joints(names: list[str], positions: list[float], velocities: list[float]) -> JointState:
    return JointState(header=Header(stamp=STAMP), name=names, position=positions, velocity=velocities)


def point(seconds: float, positions: list[float], **rest: list[float]) -> JointTrajectoryPoint:
    whole, fraction = divmod(round(seconds * 1e9), 10**9)
    return JointTrajectoryPoint(positions=positions, time_from_start=Duration(sec=whole, nanosec=fraction), **rest)


@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(0, 4), st.sampled_from(sorted(CHANNELS)), st.integers(0, 2**32)
)
def test_image_of_any_encoding_and_row_padding(height: int, width: int, padding: int, encoding: str, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if encoding == "mono8":
        pixels = np.repeat(pixels[..., :1], 3, axis=-1)
    decoded = messages.image(encode(pixels, encoding, padding))
    np.testing.assert_array_equal(decoded, pixels)
    assert decoded.flags.c_contiguous


def test_pixels_are_copied_only_where_they_lie_otherwise() -> None:
    for encoding, padding, shared in [("rgb8", 0, True), ("rgb8", 1, False), ("bgr8", 0, False), ("mono8", 0, False)]:
        message = encode(np.zeros((2, 2, 3), dtype=np.uint8), encoding, padding)
        assert np.shares_memory(messages.image(message), np.frombuffer(message.data, np.uint8)) == shared


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"encoding": "16UC1"},
            f"the image has encoding '16UC1'; expected {EIGHT_BITS}",
        ),
        (
            {"encoding": "rgb16"},
            f"the image has encoding 'rgb16'; expected {EIGHT_BITS}",
        ),
        (
            {"step": 11},
            "the image of 4 x 2 pixels has 24 bytes in rows of 11; expected rows of 12 bytes or more, for rgb8",
        ),
        (
            {"data": array.array("B", bytes(23))},
            "the image of 4 x 2 pixels has 23 bytes in rows of 12; expected rows of 12 bytes or more, for rgb8",
        ),
        (
            {"height": 0, "data": array.array("B")},
            "the image of 4 x 0 pixels has 0 bytes in rows of 12; expected rows of 12 bytes or more, for rgb8",
        ),
    ],
)
def test_unusable_image(changes: dict[str, Any], text: str) -> None:
    message = encode(np.zeros((2, 4, 3), dtype=np.uint8), "rgb8")
    for field, value in changes.items():
        setattr(message, field, value)
    with pytest.raises(UnusableMessageError) as caught:
        messages.image(message)
    assert str(caught.value) == text


def compressed(pixels: np.ndarray, extension: str, described: str) -> CompressedImage:
    """A message of pixels [H, W] or [H, W, C] in the order that OpenCV takes: blue, green, red, alpha."""
    encoded, data = cv2.imencode(extension, pixels)
    assert encoded
    return CompressedImage(
        header=Header(stamp=STAMP), format=described, data=array.array("B", np.asarray(data).tobytes())
    )


@pytest.mark.parametrize("described", ["png", "bgr8; png compressed bgr8", "rgb8; png compressed bgr8"])
def test_png_comes_back_to_the_bit(described: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    decoded = messages.compressed_image(compressed(pixels[..., ::-1], ".png", described))
    np.testing.assert_array_equal(decoded, pixels)
    assert decoded.flags.c_contiguous


def test_grey_and_transparent_images_become_colour() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    grey = messages.compressed_image(compressed(pixels[..., 0], ".png", "mono8; png compressed "))
    np.testing.assert_array_equal(grey, np.repeat(pixels[..., :1], 3, axis=-1))
    clear = messages.compressed_image(compressed(pixels, ".png", "bgra8; png compressed bgra8"))
    np.testing.assert_array_equal(clear, pixels[..., 2::-1])


def test_jpeg_shows_what_was_seen() -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    pixels = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 40)], axis=-1)
    decoded = messages.compressed_image(compressed(pixels[..., ::-1].astype(np.uint8), ".jpg", "jpeg"))
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(float) - pixels).mean() < 4


WHOLE = compressed(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8), ".jpg", "jpeg")


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (
            compressed(np.zeros((2, 3), np.uint16), ".png", "16UC1; png compressed "),
            f" and 16 bits per channel; expected {EIGHT_BITS}",
        ),
        (
            compressed(np.zeros((2, 3), np.uint8), ".png", "16UC1; compressedDepth png"),
            "; expected a colour or grey image; policies are not trained on depth",
        ),
        (
            CompressedImage(format="jpeg", data=WHOLE.data[: len(WHOLE.data) // 2]),
            " and cannot be decoded; expected JPEG or PNG, complete",
        ),
        (
            CompressedImage(format="jpeg"),
            " and cannot be decoded; expected JPEG or PNG, complete",
        ),
    ],
)
def test_unusable_compressed_image(message: CompressedImage, why: str) -> None:
    with pytest.raises(UnusableMessageError) as caught:
        messages.compressed_image(message)
    got = f"the compressed image of {len(message.data)} bytes has format {message.format!r}"
    assert str(caught.value) == got + why


@given(st.permutations(["a", "b", "c", "d"]))
def test_joints_are_matched_by_name_in_any_order(order: list[str]) -> None:
    position = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    message = joints(order, [position[name] for name in order], [-position[name] for name in order])
    positions, velocities = messages.joint_state(message, ("c", "a"))
    np.testing.assert_array_equal(positions, [3.0, 1.0])
    np.testing.assert_array_equal(velocities, [-3.0, -1.0])


def test_velocities_that_are_not_reported_are_nan() -> None:
    positions, velocities = messages.joint_state(joints(["a", "b"], [1.0, 2.0], []), ("b",))
    np.testing.assert_array_equal(positions, [2.0])
    np.testing.assert_array_equal(velocities, [np.nan])


def test_unusable_joint_states() -> None:
    with pytest.raises(JointNamesError) as missing:
        messages.joint_state(joints(["a", "b"], [1.0, 2.0], []), ("a", "x"))
    assert str(missing.value) == ("the joint state has no joint named x; it has: a, b; correct the robot's YAML file")
    with pytest.raises(UnusableMessageError) as short:
        messages.joint_state(joints(["a", "b"], [1.0], []), ("a",))
    assert str(short.value) == ("the joint state has 2 names and 1 positions; expected one position for each name")
    with pytest.raises(UnusableMessageError) as broken:
        messages.joint_state(joints(["a", "b"], [1.0, float("nan")], []), ("b",))
    assert str(broken.value) == "the joint state has a position that is not finite; expected a number for every joint"


def test_stamp() -> None:
    assert messages.stamp_ns(STAMP) == 1_700_000_000_123_456_789


@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 10**9 - 1), st.sampled_from(["<", ">"]))
def test_the_stamp_is_read_without_decoding_the_message(seconds: int, nanoseconds: int, order: str) -> None:
    """Serialized by rclpy in this machine's byte order, and by rosbags in either."""
    stamp_ns = seconds * 10**9 + nanoseconds
    image = Image(header=Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id="camera"), encoding="rgb8")
    assert messages.header_stamp_ns(serialize_message(image)) == stamp_ns
    types = get_typestore(Stores.ROS2_KILTED)
    stamp = types.types["builtin_interfaces/msg/Time"](seconds, nanoseconds)
    header = types.types["std_msgs/msg/Header"](stamp, "camera")
    fields = types.types["sensor_msgs/msg/CompressedImage"](header, "jpeg", np.zeros(3, np.uint8))
    raw = types.serialize_cdr(fields, "sensor_msgs/msg/CompressedImage", little_endian=order == "<")
    assert messages.header_stamp_ns(bytes(raw)) == stamp_ns


def test_trajectory_holds_what_its_points_hold() -> None:
    message = JointTrajectory(header=Header(stamp=STAMP), joint_names=["a", "b"])
    message.points = [
        point(0.5, [1.0, 2.0], velocities=[3.0, 4.0]),
        point(1.25, [5.0, 6.0], velocities=[0.0, 0.0]),
    ]
    decoded = messages.trajectory(message)
    assert decoded.stamp_ns == messages.stamp_ns(STAMP)
    assert decoded.joint_names == ("a", "b")
    np.testing.assert_array_equal(decoded.times_ns, [500_000_000, 1_250_000_000])
    np.testing.assert_array_equal(decoded.positions, [[1.0, 2.0], [5.0, 6.0]])
    assert decoded.velocities is not None
    np.testing.assert_array_equal(decoded.velocities, [[3.0, 4.0], [0.0, 0.0]])
    assert decoded.accelerations is None


def test_empty_trajectory() -> None:
    decoded = messages.trajectory(JointTrajectory(joint_names=["a", "b"]))
    assert decoded.positions.shape == (0, 2)
    assert decoded.times_ns.shape == (0,)
    assert decoded.velocities is None


@pytest.mark.parametrize(
    ("points", "text"),
    [
        (
            [point(0.1, [1.0])],
            "the trajectory for 2 joints has points with 1 positions; "
            "expected 2 positions at every point, or none at all",
        ),
        (
            [point(0.1, [1.0, 2.0], velocities=[0.0, 0.0]), point(0.2, [1.0, 2.0])],
            "the trajectory for 2 joints has points with 0, 2 velocities; "
            "expected 2 velocities at every point, or none at all",
        ),
        (
            [point(0.1, [], velocities=[1.0, 2.0])],
            "the trajectory has no positions; expected a position for each joint at each point",
        ),
    ],
)
def test_unusable_trajectory(points: list[JointTrajectoryPoint], text: str) -> None:
    message = JointTrajectory(joint_names=["a", "b"], points=points)
    with pytest.raises(UnusableMessageError) as caught:
        messages.trajectory(message)
    assert str(caught.value) == text


def test_live_and_bag_messages_give_equal_arrays(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    names = ("b", "a")
    plan = JointTrajectory(header=Header(stamp=STAMP), joint_names=["a", "b"])
    plan.points = [point(0.5, [1.0, 2.0], velocities=[3.0, 4.0], accelerations=[5.0, 6.0])]
    state = joints(["a", "b"], [0.1, 0.2], [0.3, 0.4])
    state.effort = [0.0, 0.0]  # rosbags refuses the alignment bytes that rmw leaves behind an empty last field
    plan.points[0].effort = [0.0, 0.0]
    live = {
        "sensor_msgs/msg/Image": encode(pixels, "bgr8", padding=3),
        "sensor_msgs/msg/CompressedImage": compressed(pixels[..., ::-1], ".png", "png"),
        "sensor_msgs/msg/JointState": state,
        "trajectory_msgs/msg/JointTrajectory": plan,
    }
    types = get_typestore(Stores.ROS2_KILTED)
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for kind, message in live.items():
            connection = writer.add_connection(f"/{kind}", kind, typestore=types)
            writer.write(connection, 0, serialize_message(message))
    with AnyReader([tmp_path / "bag"], default_typestore=types) as reader:
        bag = {
            connection.msgtype: reader.deserialize(raw, connection.msgtype) for connection, _, raw in reader.messages()
        }
    assert bag.keys() == live.keys()

    def arrays(source: dict[str, Any]) -> SimpleNamespace:
        image, packed, state, path = source.values()
        return SimpleNamespace(
            image=messages.image(image),
            unpacked=messages.compressed_image(packed),
            image_stamp=messages.stamp_ns(image.header.stamp),
            joints=messages.joint_state(state, names),
            path=messages.trajectory(path),
        )

    ours, theirs = arrays(live), arrays({kind: bag[kind] for kind in live})
    np.testing.assert_array_equal(ours.image, pixels)
    np.testing.assert_array_equal(ours.image, theirs.image)
    np.testing.assert_array_equal(ours.unpacked, pixels)
    np.testing.assert_array_equal(ours.unpacked, theirs.unpacked)
    assert ours.image_stamp == theirs.image_stamp
    np.testing.assert_array_equal(ours.joints, theirs.joints)
    assert ours.path.joint_names == theirs.path.joint_names
    assert ours.path.stamp_ns == theirs.path.stamp_ns
    for field in ("times_ns", "positions", "velocities", "accelerations"):
        np.testing.assert_array_equal(getattr(ours.path, field), getattr(theirs.path, field))
