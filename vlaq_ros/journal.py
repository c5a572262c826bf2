"""What a flight notes of itself, so that it can be repeated: everything that came from outside, in order, as JSON.

What follows from these entries and the robot's messages is not in them, but for the decisions, which tell whether a
repetition is one. Entries are numbered from the configuring of the node on: a gap is a message that was lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vlaq_ros.errors import JournalError

TICKS = 10  # in a message: 0.2 s of them


class Tick(NamedTuple):
    """A look at the motion."""

    now_ns: int
    steady_ns: int  # on a clock that never jumps
    newest_ns: Mapping[str, int]  # stamps of the newest joint states and images that had been taken
    kept: int  # joint states by then, since the node was configured
    instruction: str
    open: bool  # the gate
    asked: str  # precision, or auto
    precision: str  # decided
    sensitivity: float | None  # S; None where the motion is unknown
    began: bool  # an inference


class Fetch(NamedTuple):
    """An inference was done."""

    now_ns: int
    instruction: str
    open: bool  # the gate
    precision: str  # that was to be computed
    readings_ns: tuple[int, ...]  # of the clock, by the pilot: begin and end of the inference; none where inputs block
    draws: int  # of noise by then
    delays_s: tuple[float, ...]  # of the pilot by then
    why: str  # nothing was sent; empty where a command was
    failed: bool  # that precision could not be computed on this machine


class Lose(NamedTuple):
    """A precision could not be set up on this machine."""

    precision: str


class Land(NamedTuple):
    """The node was deactivated: the arm was held, and everything forgotten."""

    now_ns: int


Entry = Tick | Fetch | Lose | Land
_KINDS: dict[str, Callable[..., Entry]] = {kind.__name__.lower(): kind for kind in (Tick, Fetch, Lose, Land)}


class Journal:
    """Gathers entries, and publishes them: an answer at once, ticks a few times per second.

    Args:
        publish: takes a message.
    """

    def __init__(self, publish: Callable[[str], object]) -> None:
        self._publish = publish
        self._first = 0
        self._entries: list[Entry] = []

    def note(self, entry: Entry) -> None:
        """Take an entry."""
        self._entries.append(entry)
        waits = isinstance(entry, Tick) or (isinstance(entry, Fetch) and not entry.readings_ns)
        if waits and len(self._entries) < TICKS:
            return
        entries = [[type(noted).__name__.lower(), *noted] for noted in self._entries]
        self._publish(json.dumps({"first": self._first, "entries": entries}, separators=(",", ":"), allow_nan=False))
        self._first += len(entries)
        self._entries.clear()


def parse(text: str) -> tuple[int, list[Entry]]:
    """Read a message.

    Returns:
        The number of its first entry, counted from the configuring of the node; its entries.

    Raises:
        JournalError: it is none of this version of the package.
    """
    try:
        said = json.loads(text)
        return int(said["first"]), [_entry(*values) for values in said["entries"]]
    except (KeyError, TypeError, ValueError) as error:
        raise JournalError(text, error) from None


def _entry(kind: str, *values: Any) -> Entry:
    return _KINDS[kind](*(tuple(value) if isinstance(value, list) else value for value in values))
