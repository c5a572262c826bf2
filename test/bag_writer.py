"""Bags as recorders write them, and as crashes and other distributions leave them: by rosbags alone, without ROS."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import lz4.frame
import numpy as np
import yaml
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_KILTED)
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
DELAY = SECOND // 50  # from a header's stamp to the bag
Entry = tuple[int, str, str, dict[str, Any]]  # stamp, topic, type, fields


def header(stamp_ns: int) -> Any:
    stamp = STORE.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, SECOND))
    return STORE.types["std_msgs/msg/Header"](stamp=stamp, frame_id="")


def duration(time_ns: int) -> Any:
    return STORE.types["builtin_interfaces/msg/Duration"](*divmod(time_ns, SECOND))


def text(stamp_ns: int, sentence: str, topic: str = "/instruction") -> Entry:
    return stamp_ns, topic, "std_msgs/msg/String", {"data": sentence}


def scalar(stamp_ns: int, topic: str, value: float) -> Entry:
    return stamp_ns, topic, "std_msgs/msg/Float64", {"data": value}


def image(stamp_ns: int, topic: str, pixels: np.ndarray, encoding: str = "rgb8") -> Entry:
    """A sensor_msgs/Image of `pixels` [H, W, 3] in the order of `encoding`."""
    height, width, channels = pixels.shape
    fields = {"height": height, "width": width, "encoding": encoding, "is_bigendian": 0, "step": channels * width}
    return stamp_ns, topic, "sensor_msgs/msg/Image", {"header": header(stamp_ns), **fields, "data": pixels.ravel()}


def compressed(stamp_ns: int, topic: str, pixels: np.ndarray, format: str = "png") -> Entry:
    """A sensor_msgs/CompressedImage of `pixels` [H, W, 3] RGB."""
    data = cv2.imencode(f".{format}", pixels[..., ::-1])[1].ravel()
    return (
        stamp_ns,
        topic,
        "sensor_msgs/msg/CompressedImage",
        {"header": header(stamp_ns), "format": format, "data": data},
    )


def joint_state(stamp_ns: int, names: Iterable[str], positions: Sequence[float], topic: str = "/joint_states") -> Entry:
    rates = np.zeros(len(positions))
    values = {"name": list(names), "position": np.array(positions, float), "velocity": rates, "effort": rates}
    return stamp_ns, topic, "sensor_msgs/msg/JointState", {"header": header(stamp_ns), **values}


def trajectory(
    arrived_ns: int,
    topic: str,
    names: Iterable[str],
    times_s: Iterable[float],
    positions: Iterable[Sequence[float]],
    *,
    stamp_ns: int = 0,
) -> Entry:
    """A trajectory_msgs/JointTrajectory that was received at one time and is stamped with another."""
    kind = "trajectory_msgs/msg/JointTrajectory"
    point = STORE.types[f"{kind}Point"]
    none = np.empty(0)
    points = [
        point(
            positions=np.array(values, float),
            velocities=none,
            accelerations=none,
            effort=none,
            time_from_start=duration(round(time_s * SECOND)),
        )
        for time_s, values in zip(times_s, positions, strict=True)
    ]
    return arrived_ns, topic, kind, {"header": header(stamp_ns), "joint_names": list(names), "points": points}


def positions(stamp_ns: int, topic: str, values: Sequence[float]) -> Entry:
    """A std_msgs/Float64MultiArray, as forward_command_controller takes it."""
    layout = STORE.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return stamp_ns, topic, "std_msgs/msg/Float64MultiArray", {"layout": layout, "data": np.array(values, float)}


def write(
    bag: Path,
    entries: Iterable[Entry],
    storage: StoragePlugin = StoragePlugin.MCAP,
    *,
    compression: CompressionMode = CompressionMode.NONE,
    version: Any = 9,
    delay_ns: int = DELAY,
    topics: Iterable[tuple[str, str]] = (),
    ordered: bool = True,
) -> Path:
    """Write a bag; an entry arrives `delay_ns` after its stamp.

    Args:
        topics: topics and types without messages.
        ordered: whether entries are written in the order of their stamps.
    """
    writer = Writer(bag, version=version, storage_plugin=storage)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        _fill(writer, sorted(entries, key=lambda entry: entry[0]) if ordered else entries, delay_ns, topics)
    return bag


def write_lz4(bag: Path, entries: Iterable[Entry]) -> Path:
    """Write an MCAP bag with lz4 chunks, as mcap's own recorders do."""
    with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        assert isinstance(writer.storage, McapWriter)
        writer.storage.compression, writer.storage.compressor = "lz4", lz4.frame.compress
        _fill(writer, entries, DELAY, ())
    return bag


def write_split(bag: Path, entries: Sequence[Entry], storage: StoragePlugin, parts: int) -> Path:
    """Write a bag of several files, as `ros2 bag record --max-bag-duration` does."""
    ordered = sorted(entries, key=lambda entry: entry[0])
    bag.mkdir()
    names = []
    for part in range(parts):
        share = ordered[part * len(ordered) // parts : (part + 1) * len(ordered) // parts]
        (file,) = storage_files(write(bag / "part", share, storage))
        names.append(f"{bag.name}_{part}{file.suffix}")
        file.rename(bag / names[-1])
        _change(bag / "part", lambda said: said.update(relative_file_paths=names.copy()))
        (bag / "part" / "metadata.yaml").rename(bag / "metadata.yaml")
        (bag / "part").rmdir()
    return bag


def write_humble(bag: Path, entries: Iterable[Entry]) -> Path:
    """Write a bag as Humble does by default: SQLite without message definitions, metadata in version 5."""
    write(bag, entries, StoragePlugin.SQLITE3, version=8)
    (file,) = storage_files(bag)
    with closing(sqlite3.connect(file)) as database:
        database.executescript(
            "DROP TABLE message_definitions; ALTER TABLE topics DROP COLUMN type_description_hash;"
            "UPDATE schema SET schema_version = 3, ros_distro = 'humble'; DELETE FROM metadata"
        )

    def older(said: dict[str, Any]) -> None:
        said["version"] = 5
        del said["custom_data"], said["ros_distro"]
        for topic in said["topics_with_message_count"]:
            del topic["topic_metadata"]["type_description_hash"]

    _change(bag, older)
    return bag


def without_metadata(bag: Path) -> Path:
    """Leave a bag as a recorder does that was killed after its files were closed."""
    (bag / "metadata.yaml").unlink()
    return bag


def without_index(bag: Path) -> Path:
    """Leave an MCAP bag without chunks and without a summary, as the preset `fastwrite` and plain writers do."""
    (file,) = storage_files(bag)
    data = file.read_bytes()
    body = b"".join(record[9 + 40 :] for opcode, record in records(data) if opcode == 0x06)  # uncompressed chunks
    (start, *_) = (len(data[:8]) + len(record) for opcode, record in records(data) if opcode == 0x01)
    end = struct.pack("<BQI", 0x0F, 4, 0) + struct.pack("<BQQQI", 0x02, 20, 0, 0, 0)
    file.write_bytes(data[:start] + body + end + data[:8])
    return bag


def records(data: bytes) -> Iterable[tuple[int, bytes]]:
    """The records of an MCAP file: opcode, and the record with its head of nine bytes."""
    offset = 8
    while offset < len(data) - 8:
        opcode, length = struct.unpack_from("<BQ", data, offset)
        yield opcode, data[offset : offset + 9 + length]
        offset += 9 + length


def cut(bag: Path, share: float) -> Path:
    """Cut a bag's only file off after a share of its bytes, as a full disk does."""
    (file,) = storage_files(bag)
    data = file.read_bytes()
    file.write_bytes(data[: round(share * len(data))])
    return bag


def storage_files(bag: Path) -> list[Path]:
    return sorted(path for path in bag.iterdir() if path.name != "metadata.yaml")


def counts(bag: Path) -> dict[str, int]:
    """How many messages rosbags counts in a whole bag, by topic."""
    with Reader(bag) as reader:
        return {topic: info.msgcount for topic, info in reader.topics.items()}


def _fill(writer: Writer, entries: Iterable[Entry], delay_ns: int, topics: Iterable[tuple[str, str]]) -> None:
    connections = {said: writer.add_connection(*said, typestore=STORE) for said in topics}
    for stamp_ns, topic, msgtype, fields in entries:
        if (topic, msgtype) not in connections:
            connections[topic, msgtype] = writer.add_connection(topic, msgtype, typestore=STORE)
        message = STORE.types[msgtype](**fields)
        writer.write(connections[topic, msgtype], stamp_ns + delay_ns, STORE.serialize_cdr(message, msgtype))


def _change(bag: Path, change: Callable[[dict[str, Any]], object]) -> None:
    said = yaml.safe_load((bag / "metadata.yaml").read_text())
    change(said["rosbag2_bagfile_information"])
    (bag / "metadata.yaml").write_text(yaml.safe_dump(said))
