"""Many bags replayed, in this process or by a pool; what ends one of them ends no other."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event

from vlaq_ros.errors import VlaqError, WorkerLostError
from vlaq_ros.replay.plan import Plan, Replayed


def replay_all(
    plan: Plan, places: Mapping[Path, Path], pool: Executor | None, advance: Callable[[float], object]
) -> Iterator[Replayed]:
    """Replay bags, in their order or, by a pool, as they are done.

    Ctrl-C ends the replay of a bag where it is, and no further one begins; a pool's processes just end.

    Args:
        plan: for all of them.
        places: bags, and the directories of their reports.
        pool: of other processes; None for this one.
        advance: told how many more seconds of a bag are done, where this process replays it.
    """
    if pool is None:
        for bag, out in places.items():
            with _interruptible() as stopped:
                replayed = _attempt(plan, bag, out, advance, stopped)
            yield replayed
            if replayed.stopped:
                return
        return
    running = {
        pool.submit(_attempt, plan, bag.absolute(), out.absolute()): (bag, out)  # it may work in another directory
        for bag, out in places.items()
    }
    for done in as_completed(running):
        bag, out = running[done]
        try:
            yield replace(done.result(), bag=bag, out=out)
        except BrokenProcessPool:
            yield Replayed(bag, out, {}, fault=str(WorkerLostError(bag)))


def _attempt(
    plan: Plan,
    bag: Path,
    out: Path,
    advance: Callable[[float], object] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Replayed:
    try:
        return plan.run(bag, out, advance=advance, stopped=stopped)
    except VlaqError as error:
        return Replayed(bag, out, {}, fault=str(error))


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Note Ctrl-C instead of raising it, once: give a function that says whether it came."""
    noted = Event()

    def note(*_: object) -> None:
        noted.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted.is_set
    finally:
        signal.signal(signal.SIGINT, before)
