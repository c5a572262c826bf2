"""Episodes of a cell on disk: a line that says what they are of, then a line of JSON for every episode."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Self

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


class Results:
    """The episodes of a cell.

    Args:
        path: of the file.
        facts: what the episodes are of, in plain values.

    Attributes:
        rows: by their numbers.

    Raises:
        OtherStudyError: the file is there, and is of something else.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self._path, self.facts = path, dict(facts)
        self.rows: dict[int, Row] = {}
        if path.is_file():
            there = self.load(path)
            plain = json.loads(json.dumps(self.facts))
            if differing := [key for key in plain if there.facts.get(key) != plain[key]]:
                raise OtherStudyError(path, differing)
            self.rows = there.rows

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what is there; a line that was cut off by the end of its writer is dropped from the file."""
        whole = path.read_bytes()
        kept = whole[: whole.rfind(b"\n") + 1]
        if kept != whole:
            path.write_bytes(kept)
        head, *lines = kept.decode().splitlines() or ["{}"]
        results = cls.__new__(cls)
        results._path, results.facts = path, json.loads(head)
        results.rows = {row.number: row for row in map(_parse, lines)}
        return results

    def missing(self, episodes: int, part: int) -> Iterator[tuple[int, ...]]:
        """Give the numbers below `episodes` that are not there, in parts of at most `part`."""
        numbers = [number for number in range(episodes) if number not in self.rows]
        for first in range(0, len(numbers), part):
            yield tuple(numbers[first : first + part])

    def add(self, rows: Iterable[Row]) -> None:
        """Append episodes, all or none of their lines complete but the last."""
        new = {row.number: row for row in rows}
        text = "".join(json.dumps(_plain(row), separators=(",", ":")) + "\n" for row in new.values())
        if not self._path.is_file():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.facts) + "\n" + text
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)
        self.rows |= new


def _plain(row: Row) -> list[Any]:
    number, success, *rest = astuple(row)
    return [number, int(success), *rest]


def _parse(line: str) -> Row:
    number, success, seconds, chunks, jerk, tool_jerk = json.loads(line)
    return Row(number, bool(success), seconds, tuple(chunks), jerk, tool_jerk)
