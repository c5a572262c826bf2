"""Storage files whose end or index is missing, read from their beginning as far as they go.

A recorder that was killed, or a full disk, leaves an MCAP file without its summary and an SQLite file that is shorter
than it says; MCAP files may also be written without an index. The formats: https://mcap.dev/spec and rosbag2's tables.
"""

from __future__ import annotations

import heapq
import sqlite3
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from rosbags.rosbag2.storage_mcap import decompress

WINDOW_NS = 500_000_000  # recorders write several topics in turn: messages lie out of order by up to this

_MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x03, 0x04, 0x05, 0x06, 0x0F
_KNOWN = range(0x01, 0x10)


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it was recorded."""

    topic: str
    received_ns: int  # by the recorder's clock
    raw: bytes  # CDR
    msgtype: str


class SalvagedFile:
    """A storage file that is read from its beginning; what it holds is counted at once, which reads it as a whole.

    Attributes:
        counts: messages by topic and type.
        start_ns, end_ns: of the first and the last of them; 0 where there is none.
        damage: why it does not go on; empty where it is whole.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.counts: Counter[tuple[str, str]] = Counter()
        self.start_ns = self.end_ns = 0
        self.damage = ""
        try:
            for message in _FORMATS[file.suffix](file):
                first = not self.counts
                self.counts[message.topic, message.msgtype] += 1
                self.start_ns = message.received_ns if first else min(self.start_ns, message.received_ns)
                self.end_ns = max(self.end_ns, message.received_ns)
        except Exception as error:  # a broken file raises whatever its parts do: struct, zstd, SQLite
            self.damage = f"{file.name} breaks off after {self.counts.total()} messages ({error})"

    def messages(self, wanted: Collection[tuple[str, str]]) -> Iterator[Message]:
        """Read the messages of some topics and types in the order of their arrival."""
        chosen = (message for message in self._readable() if (message.topic, message.msgtype) in wanted)
        return _in_order(chosen)

    def _readable(self) -> Iterator[Message]:
        messages = _FORMATS[self._file.suffix](self._file)
        for _ in range(self.counts.total()):
            yield next(messages)


def _in_order(messages: Iterable[Message]) -> Iterator[Message]:
    """Put messages in order that lie apart from it by no more than the window."""
    held: list[tuple[int, int, Message]] = []
    for number, message in enumerate(messages):
        heapq.heappush(held, (message.received_ns, number, message))
        while held[0][0] < message.received_ns - WINDOW_NS:
            yield heapq.heappop(held)[2]
    while held:
        yield heapq.heappop(held)[2]


def _mcap(file: Path) -> Iterator[Message]:
    with file.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("it does not begin as MCAP does")
        yield from _mcap_messages(stream, file.stat().st_size, {}, {})


def _mcap_messages(
    stream: BinaryIO, size: int, schemas: dict[int, str], channels: dict[int, tuple[str, str]]
) -> Iterator[Message]:
    while stream.tell() < size:
        opcode, length = struct.unpack("<BQ", stream.read(9))
        if opcode not in _KNOWN or length > size - stream.tell():
            raise ValueError("a record is cut off")
        record = stream.read(length)
        if opcode == _SCHEMA:
            schemas[_uint16(record, 0)] = _text(record, 2)
        elif opcode == _CHANNEL:
            channels[_uint16(record, 0)] = _text(record, 4), schemas.get(_uint16(record, 2), "")
        elif opcode == _MESSAGE:
            topic, msgtype = channels[_uint16(record, 0)]
            yield Message(topic, int.from_bytes(record[6:14], "little"), record[22:], msgtype)
        elif opcode == _CHUNK:
            _, _, unpacked, crc = struct.unpack_from("<QQQI", record)
            compression = _text(record, 28)
            data = record[28 + 4 + len(compression) + 8 :]
            inner = BytesIO(decompress(data, compression, unpacked, crc))
            yield from _mcap_messages(inner, unpacked, schemas, channels)
        elif opcode == _DATA_END:
            return
    if not isinstance(stream, BytesIO):
        raise ValueError("its end is missing")


def _uint16(record: bytes, offset: int) -> int:
    return int.from_bytes(record[offset : offset + 2], "little")


def _text(record: bytes, offset: int) -> str:
    (length,) = struct.unpack_from("<I", record, offset)
    return record[offset + 4 : offset + 4 + length].decode()


def _sqlite(file: Path) -> Iterator[Message]:
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)) as database:
        database.execute("PRAGMA writable_schema = ON")  # or SQLite refuses a file that is shorter than it says
        topics = {number: said for number, *said in database.execute("SELECT id, name, type FROM topics")}
        rows = database.execute("SELECT topic_id, timestamp, data FROM messages NOT INDEXED")
        for number, received_ns, raw in rows:
            topic, msgtype = topics[number]
            yield Message(topic, received_ns, raw, msgtype)


_FORMATS: dict[str, Callable[[Path], Iterator[Message]]] = {".mcap": _mcap, ".db3": _sqlite}
