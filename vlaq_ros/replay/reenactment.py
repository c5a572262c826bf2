"""A recording flown as if the pilot had been there: even ticks, and messages between them as they arrived.

Bag time is that of the newest header stamp, whatever clock the recorder had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vlaq_ros.replay.inbox import Inbox, Input
from vlaq_ros.replay.reflight import Reflight
from vlaq_ros.replay.replayed import Event

_SILENCE_NS = 2_000_000_000  # of all inputs: from then on nothing changes until it ends
_BACK_NS = 1_000_000_000  # an input that is so much older than the one before it tells that time jumped


class Reenactment:
    """Goes through a bag once.

    Args:
        inbox: of the bag.
        fly: makes the flight.
        period_s: between two ticks.
        latency_s: of an inference; None for what it takes on this machine.
        instruction: in the place of the recorded ones; empty for those.
    """

    def __init__(
        self, inbox: Inbox, fly: Callable[[], Reflight], period_s: float, latency_s: float | None, instruction: str
    ) -> None:
        self._inbox, self._flight = inbox, fly()
        self._period_ns = round(period_s * 1e9)
        self._latency_s = latency_s
        self._instruction = instruction
        self._tick_ns: int | None = None  # when the next one is due; None before the first input
        self._arrival_ns: int | None = None  # when the answer of the running inference arrives; None where none runs
        self._newest_ns: dict[str, int] = {}  # of each input

    def events(self) -> Iterator[Event]:
        """Go through the bag."""
        observer = self._flight.observer
        observer.push_instruction(self._instruction)
        for message in self._inbox.messages():
            if isinstance(message, Input):
                yield from self._advance(message)
                yield from self._inbox.deliver(message, observer)
            elif message.topic == self._inbox.instruction and not self._instruction:
                observer.push_instruction(message.text)
        if self._arrival_ns is not None:
            yield from self._fetch(self._arrival_ns)

    def _advance(self, message: Input) -> Iterator[Event]:
        """Let time pass until an input."""
        newest_ns, until_ns = self._newest_ns.get(message.name), message.stamp_ns
        self._newest_ns[message.name] = until_ns
        if self._tick_ns is None or (newest_ns is not None and until_ns < newest_ns - _BACK_NS):
            self._tick_ns = until_ns
            self._arrival_ns = None if self._arrival_ns is None else until_ns
        silent_ns = self._tick_ns + _SILENCE_NS
        while min(self._tick_ns, until_ns if self._arrival_ns is None else self._arrival_ns) < until_ns:
            if self._arrival_ns is not None and self._arrival_ns <= self._tick_ns:
                yield from self._fetch(self._arrival_ns)
            elif self._tick_ns <= silent_ns:
                yield from self._tick(self._tick_ns)
                self._tick_ns += self._period_ns
            else:
                self._tick_ns = until_ns

    def _tick(self, now_ns: int) -> Iterator[Event]:
        flight = self._flight
        yield from flight.tick(now_ns, now_ns)
        if flight.infers and self._arrival_ns is None:
            flight.infer(lambda: now_ns + self._passed_ns())
            self._arrival_ns = now_ns + self._passed_ns()
            if self._arrival_ns == now_ns:
                yield from self._fetch(now_ns)

    def _fetch(self, now_ns: int) -> Iterator[Event]:
        self._arrival_ns = None
        yield from self._flight.fetch(now_ns)

    def _passed_ns(self) -> int:
        """Bag time from the begin of the running inference until now."""
        took_s = self._flight.took_s
        if took_s is None:
            return 0
        return round(1e9 * (took_s if self._latency_s is None else self._latency_s))
