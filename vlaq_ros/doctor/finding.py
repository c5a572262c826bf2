"""What a check of the machine found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    UNKNOWN = "unknown"  # this machine does not tell
    WARN = "warn"  # the node runs, worse than it could
    FAIL = "fail"  # the node does not run, or not as one thinks


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `vlaq doctor`."""

    check: str  # what was looked at
    level: Level
    found: str
    expected: str = ""  # where it is not OK
    remedy: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, found)


def unknown(check: str, found: str) -> Finding:
    """The machine does not tell; nothing is said of it."""
    return Finding(check, Level.UNKNOWN, found)


def warn(check: str, found: str, expected: str, remedy: str) -> Finding:
    """Something is worse than it could be."""
    return Finding(check, Level.WARN, found, expected, remedy)


def fail(check: str, found: str, expected: str, remedy: str) -> Finding:
    """Something must be mended first."""
    return Finding(check, Level.FAIL, found, expected, remedy)
