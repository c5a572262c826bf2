"""What the pilot listens to: images, joint states, the instruction and the emergency stop, as subscriptions of a node.

What comes often is polled: an executor rebuilds its wait set for each message, which takes longer than the message (two
cameras at 30 Hz and joint states at 500 Hz: 0.38 of a core when every message is called back, 0.12 when they are taken
50 times per second). They are taken serialized: of images only the stamp is read until an observation is made of them,
and joint states that differ in nothing but numbers are read all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, String

from vlaq_ros import messages
from vlaq_ros.config import RobotConfig, share
from vlaq_ros.observe import Observer
from vlaq_ros.ros import serialized
from vlaq_ros.ros.qos import LATCHED, SILENT_SUBSCRIPTION

INSTRUCTION_TOPIC = "instruction"
PROFILE = share() / "config/fastdds_shm32.xml"
STARVED = 0.5  # a camera of which less than this share arrives
_IMAGE_DEPTH = 5  # so that every image is counted, though only the newest is kept
_JOINTS = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)  # accepts either offer; 0.1 s of 1 kHz
_IMAGES = {"Image": Image, "CompressedImage": CompressedImage}


class _Polled(CallbackGroup):
    """Keeps a subscription out of the executor's wait set."""

    def can_execute(self, entity: Any) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class _Input:
    subscription: Subscription[Any]
    qos: QoSProfile
    type: str
    remedy: str


class Inputs:
    """Feeds an observer from a node's subscriptions; images by the QoS of sensor data or what the robot file asks for.

    Args:
        node: whose executor runs the callbacks, and in whose namespace the topics are.
        robot: names topics, types and reliabilities.
        observer: takes what is received; its cameras alone are listened to.
        on_estop: told of every message of the emergency stop, if the robot has one.
    """

    def __init__(self, node: Node, robot: RobotConfig, observer: Observer, on_estop: Callable[[bool], None]) -> None:
        self._node = node
        self._inputs: list[_Input] = []
        self._polled = _Polled()
        self._told: set[str] = set()
        for name in observer.cameras:
            camera = robot.cameras[name]
            qos = QoSProfile(depth=_IMAGE_DEPTH, reliability=ReliabilityPolicy[camera.reliability.upper()])
            store = partial(_store_images, observer, name, camera.type)
            remedy = f"change it, or cameras.{name} in the robot's YAML file"
            self._poll(_IMAGES[camera.type], camera.topic, store, qos, remedy=remedy)
        self._poll(JointState, robot.joint_state_topic, serialized.JointStates(observer).push, _JOINTS)
        self._listen(String, INSTRUCTION_TOPIC, lambda told: observer.push_instruction(told.data), LATCHED)
        if robot.estop_topic:
            self._listen(Bool, robot.estop_topic, lambda told: on_estop(told.data), LATCHED)

    def take(self) -> None:
        """Give the observer the images and joint states that have come.

        The owner calls it in the executor's thread, at 50 Hz or so, and best just before an observation.
        """
        for subscription in (item.subscription for item in self._inputs):
            if subscription.callback_group is self._polled:
                take = partial(subscription.handle.take_message, subscription.msg_type, subscription.raw)
                with subscription.handle:
                    raws = [raw for raw, _ in iter(take, None)]
                if raws:
                    subscription.callback(raws)  # type: ignore[call-arg]  # ours take all messages that have come

    def faults(self) -> dict[str, str]:
        """Say of every topic which publishers cannot be heard, because they offer something else than is asked for.

        Read from the graph: the middleware's events name no publisher, and do not tell when it is cured or gone. Every
        new fault is logged.

        Returns:
            Sentences by topic; a topic without a fault is not in it.
        """
        found = {}
        for item in self._inputs:
            topic = item.subscription.topic_name
            offers = self._node.get_publishers_info_by_topic(topic)
            if misfits := sorted({text for offer in offers if (text := _misfit(offer, item))}):
                found[topic] = f"{topic} cannot be heard from {'; nor from '.join(misfits)}; {item.remedy}"
        for sentence in sorted({*found.values()} - self._told):
            self._node.get_logger().error(sentence)
        self._told = {*found.values()}
        return found

    def close(self) -> None:
        """Stop listening."""
        for item in self._inputs:
            self._node.destroy_subscription(item.subscription)
        self._inputs.clear()

    def _poll(
        self, kind: type[Any], topic: str, store: Callable[[list[bytes]], None], qos: QoSProfile, **how: Any
    ) -> None:
        self._listen(kind, topic, store, qos, callback_group=self._polled, raw=True, **how)

    def _listen(
        self,
        kind: type[Any],
        topic: str,
        store: Callable[[Any], None],
        qos: QoSProfile,
        *,
        remedy: str = "change the publisher",
        **how: Any,
    ) -> None:
        subscription = self._node.create_subscription(
            kind, topic, store, qos, event_callbacks=SILENT_SUBSCRIPTION, **how
        )
        name = f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"
        self._inputs.append(_Input(subscription, qos, name, remedy))


def starved(observer: Observer, robot: RobotConfig, now_ns: int) -> dict[str, str]:
    """Say of every camera that loses most of its images how many arrive, and what cures it.

    Returns:
        Sentences by camera; one that is not starved, or not listened to for two seconds, is not in it.
    """
    found = {}
    for name, rate_hz in observer.rates_hz(now_ns).items():
        sent_hz = robot.cameras[name].rate_hz
        if rate_hz < STARVED * sent_hz:
            found[name] = (
                f"camera {name}: {rate_hz:.1f} of {sent_hz:g} images per second arrive; start its node with "
                f"FASTDDS_DEFAULT_PROFILES_FILE={PROFILE}, or let it send CompressedImage, or reliably"
            )
    return found


def _store_images(observer: Observer, camera: str, kind: str, raws: list[bytes]) -> None:
    for raw in raws:
        observer.push_image(camera, messages.header_stamp_ns(raw), partial(serialized.image, kind, raw))


def _misfit(offer: TopicEndpointInfo, item: _Input) -> str:
    """Say what a publisher offers that does not fit; empty where it fits."""
    known = offer.node_name != "_NODE_NAME_UNKNOWN_"  # of a publisher whose node is not discovered yet, or none of ROS
    node = f"{offer.node_namespace.rstrip('/')}/{offer.node_name}" if known else "a nameless node"
    if offer.topic_type != item.type:
        return f"{node}, which sends {offer.topic_type}, expected {item.type}"
    if qos_check_compatible(offer.qos_profile, item.qos)[0] == QoSCompatibility.ERROR:
        return f"{node}, which offers {_words(offer.qos_profile)}, expected {_words(item.qos)}"
    return ""


def _words(qos: QoSProfile) -> str:
    return f"{qos.reliability.name.lower()} {qos.durability.name.lower()}"
