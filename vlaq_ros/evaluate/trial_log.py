"""The record of trials on disk: a line that says what they are of, then a line of JSON for every trial that was begun.

Lines are only ever added, and what is missing follows from the plan: so a session goes on where the last one stopped.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from vlaq_ros.errors import NoTrialsError, OtherPlanError, TrialRecordError, TrialsRunningError
from vlaq_ros.evaluate.trial import Trial, TrialPlan, order


@dataclass(frozen=True, slots=True)
class Record:
    """What came of a trial; one that was aborted has neither succeeded nor failed, and is run again."""

    number: int
    block: int
    condition: str
    instruction: str
    seed: int
    stamp_ns: int  # when it began, on the ROS clock
    success: bool | None  # None where it was aborted
    seconds: float  # from the instruction to the end
    abort: str  # why; empty where it was not
    chunks: Mapping[str, int]  # that were sent, by precision
    latency_p50_ms: float | None  # of inference; None where no chunk was sent
    latency_p95_ms: float | None
    model: str  # the pilot's parameter
    bag: str  # directory, from that of the record


def path(out: Path) -> Path:
    """Say where the record lies in a directory of trials."""
    return out / "trials.jsonl"


def read(out: Path, plan: TrialPlan) -> tuple[Record, ...]:
    """Read what was recorded by now; a line that is not whole is passed over.

    Raises:
        NoTrialsError: there is no record.
        OtherPlanError: it is of another plan.
        TrialRecordError: a line is none of a record.
    """
    file = path(out)
    if not file.is_file():
        raise NoTrialsError(out)
    return _records(file, _whole_lines(file.read_bytes()), _facts(plan))


def missing(plan: TrialPlan, records: Iterable[Record]) -> Iterator[Trial]:
    """Give the trials without a result, in their order."""
    done = {record.number for record in records if record.success is not None}
    return (trial for trial in order(plan) if trial.number not in done)


class TrialLog:
    """A context manager that owns the record of one plan while trials are added to it.

    Args:
        out: directory of the record; what a crash left half written at its end is cut off.
        plan: that is run.

    Attributes:
        records: all of them, in the order in which they were written.

    Raises:
        TrialsRunningError: another process owns it.
        OtherPlanError: the record is of another plan.
        TrialRecordError: a line is none of a record.
    """

    def __init__(self, out: Path, plan: TrialPlan) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._file = path(out).open("ab+", buffering=0)  # what cannot be written must not be tried again by `close`
        try:
            self.records = self._open(path(out), plan)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, record: Record) -> None:
        """Append a record and see it to the disk.

        Raises:
            OSError: it cannot be written whole; the next `TrialLog` cuts off what was.
        """
        self._append(asdict(record))
        self.records = (*self.records, record)

    def _open(self, file: Path, plan: TrialPlan) -> tuple[Record, ...]:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrialsRunningError(file) from None
        self._file.seek(0)
        lines = _whole_lines(self._file.read())
        records = _records(file, lines, _facts(plan))
        self._file.truncate(sum(map(len, lines)))
        if not lines:
            self._append(_facts(plan))
        return records

    def _append(self, document: Mapping[str, Any]) -> None:
        line = json.dumps(document, ensure_ascii=False).encode() + b"\n"
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._file.fileno())


def _facts(plan: TrialPlan) -> dict[str, Any]:
    """Say what trials are of, in plain values: the plan, and its order, which another Python might draw otherwise."""
    facts = {**asdict(plan), "order": [[trial.instruction, trial.condition] for trial in order(plan)]}
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def _whole_lines(text: bytes) -> list[bytes]:
    return [line for line in text.splitlines(keepends=True) if line.endswith(b"\n")]


def _records(file: Path, lines: list[bytes], facts: Mapping[str, Any]) -> tuple[Record, ...]:
    """Parse the lines of a record; none is none."""
    if not lines:
        return ()
    head, *rest = (_document(file, number, line) for number, line in enumerate(lines, start=1))
    if differing := [key for key in facts if head.get(key) != facts[key]]:
        raise OtherPlanError(file, differing)
    return tuple(_record(file, number, document) for number, document in enumerate(rest, start=2))


def _document(file: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except ValueError as error:
        raise TrialRecordError(file, number, str(error)) from None
    if not isinstance(document, dict):
        raise TrialRecordError(file, number, "it is no JSON object")
    return document


def _record(file: Path, number: int, document: Mapping[str, Any]) -> Record:
    try:
        return Record(**document)
    except TypeError as error:
        raise TrialRecordError(file, number, str(error)) from None
