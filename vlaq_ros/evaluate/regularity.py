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

    def span_ns(self) -> tuple[int, int]:
        """Smallest and largest stamp."""
        stamps_ns = self._array()
        return int(stamps_ns.min()), int(stamps_ns.max())

    def rate_hz(self) -> float:
        """Messages per second, by the median of their distances; nan where there are fewer than two."""
        return 1e9 / float(np.median(self._steps_ns())) if len(self._received) > 1 else np.nan

    def lines(self, start_ns: int, end_ns: int, expected_hz: float | None) -> Iterator[str]:
        """Say what is odd, in a recording that lasts from start to end; a camera's rate should be as expected."""
        stamps_ns, steps_ns = self._array(), self._steps_ns()
        first_ns, last_ns = self.span_ns()
        for jump_ns, newest_ns in self.repeated_ns:
            back_s = (newest_ns - jump_ns) * 1e-9
            yield (
                f"{self.name}: the clock ran back by {back_s:.2f} s, {_at(newest_ns, start_ns)}; "
                "what was recorded at the same stamps twice is compared with nothing"
            )
        if (late_s := (first_ns - start_ns) * 1e-9) > _APART_S:
            yield f"{self.name}: the first message is {late_s:.1f} s into the recording"
        if (early_s := (end_ns - last_ns) * 1e-9) > _APART_S:
            yield f"{self.name}: the last message is {early_s:.1f} s before the end of the recording"
        rate_hz = self.rate_hz()
        if expected_hz is None:
            gaps = np.flatnonzero(steps_ns > _GAP_S * 1e9)
            what = f"{len(gaps)} gap{'s' * (len(gaps) > 1)} of more than {_GAP_S} s"
        else:
            if not expected_hz / _RATE_FACTOR <= rate_hz <= expected_hz * _RATE_FACTOR:
                yield f"{self.name}: {rate_hz:.3g} messages per second, the robot file says {expected_hz:.3g}"
            periods = steps_ns * rate_hz * 1e-9
            gaps = np.flatnonzero(periods > _MISSED)
            lost = int((np.round(periods[gaps]) - 1).sum())
            what = f"{lost} of {lost + len(stamps_ns)} images are missing"
        if len(gaps):
            longest = gaps[np.argmax(steps_ns[gaps])]
            lasts_s, where = steps_ns[longest] * 1e-9, _at(int(stamps_ns[longest]), start_ns)
            yield f"{self.name}: {what}, the longest for {lasts_s:.2f} s, {where}"

    def _array(self) -> IntArray:
        return np.array(self._received, dtype=np.int64)

    def _steps_ns(self) -> IntArray:
        """Distances to the next stamp [N - 1]; not positive where time jumped back."""
        return np.diff(self._array())


def _at(stamp_ns: int, start_ns: int) -> str:
    return f"{(stamp_ns - start_ns) * 1e-9:.1f} s into the recording"
