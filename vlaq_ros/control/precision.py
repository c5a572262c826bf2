"""Which precision serves the next chunk: up at once, down after a dwell (DyQ-VLA, arXiv 2603.07904, algorithm 1).

The paper counts K agreeing requests; here they must last `dwell_s`, so that the rule does not depend on how often it is
asked. Everything else is the paper's: a drop lands on the finest precision requested during the dwell, and a request
that is finer than those before it, though still below the precision in force, starts the dwell again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from vlaq_ros.datatypes import Decision, Motion
from vlaq_ros.errors import BadValueError, UnknownPrecisionError


@dataclass(frozen=True, slots=True)
class PrecisionRule:
    """A precision and the sensitivity above which it is requested."""

    name: str
    threshold: float  # of S; the coarsest rule takes what is left, so its threshold is not read


class Planned(Protocol):
    """What is known of a policy's precision."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def threshold(self) -> float:
        """The sensitivity above which it is requested."""
        ...


def rules(plans: Iterable[Planned], thresholds: str) -> tuple[PrecisionRule, ...]:
    """Make the rules of a policy.

    Args:
        plans: of its precisions, finest first.
        thresholds: in place of theirs, as the parameter of the pilot says them; empty for none.

    Raises:
        BadValueError: `thresholds` are not those of these precisions, or do not fall.
    """
    own = tuple(PrecisionRule(plan.name, plan.threshold) for plan in plans)
    if not thresholds:
        return own
    names = [rule.name for rule in own]
    try:
        parts = (part.split("=") for part in thresholds.split(","))
        given = tuple(PrecisionRule(name.strip(), float(value)) for name, value in parts)
    except ValueError:
        given = ()
    finite = all(math.isfinite(rule.threshold) for rule in given)
    falling = all(finer.threshold > coarser.threshold for finer, coarser in pairwise(given))
    if [rule.name for rule in given] != names or not (finite and falling):
        expected = f"a falling number for each of {', '.join(names)}, such as {names[0]}=0.5"
        raise BadValueError("thresholds", thresholds, expected, "the pilot's parameters")
    return given


class PrecisionController:
    """A state machine over precisions; it starts at the finest, and again whenever time jumps backward.

    Args:
        rules: finest first, thresholds falling.
        dwell_s: how long lower requests must last before the precision drops.
    """

    def __init__(self, rules: Sequence[PrecisionRule], dwell_s: float) -> None:
        self._rules = tuple(rules)
        self._names = tuple(rule.name for rule in self._rules)
        self._dwell_ns = round(dwell_s * 1e9)
        self._fixed: str | None = None
        self._lost: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """Return to the finest precision; a fixed precision stays fixed."""
        self._level = 0  # index of the precision in force: 0 is the finest
        self._lower: int | None = None  # finest of the lower requests that are lasting
        self._since_ns = 0  # when `_lower` was first requested
        self._stamp_ns: int | None = None

    def fix(self, name: str | None) -> None:
        """Answer `name` until told otherwise; None decides by the motion again, from the finest precision on.

        Raises:
            UnknownPrecisionError: no rule has this name.
        """
        if name is not None:
            self._index(name)
        self._fixed = name
        self.reset()

    def lose(self, name: str) -> str:
        """Answer the finest precision that is left wherever `name` would be answered.

        Returns:
            That precision. Empty where none is left: then nothing counts as lost any more.

        Raises:
            UnknownPrecisionError: no rule has this name.
        """
        self._index(name)
        self._lost.add(name)
        if left := [known for known in self._names if known not in self._lost]:
            return left[0]
        self._lost.clear()
        return ""

    def finer(self, a: str, b: str) -> bool:
        """Whether precision `a` is finer than precision `b`.

        Raises:
            UnknownPrecisionError: no rule has one of the names.
        """
        return self._index(a) < self._index(b)

    def decide(self, motion: Motion | None, stamp_ns: int) -> Decision:
        """Take one look at the motion.

        Args:
            motion: None where it is unknown, which requests the finest precision.
            stamp_ns: time of this look.
        """
        decision = self._decide(motion, stamp_ns)
        if decision.precision not in self._lost:
            return decision
        left = next(name for name in self._names if name not in self._lost)
        return replace(decision, precision=left, reason=f"{decision.reason}; {decision.precision} is lost")

    def _decide(self, motion: Motion | None, stamp_ns: int) -> Decision:
        sensitivity = np.nan if motion is None else motion.sensitivity
        if self._fixed is not None:
            return Decision(self._fixed, sensitivity, "fixed")
        if self._stamp_ns is not None and stamp_ns < self._stamp_ns:
            self.reset()
        self._stamp_ns = stamp_ns

        if motion is None:
            requested, asked = 0, "motion unknown"
        else:
            requested = self._requested(motion.sensitivity)
            asked = f"S = {motion.sensitivity:.2f} asks for {self._names[requested]}"
        waited_ns = self._advance(requested, stamp_ns)
        if waited_ns is not None:
            asked += f", for {waited_ns * 1e-9:.2f} s of {self._dwell_ns * 1e-9:.2f} s"
        return Decision(self._names[self._level], sensitivity, asked)

    def _requested(self, sensitivity: float) -> int:
        above = (index for index, rule in enumerate(self._rules[:-1]) if sensitivity > rule.threshold)
        return next(above, len(self._rules) - 1)

    def _advance(self, requested: int, stamp_ns: int) -> int | None:
        """Move to the level that a request leads to; returns how long a drop has been waiting, None if none waits."""
        if requested <= self._level:
            self._level, self._lower = requested, None
            return None
        if self._lower is None or requested < self._lower:
            self._lower, self._since_ns = requested, stamp_ns
        waited_ns = stamp_ns - self._since_ns
        if waited_ns < self._dwell_ns:
            return waited_ns
        self._level, self._lower = self._lower, None
        return None

    def _index(self, name: str) -> int:
        if name not in self._names:
            raise UnknownPrecisionError(name, self._names)
        return self._names.index(name)
