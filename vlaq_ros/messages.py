"""ROS-shaped messages as arrays, by duck typing: a live message and one read from a bag give equal arrays.

Fields are read and no message class is imported, so this works without ROS.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from vlaq_ros.datatypes import FloatArray, ImageArray, Trajectory
from vlaq_ros.errors import JointNamesError, UnusableMessageError

# encoding (sensor_msgs/image_encodings): bytes per pixel, and which of them are red, green and blue
_ENCODINGS: dict[str, tuple[int, slice | list[int]]] = {
    "rgb8": (3, slice(0, 3)),
    "bgr8": (3, slice(2, None, -1)),
    "rgba8": (4, slice(0, 3)),
    "bgra8": (4, slice(2, None, -1)),
    "mono8": (1, [0, 0, 0]),
}
_EIGHT_BITS = f"8 bits per channel, as policies are trained on: {', '.join(_ENCODINGS)}"


def stamp_ns(time: Any) -> int:
    """Nanoseconds of a builtin_interfaces/Time or Duration."""
    return int(time.sec) * 1_000_000_000 + int(time.nanosec)


def header_stamp_ns(raw: bytes) -> int:
    """Nanoseconds of the stamp of a serialized message whose first field is a std_msgs/Header.

    CDR (DDS-RTPS 10.2): four bytes, of which the second's lowest bit says little endian, then seconds and nanoseconds.
    """
    seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def image(message: Any) -> ImageArray:
    """Pixels [H, W, 3] RGB of a sensor_msgs/Image: the message's own memory where they lie there like that.

    Raises:
        UnusableMessageError: the encoding is no 8-bit colour or grey, or the data does not fill the image.
    """
    if message.encoding not in _ENCODINGS:
        raise UnusableMessageError(f"the image has encoding {message.encoding!r}", _EIGHT_BITS)
    size, channels = _ENCODINGS[message.encoding]
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.frombuffer(message.data, dtype=np.uint8)
    if height * width == 0 or step < width * size or len(data) < height * step:
        got = f"the image of {width} x {height} pixels has {len(data)} bytes in rows of {step}"
        raise UnusableMessageError(got, f"rows of {width * size} bytes or more, for {message.encoding}")
    rows = data[: height * step].reshape(height, step)[:, : width * size]
    return np.ascontiguousarray(rows.reshape(height, width, size)[:, :, channels])


def compressed_image(message: Any) -> ImageArray:
    """Pixels [H, W, 3] RGB of a sensor_msgs/CompressedImage: JPEG, PNG or what else OpenCV reads.

    Raises:
        UnusableMessageError: it holds depth, or more than 8 bits per channel, or cannot be decoded.
    """
    data = np.frombuffer(message.data, dtype=np.uint8)
    depth = "compressedDepth" in message.format
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if len(data) and not depth else None
    got = f"the compressed image of {len(data)} bytes has format {message.format!r}"
    if depth:
        raise UnusableMessageError(got, "a colour or grey image; policies are not trained on depth")
    if pixels is None:
        raise UnusableMessageError(f"{got} and cannot be decoded", "JPEG or PNG, complete")
    if pixels.dtype != np.uint8:
        raise UnusableMessageError(f"{got} and {8 * pixels.itemsize} bits per channel", _EIGHT_BITS)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


IMAGES: dict[str, Callable[[Any], ImageArray]] = {"Image": image, "CompressedImage": compressed_image}  # of sensor_msgs


def joint_state(message: Any, names: tuple[str, ...]) -> tuple[FloatArray, FloatArray]:
    """Positions and velocities [J] of the named joints in a sensor_msgs/JointState, which may hold others too.

    They are counted as the message counts (`JointMap` makes SI of them). Velocities are nan where it has none.

    Raises:
        JointNamesError: a name is not in the message.
        UnusableMessageError: a position is missing or not finite.
    """
    index = {name: column for column, name in enumerate(message.name)}
    count = len(message.name)
    if missing := [name for name in names if name not in index]:
        raise JointNamesError(missing, index, "the joint state")
    columns = [index[name] for name in names]
    positions = np.asarray(message.position, dtype=np.float64)
    velocities = np.asarray(message.velocity, dtype=np.float64)
    if len(positions) != count:
        got = f"the joint state has {count} names and {len(positions)} positions"
        raise UnusableMessageError(got, "one position for each name")
    if not np.isfinite(positions[columns]).all():
        raise UnusableMessageError("the joint state has a position that is not finite", "a number for every joint")
    if len(velocities) != count:
        return positions[columns], np.full(len(columns), np.nan)
    return positions[columns], velocities[columns]


def trajectory(message: Any) -> Trajectory:
    """Arrays of a trajectory_msgs/JointTrajectory; columns in the order of its `joint_names`.

    Velocities and accelerations are None where no point has them.

    Raises:
        UnusableMessageError: points differ in what they hold, or do not hold one value for each joint.
    """
    names = tuple(message.joint_names)
    positions = _points(message, "positions", names)
    if positions is None and message.points:
        raise UnusableMessageError("the trajectory has no positions", "a position for each joint at each point")
    return Trajectory(
        stamp_ns=stamp_ns(message.header.stamp),
        joint_names=names,
        times_ns=np.array([stamp_ns(point.time_from_start) for point in message.points], dtype=np.int64),
        positions=np.empty((0, len(names))) if positions is None else positions,
        velocities=_points(message, "velocities", names),
        accelerations=_points(message, "accelerations", names),
    )


def _points(message: Any, field: str, names: tuple[str, ...]) -> FloatArray | None:
    """One field of all points [T, J]; None where it is empty in all of them."""
    values = [getattr(point, field) for point in message.points]
    lengths = {len(value) for value in values}
    if lengths <= {0}:
        return None
    if lengths != {len(names)}:
        got = f"the trajectory for {len(names)} joints has points with {', '.join(map(str, sorted(lengths)))} {field}"
        raise UnusableMessageError(got, f"{len(names)} {field} at every point, or none at all")
    return np.array([np.asarray(value, dtype=np.float64) for value in values])
