"""What is wrong with a recording, in a clear sentence or in a line of the report; every bag is written here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bag_writer import SECOND, START, Entry, compressed, cut, header, image, joint_state, text, trajectory, write

from vlaq_ros.bags.reference import Reference
from vlaq_ros.bags.topics import Topics
from vlaq_ros.config import CameraConfig, RobotConfig
from vlaq_ros.errors import BagTopicsError, JointNamesError, NamespaceError, UnusableMessageError, VlaqError
from vlaq_ros.joints import JointMap

ROBOT = RobotConfig.load("sim_panda")
NAMES = ROBOT.joint_names
CAMERAS = ("front", "wrist")
ARM = "/arm_controller/joint_trajectory"
REST = np.array([0.1] * 7 + [0.04])
UNCOMMANDED = f"there are no commands of {', '.join(NAMES)}: what was measured counts instead"


def at(seconds: float) -> int:
    return START + round(seconds * SECOND)


def states(begin_s: float, end_s: float) -> list[Entry]:
    return [joint_state(at(0.01 * tick), NAMES, REST) for tick in range(round(begin_s * 100), round(end_s * 100))]


def images(camera: str, begin_s: float, end_s: float, rate_hz: float = 20.0, size_px: int = 6) -> list[Entry]:
    pixels = np.full((size_px, size_px, 3), 90, np.uint8)
    ticks = range(round(begin_s * rate_hz), round(end_s * rate_hz))
    return [image(at(tick / rate_hz), f"/camera/{camera}/image_raw", pixels) for tick in ticks]


def session(seconds: float = 4.0) -> list[Entry]:
    return [*states(0, seconds), *images("front", 0, seconds), *images("wrist", 0, seconds)]


def read(bag: Path, robot: RobotConfig = ROBOT) -> Reference:
    return Reference.read(bag, Topics.of(robot, CAMERAS), JointMap.whole(robot))


def lines(bag: Path, robot: RobotConfig = ROBOT) -> list[str]:
    """What is odd, apart from that there are no commands."""
    *odd, last = read(bag, robot).lines
    assert last == UNCOMMANDED
    return odd


def refusal(kind: type[VlaqError], bag: Path) -> str:
    with pytest.raises(kind) as mistake:
        read(bag)
    return str(mistake.value)


def test_nothing_is_odd_about_a_good_bag(tmp_path: Path) -> None:
    assert lines(write(tmp_path / "bag", session())) == []


def test_a_damaged_bag_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    bag = write(
        tmp_path / "bag", [*states(0, 20), *images("front", 0, 20, size_px=64), *images("wrist", 0, 20, size_px=64)]
    )
    whole = read(bag)
    cut(bag, 0.5)
    reference = read(bag)
    assert reference.lines[0].startswith("the recording is damaged: bag.mcap breaks off after ")
    assert reference.lines[0].endswith(" messages (a record is cut off)")
    assert 5 * SECOND < reference.end_ns - reference.start_ns < 10 * SECOND
    np.testing.assert_array_equal(reference.positions, whole.positions[: len(reference.positions)])


@pytest.mark.parametrize("topic", ["/joint_states", "/camera/front/image_raw"])
def test_a_topic_of_another_type_is_told_with_those_there_are(topic: str, tmp_path: Path) -> None:
    kind = "sensor_msgs/msg/JointState" if topic == "/joint_states" else "sensor_msgs/msg/Image"
    entries = [entry for entry in session() if entry[1] != topic]
    bag = write(tmp_path / "bag", [*entries, compressed(at(0), topic, np.zeros((6, 6, 3), np.uint8))])
    there = sorted({(entry[1], entry[2]) for entry in entries} | {(topic, "sensor_msgs/msg/CompressedImage")})
    listed = ", ".join(f"{said} on {name}" for name, said in there)
    assert refusal(BagTopicsError, bag) == (
        f"bag {str(bag)!r} has no {kind} on {topic}; it has: {listed}; "
        "record them, or correct the topics in the robot's YAML file"
    )


def test_commands_of_another_type_are_told(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", [*session(), text(at(1), "left", ARM)])
    assert read(bag).lines == (
        f"{ARM} has std_msgs/msg/String, expected trajectory_msgs/msg/JointTrajectory",
        UNCOMMANDED,
    )


def test_joints_of_another_name_are_told(tmp_path: Path) -> None:
    names = [f"joint{number}" for number in range(8)]
    states = [joint_state(at(tick / 100), names, REST) for tick in range(100)]
    bag = write(tmp_path / "bag", [*states, *images("front", 0, 1), *images("wrist", 0, 1)])
    assert refusal(JointNamesError, bag) == str(JointNamesError(NAMES, names, "the joint state"))


def test_joint_states_of_others_are_counted(tmp_path: Path) -> None:
    others = [joint_state(at(tick / 10) + 1, ["wheel"], [0.0]) for tick in range(40)]
    reference = read(write(tmp_path / "bag", [*session(), *others]))
    assert reference.lines[0] == (
        f"40 of 440 messages on /joint_states cannot be used, the first because "
        f"{JointNamesError(NAMES, ['wheel'], 'the joint state')}"
    )
    assert len(reference.stamps_ns) == 400


def test_joint_states_that_are_not_numbers_are_counted_and_leave_a_gap(tmp_path: Path) -> None:
    broken = [joint_state(at(1 + tick / 100), NAMES, REST * np.nan) for tick in range(70)]
    good = [entry for entry in session() if not (entry[1] == "/joint_states" and at(1) <= entry[0] < at(1.7))]
    reference = read(write(tmp_path / "bag", [*good, *broken]))
    assert reference.lines == (
        "joint states: 1 gap of more than 0.5 s, the longest for 0.71 s, 1.0 s into the recording",
        "70 of 400 messages on /joint_states cannot be used, the first because the joint state has a position that is "
        "not finite; expected a number for every joint",
        UNCOMMANDED,
    )
    assert np.isnan(reference.at(np.array([at(1.3)]))).all()
    assert np.isfinite(reference.at(np.array([at(0.9), at(1.8)]))).all()


def test_only_useless_joint_states_are_an_error(tmp_path: Path) -> None:
    broken = [joint_state(at(tick / 100), NAMES, REST * np.nan) for tick in range(100)]
    bag = write(tmp_path / "bag", [*broken, *images("front", 0, 1), *images("wrist", 0, 1)])
    assert "a position that is not finite" in refusal(UnusableMessageError, bag)


def test_a_clock_that_ran_backwards_is_told_and_compared_with_nothing(tmp_path: Path) -> None:
    """A simulation that starts again: stamps go back by three seconds while the recorder's clock goes on."""
    again = [(e[0] + 3 * SECOND, *e[1:]) for e in session(3) if e[0] >= at(1)]  # arrives later, stamped as before
    bag = write(tmp_path / "bag", [*session(4), *again])
    reference = read(bag)
    assert [line.split(";")[0] for line in reference.lines[:-1]] == [
        "camera front: the clock ran back by 2.95 s, 4.0 s into the recording",
        "camera wrist: the clock ran back by 2.95 s, 4.0 s into the recording",
        "joint states: the clock ran back by 2.99 s, 4.0 s into the recording",
    ]
    assert reference.lines[0].endswith("; what was recorded at the same stamps twice is compared with nothing")
    known = np.isfinite(reference.at(np.array([at(0.5), at(0.99), at(1), at(2.5), at(3.99)]))[:, 0])
    assert known.tolist() == [True, True, False, False, False]
    assert (np.diff(reference.stamps_ns) > 0).all()


def test_a_message_that_comes_a_little_late_is_no_clock_that_ran_back(tmp_path: Path) -> None:
    entries = session()
    late = entries.pop(100)
    entries.append((late[0] + SECOND // 20, *late[1:]))
    assert lines(write(tmp_path / "bag", entries)) == []


def test_a_camera_at_another_rate_is_told(tmp_path: Path) -> None:
    entries = [*states(0, 4), *images("front", 0, 4, rate_hz=15.0), *images("wrist", 0, 4, rate_hz=60.0)]
    bag = write(tmp_path / "bag", entries)
    assert lines(bag) == [
        "camera front: 15 messages per second, the robot file says 20",
        "camera wrist: 60 messages per second, the robot file says 20",
    ]
    slower = {name: CameraConfig(it.topic, {"front": 15.0, "wrist": 60.0}[name]) for name, it in ROBOT.cameras.items()}
    assert lines(bag, replace(ROBOT, cameras=slower)) == []


def test_a_camera_whose_size_changes_is_told(tmp_path: Path) -> None:
    wrist = [*images("wrist", 0, 2), *images("wrist", 2, 4, size_px=12)]
    reference = read(write(tmp_path / "bag", [*states(0, 4), *images("front", 0, 4), *wrist]))
    assert reference.lines[0] == "camera wrist: images of 6 x 6 at first and of 12 x 12 at last"
    assert reference.camera_sizes_px == {"front": (6, 6), "wrist": (6, 6)}


def test_images_that_cannot_be_decoded_are_told(tmp_path: Path) -> None:
    depth = [image(entry[0], entry[1], np.zeros((6, 6, 2), np.uint8), "16UC1") for entry in images("wrist", 0, 4)]
    reference = read(write(tmp_path / "bag", [*states(0, 4), *images("front", 0, 4), *depth]))
    assert reference.lines[0].startswith("camera wrist: the image has encoding '16UC1'; expected 8 bits per channel")
    assert reference.camera_sizes_px == {"front": (6, 6)}


def test_topics_that_begin_late_or_end_early_are_told(tmp_path: Path) -> None:
    entries = [*states(0, 8), *images("front", 3, 8), *images("wrist", 0, 5)]
    assert lines(write(tmp_path / "bag", entries)) == [
        "camera front: the first message is 3.0 s into the recording",
        "camera wrist: the last message is 3.0 s before the end of the recording",
    ]


def test_lost_images_and_gaps_in_joint_states_are_told(tmp_path: Path) -> None:
    front = [entry for entry in images("front", 0, 4) if entry[0] not in {at(1), at(2.05), at(2.1), at(2.15)}]
    moves = [entry for entry in states(0, 4) if not at(3) < entry[0] < at(3.6)]
    bag = write(tmp_path / "bag", [*front, *moves, *images("wrist", 0, 4)])
    assert lines(bag) == [
        "camera front: 4 of 80 images are missing, the longest for 0.20 s, 2.0 s into the recording",
        "joint states: 1 gap of more than 0.5 s, the longest for 0.60 s, 3.0 s into the recording",
    ]
    assert np.isnan(read(bag).at(np.array([at(3.3)]))).all()


def test_two_robots_in_one_bag_are_told_with_how_to_pick_one(tmp_path: Path) -> None:
    entries = [(e[0], f"/{robot}{e[1]}", *e[2:]) for robot in ("left", "right") for e in session(1)]
    bag = write(tmp_path / "bag", entries)
    assert refusal(NamespaceError, bag) == (
        f"bag {str(bag)!r} has no joint states on /joint_states, but robots in the namespaces /left, /right; "
        "pick one of them with --namespace"
    )
    both = write(tmp_path / "both", [*entries, *session(1)])
    assert lines(both) == [
        "there are joint states in the namespaces /left, /right too; "
        "the robot is that of /joint_states, --namespace picks another"
    ]


@pytest.mark.parametrize("topic", ["/joint_states", "/camera/front/image_raw"])
def test_messages_without_a_stamp_are_an_error(topic: str, tmp_path: Path) -> None:
    entries = [(*e[:3], e[3] | {"header": header(0)}) if e[1] == topic else e for e in session(1)]
    assert refusal(UnusableMessageError, write(tmp_path / "bag", entries)) == (
        f"a message on {topic} is stamped 0; expected the time that it is of: let its driver stamp it"
    )


def test_commands_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    back = trajectory(at(2.5), ARM, NAMES, (1, 1), (REST, REST))
    other = trajectory(at(1), ARM, ["lift"], (0, 1), ([1], [2]))
    empty = trajectory(at(2), ARM, NAMES, (), ())
    good = trajectory(at(3), ARM, NAMES, (0, 1), (REST, REST))
    reference = read(write(tmp_path / "bag", [*session(), other, empty, back, good]))
    assert reference.lines == (
        f"3 of 4 messages on {ARM} cannot be used, the first because {JointNamesError(NAMES, ['lift'], 'the command')}",
    )
    assert len(reference.commands) == 1
