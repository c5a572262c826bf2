"""Episodes of a cell on disk: a line that says what they are of, then a line of JSON for every episode."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from vlaq_ros.errors import OtherStudyError


@dataclass(frozen=True, slots=True)
class Row:
    """An episode; its seed and its instruction follow from its number."""

    number: int
    success: bool
    seconds: float  # of simulated time
    chunks: tuple[int, ...]  # for each of the cell's variants
    jerk: float  # of the joints, root mean square, rad/s^3
    tool_jerk: float  # m/s^3


def path(out: Path, cell: str) -> Path:
    """Say where the episodes of a cell lie in a study's directory."""
    return out / "results" / f"{cell}.jsonl"


def read(path: Path, facts: Mapping[str, Any]) -> dict[int, Row]:
    """Read the episodes that a file holds by now, by their numbers; none where it is not there.

    Args:
        path: of the file, which may be growing: a line that is not whole is passed over.
        facts: some or all of what the episodes must be of, in plain values.

    Raises:
        OtherStudyError: they are of something else.
    """
    return _rows(path, _whole_lines(path), facts)


class Results:
    """The episodes of a cell, to be added to.

    Args:
        path: of the file; what its last writer did not finish is cut off.
        facts: what the episodes are of, in plain values.

    Attributes:
        rows: by their numbers.

    Raises:
        OtherStudyError: the file is there, and is of something else.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self._path, self._head = path, json.dumps(facts) + "\n"
        lines = _whole_lines(path)
        self.rows = _rows(path, lines, facts)
        if path.is_file():
            os.truncate(path, sum(map(len, lines)))

    def missing(self, episodes: int, part: int) -> Iterator[tuple[int, ...]]:
        """Give the numbers below `episodes` that are not there, in parts of at most `part`."""
        numbers = [number for number in range(episodes) if number not in self.rows]
        for first in range(0, len(numbers), part):
            yield tuple(numbers[first : first + part])

    def add(self, rows: Iterable[Row]) -> None:
        """Append episodes, all or none of their lines complete but the last."""
        new = {row.number: row for row in rows}
        text = "".join(json.dumps(_plain(row), separators=(",", ":")) + "\n" for row in new.values())
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.is_file() or not self._path.stat().st_size:
            text = self._head + text
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)
        self.rows |= new


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)


def _whole_lines(path: Path) -> list[bytes]:
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    return [line for line in lines if line.endswith(b"\n")]


def _rows(path: Path, lines: list[bytes], facts: Mapping[str, Any]) -> dict[int, Row]:
    head, *episodes = lines or [b"{}"]
    there, wanted = json.loads(head), json.loads(json.dumps(facts))
    if there and (differing := [key for key in wanted if there.get(key) != wanted[key]]):
        raise OtherStudyError(path, differing)
    return {row.number: row for row in map(_parse, episodes)}


def _plain(row: Row) -> list[Any]:
    number, success, *rest = astuple(row)
    return [number, int(success), *rest]


def _parse(line: bytes) -> Row:
    number, success, seconds, chunks, jerk, tool_jerk = json.loads(line)
    return Row(number, bool(success), seconds, tuple(chunks), jerk, tool_jerk)
