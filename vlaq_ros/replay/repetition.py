"""A recorded flight, flown again as its journal says: ticks, inputs and inferences come when they came."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat, takewhile

from vlaq_ros.config import AUTO, PilotConfig
from vlaq_ros.errors import PrecisionFailedError
from vlaq_ros.journal import TICKS, Entry, Fetch, Land, Lose, Tick, parse
from vlaq_ros.observe import JOINT_STATES
from vlaq_ros.replay.inbox import Inbox, Input
from vlaq_ros.replay.reflight import Reflight
from vlaq_ros.replay.replayed import Event

_LAG_NS = 500_000_000  # the recorder may receive an input later than the pilot's journal
_KEPT_NS = 3_000_000_000  # what is older than this and the ticks of a message matters to no tick


@dataclass(frozen=True, slots=True)
class _Page:
    """A message of the journal."""

    received_ns: int
    first: int
    entries: list[Entry]


class Repetition:
    """Goes through a bag once.

    A journal that begins in the middle of a flight is followed from there on; what is unknown is what the arm was told
    before: where it rested then, or since then, the repetition is exact.

    Args:
        inbox: of the bag.
        fly: makes a flight, whenever the node was configured.
        config: of the pilot; where its precision is a name, that is flown, whatever was asked for.
    """

    def __init__(self, inbox: Inbox, fly: Callable[[], Reflight], config: PilotConfig) -> None:
        self._inbox, self._fly = inbox, fly
        self._follows = config.precision == AUTO
        self._kept_ns = _KEPT_NS + 2 * TICKS * round(config.monitor_period_s * 1e9)
        self._pages: deque[_Page] = deque()
        self._waiting: defaultdict[str, deque[Input]] = defaultdict(deque)
        self._reflight: Reflight | None = None
        self._joins = False  # whether the journal begins in the middle, and nothing was inferred since
        self._kept: int | None = None  # joint states that the flight had; None where that is unknown

    def events(self) -> Iterator[Event]:
        """Go through the bag."""
        for message in self._inbox.messages():
            if isinstance(message, Input):
                received_ns = message.message.received_ns
                self._waiting[message.name].append(message)
            elif message.topic == self._inbox.journal:
                received_ns = message.received_ns
                self._pages.append(_Page(received_ns, *parse(message.text)))
            else:
                continue
            while self._pages and self._pages[0].received_ns + _LAG_NS <= received_ns:
                yield from self._play(self._pages.popleft())
            for waiting in self._waiting.values():
                while waiting and waiting[0].message.received_ns + self._kept_ns < received_ns:
                    yield from self._inbox.show(waiting.popleft())
        for page in self._pages:
            yield from self._play(page)
        for waiting in self._waiting.values():
            for left in waiting:
                yield from self._inbox.show(left)

    def _play(self, page: _Page) -> Iterator[Event]:
        if self._reflight is None or page.first == 0:
            self._reflight, self._joins = self._fly(), page.first > 0
            self._kept = None if self._joins else 0
        for entry in page.entries:
            yield from self._repeat(self._reflight, entry)

    def _repeat(self, reflight: Reflight, entry: Entry) -> Iterator[Event]:
        match entry:
            case Tick():
                yield from self._catch_up(reflight, entry)
                reflight.observer.push_instruction(entry.instruction)
                reflight.gate.enabled = entry.open
                if self._follows:
                    reflight.flight.select(entry.asked)
                began = reflight.infers
                yield from reflight.tick(entry.now_ns, entry.steady_ns)
                if reflight.infers and not began and not entry.began:  # it does not know what came before the recording
                    reflight.decline()
                    yield from reflight.fetch(entry.now_ns)
            case Fetch() if reflight.infers:
                reflight.observer.push_instruction(entry.instruction)
                reflight.gate.enabled = entry.open
                reflight.skip_noise(entry.draws - bool(entry.readings_ns))
                reflight.infer(chain(entry.readings_ns, repeat(entry.now_ns)).__next__, failing=entry.failed)
                yield from reflight.fetch(entry.now_ns)
                if entry.readings_ns and self._joins:
                    reflight.resume(entry.delays_s)
                    self._joins = False
            case Land():
                yield from reflight.land(entry.now_ns)
            case Lose():
                reflight.flight.lose(
                    PrecisionFailedError(entry.precision, RuntimeError("it did where it was recorded"))
                )

    def _catch_up(self, reflight: Reflight, tick: Tick) -> Iterator[Event]:
        """Let the observer have what the recorded one had."""
        for name, newest_ns in tick.newest_ns.items():
            waiting = self._waiting[name]
            stamps_ns = [item.stamp_ns for item in waiting]
            older = sum(1 for _ in takewhile(newest_ns.__gt__, stamps_ns))
            count = stamps_ns.index(newest_ns) + 1 if newest_ns in stamps_ns else older
            lost = 0  # only the recorder received them
            if name == JOINT_STATES and self._kept is not None:
                lost = max(count - (tick.kept - self._kept), 0)
            for nth, item in enumerate([waiting.popleft() for _ in range(count)]):
                yield from self._inbox.show(item) if nth < lost else self._inbox.deliver(item, reflight.observer)
        self._kept = tick.kept
