"""Inputs over DDS: what reaches the observer, which publishers cannot be heard, and 640x480 between processes."""

from __future__ import annotations

import array
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, Header, String

from vlaq_ros.config import RobotConfig
from vlaq_ros.datatypes import Observation
from vlaq_ros.joints import JointMap
from vlaq_ros.observe import Observer
from vlaq_ros.ros import domain
from vlaq_ros.ros.inputs import PROFILE, Inputs, starved
from vlaq_ros.ros.qos import LATCHED

DOMAIN_ID = domain.claim()
PATIENCE_S = 60.0
LIMITS = {"max_image_age_s": 60.0, "max_camera_skew_s": 60.0, "max_joint_age_s": 60.0}  # a busy machine is no fault
PANDA = RobotConfig.load("sim_panda")
ROBOT = replace(PANDA, estop_topic="estop")
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
ALL = QoSProfile(depth=100)


class Link:
    """A robot and a pilot's inputs, in one process; each is a participant of DDS of its own."""

    def __init__(self, robot: RobotConfig) -> None:
        self.contexts = [Context(), Context()]
        for context in self.contexts:
            rclpy.init(context=context, domain_id=DOMAIN_ID, signal_handler_options=SignalHandlerOptions.NO)
        self.robot = Node("driver", namespace="left", context=self.contexts[0])
        self.pilot = Node("pilot", context=self.contexts[1])
        self.executor = SingleThreadedExecutor(context=self.contexts[1])
        self.executor.add_node(self.pilot)
        self.observer = Observer(tuple(robot.cameras), JointMap.whole(robot), **LIMITS)
        self.pressed: list[bool] = []
        self.inputs = Inputs(self.pilot, robot, self.observer, self.pressed.append)
        self.pilot.create_timer(0.02, self.inputs.take)

    def header(self, age_s: float = 0.0) -> Header:
        stamp = self.robot.get_clock().now() - Duration(seconds=age_s)
        return Header(stamp=stamp.to_msg())

    def now_ns(self) -> int:
        return int(self.pilot.get_clock().now().nanoseconds)

    def publisher(self, kind: type, topic: str, qos: QoSProfile) -> Any:
        """A publisher that the pilot has found, with its name."""
        publisher = self.robot.create_publisher(kind, topic, qos)
        self.wait(lambda: [offer.node_name for offer in self.pilot.get_publishers_info_by_topic(topic)] == ["driver"])
        return publisher

    def wait(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline
            self.executor.spin_once(timeout_sec=0.02)

    def close(self) -> None:
        self.executor.shutdown()
        self.robot.destroy_node()
        self.pilot.destroy_node()
        for context in self.contexts:
            rclpy.shutdown(context=context)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@contextmanager
def link(robot: RobotConfig = ROBOT) -> Iterator[Link]:
    made = Link(robot)
    try:
        yield made
    finally:
        made.close()


def raw_image(header: Header) -> Image:
    data = array.array("B", PIXELS.tobytes())
    return Image(header=header, height=48, width=64, encoding="rgb8", step=192, data=data)


def packed_image(header: Header) -> CompressedImage:
    data = cv2.imencode(".png", PIXELS[..., ::-1])[1].tobytes()
    return CompressedImage(header=header, format="png", data=array.array("B", data))


@pytest.mark.parametrize(("kind", "encode"), [(Image, raw_image), (CompressedImage, packed_image)])
@pytest.mark.parametrize("reliability", ["best_effort", "reliable"])
def test_an_observation_is_made_of_what_was_sent(kind: type, encode: Callable[[Header], Any], reliability: str) -> None:
    cameras = {
        name: replace(camera, type=kind.__name__, reliability=reliability) for name, camera in ROBOT.cameras.items()
    }
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy[reliability.upper()])
    with link(replace(ROBOT, cameras=cameras)) as linked:
        images = [linked.publisher(kind, f"/camera/{name}/image_raw", qos) for name in cameras]
        states = linked.publisher(JointState, "/joint_states", ALL)
        linked.publisher(String, "/instruction", LATCHED).publish(String(data="pick up the red cube"))

        def observed() -> bool:
            header = linked.header()
            states.publish(JointState(header=header, name=ROBOT.joint_names, position=np.arange(8.0).tolist()))
            for publisher in images:
                publisher.publish(encode(header))
            return isinstance(linked.observer.sample(linked.now_ns()), Observation)

        linked.wait(observed)
        sampled = linked.observer.sample(linked.now_ns())
        assert isinstance(sampled, Observation)
        assert sampled.instruction == "pick up the red cube"
        np.testing.assert_array_equal(sampled.joint_positions, np.arange(8.0))
        assert sampled.images.keys() == cameras.keys()
        for pixels in sampled.images.values():
            np.testing.assert_array_equal(pixels, PIXELS)
        assert linked.inputs.faults() == {}


def test_a_late_comer_hears_the_last_word_on_the_emergency_stop() -> None:
    with link() as linked:
        linked.inputs.close()
        stop = linked.publisher(Bool, "/estop", LATCHED)
        stop.publish(Bool(data=True))
        Inputs(linked.pilot, ROBOT, linked.observer, linked.pressed.append)
        linked.wait(lambda: linked.pressed)
        stop.publish(Bool(data=False))
        linked.wait(lambda: len(linked.pressed) == 2)
        assert linked.pressed == [True, False]


def test_every_joint_state_is_taken_at_once() -> None:
    """The executor is not spun: what the middleware holds is taken when it is asked for."""
    with link() as linked:
        states = linked.publisher(JointState, "/joint_states", ALL)
        linked.wait(states.get_subscription_count)
        for age in range(40, 0, -1):
            states.publish(
                JointState(header=linked.header(age / 100), name=ROBOT.joint_names, position=[float(age)] * 8)
            )
        deadline = time.monotonic() + PATIENCE_S
        while (window := linked.observer.joints(10.0)) is None or len(window.stamps_ns) < 40:
            assert time.monotonic() < deadline
            linked.inputs.take()
        np.testing.assert_array_equal(window.positions[:, 0], np.arange(40, 0, -1))


def test_a_publisher_whose_quality_of_service_does_not_fit_is_named_logged_once_and_forgotten(
    capfd: pytest.CaptureFixture[str],
) -> None:
    strict = {name: replace(camera, reliability="reliable") for name, camera in ROBOT.cameras.items()}
    with link(replace(ROBOT, cameras=strict)) as linked:
        publisher = linked.publisher(Image, "/camera/front/image_raw", qos_profile_sensor_data)
        expected = (
            "/camera/front/image_raw cannot be heard from /left/driver, which offers best_effort volatile, expected "
            "reliable volatile; change it, or cameras.front in the robot's YAML file"
        )
        assert [linked.inputs.faults() for _ in range(3)] == [{"/camera/front/image_raw": expected}] * 3
        assert capfd.readouterr().err.count(expected) == 1
        linked.robot.destroy_publisher(publisher)
        linked.wait(lambda: not linked.inputs.faults())
        linked.publisher(Image, "/camera/front/image_raw", qos_profile_sensor_data)
        assert linked.inputs.faults() == {"/camera/front/image_raw": expected}
        assert capfd.readouterr().err.count(expected) == 1


def test_a_publisher_of_another_type_is_named() -> None:
    with link() as linked:
        linked.publisher(CompressedImage, "/camera/wrist/image_raw", qos_profile_sensor_data)
        assert linked.inputs.faults() == {
            "/camera/wrist/image_raw": "/camera/wrist/image_raw cannot be heard from /left/driver, which sends "
            "sensor_msgs/msg/CompressedImage, expected sensor_msgs/msg/Image; change it, or cameras.wrist in the "
            "robot's YAML file"
        }


def test_an_emergency_stop_that_is_not_latched_is_named() -> None:
    with link() as linked:
        linked.publisher(Bool, "/estop", ALL)
        assert linked.inputs.faults() == {
            "/estop": "/estop cannot be heard from /left/driver, which offers reliable volatile, expected "
            "reliable transient_local; change the publisher"
        }


def test_closed_inputs_listen_to_nothing() -> None:
    topics = ["/camera/front/image_raw", "/camera/wrist/image_raw", "/joint_states", "/instruction", "/estop"]
    with link() as linked:
        linked.wait(lambda: all(linked.robot.count_subscribers(topic) == 1 for topic in topics))
        linked.inputs.close()
        linked.wait(lambda: not any(linked.robot.count_subscribers(topic) for topic in topics))
        assert linked.inputs.faults() == {}
        linked.inputs.take()


def test_a_camera_of_which_less_than_half_arrives_is_starved() -> None:
    observer = Observer(("front", "wrist"), JointMap.whole(PANDA), **LIMITS)
    start_ns, second = 1_700_000_000_000_000_000, 1_000_000_000
    assert starved(observer, PANDA, start_ns) == {}
    for tick in range(60):  # of 20 Hz in the robot file
        stamp_ns = start_ns + tick * second // 20
        observer.push_image("front", stamp_ns, lambda: PIXELS)
        if tick % 5 in {0, 2}:
            observer.push_image("wrist", stamp_ns, lambda: PIXELS)
        if tick < 39:
            assert starved(observer, PANDA, stamp_ns) == {}
    assert starved(observer, PANDA, stamp_ns) == {
        "wrist": "camera wrist: 8.0 of 20 images per second arrive; start its node with "
        f"FASTDDS_DEFAULT_PROFILES_FILE={PROFILE}, or let it send CompressedImage, or reliably"
    }


@pytest.mark.parametrize("profile", [True, False])
def test_images_of_640_by_480_between_processes(profile: bool) -> None:
    """With the profile nearly all arrive; without, whatever the middleware loses is told as it is."""
    seconds = 5.0
    script = Path(__file__).with_name("camera_link.py")
    environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN_ID), "PYTHONPATH": str(script.parents[1])}
    environment |= {"FASTDDS_DEFAULT_PROFILES_FILE": str(PROFILE)} if profile else {}
    sides = [
        subprocess.Popen([sys.executable, script, side, str(seconds)], stdout=subprocess.PIPE, env=environment)
        for side in ("receive", "send")
    ]
    try:
        received, sent = (json.loads(side.communicate(timeout=PATIENCE_S)[0]) for side in sides)
    finally:
        for side in sides:
            side.kill()
    for camera, stamps_ns in received["stamps_ns"].items():
        ages_s = (received["now_ns"] - np.array(stamps_ns)) * 1e-9
        rate_hz = np.count_nonzero((ages_s > 0.2) & (ages_s <= 2.2)) / 2  # counted here, over much the same time
        said = received["starved"].get(camera, "")
        if profile:
            assert len(stamps_ns) > 0.9 * sent["sent"]
            assert said == ""
        elif abs(rate_hz - 15.0) > 4.0:
            assert bool(said) == (rate_hz < 15.0)
