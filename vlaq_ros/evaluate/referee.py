"""When an episode is over; the same rule in process and over ROS."""

from __future__ import annotations

TIME_LIMIT_S = 15.0
SUCCESS_HELD_S = 0.3  # success must last, or an object that slips would count


class Referee:
    """Watches one episode, which succeeded if success holds when it is over.

    Args:
        start_ns: of the episode, on the caller's clock.
        limit_s: an episode without success is over then.
    """

    def __init__(self, start_ns: int, limit_s: float = TIME_LIMIT_S) -> None:
        self._end_ns = start_ns + round(limit_s * 1e9)
        self._success_from_ns: int | None = None

    def over(self, success: bool, failed: bool, now_ns: int) -> bool:
        """Say whether the episode ends now: success has lasted, it cannot come any more, or the time is up."""
        if not success:
            self._success_from_ns = None
        elif self._success_from_ns is None:
            self._success_from_ns = now_ns
        lasted_ns = 0 if self._success_from_ns is None else now_ns - self._success_from_ns
        return failed or lasted_ns >= SUCCESS_HELD_S * 1e9 or now_ns >= self._end_ns
