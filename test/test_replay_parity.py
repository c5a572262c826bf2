"""A flight over DDS, with both nodes as processes, is recorded and flown again: decisions and commands are the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from std_msgs.msg import String

from vlaq_ros.bags.reference import Reference
from vlaq_ros.bags.topics import Topics
from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.datatypes import ActionChunk, FloatArray, Guide, Observation
from vlaq_ros.joints import JointMap
from vlaq_ros.journal import Fetch, Tick
from vlaq_ros.policy.engine import Engine
from vlaq_ros.replay.journal import entries, session
from vlaq_ros.replay.parity import Parity
from vlaq_ros.replay.replay import RECORDED, replay
from vlaq_ros.replay.replayed import Answer, Event
from vlaq_ros.ros import domain
from vlaq_ros.ros.episodes import EpisodeClient
from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.ros.station import Station

DOMAIN = domain.claim()
ALLOWED = 1e-6


class Spy(Engine):
    """An engine that keeps the noise it is given, and can be shown other images."""

    noises: list[FloatArray]
    brighter = 0

    def infer(
        self, observation: Observation, precision: str, noise: FloatArray, guide: Guide | None = None
    ) -> ActionChunk:
        self.noises.append(noise)
        images = {
            name: np.minimum(image, 255 - self.brighter) + np.uint8(self.brighter)
            for name, image in observation.images.items()
        }
        return super().infer(replace(observation, images=images), precision, noise, guide)


@dataclass(frozen=True)
class Recorded:
    bag: Path
    policy: Spy
    topics: Topics
    joints: JointMap
    robot: RobotConfig
    config: PilotConfig

    def compare(self, bag: Path | None = None, **changes: object) -> Iterator[tuple[Parity, Event]]:
        """Repeat the flight, and say after every event how it compares."""
        bag = bag or self.bag
        reference = Reference.read(bag, self.topics, self.joints)
        parity = Parity(bag, reference, self.topics)
        self.policy.noises = []
        for event in replay(
            bag,
            self.policy,
            reference,
            self.topics,
            self.joints,
            robot=self.robot,
            config=replace(self.config, **changes),  # type: ignore[arg-type]  # any field
            shadows={},
            latency=RECORDED,
        ):
            parity.take(event)
            yield parity, event


@pytest.fixture(scope="module")
def recorded(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Two episodes; the first at the precision that the motion asks for, the second at another."""
    out = tmp_path_factory.mktemp("recorded")
    pilot = {"model": str(tiny_bundle), "precision": "auto", "autostart": "true", "flow_seed": "7"}
    with Station("parity", domain_id=DOMAIN) as station, station.recording(out / "bag"):
        client = EpisodeClient(station)
        request = station.node.create_publisher(String, "/pilot/precision_request", LATCHED)
        for name, parameters in {"sim_robot": {}, "pilot": pilot}.items():
            station.start(f"vlaq_ros.ros.{name}_node", parameters, out / f"{name}.log")
        client.wait_until_ready()
        client.run(1, "pick up the red cube", 3.0)
        request.publish(String(data="coarse"))
        client.run(2, "put the green cube in the bin", 3.0)
        station.wait(lambda: False, 1.0)  # until the arm is held
    robot = RobotConfig.load("sim_panda")
    policy = Spy.load(tiny_bundle)
    topics = Topics.of(robot, policy.spec.cameras)
    told = session(out / "bag", topics)
    assert told is not None
    assert told.model == tiny_bundle.name
    return Recorded(out / "bag", policy, topics, JointMap(robot, policy.spec.joint_names), robot, told.config())


@pytest.fixture(autouse=True)
def as_many_threads_as_the_node(recorded: Recorded) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(recorded.config.threads)
    yield
    torch.set_num_threads(threads)


def commands(told: Sequence[tuple[Parity, Event]]) -> list[Answer]:
    return [event for _, event in told if isinstance(event, Answer) and event.command is not None]


def test_the_recording_has_what_a_repetition_is_about(recorded: Recorded) -> None:
    noted = list(entries(recorded.bag, recorded.topics))
    sent = [entry for entry in noted if isinstance(entry, Fetch) and not entry.why]
    assert {entry.precision for entry in sent} == {"fine", "coarse"}
    ticks = [entry for entry in noted if isinstance(entry, Tick)]
    assert {entry.asked for entry in ticks} == {"auto", "coarse"}
    assert any(not entry.open for entry in ticks), "between the episodes the gate is closed"
    assert recorded.config.flow_seed == 7


def test_decisions_and_commands_are_those_that_were_recorded(recorded: Recorded, tmp_path: Path) -> None:
    told = list(recorded.compare())
    parity = told[-1][0]
    noted = list(entries(recorded.bag, recorded.topics))
    assert parity.decisions_equal == parity.decisions == sum(isinstance(entry, Tick) for entry in noted) > 50
    sent = [entry for entry in noted if isinstance(entry, Fetch) and not entry.why]
    assert [answer.decision.precision for answer in commands(told)] == [entry.precision for entry in sent]
    assert [answer.took_over_ns for answer in commands(told)] == [entry.readings_ns[1] for entry in sent]
    assert parity.commands == parity.recorded > 5
    assert parity.unmatched == 0
    assert parity.largest <= ALLOWED

    noises = recorded.policy.noises
    second = list(recorded.compare(second_episode(recorded, tmp_path / "second")))
    parity = second[-1][0]
    assert 0 < len(recorded.policy.noises) < len(noises), "draws before the bag are known from the journal"
    np.testing.assert_array_equal(recorded.policy.noises, noises[-len(recorded.policy.noises) :])
    assert {answer.decision.precision for answer in commands(second)} == {"coarse"}, "asked for before the bag"
    assert parity.commands == len(commands(second)) + 1, "all of them, and the hold at the end"
    assert parity.decisions_equal == parity.decisions > 50
    assert parity.unmatched == 0
    assert parity.largest <= ALLOWED


def test_other_noise_is_another_flight(recorded: Recorded) -> None:
    assert any(parity.largest > ALLOWED for parity, _ in recorded.compare(flow_seed=8))


def test_other_images_are_another_flight(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded.policy, "brighter", 8)
    assert any(parity.largest > ALLOWED for parity, _ in recorded.compare())


def test_another_precision_is_another_flight(recorded: Recorded) -> None:
    assert any(parity.decisions_equal < parity.decisions for parity, _ in recorded.compare(precision="coarse"))


def second_episode(recorded: Recorded, out: Path) -> Path:
    """What was recorded once the gate had closed behind the first one."""
    ticks = [entry for entry in entries(recorded.bag, recorded.topics) if isinstance(entry, Tick)]
    closes_ns = next(after.now_ns for before, after in pairwise(ticks) if before.open and not after.open)
    with Reader(recorded.bag) as reader, Writer(out, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {
            connection.id: writer.add_connection(
                connection.topic, connection.msgtype, msgdef=connection.msgdef.data, rihs01=connection.digest
            )
            for connection in reader.connections
        }
        for connection, stamp_ns, raw in reader.messages():
            if stamp_ns > closes_ns + 200_000_000 or connection.topic == recorded.topics.description:
                writer.write(connections[connection.id], stamp_ns, raw)
    return out
