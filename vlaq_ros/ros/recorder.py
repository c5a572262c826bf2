"""Every topic of the domain, as it was sent, into an MCAP bag (rosbag2 format 9) that Foxglove and rosbags open.

Of a camera that is published in several codings one is recorded: that to which the robot listens, or the plain one.

The recorder is polled, never spun: an executor wakes once per message and rebuilds its wait set each time (at 600
messages per second on 14 topics that took 20 % of a core, `drain` 20 times per second took 5 %).
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

# Samples that the middleware keeps per topic between two polls: 0.2 s of a 1 kHz topic.
QUEUE_DEPTH = 200
_CODINGS = ("/compressed", "/compressedDepth", "/theora", "/ffmpeg", "/zstd")  # that image_transport adds to a topic


class Recorder:
    """A context manager that owns one bag and one node; leaving it closes the bag, whatever happened inside.

    Args:
        path: directory of the bag; must not exist.
        context: an initialised rclpy context; its domain is recorded.
        cameras: topics of images that somebody else listens to.

    Attributes:
        heard: topics of which the bag has a message.

    Raises:
        rosbags.rosbag2.WriterError: `path` exists.
    """

    def __init__(self, path: Path, context: Context, cameras: Collection[str] = ()) -> None:
        self.heard: set[str] = set()
        self._cameras = cameras
        self._node = Node(
            "recorder", context=context, start_parameter_services=False, enable_rosout=False, use_global_arguments=False
        )
        self._typestore = get_typestore(Stores.ROS2_KILTED)
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._recorded: dict[str, tuple[Subscription[Any], Connection]] = {}
        self._skipped: set[str] = set()

    def __enter__(self) -> Self:
        self._writer.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._node.destroy_node()
        self._writer.close()

    def drain(self) -> None:
        """Subscribe to topics that appeared and write every queued message; call it at least five times a second."""
        self._discover()
        for topic, (subscription, connection) in self._recorded.items():
            with subscription.handle:
                while taken := subscription.handle.take_message(subscription.msg_type, True):
                    data, info = taken
                    self._writer.write(connection, info["received_timestamp"], data)
                    self.heard.add(topic)

    def _discover(self) -> None:
        known = dict(self._node.get_topic_names_and_types())
        for topic, types in known.items():
            if topic in self._recorded or topic in self._skipped or _recoded(topic, known, self._cameras):
                continue
            publishers = self._node.get_publishers_info_by_topic(topic)
            if not publishers:
                continue
            msgtype = types[0]
            message_class = _message_class(msgtype)
            if message_class is None or msgtype not in self._typestore.types:
                self._skipped.add(topic)
                self._node.get_logger().warning(f"{topic} is not recorded: the type {msgtype} is not installed here")
                continue
            offered = [publisher.qos_profile for publisher in publishers]
            self._recorded[topic] = (
                self._node.create_subscription(message_class, topic, _never_spun, _accepting(offered), raw=True),
                self._writer.add_connection(
                    topic, msgtype, typestore=self._typestore, offered_qos_profiles=[_bag_qos(qos) for qos in offered]
                ),
            )


def _never_spun(_message: bytes) -> None:
    """Stand in for the callback that rclpy asks for; the node is in no executor."""


def _recoded(topic: str, known: Collection[str], cameras: Collection[str]) -> bool:
    """Whether a topic has the images of another one in another coding: listening to it would start an encoder."""
    plain = next((topic.removesuffix(coding) for coding in _CODINGS if topic.endswith(coding)), topic)
    alike = {plain, *(plain + coding for coding in _CODINGS)}
    recorded = alike & {*cameras} or {plain} & {*known}
    return bool(recorded) and topic not in recorded


def _message_class(msgtype: str) -> type | None:
    """Find the Python class of a type such as `std_msgs/msg/String`; None where its package is not installed."""
    package, _, name = msgtype.split("/")
    try:
        found: type | None = getattr(import_module(f"{package}.msg"), name, None)
    except ImportError:
        return None
    return found


def _accepting(offered: list[QoSProfile]) -> QoSProfile:
    """Build the strictest request that every publisher of a topic can serve (the rule of `ros2 bag record`)."""
    reliable = all(qos.reliability == ReliabilityPolicy.RELIABLE for qos in offered)
    latched = all(qos.durability == DurabilityPolicy.TRANSIENT_LOCAL for qos in offered)
    return QoSProfile(
        depth=QUEUE_DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _bag_qos(qos: QoSProfile) -> Qos:
    """Write a profile in the bag's words; both sides number the policies as rmw does."""
    deadline, lifespan, lease = (
        QosTime(*divmod(duration.nanoseconds, 1_000_000_000))
        for duration in (qos.deadline, qos.lifespan, qos.liveliness_lease_duration)
    )
    return Qos(
        history=QosHistory(qos.history.value),
        depth=qos.depth,
        reliability=QosReliability(qos.reliability.value),
        durability=QosDurability(qos.durability.value),
        deadline=deadline,
        lifespan=lifespan,
        liveliness=QosLiveliness(qos.liveliness.value),
        liveliness_lease_duration=lease,
        avoid_ros_namespace_conventions=qos.avoid_ros_namespace_conventions,
    )
