"""What a replay predicts, written as a recording and read again."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from scipy.spatial.transform import Rotation

from vlaq_ros import messages
from vlaq_ros.config import JointConfig, RobotConfig
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import Command, Decision, FloatArray, Motion, Observation, Trajectory, Violations
from vlaq_ros.evaluate.annotation import Annotation
from vlaq_ros.evaluate.replayed import Answer, Event, Held, Look
from vlaq_ros.joints import JointMap
from vlaq_ros.sim import panda

START_NS, MS_NS = 1_700_000_000_123_456_789, 1_000_000
STEP_S = 0.05
ROBOT = RobotConfig.load("sim_panda")
JOINTS = JointMap.whole(ROBOT)
KINEMATICS = Kinematics(panda.urdf(), JOINTS.urdf, ROBOT.tool_frame)
HOME = np.array([*panda.HOME_RAD, 0.04])
TARGETS = HOME + 0.01 * np.arange(1, 5)[:, None]  # [4, 8]
OBSERVED = Observation(START_NS, {}, JOINTS.policy, HOME, "pick up the red cube")
DECISION = Decision("fine", 0.7, "a test")


def write(
    directory: Path, *events: Event, joints: JointMap = JOINTS, offset_ns: int = 0
) -> dict[str, list[tuple[int, Any]]]:
    """Write events, and read what was written: stamps and messages by topic."""
    with Annotation(directory, KINEMATICS, panda.urdf(), joints, step_s=STEP_S, offset_ns=offset_ns) as annotation:
        for event in events:
            annotation.take(event)
    read = defaultdict(list)
    with AnyReader([directory]) as reader:
        for connection, stamp_ns, raw in reader.messages():
            read[connection.topic].append((stamp_ns, reader.deserialize(raw, connection.msgtype)))
    return dict(read)


def look(after_ms: int, precision: str, sensitivity: float | None) -> Look:
    stamp_ns = START_NS + after_ms * MS_NS
    motion = None if sensitivity is None else Motion(stamp_ns, 0.5, 0.5, sensitivity)
    decision = Decision(precision, np.nan if sensitivity is None else sensitivity, "a test")
    return Look(stamp_ns, HOME, decision, motion, (), 0.0, "")


def answer(targets: dict[str, FloatArray], command: Command | None = None) -> Answer:
    return Answer(
        observation=OBSERVED,
        took_over_ns=START_NS + 100 * MS_NS,
        decision=DECISION,
        chunk=None,
        command=command,
        fault="",
        rejected="",
        targets=targets,
        inference_s={"fine": 0.08, "coarse": 0.05},
    )


def motion(stamp_ns: int) -> Trajectory:
    times_ns = 50 * MS_NS * np.arange(4)
    return Trajectory(stamp_ns, JOINTS.urdf, times_ns, TARGETS, np.full((4, 8), 0.2), np.full((4, 8), -0.1))


def test_motion_and_precision_lie_at_the_stamps_of_the_looks(tmp_path: Path) -> None:
    looks = look(0, "fine", None), look(20, "fine", 0.7), look(40, "coarse", 0.2), look(60, "coarse", 0.1)
    read = write(tmp_path / "annotated", *looks)
    assert [(stamp_ns - START_NS, message.data) for stamp_ns, message in read["/replay/sensitivity"]] == [
        (20 * MS_NS, 0.7),
        (40 * MS_NS, 0.2),
        (60 * MS_NS, 0.1),
    ]
    assert [(stamp_ns - START_NS, message.data) for stamp_ns, message in read["/replay/precision"]] == [
        (0, "fine"),
        (40 * MS_NS, "coarse"),
    ]


def test_commands_and_brakes_come_back_as_they_would_have_left(tmp_path: Path) -> None:
    sent, brake = motion(START_NS + 90 * MS_NS), motion(START_NS + 200 * MS_NS)
    command = Command(sent, DECISION, START_NS, 0.08, Violations())
    read = write(tmp_path / "annotated", answer({}, command), Held(START_NS + 210 * MS_NS, brake))
    stamps_ns = [stamp_ns - START_NS for stamp_ns, _ in read["/replay/command"]]
    assert stamps_ns == [100 * MS_NS, 210 * MS_NS]
    for expected, (_, message) in zip((sent, brake), read["/replay/command"], strict=True):
        decoded = messages.trajectory(message)
        assert (decoded.stamp_ns, decoded.joint_names) == (expected.stamp_ns, expected.joint_names)
        for field in ("times_ns", "positions", "velocities", "accelerations"):
            np.testing.assert_array_equal(getattr(decoded, field), getattr(expected, field))


def test_commands_speak_the_names_and_units_of_the_robots_messages(tmp_path: Path) -> None:
    named = replace(ROBOT, joints={"panda_joint1": JointConfig(message="base", unit="deg")})
    read = write(
        tmp_path / "annotated", Held(START_NS, motion(START_NS)), joints=JointMap(named, JointMap.whole(named).policy)
    )
    ((_, message),) = read["/replay/command"]
    assert message.joint_names[:2] == ["base", "panda_joint2"]
    np.testing.assert_allclose([point.positions[0] for point in message.points], np.degrees(TARGETS[:, 0]))
    np.testing.assert_allclose(message.points[0].velocities[:2], [np.degrees(0.2), 0.2])


def test_tool_paths_are_the_targets_in_the_root_link(tmp_path: Path) -> None:
    read = write(tmp_path / "annotated", answer({"fine": TARGETS, "coarse": TARGETS + 0.1}))
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


def test_messages_lie_on_the_recordings_clock_where_the_robots_is_another(tmp_path: Path) -> None:
    read = write(tmp_path / "annotated", answer({"fine": TARGETS}), offset_ns=-START_NS)
    ((stamp_ns, path),) = read["/replay/tool_path/fine"]
    assert (stamp_ns, messages.stamp_ns(path.header.stamp)) == (0, START_NS)


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    broken = np.where(np.arange(8) == 3, np.nan, TARGETS)
    read = write(tmp_path / "annotated", answer({"fine": broken, "coarse": TARGETS}))
    assert "/replay/tool_path/fine" not in read
    assert len(read["/replay/tool_path/coarse"]) == 1
    assert [message.data for _, message in read["/replay/inference_ms/fine"]] == [80.0]


def test_an_error_on_the_way_leaves_a_readable_file(tmp_path: Path) -> None:
    directory = tmp_path / "annotated"
    annotation = Annotation(directory, KINEMATICS, panda.urdf(), JOINTS, step_s=STEP_S, offset_ns=0)

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


def test_foxgloves_own_reader_opens_it(tmp_path: Path) -> None:
    reader = pytest.importorskip("mcap.reader", reason="the mcap package is not installed")
    write(tmp_path / "annotated", look(20, "fine", 0.7), answer({"fine": TARGETS}))
    with (tmp_path / "annotated/annotated.mcap").open("rb") as file:
        read = [(channel.topic, schema.name) for schema, channel, _ in reader.make_reader(file).iter_messages()]
    assert set(read) == {
        ("/replay/precision", "std_msgs/msg/String"),
        ("/replay/sensitivity", "std_msgs/msg/Float64"),
        ("/replay/inference_ms/fine", "std_msgs/msg/Float64"),
        ("/replay/inference_ms/coarse", "std_msgs/msg/Float64"),
        ("/replay/tool_path/fine", "nav_msgs/msg/Path"),
    }
