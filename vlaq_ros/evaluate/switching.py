"""Rules that name the precision of a chunk, to hold DyQ-VLA's against (docs/study.md); DyQ-VLA's own is `rollout.own`.

All of them leave it to the pilot when a chunk is asked for. So they meet the same observations, noise and replans until
their answers differ, and with the pilot at `auto` differ in nothing else. They hold no state and can be pickled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlaq_ros.evaluate.rollout import Request, own


@dataclass(frozen=True, slots=True)
class Inverted:
    """The coarse precision where the pilot asks for the fine one, and the other way round.

    If the arm moved alike, its share of coarse chunks would be that of fine ones under the pilot's thresholds.
    """

    fine: str
    coarse: str

    def __call__(self, request: Request) -> str:
        """Name the precision."""
        return self.coarse if own(request) == self.fine else self.fine


@dataclass(frozen=True, slots=True)
class Random:
    """A coin for every chunk, the same whatever happened before it."""

    fine: str
    coarse: str
    coarse_share: float  # probability

    def __call__(self, request: Request) -> str:
        """Name the precision."""
        coin = np.random.default_rng((0, request.seed, request.index)).random()
        return self.coarse if coin < self.coarse_share else self.fine


@dataclass(frozen=True, slots=True)
class FineAfter:
    """The clock alone: coarse until a time in the episode."""

    fine: str
    coarse: str
    time_s: float

    def __call__(self, request: Request) -> str:
        """Name the precision."""
        return self.coarse if request.time_s < self.time_s else self.fine


@dataclass(frozen=True, slots=True)
class FineNear:
    """An oracle: fine while the gap to the object, or of the held object to its destination, is small."""

    fine: str
    coarse: str
    gap_m: float

    def __call__(self, request: Request) -> str:
        """Name the precision."""
        return self.fine if request.gap_m < self.gap_m else self.coarse
