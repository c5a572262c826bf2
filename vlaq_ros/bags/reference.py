"""What a recording says of a robot, in one pass that decodes no image: what the arm did, and what it was told.

Stamps are those of the headers; what has none (an instruction, a command that starts when it is received) is put on the
same clock by the joint state that arrived last.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from vlaq_ros import messages
from vlaq_ros.bags.commanded import PERIOD_NS, Listener, Told
from vlaq_ros.bags.measured import Measured
from vlaq_ros.bags.regularity import Stamps
from vlaq_ros.bags.rosbag import JOINTS, OpenBag, open_bag
from vlaq_ros.bags.salvage import Message
from vlaq_ros.bags.topics import Topics
from vlaq_ros.config import PilotConfig
from vlaq_ros.datatypes import FloatArray, IntArray, Trajectory
from vlaq_ros.errors import BagTopicsError, NamespaceError, UnusableMessageError, VlaqError
from vlaq_ros.joints import JointMap


@dataclass(frozen=True, slots=True)
class Reference:
    """What the arm of a recording did and was told, and what is odd about the recording.

    Columns are the policy's joints (the arm, gripper last), in URDF names and SI units.
    """

    start_ns: int  # smallest and largest stamp of images and joint states
    end_ns: int
    offset_ns: int  # the recorder's clock less that of the headers, median
    motion: Measured
    told: tuple[Told, ...]  # by topic
    repeated_ns: tuple[tuple[int, int], ...]  # stretches of time that were recorded more than once
    commands: tuple[Trajectory, ...]  # of the arm; a gripper with a topic of its own is merged, unknown columns are nan
    instructions: tuple[tuple[int, str], ...]
    precisions: tuple[IntArray, tuple[str, ...]]  # of chunks: stamps and names; latched, the first may be an old one
    urdf: str  # empty where the recording has none
    journal: bool  # whether the pilot wrote down what it did
    lines: tuple[str, ...]
    camera_rates_hz: dict[str, float]
    camera_sizes_px: dict[str, tuple[int, int]]  # width, height; without those of which no image can be decoded
    joint_rate_hz: float

    @staticmethod
    def read(bag: Path, topics: Topics, joints: JointMap) -> Reference:
        """Read a recording once.

        Args:
            bag: a directory or a storage file.
            topics: of the robot.
            joints: of the policy.

        Raises:
            UnreadableBagError, EmptyBagError: it is no recording, or has nothing in it.
            NamespaceError: its robots have other namespaces.
            BagTopicsError: it lacks the images of a camera or the joint states.
            JointNamesError, UnusableMessageError: not one joint state can be used, or no image has a stamp.
        """
        with open_bag(bag) as opened:
            _check(bag, opened, topics)
            reading = _Reading(opened, topics, joints)
            skipped = {topics.session, topics.journal}
            for message in opened.messages({it: kind for it, kind in topics.types.items() if it not in skipped}):
                reading.take(message)
            return reading.finished()

    @property
    def stamps_ns(self) -> IntArray:
        """Stamps [N] of the measured positions."""
        return self.motion.stamps_ns

    @property
    def positions(self) -> FloatArray:
        """Measured positions [N, J]."""
        return self.motion.positions

    @property
    def source(self) -> Literal["commands", "motion"]:
        """What `at` tells of the arm."""
        return "commands" if self.commands else "motion"

    def at(self, stamps_ns: IntArray) -> FloatArray:
        """Positions [K, J] that the arm was told to have at some times [K], by the command in force at each.

        Where there is none, what was measured counts. nan where nothing is known: in a gap of the joint states, and
        where stamps were recorded twice.
        """
        stamps_ns = np.asarray(stamps_ns, dtype=np.int64)
        values = self.motion.at(stamps_ns)
        for told in self.told:
            commanded = told.at(stamps_ns)
            values = np.where(np.isfinite(commanded), commanded, values)
        for first_ns, last_ns in self.repeated_ns:
            values[(first_ns <= stamps_ns) & (stamps_ns <= last_ns)] = np.nan
        return values


class _Reading:
    """One pass over a recording."""

    def __init__(self, bag: OpenBag, topics: Topics, joints: JointMap) -> None:
        limits = PilotConfig()
        self._bag, self._topics, self._joints = bag, topics, joints
        self._inputs = {it: Stamps(f"camera {name}", limits.max_image_age_s) for name, it in topics.cameras.items()}
        self._inputs[topics.joint_states] = Stamps("joint states", limits.max_joint_age_s)
        self._first: dict[str, Message] = {}  # image of each camera's topic
        self._last: dict[str, Message] = {}
        self._stamps_ns, self._positions = array("q"), array("d")  # [N], [N * J]
        self._offsets_ns = array("q")  # [N], the recorder's clock less that of the headers
        self._listeners = {topic: Listener(joints, names) for topic, names in topics.commanded.items()}
        self._texts: dict[str, list[tuple[int, str]]] = {}  # by topic
        self._refusals: Counter[str] = Counter()  # by topic
        self._why: dict[str, VlaqError] = {}  # the first refusal of a topic
        first = next(bag.messages({topics.joint_states: JOINTS}))
        self._offset_ns = first.received_ns - messages.header_stamp_ns(first.raw)  # now

    def take(self, message: Message) -> None:
        """Take the next message; what cannot be used is counted."""
        try:
            if message.topic == self._topics.joint_states:
                self._move(message)
            elif message.topic in self._inputs:
                self._look(message)
            else:
                self._hear(message, message.received_ns - self._offset_ns)
        except VlaqError as error:
            self._refusals[message.topic] += 1
            self._why.setdefault(message.topic, error)

    def finished(self) -> Reference:
        """Put together what was read."""
        topics, bag = self._topics, self._bag
        for topic, stamps in self._inputs.items():
            if not stamps:
                raise self._why[topic]
        positions = np.frombuffer(self._positions).reshape(-1, len(self._joints.urdf))
        motion = Measured(np.frombuffer(self._stamps_ns, dtype=np.int64), positions)
        spans_ns = np.array([stamps.span_ns() for stamps in self._inputs.values()])
        start_ns, end_ns = int(spans_ns.min()), int(spans_ns.max())
        every = {topic: listener.told(motion) for topic, listener in self._listeners.items()}
        told = {topic: it for topic, it in every.items() if it}
        sent = self._texts.get(topics.precision, [])
        sizes_px, odd_images = self._sizes()
        expected_hz = {topic: topics.rates_hz[camera] for camera, topic in topics.cameras.items()}
        lines = [
            *([f"the recording is damaged: {bag.damage}"] if bag.damage else []),
            *_other_robots(bag, topics),
            *_other_types(bag, topics),
            *chain(*(it.lines(start_ns, end_ns, expected_hz.get(topic)) for topic, it in self._inputs.items())),
            *odd_images,
            *self._refused(),
            *self._uncommanded(told.values()),
        ]
        return Reference(
            start_ns=start_ns,
            end_ns=end_ns,
            offset_ns=int(np.median(self._offsets_ns)),
            motion=motion,
            told=tuple(told.values()),
            repeated_ns=tuple(stretch for it in self._inputs.values() for stretch in it.repeated_ns),
            commands=_merged(told.get(topics.arm), told.get(topics.gripper)),
            instructions=tuple(self._texts.get(topics.instruction, [])),
            precisions=(np.array([ns for ns, _ in sent], dtype=np.int64), tuple(name for _, name in sent)),
            urdf=self._texts.get(topics.description, [(0, "")])[-1][1],
            journal=not bag.lacking({topics.journal: topics.types[topics.journal]}),
            lines=tuple(lines),
            camera_rates_hz={camera: self._inputs[topic].rate_hz() for camera, topic in topics.cameras.items()},
            camera_sizes_px=sizes_px,
            joint_rate_hz=self._inputs[topics.joint_states].rate_hz(),
        )

    def _look(self, message: Message) -> None:
        self._inputs[message.topic].hear(_stamped(message, messages.header_stamp_ns(message.raw)))
        self._first.setdefault(message.topic, message)
        self._last[message.topic] = message

    def _move(self, message: Message) -> None:
        said = self._bag.deserialize(message)
        values, _ = messages.joint_state(said, self._joints.message)
        stamp_ns = _stamped(message, messages.stamp_ns(said.header.stamp))
        self._offset_ns = message.received_ns - stamp_ns
        newer = self._inputs[message.topic].hear(stamp_ns)
        if newer and not (self._stamps_ns and stamp_ns // PERIOD_NS <= self._stamps_ns[-1] // PERIOD_NS):
            self._stamps_ns.append(stamp_ns)
            self._positions.extend(self._joints.positions(values))
            self._offsets_ns.append(self._offset_ns)

    def _hear(self, message: Message, now_ns: int) -> None:
        said = self._bag.deserialize(message)
        if message.topic in self._listeners:
            self._listeners[message.topic].hear(now_ns, said)
        else:
            self._texts.setdefault(message.topic, []).append((now_ns, said.data))

    def _sizes(self) -> tuple[dict[str, tuple[int, int]], list[str]]:
        """Width and height of every camera's first image, and what is odd about it and the last one."""
        sizes_px, lines = {}, []
        for camera, topic in self._topics.cameras.items():
            decode = messages.IMAGES[self._topics.types[topic].rpartition("/")[2]]
            try:
                begun, ended = (
                    decode(self._bag.deserialize(it)).shape[1::-1] for it in (self._first[topic], self._last[topic])
                )
            except VlaqError as error:
                lines.append(f"camera {camera}: {error}")
                continue
            sizes_px[camera] = begun
            if ended != begun:
                lines.append(f"camera {camera}: images of {_size(begun)} at first and of {_size(ended)} at last")
        return sizes_px, lines

    def _refused(self) -> Iterator[str]:
        for topic, count in self._refusals.items():
            total = self._bag.topics[topic][1]
            yield f"{count} of {total} messages on {topic} cannot be used, the first because {self._why[topic]}"

    def _uncommanded(self, told: Iterable[Told]) -> Iterator[str]:
        commanded = {column for it in told for column in it.columns.tolist()}
        names = [name for column, name in enumerate(self._joints.urdf) if column not in commanded]
        if names:
            yield f"there are no commands of {', '.join(names)}: what was measured counts instead"


def _stamped(message: Message, stamp_ns: int) -> int:
    if not stamp_ns:
        got = f"a message on {message.topic} is stamped 0"
        raise UnusableMessageError(got, "the time that it is of: let its driver stamp it")
    return stamp_ns


def _check(path: Path, bag: OpenBag, topics: Topics) -> None:
    """Hold a recording against the topics that no replay can do without."""
    needed = [*topics.cameras.values(), topics.joint_states]
    missing = bag.lacking({topic: topics.types[topic] for topic in needed})
    if topics.joint_states not in bag.topics and (found := _namespaces(bag, topics)):
        raise NamespaceError(path, topics.joint_states, found)
    if missing:
        raise BagTopicsError(path, missing, bag.contents())


def _namespaces(bag: OpenBag, topics: Topics) -> list[str]:
    """Namespaces of other joint states that are called like the robot's."""
    last = topics.joint_states.rpartition("/")[2]
    states = (topic for topic, (msgtype, _) in bag.topics.items() if msgtype == JOINTS)
    return sorted(
        it.rpartition("/")[0] or "/" for it in states if it.endswith(f"/{last}") and it != topics.joint_states
    )


def _other_robots(bag: OpenBag, topics: Topics) -> Iterator[str]:
    if others := _namespaces(bag, topics):
        yield (
            f"there are joint states in the namespaces {', '.join(others)} too; "
            f"the robot is that of {topics.joint_states}, --namespace picks another"
        )


def _other_types(bag: OpenBag, topics: Topics) -> Iterator[str]:
    for topic, expected in topics.types.items():
        msgtype, _ = bag.topics.get(topic, (expected, 0))
        if msgtype != expected:
            yield f"{topic} has {msgtype}, expected {expected}"


def _merged(arm: Told | None, gripper: Told | None) -> tuple[Trajectory, ...]:
    """Commands of the arm with the gripper's column of another topic."""
    if arm is None or gripper is None:
        return arm.commands if arm else ()
    merged = []
    for command in arm.commands:
        positions = command.positions.copy()
        positions[:, gripper.columns] = gripper.at(command.stamp_ns + command.times_ns)[:, gripper.columns]
        merged.append(replace(command, positions=positions))
    return tuple(merged)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
