"""rosbag2 recordings, found and read without ROS: the messages of some topics, in the order of their arrival."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from vlaq_ros.config import CameraConfig
from vlaq_ros.errors import BagTopicsError, NoInstructionError, UnreadableBagError, VlaqError
from vlaq_ros.evaluate.recording import INSTRUCTION

JOINTS, TEXT = "sensor_msgs/msg/JointState", "std_msgs/msg/String"
_STORAGES = (".mcap", ".db3")


def find_bags(path: Path) -> list[Path]:
    """Find the recordings that a path names: itself, or those in the directory that it is."""
    if _is_bag(path):
        return [path]
    return sorted(filter(_is_bag, path.iterdir())) if path.is_dir() else []


def read(
    bag: Path, wanted: Mapping[str, str], optional: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[str, Any]]:
    """Read the messages of some topics, each of one type.

    Args:
        bag: a directory or a storage file.
        wanted: topics that must be there, and their types.
        optional: topics that may be there.

    Raises:
        UnreadableBagError: the recording is none, or damaged.
        NoInstructionError: of the wanted topics only the instruction's is missing.
        BagTopicsError: wanted topics are missing.
    """
    files = [bag] if bag.is_file() or (bag / "metadata.yaml").is_file() else _storage_files(bag)
    taken = {**wanted, **optional}.items()
    try:
        with AnyReader(files, default_typestore=get_typestore(Stores.ROS2_KILTED)) as reader:
            seen = {topic: str(info.msgtype) for topic, info in reader.topics.items() if info.msgcount}
            missing = [f"{msgtype} on {topic}" for topic, msgtype in wanted.items() if seen.get(topic) != msgtype]
            if missing == [f"{TEXT} on {INSTRUCTION}"]:
                raise NoInstructionError(bag, INSTRUCTION)
            if missing:
                raise BagTopicsError(bag, missing, (f"{msgtype} on {topic}" for topic, msgtype in seen.items()))
            if connections := [c for c in reader.connections if (c.topic, c.msgtype) in taken]:  # none would mean all
                for connection, _, raw in reader.messages(connections):
                    yield connection.topic, reader.deserialize(raw, connection.msgtype)
    except VlaqError:
        raise
    except Exception as error:  # a broken file raises whatever its parts do: YAML, SQLite, zstd, struct
        raise UnreadableBagError(bag, " ".join(str(error).split())) from None


def image_type(camera: CameraConfig) -> str:
    """Name the type of a camera's images as a recording does."""
    return f"sensor_msgs/msg/{camera.type}"


def absolute(topic: str) -> str:
    """Name a topic of the robot file as a recording does."""
    return f"/{topic.lstrip('/')}"


def _is_bag(path: Path) -> bool:
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or bool(_storage_files(path))
    return path.suffix in _STORAGES and path.is_file()


def _storage_files(directory: Path) -> list[Path]:
    return sorted(file for file in directory.iterdir() if file.suffix in _STORAGES)
