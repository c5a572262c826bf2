"""What a flight counts and times: latencies, precisions, and what went wrong."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import asdict

import numpy as np

from vlaq_ros.datatypes import Command

LATENCIES = 100  # newest ones that percentiles are taken of


class FlightLog:
    """Counts from configuring on.

    Attributes:
        deadline_misses: commands that reached their brake, or inferences that stalled, before a successor came.
        rejected: chunks that were not commanded, by the kind of `RejectedChunkError`.
        violations: points of commanded motions that limits have changed, by the field of `Violations`.
        jumps: joint states that no motion explains.
    """

    def __init__(self) -> None:
        self.deadline_misses = 0
        self.jumps = 0
        self.rejected: Counter[str] = Counter()
        self.violations: Counter[str] = Counter()
        self._precisions: Counter[str] = Counter()
        self._latencies_s: deque[float] = deque(maxlen=LATENCIES)

    def command(self, command: Command, latency_s: float) -> None:
        """Count a command.

        Args:
            command: that is sent now.
            latency_s: from the stamp of its observation until now.
        """
        self._precisions[command.decision.precision] += 1
        self.violations.update(asdict(command.violations))
        if self._precisions.total() > 1:  # the first pays for what libraries set up
            self._latencies_s.append(latency_s)

    def latency_s(self, percent: float) -> float:
        """Percentile of the newest latencies from observation to command; nan before there are any."""
        return float(np.percentile(self._latencies_s, percent)) if self._latencies_s else np.nan

    def precision_shares(self) -> dict[str, float]:
        """Share of all commands that each precision has computed."""
        return {name: count / self._precisions.total() for name, count in self._precisions.items()}
