"""Small runs before the study: at which S, time or gap a switching rule reaches the share that it aims at."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from vlaq_ros.evaluate.rollout import Request, Switching, own
from vlaq_ros.evaluate.switching import FineAfter, FineNear, Inverted, Random
from vlaq_ros.study import results
from vlaq_ros.study.cells import ROLES, SHARES, Pair, Rule, Switch


@dataclass(frozen=True, slots=True)
class Look:
    """What was known when a chunk was asked for."""

    sensitivity: float  # S; nan where the motion was unknown
    time_s: float  # since the episode began
    gap_m: float
    coarse: bool  # what answered


class Watched:
    """A rule whose requests are written down."""

    def __init__(self, rule: Switching) -> None:
        self._rule = rule
        self.looks: list[Look] = []

    def __call__(self, request: Request) -> str:
        """Name the precision."""
        name = self._rule(request)
        look = Look(request.decision.sensitivity, request.time_s, request.gap_m, name == ROLES[1])
        self.looks.append(look)
        return name


@dataclass(frozen=True, slots=True)
class Resolved:
    """A rule with its numbers."""

    rule: Switching
    thresholds: tuple[float, ...]  # of S, under which the pilot decides and replans
    at: float  # the threshold, probability, time or gap, for the record


@dataclass(frozen=True, slots=True)
class Pilot:
    """What chunks were asked for where a coin chose between two variants, and what switching by S comes to."""

    sensitivities: tuple[float, ...]  # known ones
    times_s: tuple[float, ...]
    gaps_m: tuple[float, ...]
    coarse_shares: tuple[float, ...]  # of DyQ-VLA's rule, its threshold at the quantiles `SHARES` of S

    def resolve(self, switch: Switch) -> Resolved:
        """Give a rule its numbers.

        All but `inverted` leave the pilot the thresholds of DyQ-VLA's rule, so that replans come alike. For `inverted`
        the arm is taken to move as it does under that rule: its own share comes out otherwise.
        """
        share, threshold = switch.share, self.threshold(switch.share)
        kept = (threshold, 0.0)
        if switch.rule is Rule.DYQ:
            return Resolved(own, kept, threshold)
        if switch.rule is Rule.RANDOM:
            return Resolved(Random(*ROLES, share), kept, share)
        if switch.rule is Rule.INVERTED:
            opposite = self.threshold(1 - share)
            return Resolved(Inverted(*ROLES), (opposite, 0.0), opposite)
        if switch.rule is Rule.TIME:
            time_s = _quantile(self.times_s, share)
            return Resolved(FineAfter(*ROLES, time_s), kept, time_s)
        gap_m = _quantile(self.gaps_m, 1 - share)
        return Resolved(FineNear(*ROLES, gap_m), kept, gap_m)

    def threshold(self, coarse_share: float) -> float:
        """Give the S at which DyQ-VLA's rule comes to a share of coarse chunks; above 0, the coarse precision's own.

        Because of the dwell before a precision drops, it is a higher quantile of S than the share itself.
        """
        measured = np.maximum.accumulate((0.0, *self.coarse_shares, 1.0))
        return self.quantile(float(np.interp(coarse_share, measured, (0.0, *SHARES, 1.0))))

    def quantile(self, share: float) -> float:
        """Give the S below which this share of the chunks were asked for; above 0, the coarse precision's own."""
        return max(_quantile(self.sensitivities, share), 1e-4)

    @classmethod
    def load(cls, path: Path, pair: Pair) -> Self | None:
        """Read what `save` wrote for this pair; None where there is nothing of it."""
        if not path.is_file():
            return None
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        same = values.pop("variants") == _variants(pair)
        return cls(**{key: tuple(value) for key, value in values.items()}) if same else None

    def save(self, path: Path, pair: Pair) -> None:
        """Write a file."""
        results.replace(path, json.dumps({"variants": _variants(pair), **asdict(self)}) + "\n")


def fly(run: Callable[[Switching, tuple[float, ...]], Sequence[Look]], threshold: float) -> Pilot:
    """Run a pilot.

    Args:
        run: rolls out under a rule and thresholds of S, and tells of every chunk.
        threshold: of S, until one is known.
    """
    looks = run(Random(*ROLES, 0.5), (threshold, 0.0))
    known = [look.sensitivity for look in looks if np.isfinite(look.sensitivity)]
    pilot = Pilot(
        sensitivities=tuple(round(value, 4) for value in known),
        times_s=tuple(round(look.time_s, 3) for look in looks),
        gaps_m=tuple(round(look.gap_m, 4) for look in looks),
        coarse_shares=(),
    )
    shares = []
    for share in SHARES:
        answered = run(own, (pilot.quantile(share), 0.0))
        shares.append(round(float(np.mean([look.coarse for look in answered])), 4))
    return Pilot(pilot.sensitivities, pilot.times_s, pilot.gaps_m, tuple(shares))


def _quantile(values: Sequence[float], q: float) -> float:
    return round(float(np.quantile(values, q)), 4)


def _variants(pair: Pair) -> list[str]:
    return [pair.fine.name, pair.coarse.name]
