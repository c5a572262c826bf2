"""How regularly an input came: the header stamps of one topic, and in sentences what is odd about them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

from vlaq_ros.datatypes import IntArray

_APART_S = 1.0  # an input that begins or ends further from the recording's own is told
_RATE_FACTOR = 1.25  # so is a rate that differs by more,
_GAP_S = 0.5  # and a gap in joint states that is longer
_MISSED = 1.5  # periods between two images that have one missing between them


class Stamps:
    """The stamps of one input, as they arrived.

    Args:
        name: of the input, in sentences.
        allowed_s: a stamp that lies further than this before the newest one means that time jumped back.

    Attributes:
        repeated_ns: first and last stamp of every stretch of time that was recorded more than once.
    """

    def __init__(self, name: str, allowed_s: float) -> None:
        self.name = name
        self.repeated_ns: list[tuple[int, int]] = []
        self._allowed_ns = round(allowed_s * 1e9)
        self._received = array("q")  # the stamps, rising but for jumps
        self._newest_ns: int | None = None  # ever

    def hear(self, stamp_ns: int) -> bool:
        """Take the next stamp, and say whether it is newer than all others."""
        last_ns = self._received[-1] if self._received else stamp_ns - 1
        if last_ns - self._allowed_ns <= stamp_ns <= last_ns:  # late or repeated: whoever listens drops it
            return False
        newest_ns = self._newest_ns
        if stamp_ns <= last_ns and newest_ns is not None:
            self.repeated_ns.append((stamp_ns, newest_ns))
        self._received.append(stamp_ns)
        self._newest_ns = stamp_ns if newest_ns is None else max(newest_ns, stamp_ns)
        return newest_ns is None or stamp_ns > newest_ns

    def __len__(self) -> int:
        return len(self._received)

    def span_ns(self) -> tuple[int, int]:
        """Smallest and largest stamp."""
        stamps_ns = self._array()
        return int(stamps_ns.min()), int(stamps_ns.max())

    def rate_hz(self) -> float:
        """Messages per second, by the median of their distances; nan where there are none."""
        return rate_hz(self._array())

    def lines(self, start_ns: int, end_ns: int, expected_hz: float | None = None) -> Iterator[str]:
        """Say what is odd, in a recording that lasts from start to end; a camera's rate should be as expected."""
        oddities = [*self._clock(start_ns), *self._ends(start_ns, end_ns)]
        oddities += self._gaps(start_ns) if expected_hz is None else self._images(start_ns, expected_hz)
        yield from (f"{self.name}: {oddity}" for oddity in oddities)

    def _clock(self, start_ns: int) -> Iterator[str]:
        if self.repeated_ns:
            jump_ns, newest_ns = self.repeated_ns[0]
            often = f"{len(self.repeated_ns)} times, first " if len(self.repeated_ns) > 1 else ""
            yield (
                f"the clock ran back {often}by {_s(newest_ns - jump_ns):.2f} s, {_at(newest_ns, start_ns)}; "
                "what was recorded at the same stamps twice is compared with nothing"
            )

    def _ends(self, start_ns: int, end_ns: int) -> Iterator[str]:
        first_ns, last_ns = self.span_ns()
        if _s(first_ns - start_ns) > _APART_S:
            yield f"the first message is {_s(first_ns - start_ns):.1f} s into the recording"
        if _s(end_ns - last_ns) > _APART_S:
            yield f"the last message is {_s(end_ns - last_ns):.1f} s before the end of the recording"

    def _gaps(self, start_ns: int) -> Iterator[str]:
        gaps = np.flatnonzero(self._steps_ns() > _GAP_S * 1e9)
        if len(gaps):
            yield f"{len(gaps)} gap{'s' * (len(gaps) > 1)} of more than {_GAP_S} s, {self._longest(gaps, start_ns)}"

    def _images(self, start_ns: int, expected_hz: float) -> Iterator[str]:
        rate_hz = self.rate_hz()
        if np.isnan(rate_hz):
            yield "a single image in the whole recording"
            return
        if not expected_hz / _RATE_FACTOR <= rate_hz <= expected_hz * _RATE_FACTOR:
            yield f"{rate_hz:.3g} messages per second, the robot file says {expected_hz:.3g}"
        periods = self._steps_ns() * rate_hz * 1e-9
        gaps = np.flatnonzero(periods > _MISSED)
        if len(gaps):
            lost = int((np.round(periods[gaps]) - 1).sum())
            yield f"{lost} of {lost + len(self._received)} images are missing, {self._longest(gaps, start_ns)}"

    def _longest(self, gaps: IntArray, start_ns: int) -> str:
        steps_ns = self._steps_ns()
        longest = int(gaps[np.argmax(steps_ns[gaps])])
        return f"the longest for {_s(int(steps_ns[longest])):.2f} s, {_at(self._received[longest], start_ns)}"

    def _array(self) -> IntArray:
        return np.frombuffer(self._received, dtype=np.int64)

    def _steps_ns(self) -> IntArray:
        """Distances to the next stamp [N - 1]; not positive where time jumped back."""
        return np.diff(self._array())


def rate_hz(stamps_ns: IntArray) -> float:
    """Messages per second by the median of their distances, which a lost one does not change; nan where unknown."""
    steps_ns = np.diff(stamps_ns)
    forward_ns = steps_ns[steps_ns > 0]
    return 1e9 / float(np.median(forward_ns)) if len(forward_ns) else np.nan


def _s(duration_ns: int) -> float:
    return duration_ns * 1e-9


def _at(stamp_ns: int, start_ns: int) -> str:
    return f"{_s(stamp_ns - start_ns):.1f} s into the recording"
