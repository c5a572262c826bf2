"""Simulated time against a clock."""

from __future__ import annotations

MAX_LAG_NS = 50_000_000  # caught up by running faster; what is lost beyond it stays lost


class Pacer:
    """Says when simulated time is due on a clock.

    A machine that is too slow loses time instead of running faster later without end; so does a clock that is set.

    Args:
        real_time_factor: simulated seconds per second of the clock.
        sim_ns: simulated time that is due at `clock_ns`.
        clock_ns: now, on a clock of the caller's choice.
    """

    def __init__(self, real_time_factor: float, sim_ns: int, clock_ns: int) -> None:
        self._real_time_factor = real_time_factor
        self._start_sim_ns = sim_ns
        self._start_clock_ns = clock_ns
        self.lost_ns = 0  # how far the clock has moved beyond what was simulated and will not be caught up

    def wait_ns(self, sim_ns: int, clock_ns: int) -> int:
        """How long from `clock_ns` until simulated time `sim_ns` is due; negative when it is late."""
        due_ns = self._start_clock_ns + round((sim_ns - self._start_sim_ns) / self._real_time_factor)
        wait_ns = due_ns + self.lost_ns - clock_ns
        bounded_ns = max(-MAX_LAG_NS, min(wait_ns, MAX_LAG_NS))
        self.lost_ns += bounded_ns - wait_ns
        return bounded_ns
