"""What the looks of a replay say: how long the pilot could fly, what kept it from it, and which S it acted on."""

from __future__ import annotations

import re
from collections import defaultdict, deque

import numpy as np

from vlaq_ros.datatypes import Decision
from vlaq_ros.replay.replayed import Look

_KEPT_S = 10.0  # that an inference may take beyond the dwell; its decision is found among the looks of that time
_IDLE = "instruction:"  # how the observer begins the reason of a robot without a task
_LONGEST_S = 1.0  # between two looks; longer, nobody looked meanwhile
_NUMBER = re.compile(r"(?<![\w.])-?\d+(\.\d+)?(?![\w.])")  # of its own, not a part of a name


class Looks:
    """Takes the looks of a replay, and keeps those of the last seconds.

    Every look speaks for the time since the one before it.

    Args:
        dwell_s: of the controller.

    Attributes:
        flyable_s: bag time in which an observation could be made.
        idle_s: in which the robot was asked for nothing.
        stale_s: in which it was, and no observation could be made.
        stale_by_reason_s: how long each reason blocked; its numbers are replaced by N. Several may block at once.
        late_s: how long the arm would have braked or rested for want of a chunk.
        jumps: how often joint states jumped.
    """

    def __init__(self, dwell_s: float) -> None:
        self.flyable_s = self.idle_s = self.stale_s = self.late_s = 0.0
        self.stale_by_reason_s: defaultdict[str, float] = defaultdict(float)
        self.jumps = 0
        self._dwell_ns = round(dwell_s * 1e9)
        self._kept_ns = round(_KEPT_S * 1e9) + self._dwell_ns
        self._looks: deque[tuple[int, Decision, float]] = deque()
        self._last: Look | None = None

    def take(self, look: Look) -> None:
        """Take the next look."""
        last, self._last = self._last, look
        self.jumps += bool(look.jump) and (last is None or look.jump != last.jump)
        if last is not None and look.stamp_ns < last.stamp_ns:
            self._looks.clear()
        asked = np.inf if look.motion is None else look.motion.sensitivity
        self._looks.append((look.stamp_ns, look.decision, asked))
        while self._looks[0][0] < look.stamp_ns - self._kept_ns:
            self._looks.popleft()
        since_s = 0.0 if last is None else (look.stamp_ns - last.stamp_ns) * 1e-9
        if not 0 < since_s <= _LONGEST_S:
            return
        self.late_s += min(look.late_s, since_s)
        if not look.blocking:
            self.flyable_s += since_s
        elif any(reason.startswith(_IDLE) for reason in look.blocking):
            self.idle_s += since_s
        else:
            self.stale_s += since_s
            for kind in {without_numbers(reason) for reason in look.blocking}:
                self.stale_by_reason_s[kind] += since_s

    def sensitivity(self, decision: Decision) -> float:
        """The S that a decision acts on: a threshold above it lets the coarser precision serve.

        The controller drops to a coarser precision after S has asked for it for the whole dwell. So what counts is the
        largest S during the dwell before the decision; infinite where the motion was unknown meanwhile, or where it was
        not looked at for so long. With two precisions that is exactly the controller's rule; with more, the controller
        may take up to another dwell.

        Args:
            decision: of one of the last looks.
        """
        made_ns = next((stamp_ns for stamp_ns, made, _ in reversed(self._looks) if made == decision), None)
        if made_ns is None or self._looks[0][0] > made_ns - self._dwell_ns:
            return np.inf
        return max(asked for stamp_ns, _, asked in self._looks if made_ns - self._dwell_ns <= stamp_ns <= made_ns)


def without_numbers(sentence: str) -> str:
    """Make one kind of sentences that differ in numbers alone."""
    return _NUMBER.sub("N", sentence)
