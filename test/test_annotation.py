"""What a replay predicts, written as a recording and read again."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_writer import DELAY, START
from replayable import HOME, ROBOT, record
from rosbags.highlevel import AnyReader
from scipy.spatial.transform import Rotation

from vlaq_ros import messages
from vlaq_ros.bags.reference import Reference
from vlaq_ros.bags.topics import Topics
from vlaq_ros.config import JointConfig
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import (
    ActionChunk,
    ActionSpace,
    Command,
    Decision,
    FloatArray,
    Motion,
    Observation,
    Trajectory,
    Violations,
)
from vlaq_ros.joints import JointMap
from vlaq_ros.replay.annotation import Annotation
from vlaq_ros.replay.replayed import Answer, Event, Held, Look
from vlaq_ros.sim import panda

START_NS, MS_NS = START + 100_000_001, 1_000_000  # the arm stands for 400 ms more
STEP_S = 0.05
JOINTS = JointMap.whole(ROBOT)
KINEMATICS = Kinematics(panda.urdf(), JOINTS.urdf, ROBOT.tool_frame)
TARGETS = HOME + 0.01 * np.arange(1, 5)[:, None]  # [4, 8]
OBSERVED = Observation(START_NS, {}, JOINTS.policy, HOME, "pick up the red cube")
DECISION = Decision("fine", 0.7, "a test")


Written = dict[str, list[tuple[int, Any]]]  # by topic: robot's time, message


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    bag = record(tmp_path_factory.mktemp("bags") / "original")
    return Reference.read(bag, Topics.of(ROBOT, ("front", "wrist")), JOINTS)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "annotated"


def write(directory: Path, reference: Reference, *events: Event, joints: JointMap = JOINTS) -> Written:
    """Write events, and read what was written."""
    with Annotation(directory, KINEMATICS, panda.urdf(), joints, reference=reference, step_s=STEP_S) as annotation:
        for event in events:
            annotation.take(event)
    read = defaultdict(list)
    with AnyReader([directory]) as reader:
        for connection, received_ns, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            read[connection.topic].append((received_ns - DELAY, message))  # as the original's messages arrived
    return dict(read)


def look(after_ms: int, precision: str, sensitivity: float | None) -> Look:
    stamp_ns = START_NS + after_ms * MS_NS
    motion = None if sensitivity is None else Motion(stamp_ns, 0.5, 0.5, sensitivity)
    decision = Decision(precision, np.nan if sensitivity is None else sensitivity, "a test")
    return Look(stamp_ns, HOME, decision, motion, (), 0.0, "")


def answer(targets: dict[str, FloatArray], command: Command | None = None, chunk: ActionChunk | None = None) -> Answer:
    return Answer(
        observation=OBSERVED,
        took_over_ns=START_NS + 100 * MS_NS,
        decision=DECISION,
        chunk=chunk,
        command=command,
        fault="",
        rejected="",
        targets=targets,
        inference_s={"fine": 0.08, "coarse": 0.05},
    )


def motion(stamp_ns: int) -> Trajectory:
    times_ns = 50 * MS_NS * np.arange(4)
    return Trajectory(stamp_ns, JOINTS.urdf, times_ns, TARGETS, np.full((4, 8), 0.2), np.full((4, 8), -0.1))


def test_motion_and_precision_lie_at_the_stamps_of_the_looks(directory: Path, reference: Reference) -> None:
    looks = look(0, "fine", None), look(20, "fine", 0.7), look(40, "coarse", 0.2), look(60, "coarse", 0.1)
    read = write(directory, reference, *looks)
    assert [(stamp_ns - START_NS, message.data) for stamp_ns, message in read["/replay/sensitivity"]] == [
        (20 * MS_NS, 0.7),
        (40 * MS_NS, 0.2),
        (60 * MS_NS, 0.1),
    ]
    assert [(stamp_ns - START_NS, message.data) for stamp_ns, message in read["/replay/precision"]] == [
        (0, "fine"),
        (40 * MS_NS, "coarse"),
    ]


def test_commands_and_brakes_come_back_as_they_would_have_left(directory: Path, reference: Reference) -> None:
    sent, brake = motion(START_NS + 90 * MS_NS), motion(START_NS + 200 * MS_NS)
    command = Command(sent, DECISION, START_NS, 0.08, Violations())
    read = write(directory, reference, answer({}, command), Held(START_NS + 210 * MS_NS, brake))
    stamps_ns = [stamp_ns - START_NS for stamp_ns, _ in read["/replay/command"]]
    assert stamps_ns == [100 * MS_NS, 210 * MS_NS]
    for expected, (_, message) in zip((sent, brake), read["/replay/command"], strict=True):
        decoded = messages.trajectory(message)
        assert (decoded.stamp_ns, decoded.joint_names) == (expected.stamp_ns, expected.joint_names)
        for field in ("times_ns", "positions", "velocities", "accelerations"):
            np.testing.assert_array_equal(getattr(decoded, field), getattr(expected, field))


def test_commands_speak_the_names_and_units_of_the_robots_messages(directory: Path, reference: Reference) -> None:
    named = replace(ROBOT, joints={"panda_joint1": JointConfig(message="base", unit="deg")})
    read = write(
        directory, reference, Held(START_NS, motion(START_NS)), joints=JointMap(named, JointMap.whole(named).policy)
    )
    ((_, message),) = read["/replay/command"]
    assert message.joint_names[:2] == ["base", "panda_joint2"]
    np.testing.assert_allclose([point.positions[0] for point in message.points], np.degrees(TARGETS[:, 0]))
    np.testing.assert_allclose(message.points[0].velocities[:2], [np.degrees(0.2), 0.2])


def test_tool_paths_are_the_targets_in_the_root_link(directory: Path, reference: Reference) -> None:
    read = write(directory, reference, answer({"fine": TARGETS, "coarse": TARGETS + 0.1}))
    ((stamp_ns, path),) = read["/replay/tool_path/fine"]
    assert (stamp_ns, path.header.frame_id) == (START_NS, "panda_link0")
    positions, rotations = KINEMATICS.forward(TARGETS)
    for row, pose in enumerate(path.poses):
        assert messages.stamp_ns(pose.header.stamp) == START_NS + (row + 1) * 50 * MS_NS
        point, turn = pose.pose.position, pose.pose.orientation
        np.testing.assert_allclose([point.x, point.y, point.z], positions[row])
        np.testing.assert_allclose(
            Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix(), rotations[row], atol=1e-12
        )
    ((_, other),) = read["/replay/tool_path/coarse"]
    assert other.poses[0].pose.position.x != path.poses[0].pose.position.x


def test_errors_are_the_largest_distance_of_the_tool_from_what_was_recorded(
    directory: Path, reference: Reference
) -> None:
    standing = np.tile(HOME, (4, 1))
    read = write(directory, reference, answer({"fine": standing, "coarse": TARGETS}))
    ((_, none),) = read["/replay/tool_error_m/fine"]
    ((_, most),) = read["/replay/tool_error_m/coarse"]
    (home, *moved), _ = KINEMATICS.forward(np.vstack([HOME, TARGETS]))
    assert none.data == pytest.approx(0.0, abs=1e-9)
    assert most.data == pytest.approx(np.linalg.norm(np.array(moved) - home, axis=1).max())


def test_the_chunk_that_flew_is_drawn_without_any_shadow(directory: Path, reference: Reference) -> None:
    actions = TARGETS - np.append(HOME[:-1], 0.0)
    chunk = ActionChunk(START_NS, STEP_S, ActionSpace.JOINT, actions)
    read = write(directory, reference, answer({}, chunk=chunk))
    ((_, path),) = read["/replay/tool_path/flown"]
    positions, _ = KINEMATICS.forward(TARGETS)
    np.testing.assert_allclose([path.poses[-1].pose.position.z], positions[-1, 2])


def test_what_is_no_number_is_left_out(directory: Path, reference: Reference) -> None:
    broken = np.where(np.arange(8) == 3, np.nan, TARGETS)
    read = write(directory, reference, answer({"fine": broken, "coarse": TARGETS}))
    assert "/replay/tool_path/fine" not in read
    assert len(read["/replay/tool_path/coarse"]) == 1
    assert [message.data for _, message in read["/replay/inference_ms/fine"]] == [80.0]


def test_an_error_on_the_way_leaves_a_readable_file(directory: Path, reference: Reference) -> None:
    annotation = Annotation(directory, KINEMATICS, panda.urdf(), JOINTS, reference=reference, step_s=STEP_S)

    def break_off() -> None:
        with annotation:
            annotation.take(look(0, "fine", 0.5))
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError):
        break_off()
    with AnyReader([directory]) as reader:
        assert {topic for topic, info in reader.topics.items() if info.msgcount} == {
            "/replay/precision",
            "/replay/sensitivity",
        }


def test_foxgloves_own_reader_opens_it(directory: Path, reference: Reference) -> None:
    reader = pytest.importorskip("mcap.reader", reason="the mcap package is not installed")
    write(directory, reference, look(20, "fine", 0.7), answer({"fine": TARGETS}))
    with (directory / "annotated.mcap").open("rb") as file:
        read = [(channel.topic, schema.name) for schema, channel, _ in reader.make_reader(file).iter_messages()]
    assert set(read) == {
        ("/replay/precision", "std_msgs/msg/String"),
        ("/replay/sensitivity", "std_msgs/msg/Float64"),
        ("/replay/inference_ms/fine", "std_msgs/msg/Float64"),
        ("/replay/inference_ms/coarse", "std_msgs/msg/Float64"),
        ("/replay/tool_path/fine", "nav_msgs/msg/Path"),
        ("/replay/tool_error_m/fine", "std_msgs/msg/Float64"),
    }
