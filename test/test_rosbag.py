"""The reader of recordings, on bags of every storage, distribution and compression, whole and cut off."""

from __future__ import annotations

import gc
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_writer import (
    DELAY,
    SECOND,
    START,
    Entry,
    cut,
    joint_state,
    scalar,
    storage_files,
    text,
    without_index,
    without_metadata,
    write,
    write_humble,
    write_lz4,
    write_split,
)
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from vlaq_ros.bags.rosbag import TEXT, absolute, find_bags, open_bag
from vlaq_ros.bags.salvage import WINDOW_NS, Message
from vlaq_ros.errors import EmptyBagError, UnreadableBagError, UnusableMessageError

STATE = "sensor_msgs/msg/JointState"
NAMES = ("shoulder", "elbow")
MCAP, SQLITE = StoragePlugin.MCAP, StoragePlugin.SQLITE3


def entries(seconds: float = 4.0, padding: int = 0) -> list[Entry]:
    """Joint states at 100 Hz with a sentence each second, which can be long and does not compress well."""
    rng = np.random.default_rng(0)
    return [
        *(joint_state(START + tick * SECOND // 100, NAMES, (tick, -tick)) for tick in range(round(seconds * 100))),
        *(text(START + tick * SECOND, rng.bytes(padding).hex()) for tick in range(round(seconds))),
    ]


def everything(bag: Path) -> list[tuple[str, int, Any]]:
    """Topic, arrival and what was said, of all messages."""
    with open_bag(bag) as opened:
        said = []
        for message in opened.messages({"/joint_states": STATE, "/instruction": TEXT}):
            fields = opened.deserialize(message)
            what = fields.data if message.topic == "/instruction" else tuple(fields.position)
            said.append((message.topic, message.received_ns, what))
        return said


WRITERS: dict[str, Callable[[Path], Path]] = {
    "kilted, mcap": lambda bag: write(bag, entries()),
    "jazzy, mcap": lambda bag: write(bag, entries(), version=8),
    "kilted, sqlite3": lambda bag: write(bag, entries(), SQLITE),
    "jazzy, sqlite3": lambda bag: write(bag, entries(), SQLITE, version=8),
    "humble, sqlite3": lambda bag: write_humble(bag, entries()),
    "zstd chunks": lambda bag: write(bag, entries(), compression=CompressionMode.STORAGE),
    "lz4 chunks": lambda bag: write_lz4(bag, entries()),
    "zstd messages, mcap": lambda bag: write(bag, entries(), compression=CompressionMode.MESSAGE),
    "zstd messages, sqlite3": lambda bag: write(bag, entries(), SQLITE, compression=CompressionMode.MESSAGE),
    "zstd file, mcap": lambda bag: write(bag, entries(), compression=CompressionMode.FILE),
    "zstd file, sqlite3": lambda bag: write(bag, entries(), SQLITE, compression=CompressionMode.FILE),
    "split, mcap": lambda bag: write_split(bag, entries(), MCAP, 12),
    "split, sqlite3": lambda bag: write_split(bag, entries(), SQLITE, 3),
    "no chunks, no index": lambda bag: without_index(write(bag, entries())),
}


@pytest.mark.parametrize("metadata", [True, False], ids=["metadata.yaml", "no metadata.yaml"])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_bag_reads_the_same(kind: str, metadata: bool, tmp_path: Path) -> None:
    bag = WRITERS[kind](tmp_path / "bag").rename(tmp_path / "a bag, #1? at 100%")
    if not metadata:
        without_metadata(bag)
    expected = [
        (topic, stamp_ns + DELAY, fields["data"] if "data" in fields else tuple(fields["position"]))
        for stamp_ns, topic, _, fields in sorted(entries(), key=lambda entry: entry[0])
    ]
    said = everything(bag)
    assert sorted(said) == sorted(expected)
    arrivals = [received_ns for _, received_ns, _ in said]
    assert arrivals == sorted(arrivals)
    with open_bag(bag) as opened:
        assert opened.topics == {"/joint_states": (STATE, 400), "/instruction": (TEXT, 4)}
        assert (opened.start_ns, opened.end_ns) == (START + DELAY, START + 3_990_000_000 + DELAY)
        assert opened.damage == ""
    assert find_bags(bag) == [bag]


def test_a_storage_file_is_a_bag_too(tmp_path: Path) -> None:
    for storage, compression in (
        (MCAP, CompressionMode.FILE),
        (MCAP, CompressionMode.NONE),
        (SQLITE, CompressionMode.NONE),
    ):
        bag = write(tmp_path / f"{storage.name}{compression.name}", entries(), storage, compression=compression)
        (file,) = storage_files(bag)
        assert find_bags(file) == [file]
        assert everything(file) == everything(bag)


def test_only_the_wanted_topics_of_the_wanted_type_are_read(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", [*entries(), scalar(START, "/instruction", 1.0), scalar(START, "/other", 2.0)])
    with open_bag(bag) as opened:
        assert opened.topics["/instruction"] == (TEXT, 4)  # the more frequent of the two types
        assert {(m.topic, m.msgtype) for m in opened.messages({"/instruction": TEXT})} == {("/instruction", TEXT)}
        assert list(opened.messages({"/instruction": STATE})) == list(opened.messages({})) == []
        assert opened.lacking({"/other": TEXT, "/instruction": TEXT}) == [f"{TEXT} on /other"]
        assert opened.contents() == [
            f"{TEXT} on /instruction",
            f"{STATE} on /joint_states",
            "std_msgs/msg/Float64 on /other",
        ]


@pytest.mark.parametrize("kind", ["kilted, mcap", "split, mcap", "kilted, sqlite3", "no chunks, no index"])
def test_messages_are_read_as_they_are_asked_for(kind: str, tmp_path: Path) -> None:
    """However long the bag, no more messages are alive than arrive within the window or lie in one chunk."""
    padded = entries(seconds=20, padding=50_000)
    bag = write(tmp_path / "bag", padded, SQLITE if "sqlite3" in kind else MCAP)
    if kind == "split, mcap":
        bag = write_split(tmp_path / "split", padded, MCAP, 6)
    if kind == "no chunks, no index":
        without_index(bag)
    with open_bag(bag) as opened:
        alive = []
        for number, _ in enumerate(opened.messages({"/instruction": TEXT, "/joint_states": STATE})):
            if number % 1000 == 0:
                alive.append(sum(type(thing) is Message for thing in gc.get_objects()))
        assert len(alive) == 3
        assert max(alive) <= 200 * WINDOW_NS // SECOND


def test_order_is_that_of_arrival_where_a_recorder_wrote_topic_by_topic(tmp_path: Path) -> None:
    """A recorder that polls writes several messages of one topic, then of the next; without an index as well."""
    in_turns = sorted(entries(), key=lambda entry: (entry[0] // (SECOND // 5), entry[1]))
    for number, finish in enumerate((lambda bag: bag, without_index)):
        bag = finish(write(tmp_path / str(number), in_turns, ordered=False))
        arrivals = [received_ns for _, received_ns, _ in everything(bag)]
        assert arrivals == sorted(arrivals)
        assert len(arrivals) == len(in_turns)


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("compression", [CompressionMode.NONE, CompressionMode.MESSAGE, CompressionMode.FILE])
def test_what_is_before_the_cut_is_read(
    storage: StoragePlugin, compression: CompressionMode, metadata: bool, tmp_path: Path
) -> None:
    bag = write(tmp_path / "bag", entries(10, padding=200_000), storage, compression=compression)
    whole = everything(bag)
    cut(bag, 0.6)
    if not metadata:
        without_metadata(bag)
    with open_bag(bag) as opened:
        (file,) = storage_files(bag)
        count = sum(count for _, count in opened.topics.values())
        assert opened.damage.startswith(f"{file.name.removesuffix('.zstd')} breaks off after {count} messages (")
    kept = everything(bag)
    assert kept == whole[: len(kept)]
    assert 0.3 * len(whole) < len(kept) < 0.7 * len(whole)


def test_a_file_without_its_summary_is_whole_but_for_that(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", entries())
    whole = everything(bag)
    (file,) = storage_files(bag)
    file.write_bytes(file.read_bytes()[:-8])
    assert everything(bag) == whole
    with open_bag(bag) as opened:
        assert opened.damage == ""  # every message is followed by the end of the data
    file.write_bytes(file.read_bytes()[: file.read_bytes().rindex(b"\x0f\x04\0\0\0\0\0\0\0")])
    with open_bag(bag) as opened:
        assert opened.damage == "bag.mcap breaks off after 404 messages (its end is missing)"


def test_a_disk_that_wrote_zeros_ends_the_file(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", entries(20, padding=100_000))
    (file,) = storage_files(bag)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
    with open_bag(bag) as opened:
        assert opened.damage.startswith("bag.mcap breaks off after ")
        assert 500 < opened.topics["/joint_states"][1] < 1500


def test_a_missing_file_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    bag = write_split(tmp_path / "bag", entries(), MCAP, 4)
    (bag / "bag_1.mcap").unlink()
    with open_bag(bag) as opened:
        assert opened.damage == "its bag_1.mcap is not there"
        assert opened.topics["/joint_states"][1] == 300
    (bag / "bag_2.mcap").unlink()
    with open_bag(bag) as opened:
        assert opened.damage == "its bag_1.mcap, bag_2.mcap are not there"


def test_a_log_that_sqlite_has_not_merged_is_told(tmp_path: Path) -> None:
    """The preset `resilient` keeps one; it stays when its recorder is killed."""
    bag = write(tmp_path / "bag", entries(), SQLITE)
    (file,) = storage_files(bag)
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(
            "INSERT INTO messages (topic_id, timestamp, data) SELECT topic_id, timestamp, data FROM messages"
        )
        database.commit()
        left = shutil.copytree(bag, tmp_path / "left")
    for path, damage in ((left, "messages in bag.db3-wal are not read"), (bag, "")):
        with open_bag(path) as opened:
            assert opened.damage == damage
            assert sum(count for _, count in opened.topics.values()) == (404 if damage else 808)


def test_metadata_that_cannot_be_read_is_not_needed(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", entries())
    for nonsense in (b"}", b"", b"\xff\xfe\x00", b"- 1", b"rosbag2_bagfile_information: {version: 99}"):
        (bag / "metadata.yaml").write_bytes(nonsense)
        with open_bag(bag) as opened:
            assert opened.damage == ""


def test_one_damaged_file_of_many_does_not_spoil_the_others(tmp_path: Path) -> None:
    bag = write_split(tmp_path / "bag", entries(), MCAP, 4)
    (bag / "bag_3.mcap").write_bytes(b"")
    with open_bag(bag) as opened:
        assert opened.damage == "bag_3.mcap breaks off after 0 messages (it does not begin as MCAP does)"
        assert opened.topics["/joint_states"][1] == 300


def test_what_is_no_recording_is_told(tmp_path: Path) -> None:
    def refusal(bag: Path) -> str:
        with pytest.raises(UnreadableBagError) as mistake, open_bag(bag):
            pass
        return str(mistake.value)

    end = "); expected rosbag2 in mcap or sqlite3; check it with `ros2 bag info`, or record it again"
    gone = tmp_path / "gone"
    assert refusal(gone) == f"bag {str(gone)!r} cannot be read (there is no such file or directory{end}"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refusal(empty) == f"bag {str(empty)!r} cannot be read (there is no .mcap or .db3 file{end}"
    other = tmp_path / "film.mp4"
    other.write_bytes(b"film")
    assert refusal(other) == f"bag {str(other)!r} cannot be read (there is no .mcap or .db3 file{end}"
    for name in ("nothing.mcap", "nothing.db3", "nothing.mcap.zstd", "nothing.db3.zstd"):
        (tmp_path / name).write_bytes(b"nothing at all")
        assert refusal(tmp_path / name).startswith(f"bag {str(tmp_path / name)!r} cannot be read (")
    assert find_bags(gone) == find_bags(empty) == find_bags(other) == []


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_a_bag_without_messages_is_told(storage: StoragePlugin, tmp_path: Path) -> None:
    for number, topics in enumerate(([], [("/instruction", TEXT)])):
        bag = write(tmp_path / str(number), [], storage, topics=topics)
        with pytest.raises(EmptyBagError) as mistake, open_bag(bag):
            pass
        assert str(mistake.value) == (
            f"bag {str(bag)!r} holds no message; expected a recording of a robot at work: the recorder heard nothing "
            "(another ROS_DOMAIN_ID, or a QoS that does not fit), record it again"
        )


def test_damage_in_the_middle_is_told_when_it_is_reached(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", entries(20, padding=100_000), compression=CompressionMode.STORAGE)
    (file,) = storage_files(bag)
    data = bytearray(file.read_bytes())
    chunk = data.index(b"\x28\xb5\x2f\xfd", len(data) // 2)  # zstd's magic number
    data[chunk : chunk + 64] = bytes(64)
    file.write_bytes(data)
    with pytest.raises(UnreadableBagError, match=r"cannot be read \("):
        everything(bag)


def test_a_message_whose_bytes_are_cut_is_told(tmp_path: Path) -> None:
    with open_bag(write(tmp_path / "bag", entries())) as opened:
        message = next(opened.messages({"/joint_states": STATE}))
        short = Message(message.topic, message.received_ns, message.raw[:40], message.msgtype)
        with pytest.raises(UnusableMessageError, match="a message of 40 bytes on /joint_states cannot be read"):
            opened.deserialize(short)


def test_errors_of_the_reader_and_of_its_user_are_kept_apart(tmp_path: Path) -> None:
    def full_disk(_: Message) -> None:
        raise OSError("disk full")

    with open_bag(write(tmp_path / "bag", entries())) as opened, pytest.raises(OSError, match="disk full"):
        list(map(full_disk, opened.messages({"/instruction": TEXT})))


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    bag = write(tmp_path / "bag", entries(), compression=CompressionMode.FILE)
    before = {path: path.stat().st_mtime_ns for path in bag.iterdir()}
    with open_bag(bag) as opened:
        next(opened.messages({"/instruction": TEXT}))
        assert list(scratch.iterdir())
    assert list(scratch.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in bag.iterdir()} == before
    shutil.rmtree(bag)


def test_names_are_absolute_within_their_namespace() -> None:
    assert absolute("joint_states") == absolute("/joint_states") == absolute("/joint_states", "left") == "/joint_states"
    for namespace in ("left", "/left", "left/", "/left/"):
        assert absolute("camera/front", namespace) == "/left/camera/front"
    assert absolute("joint_states", "/fleet/left") == "/fleet/left/joint_states"
