"""rosbag2 recordings, found and read without ROS: the messages of some topics, in the order of their arrival.

A recording is its storage files: metadata.yaml, which a recorder writes last, only says which files there should be.
"""

from __future__ import annotations

import heapq
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from operator import attrgetter, itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Protocol

import yaml
from backports import zstd
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.storage_mcap import McapReader
from rosbags.typesys import Stores, get_typestore

from vlaq_ros.bags.salvage import Message, SalvagedFile
from vlaq_ros.config import CameraConfig
from vlaq_ros.errors import (
    BagTopicsError,
    EmptyBagError,
    NoInstructionError,
    UnreadableBagError,
    UnusableMessageError,
)

INSTRUCTION = "/instruction"
JOINTS, TEXT = "sensor_msgs/msg/JointState", "std_msgs/msg/String"
TRAJECTORY, POSITIONS = "trajectory_msgs/msg/JointTrajectory", "std_msgs/msg/Float64MultiArray"
_METADATA, _STORAGES = "metadata.yaml", (".mcap", ".db3")
_COMPRESSED = ".zstd"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # what no CDR message begins with
_STORE = get_typestore(Stores.ROS2_KILTED)  # the messages that are read here are the same in every distribution


class _StorageFile(Protocol):
    counts: Counter[tuple[str, str]]
    start_ns: int
    end_ns: int
    damage: str

    def messages(self, wanted: Collection[tuple[str, str]]) -> Iterator[Message]:
        """Read the messages of some topics and types in the order of their arrival."""
        ...


class _IndexedFile:
    """A storage file as it should be."""

    def __init__(self, file: Path, reader: Reader) -> None:
        self._reader = reader
        # SQLite's write-ahead log, which the preset `resilient` leaves when its recorder is killed, is not looked into
        log = file.with_name(f"{file.name}-wal")
        self.damage = f"messages in {log.name} are not read" if log.is_file() and log.stat().st_size else ""
        self.counts: Counter[tuple[str, str]] = Counter()
        for connection in reader.connections:
            self.counts[connection.topic, connection.msgtype] += connection.msgcount
        self.start_ns, self.end_ns = reader.start_time, reader.end_time - 1

    def messages(self, wanted: Collection[tuple[str, str]]) -> Iterator[Message]:
        chosen = [it for it in self._reader.connections if (it.topic, it.msgtype) in wanted]
        if chosen:  # none would mean all
            for connection, received_ns, raw in self._reader.messages(chosen):
                yield Message(connection.topic, received_ns, raw, connection.msgtype)


class OpenBag:
    """A recording that is being read.

    Attributes:
        topics: type and number of messages of every topic that has any.
        start_ns, end_ns: when the first and the last message arrived, by the recorder's clock.
        damage: what of it could not be read; empty where all could.
    """

    def __init__(self, bag: Path, files: Collection[_StorageFile]) -> None:
        self._bag = bag
        self._files = [file for file in files if file.counts.total()]
        counts = sum((file.counts for file in self._files), Counter[tuple[str, str]]())
        rising = sorted(counts.items(), key=itemgetter(1))  # of two types on one topic the more frequent one is told
        self.topics = {topic: (msgtype, count) for (topic, msgtype), count in rising}
        self.start_ns = min((file.start_ns for file in self._files), default=0)
        self.end_ns = max((file.end_ns for file in self._files), default=0)
        self.damage = "; ".join(filter(None, (_missing_files(bag), *(file.damage for file in files))))

    def messages(self, topics: Mapping[str, str]) -> Iterator[Message]:
        """Read the messages of some topics, each of one type, in the order of their arrival.

        They are read as they are asked for: no more of them are held than a chunk of a file has.

        Raises:
            UnreadableBagError: the recording is damaged on the way.
        """
        wanted = set(topics.items())
        try:
            for message in heapq.merge(*(file.messages(wanted) for file in self._files), key=attrgetter("received_ns")):
                packed = message.raw.startswith(_ZSTD_MAGIC)
                yield replace(message, raw=zstd.decompress(message.raw)) if packed else message
        except Exception as error:  # a broken file raises whatever its parts do: SQLite, zstd, struct
            raise UnreadableBagError(self._bag, " ".join(str(error).split())) from None

    def lacking(self, wanted: Mapping[str, str]) -> list[str]:
        """Name the wanted topics that are not there, with their types."""
        return [f"{kind} on {topic}" for topic, kind in wanted.items() if self.topics.get(topic, ("", 0))[0] != kind]

    def contents(self) -> list[str]:
        """Name the topics that are there, with their types."""
        return [f"{msgtype} on {topic}" for topic, (msgtype, _) in sorted(self.topics.items())]

    def deserialize(self, message: Message) -> Any:
        """Give a message its fields.

        Raises:
            UnusableMessageError: its bytes are no message of its type.
        """
        try:
            return _STORE.deserialize_cdr(message.raw, message.msgtype)
        except Exception as error:  # of struct, numpy or rosbags, by where the bytes end
            got = f"a message of {len(message.raw)} bytes on {message.topic} cannot be read ({error})"
            raise UnusableMessageError(got, message.msgtype) from None


def find_bags(path: Path) -> list[Path]:
    """Find the recordings that a path names: itself, or those in the directory that it is."""
    if _is_bag(path):
        return [path]
    return sorted(filter(_is_bag, path.iterdir())) if path.is_dir() else []


@contextmanager
def open_bag(bag: Path) -> Iterator[OpenBag]:
    """Open a recording of Humble or later: MCAP or SQLite, whole, split or cut off, compressed in any way.

    Args:
        bag: a directory or a storage file.

    Raises:
        UnreadableBagError: it is no recording, or so damaged that nothing can be read; also while it is read.
        EmptyBagError: it has no message.
    """
    with ExitStack() as stack:
        try:
            opened = OpenBag(bag, [_open(file, stack) for file in _storage_files(bag)])
        except (OSError, zstd.ZstdError) as error:
            raise UnreadableBagError(bag, " ".join(str(error).split())) from None
        if not opened.topics:
            raise UnreadableBagError(bag, opened.damage) if opened.damage else EmptyBagError(bag)
        yield opened


def read(
    bag: Path, wanted: Mapping[str, str], optional: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[str, Any]]:
    """Read the messages of some topics, each of one type, from a recording that is whole.

    Args:
        bag: a directory or a storage file.
        wanted: topics that must be there, and their types.
        optional: topics that may be there.

    Raises:
        UnreadableBagError: the recording is none, or damaged.
        EmptyBagError: it has no message.
        NoInstructionError: of the wanted topics only the instruction's is missing.
        BagTopicsError: wanted topics are missing.
    """
    with open_bag(bag) as opened:
        if opened.damage:
            raise UnreadableBagError(bag, opened.damage)
        missing = opened.lacking(wanted)
        if missing == [f"{TEXT} on {INSTRUCTION}"]:
            raise NoInstructionError(bag, INSTRUCTION)
        if missing:
            raise BagTopicsError(bag, missing, opened.contents())
        for message in opened.messages({**wanted, **optional}):
            yield message.topic, opened.deserialize(message)


def image_type(camera: CameraConfig) -> str:
    """Name the type of a camera's images as a recording does."""
    return f"sensor_msgs/msg/{camera.type}"


def absolute(topic: str, namespace: str = "") -> str:
    """Name a topic of the robot file as a recording does; a namespace is put before what is not absolute itself."""
    return topic if topic.startswith("/") else "/".join(("", *filter(None, namespace.split("/")), topic))


def _open(file: Path, stack: ExitStack) -> _StorageFile:
    if file.suffix == _COMPRESSED:
        file = _unpacked(file, Path(stack.enter_context(TemporaryDirectory())))
    with suppress(Exception):  # a broken file raises whatever its parts do: YAML, SQLite, struct
        reader = stack.enter_context(Reader(file))
        # without an index, rosbags refuses messages that are not in order; recorders write them so
        if not isinstance(reader.storage, McapReader) or reader.storage.chunks:
            return _IndexedFile(file, reader)
    return SalvagedFile(file)


def _unpacked(file: Path, directory: Path) -> Path:
    target = directory / file.stem
    with zstd.open(file, "rb") as packed, target.open("wb") as unpacked, suppress(EOFError):  # what was cut off
        shutil.copyfileobj(packed, unpacked)
    return target


def _is_bag(path: Path) -> bool:
    if path.is_dir():
        return (path / _METADATA).is_file() or any(map(_is_storage, path.iterdir()))
    return _is_storage(path)


def _is_storage(path: Path) -> bool:
    return path.name.removesuffix(_COMPRESSED).endswith(_STORAGES) and path.is_file()


def _storage_files(bag: Path) -> list[Path]:
    if not bag.exists():
        raise UnreadableBagError(bag, "there is no such file or directory")
    files = sorted(filter(_is_storage, bag.iterdir() if bag.is_dir() else [bag]))
    if not files:
        raise UnreadableBagError(bag, _missing_files(bag) or f"there is no {' or '.join(_STORAGES)} file")
    return files


def _missing_files(bag: Path) -> str:
    """Say which files a recording had that are not there."""
    try:
        said = yaml.safe_load((bag / _METADATA).read_text(encoding="utf-8"))
        names = [Path(name).name for name in said["rosbag2_bagfile_information"]["relative_file_paths"]]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return ""
    gone = [name for name in names if not (bag / name).is_file()]
    return f"its {', '.join(gone)} {'is' if len(gone) == 1 else 'are'} not there" if gone else ""
