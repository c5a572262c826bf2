"""What the report of a replay shows of it: a bounded number of things, evenly over the bag, however long that is."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby
from typing import Any, Generic, TypeVar

import cv2
import numpy as np

from vlaq_ros.bags.reference import Reference
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import FloatArray, ImageArray, IntArray
from vlaq_ros.errors import VlaqError
from vlaq_ros.evaluate.report import PALETTE
from vlaq_ros.policy.engine import FULL
from vlaq_ros.replay.answer_errors import FLOWN
from vlaq_ros.replay.looks import without_numbers
from vlaq_ros.replay.replayed import Answer, Event, Held, Look, Seen

LOOKS = 3000
FRAMES = 192  # of all cameras together
CHUNKS = 240
STEPS = 12  # of a chunk's line
RECORDED = 2000  # of the recorded joints' lines
MARKS = 300  # of each kind
LATENCIES_S: FloatArray = np.geomspace(1e-3, 10.0, 81)  # edges of the histogram: 20 bins for a factor of ten
_PAUSE = 4  # usual times between answers
_FRAME_PX = 160  # wide
_JPEG_QUALITY = 78
_DIGITS = 4  # 0.1 mrad, 0.1 mm, 0.1 ms
_LATE = "the arm would have waited for a chunk, at rest or braking"

Kept = TypeVar("Kept")


class Slots(Generic[Kept]):
    """At most so many things, one for each of equal parts of a time.

    Args:
        start_ns, end_ns: of that time; what lies outside belongs to the first or the last part.
        count: of the parts.
    """

    def __init__(self, start_ns: int, end_ns: int, count: int) -> None:
        self._kept: dict[int, Kept] = {}
        self._start_ns, self._length_ns, self._last = start_ns, max(end_ns - start_ns, 1), count - 1

    def at(self, stamp_ns: int) -> Kept | None:
        """Return what is kept of the part that a stamp lies in."""
        return self._kept.get(self._place(stamp_ns))

    def keep(self, stamp_ns: int, thing: Kept) -> None:
        """Keep a thing for its part, in the place of what was kept there."""
        self._kept[self._place(stamp_ns)] = thing

    def values(self) -> list[Kept]:
        """Return what is kept, in the order of time."""
        return [self._kept[place] for place in sorted(self._kept)]

    def _place(self, stamp_ns: int) -> int:
        return min(max((stamp_ns - self._start_ns) * (self._last + 1) // self._length_ns, 0), self._last)


@dataclass(frozen=True, slots=True)
class _Moment:
    """What is shown of the looks of a part of the bag: the newest, and the worst of each kind."""

    stamp_ns: int
    sensitivity: float  # the highest S
    precision: str
    blocking: str
    late: bool


@dataclass(frozen=True, slots=True)
class _Chunk:
    stamp_ns: int
    times_s: FloatArray  # [K] since the observation, from 0
    lines: dict[str, FloatArray]  # [K, J] by precision, from where the arm was


class Drawing:
    """Takes the events of a replay, and keeps what its page shows.

    Args:
        reference: what the arm did and was told.
        cameras: their names, in the order of their strips.
        kinematics: of the arm.

    Attributes:
        start_ns: where its times begin.
    """

    def __init__(self, reference: Reference, cameras: Sequence[str], kinematics: Kinematics) -> None:
        self._reference, self._kinematics = reference, kinematics
        self.start_ns, self._end_ns = span = reference.start_ns, reference.end_ns
        self._moments = Slots[_Moment](*span, LOOKS)
        self._frames = {name: Slots[tuple[int, bytes, float]](*span, FRAMES // len(cameras)) for name in cameras}
        self._chunks = Slots[_Chunk](*span, CHUNKS)
        self._marks = {kind: Slots[tuple[int, str]](*span, MARKS) for kind in ("jump", "brake", "none")}
        self._latencies: dict[str, IntArray] = {}
        self._jump = ""

    def take(self, event: Event) -> None:
        """Keep what is shown of an event."""
        match event:
            case Seen():
                self._see(event)
            case Look():
                self._look(event)
            case Answer():
                self._answer(event)
            case Held():
                self._mark("brake", event.stamp_ns, "the arm would have been braked")

    def _see(self, seen: Seen) -> None:
        frames = self._frames[seen.camera]
        if frames.at(seen.stamp_ns) is None:
            try:
                image = seen.decode()
            except VlaqError:  # the next one may be whole
                return
            frames.keep(seen.stamp_ns, (seen.stamp_ns, _jpeg(image), round(image.shape[1] / image.shape[0], 3)))

    def _look(self, look: Look) -> None:
        before = self._moments.at(look.stamp_ns)
        sensitivity, blocking, late = look.decision.sensitivity, "; ".join(look.blocking), look.late_s > 0
        if before is not None:
            sensitivity = float(np.fmax(sensitivity, before.sensitivity))
            blocking, late = before.blocking or blocking, before.late or late
        self._moments.keep(look.stamp_ns, _Moment(look.stamp_ns, sensitivity, look.decision.precision, blocking, late))
        if look.jump and look.jump != self._jump:
            self._mark("jump", look.stamp_ns, f"joint states jump: {look.jump}")
        self._jump = look.jump

    def _answer(self, answer: Answer) -> None:
        for name, inference_s in answer.inference_s.items():
            counts = self._latencies.setdefault(name, np.zeros(len(LATENCIES_S) - 1, dtype=np.int64))
            counts[np.searchsorted(LATENCIES_S[1:-1], inference_s, side="right")] += 1
        stamp_ns = answer.observation.stamp_ns
        if answer.command is None:
            self._mark("none", stamp_ns, answer.fault)
        if answer.chunk is not None and self._chunks.at(stamp_ns) is None:
            start = answer.observation.joint_positions
            targets = {FLOWN: self._kinematics.joint_targets(answer.chunk, start), **answer.targets}
            picked = np.unique(np.linspace(0, len(answer.chunk.actions), STEPS + 1).round().astype(int))
            lines = {name: np.vstack([start, steps])[picked] for name, steps in targets.items()}
            self._chunks.keep(stamp_ns, _Chunk(stamp_ns, picked * answer.chunk.step_s, lines))

    def _mark(self, kind: str, stamp_ns: int, text: str) -> None:
        if self._marks[kind].at(stamp_ns) is None:
            self._marks[kind].keep(stamp_ns, (stamp_ns, text))

    def data(self) -> dict[str, Any]:
        """Give what was kept as JSON has it; times are in s since the begin of the bag, precisions by name."""
        moments, chunks = self._moments.values(), self._chunks.values()
        return {
            "duration_s": self._seconds(self._end_ns),
            "flown_s": [self._seconds(moment.stamp_ns) for moment in (moments[0], moments[-1])] if moments else None,
            "instructions": [[self._seconds(stamp_ns), text] for stamp_ns, text in self._reference.instructions],
            "frames": {
                camera: [
                    [self._seconds(stamp_ns), base64.b64encode(jpeg).decode(), aspect]
                    for stamp_ns, jpeg, aspect in kept.values()
                ]
                for camera, kept in self._frames.items()
            },
            "sensitivity": {
                "t": [self._seconds(moment.stamp_ns) for moment in moments],
                "s": numbers([moment.sensitivity for moment in moments]),
            },
            "spans": {
                "precision": self._spans([(moment.stamp_ns, moment.precision) for moment in moments]),
                "blocked": self._spans([(moment.stamp_ns, moment.blocking) for moment in moments]),
                "late": self._spans([(moment.stamp_ns, _LATE if moment.late else "") for moment in moments]),
            },
            "marks": {
                kind: [[self._seconds(stamp_ns), text] for stamp_ns, text in kept.values()]
                for kind, kept in self._marks.items()
            },
            "joints": self._recorded(),
            "chunks": [
                {
                    "t": self._seconds(chunk.stamp_ns),
                    "steps": numbers(chunk.times_s),
                    "lines": {name: [numbers(column) for column in line.T] for name, line in chunk.lines.items()},
                }
                for chunk in chunks
            ],
            "latency": {
                "edges_s": numbers(LATENCIES_S),
                "counts": {name: counts.tolist() for name, counts in self._latencies.items()},
            },
        }

    def _recorded(self) -> dict[str, Any]:
        """Give the joints as they were measured and told, thinned."""
        stamps_ns = self._reference.stamps_ns
        picked = np.unique(np.linspace(0, len(stamps_ns), RECORDED, endpoint=False).astype(int))[: len(stamps_ns)]
        measured, told = self._reference.positions[picked], self._reference.at(stamps_ns[picked])
        return {
            "names": self._kinematics.joint_names,
            "t": [self._seconds(int(stamp_ns)) for stamp_ns in stamps_ns[picked]],
            "measured": [numbers(column) for column in measured.T],
            "told": [numbers(column) for column in told.T] if self._reference.source == "commands" else [],
        }

    def _spans(self, labels: Sequence[tuple[int, str]]) -> list[list[Any]]:
        """Give begin, end and label of every run of a label; the measured values in it may change meanwhile."""
        runs = [next(run) for _, run in groupby(labels, key=lambda pair: without_numbers(pair[1]))]
        ends_ns = [*(stamp_ns for stamp_ns, _ in runs[1:]), self._end_ns]
        return [
            [self._seconds(stamp_ns), self._seconds(end_ns), label]
            for (stamp_ns, label), end_ns in zip(runs, ends_ns, strict=False)
            if label
        ]

    def _seconds(self, stamp_ns: int) -> float:
        return round((stamp_ns - self.start_ns) * 1e-9, 3)


def colours(document: Mapping[str, Any]) -> dict[str, str]:
    """Give the colour of every precision of a report.json, finest first, as our other figures have them."""
    full = {FULL: PALETTE[-1]} if FULL in document["precisions"] else {}
    return full | dict(zip(document["thresholds"], cycle(PALETTE[:-1]), strict=False))


def pause_ns(stamps_ns: IntArray) -> float:
    """Say from which time between answers [N] on there was a pause, so that no line is drawn over it."""
    return _PAUSE * float(np.median(np.diff(stamps_ns))) if len(stamps_ns) > 1 else 0.0


def numbers(values: Iterable[float]) -> list[float | None]:
    """Round for a page; None where a value is not known."""
    return [round(float(value), _DIGITS) if np.isfinite(value) else None for value in values]


def _jpeg(image: ImageArray) -> bytes:
    height, width = image.shape[:2]
    size = _FRAME_PX, max(1, round(height * _FRAME_PX / width))
    small = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
    return encoded.tobytes()
