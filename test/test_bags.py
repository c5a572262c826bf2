"""Observations out of real bags: both storages, all kinds of directories, and what is wrong with a bag in words."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_writer import SECOND, START, Entry, compressed, image, joint_state, text, write
from rosbags.rosbag2 import StoragePlugin

from vlaq_ros.bags.rosbag import find_bags
from vlaq_ros.calibrate.bags import SPACING_S, from_bags
from vlaq_ros.calibrate.buffer import Buffer
from vlaq_ros.calibrate.draw import FAST, GRIPPER, SLOW
from vlaq_ros.config import JointConfig, RobotConfig
from vlaq_ros.errors import (
    BagTopicsError,
    CameraNamesError,
    JointNamesError,
    NoInstructionError,
    NoObservationError,
    TooFewObservationsError,
    UnknownInstructionError,
    UnreadableBagError,
    VlaqError,
)
from vlaq_ros.policy.description import Description, describe

ROBOT = RobotConfig.load("sim_panda")
RED, BLUE = "pick up the red cube", "put the blue cube in the bin"
IMAGE_PX = 8


def images(stamp_ns: int, value: int, size_px: int = IMAGE_PX, encoding: str = "rgb8") -> list[Entry]:
    pixels = np.full((size_px, size_px, 3), value, np.uint8)
    return [image(stamp_ns, f"/camera/{name}/image_raw", pixels, encoding) for name in ("front", "wrist")]


def joints(stamp_ns: int, arm_rad: float, finger_m: float, names: Iterable[str] = ROBOT.joint_names) -> Entry:
    return joint_state(stamp_ns, names, [arm_rad] * 7 + [finger_m])


def session(start_ns: int = START, size_px: int = IMAGE_PX, seconds: float = 12.0) -> list[Entry]:
    """Two tasks: the arm stands a quarter, moves a quarter, closes the gripper a quarter, stands; then the next."""
    quarter_s = seconds / 8
    entries = [text(start_ns, RED), text(start_ns + round(4 * quarter_s * SECOND), BLUE)]
    for tick in range(round(seconds * 20)):
        part, rest_s = divmod(0.05 * tick % (4 * quarter_s), quarter_s)
        stamp_ns = start_ns + tick * SECOND // 20
        moved_s = (0.0, rest_s, quarter_s, quarter_s)[int(part)]
        closed_s = (0.0, 0.0, rest_s, quarter_s)[int(part)]
        entries.append(joints(stamp_ns, 0.3 * moved_s, 0.04 - 0.02 * closed_s))
        entries += images(stamp_ns, tick % 256, size_px)
    return entries


@pytest.fixture(scope="module")
def policy(tiny_checkpoint: Path) -> Description:
    return describe(tiny_checkpoint)


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bags") / "session", session())


def silent(_: int) -> None:
    """Report to nobody."""


def draw(
    bags: list[Path],
    policy: Description,
    *,
    count: int = 24,
    instruction: str | None = None,
    robot: RobotConfig = ROBOT,
    report: Callable[[int], None] = silent,
) -> Buffer:
    return from_bags(bags, robot, policy, instruction=instruction, count=count, seed=0, report=report)


def refusal(kind: type[VlaqError], bag: Path, policy: Description, **how: Any) -> str:
    with pytest.raises(kind) as mistake:
        draw([bag], policy, **how)
    return str(mistake.value)


def test_observations_are_those_of_their_moments_and_spread(bag: Path, policy: Description) -> None:
    done: list[int] = []
    buffer = draw([bag], policy, report=done.append)
    assert done == [1] * 24
    assert buffer.origin == "bag session"
    assert buffer.noise.shape == (24, policy.config.chunk_size, policy.config.max_action_dim)
    for observation in buffer.observations:
        tick, rest = divmod(observation.stamp_ns - START, SECOND // 20)
        assert rest == 0
        assert observation.instruction == (RED if tick < 120 else BLUE)
        seen = {name: set(pixels.flat) for name, pixels in observation.images.items()}
        assert seen == {"front": {tick}, "wrist": {tick}}
        assert observation.joint_names == policy.spec.joint_names
        assert observation.joint_positions[0] == pytest.approx(0.3 * np.clip(0.05 * (tick % 120) - 1.5, 0, 1.5))
    drawn = list(zip((observation.instruction for observation in buffer.observations), buffer.phases, strict=True))
    assert {pair: drawn.count(pair) for pair in drawn} == {
        (instruction, phase): 4 for instruction in (RED, BLUE) for phase in (GRIPPER, FAST, SLOW)
    }
    assert np.diff([observation.stamp_ns for observation in buffer.observations]).min() >= SPACING_S * SECOND


def test_storages_and_directories_do_not_change_the_buffer(bag: Path, policy: Description, tmp_path: Path) -> None:
    sqlite = write(tmp_path / "sqlite", session(), StoragePlugin.SQLITE3)
    bare = tmp_path / "bare"
    bare.mkdir()
    (storage,) = bag.glob("*.mcap")
    shutil.copy(storage, bare / "part.mcap")  # a recorder that was killed writes no metadata.yaml
    paths = [bag, storage, sqlite, next(sqlite.glob("*.db3")), bare]
    assert [find_bags(path) for path in paths] == [[path] for path in paths]
    assert len({draw([path], policy).sha256 for path in paths}) == 1


def test_several_bags_are_drawn_from_alike(bag: Path, policy: Description, tmp_path: Path) -> None:
    write(tmp_path / "a", session())
    write(tmp_path / "b", session(START - 1000 * SECOND))  # recorded before, named after
    (tmp_path / "notes.txt").touch()
    bags = find_bags(tmp_path)
    assert bags == [tmp_path / "a", tmp_path / "b"]
    buffer = draw(bags, policy)
    assert buffer.origin == "bag a, b"
    assert 6 <= sum(observation.stamp_ns < START for observation in buffer.observations) <= 18
    assert find_bags(tmp_path / "notes.txt") == find_bags(tmp_path / "none") == []


def test_compressed_images_and_joints_in_other_words_give_the_same_observations(
    bag: Path, policy: Description, tmp_path: Path
) -> None:
    robot = replace(
        ROBOT,
        cameras={name: replace(camera, type="CompressedImage") for name, camera in ROBOT.cameras.items()},
        joints={name: JointConfig(message=f"motor_{name}", unit="deg") for name in ROBOT.arm_joints}
        | {ROBOT.gripper_joint: JointConfig(unit="mm", scale=-1.0, offset=0.04)},
    )
    entries = []
    for stamp_ns, topic, msgtype, fields in session():
        if msgtype == "sensor_msgs/msg/Image":
            entries.append(compressed(stamp_ns, topic, fields["data"].reshape(IMAGE_PX, IMAGE_PX, 3)))
        elif msgtype == "sensor_msgs/msg/JointState":
            arm, finger = np.rad2deg(fields["position"][:-1]), 1e3 * (0.04 - fields["position"][-1])
            names = [*(f"motor_{name}" for name in ROBOT.arm_joints), ROBOT.gripper_joint]
            told = fields | {"name": names[::-1], "position": np.array([finger, *arm[::-1]])}
            entries.append((stamp_ns, topic, msgtype, told))
        else:
            entries.append((stamp_ns, topic, msgtype, fields))
    plain, other = draw([bag], policy), draw([write(tmp_path / "other", entries)], policy, robot=robot)
    for one, two in zip(plain.observations, other.observations, strict=True):
        assert (one.stamp_ns, one.instruction, one.joint_names) == (two.stamp_ns, two.instruction, two.joint_names)
        np.testing.assert_allclose(one.joint_positions, two.joint_positions, atol=1e-12)
        for name, pixels in one.images.items():
            np.testing.assert_array_equal(pixels, two.images[name])


def test_the_given_instruction_counts_and_the_recorded_does_not(bag: Path, policy: Description) -> None:
    given = draw([bag], policy, instruction="pick up the green cube")
    assert {observation.instruction for observation in given.observations} == {"pick up the green cube"}


def test_moments_without_an_instruction_or_with_old_images_are_none(policy: Description, tmp_path: Path) -> None:
    entries = [entry for entry in session() if not START + 2 * SECOND <= entry[0] < START + 6 * SECOND]
    entries.append(text(START + 6 * SECOND - 1, ""))
    entries += [text(START + 8 * SECOND, BLUE)]
    entries.remove(next(entry for entry in entries if entry[0] == START + 6 * SECOND and entry[1] == "/instruction"))
    buffer = draw([write(tmp_path / "bag", entries)], policy, count=50)
    stamps_s = {(observation.stamp_ns - START) / SECOND for observation in buffer.observations}
    assert all(stamp_s < 2 or stamp_s >= 8 for stamp_s in stamps_s)


def test_memory_does_not_grow_with_the_bag(policy: Description, tmp_path: Path) -> None:
    short, long = (
        write(tmp_path / str(seconds), session(size_px=96, seconds=seconds), StoragePlugin.SQLITE3)
        for seconds in (4.0, 16.0)
    )

    def peak_bytes(bag: Path) -> int:
        tracemalloc.start()
        try:
            draw([bag], policy, count=4)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(short)  # what the first reading of a bag loads
    longer = 12 * 20 * 2 * 96 * 96 * 3  # bytes of the images that one bag has and the other has not
    assert peak_bytes(long) - peak_bytes(short) < longer / 20


def test_topics_that_a_bag_lacks_are_told_with_those_it_has(policy: Description, tmp_path: Path) -> None:
    wrist = "/camera/wrist/image_raw"
    entries = [entry for entry in session(seconds=1.0) if entry[1] not in {wrist, "/joint_states"}]
    entries.append((START, "/joint_states", "std_msgs/msg/String", {"data": "seven"}))
    bag = write(tmp_path / "bag", entries)
    assert refusal(BagTopicsError, bag, policy) == (
        f"bag {str(bag)!r} has no sensor_msgs/msg/Image on {wrist}, no sensor_msgs/msg/JointState on /joint_states; "
        "it has: sensor_msgs/msg/Image on /camera/front/image_raw, std_msgs/msg/String on /instruction, "
        "std_msgs/msg/String on /joint_states; record them, or correct the topics in the robot's YAML file"
    )


def test_a_bag_without_an_instruction_needs_one(policy: Description, tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", [entry for entry in session() if entry[1] != "/instruction"])
    assert refusal(NoInstructionError, bag, policy) == (
        f"bag {str(bag)!r} has no std_msgs/msg/String on /instruction, so nothing says what the robot was asked to do; "
        "expected one of the policy's instructions: give it with --instruction"
    )
    assert len(draw([bag], policy, instruction=RED).observations) == 24


def test_an_instruction_that_the_policy_does_not_know_is_told(bag: Path, policy: Description, tmp_path: Path) -> None:
    expected = str(UnknownInstructionError("sing", policy.spec.instructions))
    assert refusal(UnknownInstructionError, bag, policy, instruction="sing") == expected
    singing = write(tmp_path / "bag", [*session(), text(START + 3 * SECOND, "sing")])
    assert refusal(UnknownInstructionError, singing, policy) == expected


def test_joints_that_a_bag_does_not_name_are_told(policy: Description, tmp_path: Path) -> None:
    names = [f"joint{k}" for k in range(8)]
    entries = [entry if entry[1] != "/joint_states" else joints(entry[0], 0, 0, names) for entry in session(seconds=2)]
    assert refusal(NoObservationError, write(tmp_path / "bag", entries), policy) == (
        "bag bag gives no observation, most often because of joint states: "
        + str(JointNamesError(policy.spec.joint_names, names, "the joint state"))
        + "; expected fresh images of every camera, joint states and an instruction"
    )


def test_images_that_cannot_be_decoded_are_told(policy: Description, tmp_path: Path) -> None:
    entries = [entry for entry in session(seconds=2) if "camera" not in entry[1]]
    entries += [entry for k in range(20) for entry in images(START + k * SECOND // 10, 0, encoding="bayer_rggb8")]
    assert "the image has encoding 'bayer_rggb8'" in refusal(NoObservationError, write(tmp_path / "b", entries), policy)


def test_a_robot_file_without_the_policys_camera_or_joint_is_told(bag: Path, policy: Description) -> None:
    front = {"front": ROBOT.cameras["front"]}
    blind = replace(ROBOT, cameras=front)
    assert refusal(CameraNamesError, bag, policy, robot=blind) == str(CameraNamesError(["wrist"], front))
    other = replace(ROBOT, gripper_joint="thumb")
    expected = JointNamesError([ROBOT.gripper_joint], other.joint_names, "the robot file")
    assert refusal(JointNamesError, bag, policy, robot=other) == str(expected)


def test_too_few_observations_are_told(bag: Path, policy: Description) -> None:
    assert refusal(TooFewObservationsError, bag, policy, count=500) == (
        "bag session gives 120 observations, expected at least 500; record more, or ask for fewer"
    )


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_a_damaged_bag_is_told(storage: StoragePlugin, policy: Description, tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", session(), storage)
    (file,) = (path for path in bag.iterdir() if path.suffix in {".mcap", ".db3"})
    file.write_bytes(file.read_bytes()[:3000])
    sentence = refusal(UnreadableBagError, bag, policy)
    assert sentence.startswith(f"bag {str(bag)!r} cannot be read (")
    assert sentence.endswith(
        "); expected rosbag2 in mcap or sqlite3; check it with `ros2 bag info`, or record it again"
    )
    file.write_bytes(b"")
    refusal(UnreadableBagError, bag, policy)
    (bag / "metadata.yaml").write_text("}")
    refusal(UnreadableBagError, bag, policy)
