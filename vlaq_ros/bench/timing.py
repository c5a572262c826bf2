"""Timing that a busy machine distorts least: pinned threads, interleaved rounds, ratios within a round."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from scipy.stats import bootstrap

from vlaq_ros.datatypes import FloatArray

Call = Callable[[], object]

_THREADS_DIRECTORY = Path("/proc/self/task")


class Timer(Protocol):
    """Something that is timed again and again."""

    def sample_s(self, turn: int) -> float:
        """Run once; `turn` counts the calls."""
        ...


class WallClock:
    """Times one copy of a work per sample, each in its turn: its weights have left the caches when it comes again."""

    def __init__(self, copies: Sequence[Call], device: torch.device) -> None:
        self._copies = copies
        self._wait = torch.cuda.synchronize if device.type == "cuda" else _nothing

    def sample_s(self, turn: int) -> float:
        """Run one copy until its result is there."""
        copy = self._copies[turn % len(self._copies)]
        self._wait()
        start_s = time.perf_counter()
        copy()
        self._wait()
        return time.perf_counter() - start_s


class GraphClock:
    """Times all copies in one CUDA graph per sample: kernels of microseconds, without the launches of Python."""

    def __init__(self, copies: Sequence[Call]) -> None:
        self._count = len(copies)
        self._graph = torch.cuda.CUDAGraph()
        for copy in copies:  # compiles and tunes what must not be compiled during a capture
            copy()
        with torch.cuda.graph(self._graph):
            for copy in copies:
                copy()
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def sample_s(self, turn: int) -> float:
        """Replay the graph; a sample is the mean of its copies."""
        del turn
        start, end = self._events
        start.record()
        self._graph.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3 / self._count


def _nothing() -> None:
    pass


def interleave(timers: Mapping[str, Timer], *, budget_s: float, rounds: tuple[int, int]) -> dict[str, FloatArray]:
    """Time all of them in every round, so that whatever else the machine does meets them alike.

    Args:
        timers: already warm.
        budget_s: no round is begun after it, once the least number of rounds is done.
        rounds: least and most.

    Returns:
        [R] seconds for each, R the same for all.
    """
    least, most = rounds
    names = list(timers)
    samples: dict[str, list[float]] = {name: [] for name in names}
    end_s = time.perf_counter() + budget_s
    for turn in range(most):
        if turn >= least and time.perf_counter() > end_s:
            break
        first = turn % len(names)  # nobody always follows the same neighbour's mess
        for name in names[first:] + names[:first]:
            samples[name].append(timers[name].sample_s(turn))
    return {name: np.array(values) for name, values in samples.items()}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median with its 95 % interval."""

    median: float
    low: float
    high: float


def estimate(values: FloatArray) -> Estimate:
    """Take the median of [R] values, its interval by the percentile bootstrap (Efron and Tibshirani, 1993)."""
    if np.ptp(values) == 0:  # nothing to resample
        return Estimate(*[float(values[0])] * 3)
    interval = bootstrap(
        (values,), np.median, method="percentile", confidence_level=0.95, n_resamples=2000, rng=np.random.default_rng(0)
    ).confidence_interval
    return Estimate(float(np.median(values)), float(interval.low), float(interval.high))


def speed_up(ours_s: FloatArray, theirs_s: FloatArray) -> Estimate:
    """Say how many times faster `ours` is: the estimate of theirs / ours over the rounds that they share, [R] each."""
    return estimate(theirs_s / ours_s)


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Give torch `threads` threads, each with a core of its own; afterwards all is as it was.

    The threads of torch's pool are the process's other threads, so that any of those may sit on any core but the first.
    """
    cores = sorted(os.sched_getaffinity(0))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.ones(2**20).add_(1)  # the pool starts
    try:
        _place([{core} for core in cores[:threads]])
        yield
    finally:
        _place([set(cores)])
        torch.set_num_threads(before)


def _place(masks: Sequence[set[int]]) -> None:
    """Put the main thread on the first mask, all others in turn on the others (on the first where it is alone)."""
    main, *workers = sorted(int(entry.name) for entry in _THREADS_DIRECTORY.iterdir())
    os.sched_setaffinity(main, masks[0])
    for number, thread in enumerate(workers):
        try:
            os.sched_setaffinity(thread, masks[1 + number % (len(masks) - 1)] if len(masks) > 1 else masks[0])
        except ProcessLookupError:  # it ended meanwhile
            continue
