"""What a recording holds, before anything is known of its robot: joint states, cameras, commands and descriptions."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from vlaq_ros import messages
from vlaq_ros.bags.regularity import rate_hz
from vlaq_ros.bags.rosbag import JOINTS, POSITIONS, TEXT, TRAJECTORY, open_bag
from vlaq_ros.bags.salvage import Message
from vlaq_ros.datatypes import FloatArray
from vlaq_ros.errors import UnusableMessageError

_SPAN_NS = 120 * 10**9  # of a recording is looked at: enough for ranges and rates
_IMAGES = 100  # of each camera, likewise
_ROW_NS = 10_000_000  # between two joint states that are kept
_IMAGE_TYPES = {f"sensor_msgs/msg/{kind}": kind for kind in messages.IMAGES}


@dataclass(frozen=True, slots=True)
class JointStates:
    """What one topic of joint states says, in its own units."""

    topic: str
    names: tuple[str, ...]
    positions: FloatArray  # [N, J]; nan before a joint was first told
    speeds: FloatArray  # [J] per second; 99 of 100 are no larger

    @property
    def ranges(self) -> FloatArray:
        """Smallest and largest position [J, 2]."""
        return np.stack([np.nanmin(self.positions, axis=0), np.nanmax(self.positions, axis=0)], axis=1)


@dataclass(frozen=True, slots=True)
class Camera:
    """What one topic of images says."""

    topic: str
    kind: str  # Image or CompressedImage
    count: int  # in the whole recording
    rate_hz: float  # nan where one image came
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Commands:
    """What one topic of joint commands says."""

    topic: str
    kind: str  # JointTrajectory or Float64MultiArray
    count: int  # in the whole recording
    joints: tuple[str, ...]  # empty where the type names none
    width: int  # joints that are commanded


@dataclass(frozen=True, slots=True)
class Contents:
    """What the first two minutes of a recording show."""

    topics: dict[str, str]  # type of every topic that has a message
    joint_states: tuple[JointStates, ...]
    cameras: tuple[Camera, ...]
    commands: tuple[Commands, ...]
    descriptions: dict[str, str]  # URDF by topic

    @classmethod
    def read(cls, bag: Path) -> Self:
        """Look into a recording; images that no policy can take (depth, 16 bits) are no cameras.

        Raises:
            UnreadableBagError: the recording is none, or damaged beyond reading.
        """
        first: dict[str, Any] = {}  # message of every topic
        rows: dict[str, _Rows] = defaultdict(_Rows)
        stamps_ns: dict[str, list[int]] = defaultdict(list)
        with open_bag(bag) as opened:
            types = {topic: msgtype for topic, (msgtype, _) in opened.topics.items()}
            counts = {topic: count for topic, (_, count) in opened.topics.items()}
            told = {JOINTS, TEXT, TRAJECTORY, POSITIONS, *_IMAGE_TYPES}
            for message in opened.messages({topic: msgtype for topic, msgtype in types.items() if msgtype in told}):
                if message.received_ns > opened.start_ns + _SPAN_NS:
                    break
                with suppress(UnusableMessageError):
                    if message.topic not in first:
                        first[message.topic] = opened.deserialize(message)
                    if message.msgtype in _IMAGE_TYPES:
                        if len(stamps_ns[message.topic]) < _IMAGES:
                            stamps_ns[message.topic].append(messages.header_stamp_ns(message.raw))
                    elif message.msgtype == JOINTS and rows[message.topic].due(message):
                        rows[message.topic].add(opened.deserialize(message))
        return cls(
            topics=types,
            joint_states=tuple(found for topic, told in rows.items() if (found := told.joint_states(topic))),
            cameras=tuple(_cameras(types, first, counts, stamps_ns)),
            commands=tuple(_commands(types, first, counts)),
            descriptions={
                topic: said.data
                for topic, said in first.items()
                if types[topic] == TEXT and topic.endswith("robot_description")
            },
        )


class _Rows:
    """Joint states of one topic; publishers that take turns on it are told apart by the size of their messages."""

    def __init__(self) -> None:
        self._kept_ns: dict[int, int] = {}
        self._rows: list[tuple[int, dict[str, float]]] = []

    def due(self, message: Message) -> bool:
        """Whether a message arrived late enough after the last one that was kept."""
        size = len(message.raw)
        if size in self._kept_ns and message.received_ns - self._kept_ns[size] < _ROW_NS:
            return False
        self._kept_ns[size] = message.received_ns
        return True

    def add(self, message: Any) -> None:
        """Keep a message, unless it has other than one finite position for each name."""
        if len(message.name) == len(message.position) and np.isfinite(message.position).all():
            self._rows.append(
                (messages.stamp_ns(message.header.stamp), dict(zip(message.name, message.position, strict=True)))
            )

    def joint_states(self, topic: str) -> JointStates | None:
        """Everything as arrays; None where there is nothing."""
        names = tuple(dict.fromkeys(name for _, row in self._rows for name in row))
        if not names:
            return None
        told = np.array([[row.get(name, np.nan) for name in names] for _, row in self._rows])
        stamps_s: FloatArray = np.array([1e-9 * stamp_ns for stamp_ns, _ in self._rows])
        return JointStates(
            topic=topic,
            names=names,
            positions=_filled(told),
            speeds=np.array([_speed(stamps_s, column) for column in told.T]),
        )


def _cameras(
    types: dict[str, str], first: dict[str, Any], counts: dict[str, int], stamps_ns: dict[str, list[int]]
) -> list[Camera]:
    found = []
    for topic, message in first.items():
        if (kind := _IMAGE_TYPES.get(types[topic])) is not None:
            with suppress(UnusableMessageError):
                height, width, _ = messages.IMAGES[kind](message).shape
                images_hz = rate_hz(np.array(stamps_ns[topic], dtype=np.int64))
                found.append(Camera(topic, kind, counts[topic], images_hz, width, height))
    return found


def _commands(types: dict[str, str], first: dict[str, Any], counts: dict[str, int]) -> list[Commands]:
    found = []
    for topic, message in first.items():
        if types[topic] == TRAJECTORY:
            joints = tuple(message.joint_names)
            found.append(Commands(topic, "JointTrajectory", counts[topic], joints, len(joints)))
        elif types[topic] == POSITIONS:
            found.append(Commands(topic, "Float64MultiArray", counts[topic], (), len(message.data)))
    return found


def _speed(stamps_s: FloatArray, values: FloatArray) -> float:
    """What 99 of 100 speeds between two values that were told do not exceed; 0 where fewer were told."""
    known = np.isfinite(values)
    steps_s, steps = np.diff(stamps_s[known]), np.diff(values[known])
    speeds = np.abs(steps[steps_s > 0] / steps_s[steps_s > 0])
    return float(np.percentile(speeds, 99)) if len(speeds) else 0.0


def _filled(rows: FloatArray) -> FloatArray:
    """Rows [N, J] in which a value that was not told is the one before."""
    last = np.maximum.accumulate(np.where(np.isfinite(rows), np.arange(len(rows))[:, None], 0), axis=0)
    return np.take_along_axis(rows, last, axis=0)
