"""What a pilot would have heard: the messages of a bag, for its observer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from vlaq_ros import messages
from vlaq_ros.bags.rosbag import OpenBag
from vlaq_ros.bags.salvage import Message
from vlaq_ros.bags.topics import Topics
from vlaq_ros.config import RobotConfig
from vlaq_ros.datatypes import ImageArray
from vlaq_ros.errors import UnusableMessageError
from vlaq_ros.observe import JOINT_STATES, Observer
from vlaq_ros.replay.replayed import Seen

_STAMP_END = 12  # bytes that a message has at least, if it begins with a header


@dataclass(frozen=True, slots=True)
class Input:
    """An image or a joint state."""

    name: str  # of the camera, or JOINT_STATES
    stamp_ns: int
    message: Message


@dataclass(frozen=True, slots=True)
class Text:
    """An instruction, or a page of the pilot's journal."""

    topic: str
    received_ns: int
    text: str


class Inbox:
    """Reads one bag.

    Args:
        bag: that is open.
        topics: of the robot.
        robot: says how images are sent.

    Attributes:
        instruction, journal: names of these topics.
    """

    def __init__(self, bag: OpenBag, topics: Topics, robot: RobotConfig) -> None:
        self._bag = bag
        self.instruction, self.journal = topics.instruction, topics.journal
        self._types = topics.types
        self._names = {topic: camera for camera, topic in topics.cameras.items()} | {topics.joint_states: JOINT_STATES}
        self._decoders = {camera: messages.IMAGES[robot.cameras[camera].type] for camera in topics.cameras}

    def messages(self) -> Iterator[Input | Text]:
        """Read inputs, instructions and the pilot's journal in the order of their arrival."""
        texts = (self.instruction, self.journal)
        wanted = {topic: self._types[topic] for topic in (*self._names, *texts)}
        present = {topic: kind for topic, kind in wanted.items() if not self._bag.lacking({topic: kind})}
        for message in self._bag.messages(present):
            if message.topic in texts:
                with suppress(UnusableMessageError):  # nobody would have received it
                    yield Text(message.topic, message.received_ns, self._bag.deserialize(message).data)
            elif len(message.raw) >= _STAMP_END:
                yield Input(self._names[message.topic], messages.header_stamp_ns(message.raw), message)

    def deliver(self, received: Input, observer: Observer) -> Iterator[Seen]:
        """Let an observer have an input."""
        if received.name == JOINT_STATES:
            with suppress(UnusableMessageError):  # nobody would have received it
                observer.push_joints(self._bag.deserialize(received.message))
            return
        [image] = self.show(received)
        observer.push_image(image.camera, image.stamp_ns, image.decode)
        yield image

    def show(self, received: Input) -> Iterator[Seen]:
        """Tell of an input that nobody took."""
        if received.name != JOINT_STATES:
            yield Seen(received.name, received.stamp_ns, partial(self._decode, received))

    def _decode(self, received: Input) -> ImageArray:
        return self._decoders[received.name](self._bag.deserialize(received.message))
