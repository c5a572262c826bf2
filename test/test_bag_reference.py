"""What a recording says the arm did and was told, on bags that are written by hand."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_writer import (
    DELAY,
    SECOND,
    START,
    Entry,
    compressed,
    image,
    joint_state,
    positions,
    text,
    trajectory,
    write,
)
from hypothesis import given
from hypothesis import strategies as st
from rosbags.rosbag2 import StoragePlugin

from vlaq_ros.bags.measured import Measured
from vlaq_ros.bags.reference import Reference
from vlaq_ros.bags.topics import Topics
from vlaq_ros.config import ArmConfig, GripperConfig, JointConfig, RobotConfig
from vlaq_ros.errors import CameraNamesError
from vlaq_ros.joints import JointMap

ROBOT = RobotConfig.load("sim_panda")
NAMES = ROBOT.joint_names
CAMERAS = ("front", "wrist")
ARM = "/arm_controller/joint_trajectory"
GREY = np.full((6, 8, 3), 90, np.uint8)


def at(seconds: float) -> int:
    return START + round(seconds * SECOND)


def arm(value: float, finger: float = 0.04) -> np.ndarray:
    """A position of all joints."""
    return np.array([value] * 7 + [finger])


def states(seconds: float, rate_hz: float = 100.0, slope: float = 0.0) -> list[Entry]:
    """The arm at 0.1 rad that moves by `slope`."""
    times_s = np.arange(0, seconds, 1 / rate_hz)
    return [joint_state(at(time_s), NAMES, arm(0.1 + slope * time_s)) for time_s in times_s]


def cameras(seconds: float, rate_hz: float = 20.0) -> list[Entry]:
    ticks = range(round(seconds * rate_hz))
    return [image(at(tick / rate_hz), f"/camera/{name}/image_raw", GREY) for tick in ticks for name in CAMERAS]


def session(seconds: float = 4.0, slope: float = 0.0) -> list[Entry]:
    return [*states(seconds, slope=slope), *cameras(seconds), text(at(0), "pick up the red cube")]


def reference(bag: Path, robot: RobotConfig = ROBOT, namespace: str = "") -> Reference:
    return Reference.read(bag, Topics.of(robot, CAMERAS, namespace), JointMap.whole(robot))


def told(read: Reference, *seconds: float) -> list[float]:
    """What the arm was told at some times; all of its joints are told the same."""
    values = read.at(np.array([at(time_s) for time_s in seconds]))
    np.testing.assert_array_equal(values[:, :7], values[:, :1].repeat(7, axis=1))
    return values[:, 0].tolist()


def test_topics_are_those_of_the_robot_in_its_namespace() -> None:
    topics = Topics.of(ROBOT, ("wrist",), "left")
    assert topics.cameras == {"wrist": "/left/camera/wrist/image_raw"}
    assert topics.types == {
        "/left/camera/wrist/image_raw": "sensor_msgs/msg/Image",
        "/left/joint_states": "sensor_msgs/msg/JointState",
        "/left/instruction": "std_msgs/msg/String",
        "/left/arm_controller/joint_trajectory": "trajectory_msgs/msg/JointTrajectory",
        "/left/robot_description": "std_msgs/msg/String",
        "/left/pilot/precision": "std_msgs/msg/String",
        "/left/pilot/session": "std_msgs/msg/String",
        "/left/pilot/journal": "std_msgs/msg/String",
    }
    named = {topics.joint_states, topics.instruction, topics.arm, topics.description, topics.precision}
    assert named | {topics.session, topics.journal, *topics.cameras.values()} == set(topics.types)
    assert topics.gripper == ""
    with pytest.raises(CameraNamesError):
        Topics.of(ROBOT, ("ceiling",))


def test_a_plain_recording_is_told_as_it_is(tmp_path: Path) -> None:
    entries = [
        *session(slope=0.2),
        text(at(2), ""),
        text(at(0), "<robot/>", "/robot_description"),
        text(at(1), "fine", "/pilot/precision"),
        text(at(3), "coarse", "/pilot/precision"),
        text(at(1), "{}", "/pilot/journal"),
        trajectory(at(0.5), ARM, NAMES, (0, 3.5), (arm(0), arm(1))),
    ]
    read = reference(write(tmp_path / "bag", entries))
    assert (read.start_ns, read.end_ns, read.offset_ns) == (at(0), at(3.99), DELAY)
    assert (read.joint_rate_hz, read.camera_rates_hz) == (100.0, {"front": 20.0, "wrist": 20.0})
    assert read.camera_sizes_px == {"front": (8, 6), "wrist": (8, 6)}
    assert read.instructions == ((at(0), "pick up the red cube"), (at(2), ""))
    assert [stamps.tolist() if isinstance(stamps, np.ndarray) else stamps for stamps in read.precisions] == [
        [at(1), at(3)],
        ("fine", "coarse"),
    ]
    assert (read.urdf, read.journal, read.source, read.lines) == ("<robot/>", True, "commands", ())
    np.testing.assert_array_equal(read.stamps_ns, [at(0.01 * tick) for tick in range(400)])
    np.testing.assert_allclose(read.positions[:, 0], 0.1 + 0.002 * np.arange(400))
    again = pickle.loads(pickle.dumps(read))  # many bags are read in processes of their own
    np.testing.assert_array_equal(again.at(read.stamps_ns), read.at(read.stamps_ns))


def test_without_commands_what_the_arm_did_counts(tmp_path: Path) -> None:
    read = reference(write(tmp_path / "bag", session(slope=0.2)))
    assert (read.source, read.commands, read.urdf, read.journal) == ("motion", (), "", False)
    assert told(read, 0, 1, 2.005, 3.99) == pytest.approx([0.1, 0.3, 0.501, 0.898])
    assert np.isnan(told(read, -0.001, 3.9901)).all()
    assert read.lines == (f"there are no commands of {', '.join(NAMES)}: what was measured counts instead",)


def test_the_command_in_force_counts_until_its_end(tmp_path: Path) -> None:
    """Stamped ones are followed from where they are by then; the next one replaces; at the end the arm is let go."""
    first = trajectory(at(1), ARM, NAMES, (0, 2), (arm(1), arm(3)), stamp_ns=at(0.5))
    later = trajectory(at(1.8), ARM, NAMES, (0, 1), (arm(5), arm(6)), stamp_ns=at(2))
    read = reference(write(tmp_path / "bag", [*session(), first, later]))
    assert told(read, 0.999, 1.021, 1.5, 1.999) == pytest.approx([0.1, 1.521, 2.0, 2.499])
    assert told(read, 2, 2.5, 3, 3.001) == pytest.approx([5, 5.5, 6, 0.1])
    assert [(it.stamp_ns, it.joint_names) for it in read.commands] == [(at(0.5), NAMES), (at(2), NAMES)]
    np.testing.assert_array_equal(read.commands[0].positions, [arm(1), arm(3)])


def test_a_command_without_a_stamp_starts_when_it_comes_and_leads_from_the_measured_arm(tmp_path: Path) -> None:
    read = reference(write(tmp_path / "bag", [*session(), trajectory(at(1), ARM, NAMES, (1.0,), (arm(2.1),))]))
    assert told(read, 0.9, 1, 1.5, 1.75, 2, 2.001) == pytest.approx([0.1, 0.1, 1.1, 1.6, 2.1, 0.1])
    assert read.commands[0].stamp_ns == at(1)


def test_a_command_that_arrives_shortly_before_its_first_point_begins_with_it(tmp_path: Path) -> None:
    running = trajectory(at(1), ARM, NAMES, (0, 2), (arm(1), arm(3)))
    next_one = trajectory(at(1.95), ARM, NAMES, (0.1, 1), (arm(5), arm(6)), stamp_ns=at(1.93))
    read = reference(write(tmp_path / "bag", [*session(), running, next_one]))
    assert told(read, 1.95, 2.025, 2.03, 2.93) == pytest.approx([1.95, 2.025, 5, 6])


def test_targets_that_follow_each_other_hold_until_the_next(tmp_path: Path) -> None:
    """As a teleoperation sends them: one point each, a little ahead."""
    servo = [trajectory(at(1 + 0.05 * k), ARM, NAMES, (0.05,), (arm(k),)) for k in range(10)]
    read = reference(write(tmp_path / "bag", [*session(), *servo]))
    assert told(read, 1.04, 1.05, 1.09, 1.1, 1.27) == pytest.approx([0.1, 0, 0, 1, 4])
    assert told(read, 1.5, 1.51) == pytest.approx([9, 0.1])


def test_a_command_that_is_replaced_before_it_begins_never_counts(tmp_path: Path) -> None:
    never = trajectory(at(1), ARM, NAMES, (0, 1), (arm(7), arm(8)), stamp_ns=at(3))
    now = trajectory(at(1.5), ARM, NAMES, (0, 2), (arm(1), arm(1)), stamp_ns=at(1.5))
    read = reference(write(tmp_path / "bag", [*session(), never, now]))
    assert told(read, 1.2, 1.6, 3, 3.4) == pytest.approx([0.1, 1, 1, 1])
    assert len(read.commands) == 2


def test_commands_in_the_words_of_the_controller_are_those_of_the_urdf(tmp_path: Path) -> None:
    """Names, units, order and other joints in the same message do not matter."""
    robot = replace(
        ROBOT,
        joints={name: JointConfig(message=f"motor_{name}", unit="deg") for name in ROBOT.arm_joints}
        | {ROBOT.gripper_joint: JointConfig(unit="mm", scale=-1.0, offset=0.04)},
    )
    names = ["lift", ROBOT.gripper_joint, *(f"motor_{name}" for name in ROBOT.arm_joints)]

    def values(arm_rad: float, finger_m: float) -> list[float]:
        return [9.0, 1e3 * (0.04 - finger_m), *np.rad2deg([arm_rad] * 7)]

    moves = [joint_state(at(tick / 100), names, values(0.1, 0.04)) for tick in range(400)]
    order = trajectory(at(1), ARM, names, (0, 1), (values(1, 0.01), values(2, 0.03)))
    read = reference(write(tmp_path / "bag", [*moves, *cameras(4), order]), robot)
    np.testing.assert_allclose(read.at(np.array([at(0), at(1.5)])), [arm(0.1, 0.04), arm(1.5, 0.02)], atol=1e-12)
    np.testing.assert_allclose(read.commands[0].positions, [arm(1, 0.01), arm(2, 0.03)], atol=1e-12)


STREAMED = replace(
    ROBOT,
    arm=ArmConfig(topic="arm/commands", type="Float64MultiArray"),
    gripper=GripperConfig(type="Float64MultiArray", topic="gripper/commands"),
)


def test_streamed_positions_are_a_motion_and_the_last_one_holds(tmp_path: Path) -> None:
    stream = [positions(at(1 + tick / 500), "/arm/commands", [1 + tick / 500] * 7) for tick in range(500)]
    grip = [positions(at(1.5), "/gripper/commands", [0.0])]
    read = reference(write(tmp_path / "bag", [*session(), *stream, *grip]), STREAMED)
    assert read.source == "commands"
    assert told(read, 0.9, 1, 1.333, 1.75) == pytest.approx([0.1, 1, 1.333, 1.75])
    assert told(read, 2.5, 3.9) == pytest.approx([1.99, 1.99])
    assert read.at(np.array([at(1.49), at(1.5), at(3)]))[:, 7].tolist() == [0.04, 0.0, 0.0]
    (command,) = read.commands
    assert len(command.times_ns) == 100  # thinned: 500 came
    assert np.isnan(command.positions[:50, 7]).all()
    assert (command.positions[50:, 7] == 0.0).all()


def test_a_policy_of_fewer_joints_hears_its_own(tmp_path: Path) -> None:
    stream = [positions(at(1), "/arm/commands", range(7)), positions(at(1), "/gripper/commands", [0.01])]
    bag = write(tmp_path / "bag", [*session(), *stream])
    some = (NAMES[1], NAMES[5], NAMES[7])
    read = Reference.read(bag, Topics.of(STREAMED, CAMERAS), JointMap(STREAMED, some))
    assert read.at(np.array([at(0.5), at(2)])).tolist() == [[0.1, 0.1, 0.04], [1, 5, 0.01]]


def test_a_stream_with_a_pause_is_two_motions(tmp_path: Path) -> None:
    stream = [positions(at(time_s), "/arm/commands", [time_s] * 7) for time_s in (1, 1.1, 1.2, 3, 3.1)]
    read = reference(write(tmp_path / "bag", [*session(), *stream]), STREAMED)
    assert [it.stamp_ns for it in read.commands] == [at(1), at(3)]
    assert told(read, 1.15, 2.9, 3.05) == pytest.approx([1.15, 1.2, 3.05])
    assert read.lines == (f"there are no commands of {NAMES[-1]}: what was measured counts instead",)


def test_a_gripper_that_an_action_moves_is_measured(tmp_path: Path) -> None:
    robot = replace(ROBOT, gripper=GripperConfig(type="GripperCommand", topic="gripper/action"))
    order = trajectory(at(1), ARM, ROBOT.arm_joints, (0, 1), ([1] * 7, [2] * 7))
    read = reference(write(tmp_path / "bag", [*session(), order]), robot)
    np.testing.assert_allclose(read.at(np.array([at(1.5)])), [arm(1.5)])
    assert np.isnan(read.commands[0].positions[:, 7]).all()


def test_unstamped_messages_are_put_on_the_clock_of_the_headers(tmp_path: Path) -> None:
    """In simulated time the recorder's clock is another one."""
    order = trajectory(at(1), ARM, NAMES, (0, 1), (arm(1), arm(2)))
    bag = write(tmp_path / "bag", [*session(), order], delay_ns=-START + 7 * SECOND)
    read = reference(bag)
    assert (read.start_ns, read.offset_ns) == (START, 7 * SECOND - START)
    assert told(read, 1.5) == pytest.approx([1.5])
    assert read.instructions == ((START, "pick up the red cube"),)


def test_what_comes_faster_is_thinned_and_its_rate_is_told(tmp_path: Path) -> None:
    read = reference(write(tmp_path / "bag", [*states(4, rate_hz=500, slope=1.0), *cameras(4)]))
    assert read.joint_rate_hz == 500
    assert len(read.stamps_ns) == 400
    assert told(read, 1.2345) == pytest.approx([1.3345])


def test_images_of_a_compressing_camera_have_a_size_too(tmp_path: Path) -> None:
    robot = replace(ROBOT, cameras={k: replace(it, type="CompressedImage") for k, it in ROBOT.cameras.items()})
    seen = [compressed(it[0], it[1], GREY, "jpg") for it in cameras(4)]
    assert reference(write(tmp_path / "bag", [*states(4), *seen]), robot).camera_sizes_px == dict.fromkeys(
        CAMERAS, (8, 6)
    )


def test_a_namespace_picks_the_robot(tmp_path: Path) -> None:
    def of(namespace: str, value: float) -> Iterable[Entry]:
        for stamp_ns, topic, kind, fields in session():
            said: dict[str, Any] = fields | {"position": arm(value)} if "position" in fields else fields
            yield stamp_ns, f"/{namespace}{topic}", kind, said

    bag = write(tmp_path / "bag", [*of("left", 1.0), *of("fleet/right", 2.0)])
    for namespace, value, other in (("left", 1.0, "/fleet/right"), ("fleet/right", 2.0, "/left")):
        read = reference(bag, namespace=namespace)
        assert read.positions[0, 0] == value
        assert read.lines[0] == (
            f"there are joint states in the namespaces {other} too; "
            f"the robot is that of /{namespace}/joint_states, --namespace picks another"
        )


def test_images_are_not_kept(tmp_path: Path) -> None:
    pixels = np.zeros((96, 96, 3), np.uint8)

    def peak_bytes(seconds: float) -> int:
        seen = [image(entry[0], entry[1], pixels) for entry in cameras(seconds)]
        bag = write(tmp_path / str(seconds), [*states(seconds), *seen], StoragePlugin.SQLITE3)
        tracemalloc.start()
        try:
            reference(bag)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(0.9)  # what the first reading of a bag loads
    assert peak_bytes(16.0) - peak_bytes(4.0) < 12 * 20 * len(CAMERAS) * pixels.nbytes / 20


@given(
    st.lists(st.integers(1, 800), min_size=1, max_size=30),
    st.lists(st.integers(-100, 30_000), min_size=1, max_size=30),
)
def test_measured_positions_are_interpolated_within_half_a_second(steps: list[int], asked: list[int]) -> None:
    stamps_ms = np.cumsum(steps)
    values = np.sin(stamps_ms)
    measured = Measured(START + stamps_ms * 1_000_000, values[:, None])
    found = measured.at(START + np.array(asked) * 1_000_000)[:, 0]
    for ms, value in zip(asked, found.tolist(), strict=True):
        before, after = stamps_ms[stamps_ms <= ms], stamps_ms[stamps_ms >= ms]
        if len(before) and len(after) and after[0] - before[-1] <= 500:
            assert value == pytest.approx(np.interp(ms, stamps_ms, values))
        else:
            assert np.isnan(value)
