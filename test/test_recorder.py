"""The recorder writes what was sent, whatever the publishers' QoS, into a bag that ordinary readers open."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import WriterError
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64, String

from vlaq_ros.ros import domain
from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.ros.recorder import Recorder

BEST_EFFORT_LATCHED = QoSProfile(
    depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.BEST_EFFORT
)


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    context = Context()
    rclpy.init(context=context, domain_id=domain.claim())
    yield context
    rclpy.shutdown(context=context)


@pytest.fixture
def node(context: Context) -> Iterator[Node]:
    node = Node("talker", context=context)
    yield node
    node.destroy_node()


def wait_for_match(recorder: Recorder, *publishers: Publisher) -> None:
    deadline = time.monotonic() + 10.0
    while not all(publisher.get_subscription_count() for publisher in publishers):
        assert time.monotonic() < deadline, "the recorder did not match every publisher in 10 s"
        recorder.drain()
        time.sleep(0.02)


def drain_until(recorder: Recorder, path: Path, topic: str, count: int) -> None:
    """Poll until the writer holds `count` messages of a topic, or 10 s passed."""
    deadline = time.monotonic() + 10.0
    writer = recorder._writer  # best-effort topics have no acknowledgement to wait for
    while sum(writer.counts[c.id] for c in writer.connections if c.topic == topic) < count:
        assert time.monotonic() < deadline, f"{path.name} did not receive {count} messages on {topic} in 10 s"
        recorder.drain()
        time.sleep(0.02)


def test_every_message_arrives_in_order_with_its_type_text(context: Context, node: Node, tmp_path: Path) -> None:
    joints = node.create_publisher(JointState, "joint_states", qos_profile_sensor_data)
    numbers = node.create_publisher(Float64, "ns/number", 10)
    latched = node.create_publisher(String, "instruction", LATCHED)
    latched.publish(String(data="published before the recorder existed"))
    bag = tmp_path / "bag"
    with Recorder(bag, context) as recorder:
        wait_for_match(recorder, joints, numbers, latched)
        for k in range(50):
            numbers.publish(Float64(data=float(k)))
        joints.publish(JointState(name=["a", "b"], position=[1.0, 2.0]))
        drain_until(recorder, bag, "/ns/number", 50)
        drain_until(recorder, bag, "/joint_states", 1)
        drain_until(recorder, bag, "/instruction", 1)

    with AnyReader([bag]) as reader:
        read: dict[str, list[object]] = {connection.topic: [] for connection in reader.connections}
        for connection, _, raw in reader.messages():
            read[connection.topic].append(reader.deserialize(raw, connection.msgtype))
        schemas = {connection.topic: connection.msgdef.data for connection in reader.connections}
        qos = {connection.topic: connection.ext.offered_qos_profiles[0] for connection in reader.connections}
    assert [message.data for message in read["/ns/number"]] == [float(k) for k in range(50)]
    assert [message.data for message in read["/instruction"]] == ["published before the recorder existed"]
    assert read["/joint_states"][0].name == ["a", "b"]
    assert read["/joint_states"][0].position.tolist() == [1.0, 2.0]
    assert "float64 data" in schemas["/ns/number"]  # Foxglove decodes by the text in the bag
    assert "MSG: std_msgs/Header" in schemas["/joint_states"]
    assert qos["/joint_states"].reliability is QosReliability.BEST_EFFORT
    assert qos["/instruction"].durability is QosDurability.TRANSIENT_LOCAL
    assert "/rosout" in read


def test_publishers_of_different_qos_on_one_topic_are_all_heard(context: Context, node: Node, tmp_path: Path) -> None:
    reliable = node.create_publisher(Float64, "mixed", LATCHED)
    best_effort = node.create_publisher(Float64, "mixed", qos_profile_sensor_data)
    with Recorder(tmp_path / "bag", context) as recorder:
        wait_for_match(recorder, reliable, best_effort)
        reliable.publish(Float64(data=1.0))
        best_effort.publish(Float64(data=2.0))
        drain_until(recorder, tmp_path / "bag", "/mixed", 2)


def test_a_best_effort_latched_topic_keeps_its_last_value(context: Context, node: Node, tmp_path: Path) -> None:
    latched = node.create_publisher(Float64, "latched", BEST_EFFORT_LATCHED)
    with Recorder(tmp_path / "bag", context) as recorder:
        wait_for_match(recorder, latched)
        latched.publish(Float64(data=1.0))
        drain_until(recorder, tmp_path / "bag", "/latched", 1)


def test_a_topic_that_appears_later_is_recorded(context: Context, node: Node, tmp_path: Path) -> None:
    node.create_subscription(Float64, "late", lambda _: None, 10)  # a topic without a publisher is waited for
    with Recorder(tmp_path / "bag", context) as recorder:
        recorder.drain()
        late = node.create_publisher(Float64, "late", 10)
        wait_for_match(recorder, late)
        deadline = time.monotonic() + 10.0
        while late.get_subscription_count() < 2:
            assert time.monotonic() < deadline
            recorder.drain()
        late.publish(Float64(data=1.0))
        drain_until(recorder, tmp_path / "bag", "/late", 1)


def test_the_bag_is_closed_when_the_recording_is_interrupted(context: Context, node: Node, tmp_path: Path) -> None:
    numbers = node.create_publisher(Float64, "number", 10)
    bag = tmp_path / "bag"

    def record_until_ctrl_c() -> None:
        with Recorder(bag, context) as recorder:
            wait_for_match(recorder, numbers)
            numbers.publish(Float64(data=3.0))
            drain_until(recorder, bag, "/number", 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_until_ctrl_c()
    assert sorted(path.name for path in bag.iterdir()) == ["bag.mcap", "metadata.yaml"]
    with AnyReader([bag]) as reader:
        assert reader.topics["/number"].msgcount == 1


def test_an_existing_bag_is_never_overwritten(context: Context, tmp_path: Path) -> None:
    with pytest.raises(WriterError, match="exists already"):
        Recorder(tmp_path, context)


def test_of_a_camera_in_several_codings_one_is_recorded(context: Context, node: Node, tmp_path: Path) -> None:
    topics = {"front": "/front/image_raw", "wrist": "/wrist/image_raw", "side": "/side/image_raw"}
    plain = {name: node.create_publisher(Image, topic, 10) for name, topic in topics.items()}
    coded = {
        name: node.create_publisher(CompressedImage, f"{topics[name]}/compressed", 10) for name in ("front", "wrist")
    }
    alone = node.create_publisher(CompressedImage, "/alone/image_raw/compressed", 10)
    bag = tmp_path / "bag"
    with Recorder(bag, context, cameras=("/wrist/image_raw/compressed", "/side/image_raw")) as recorder:
        heard = (plain["front"], plain["side"], coded["wrist"], alone)
        wait_for_match(recorder, *heard)
        for publisher in heard:
            publisher.publish(publisher.msg_type())
        for publisher in heard:
            drain_until(recorder, bag, publisher.topic_name, 1)
        assert [publisher.get_subscription_count() for publisher in (plain["wrist"], coded["front"])] == [0, 0]
        assert recorder.heard >= {publisher.topic_name for publisher in heard}
