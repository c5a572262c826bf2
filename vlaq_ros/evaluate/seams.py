"""What happens where one chunk takes over from another: how far they disagree, and how the arm moves on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.control.chunks import asked, step_times
from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import FloatArray, Trajectory
from vlaq_ros.evaluate.parallel import PART, portable_errors, workers
from vlaq_ros.evaluate.rollout import Answering, Outcome, Takeover, play
from vlaq_ros.evaluate.statistics import BoolArray, wilson95
from vlaq_ros.joints import JointMap
from vlaq_ros.policy.engine import FULL, Engine
from vlaq_ros.sim import panda
from vlaq_ros.sim.scene import TIMESTEP_NS

PERIOD_NS = 2 * TIMESTEP_NS  # of the measured positions
PERIOD_S = PERIOD_NS * 1e-9
OFFSETS = np.arange(-25, 38)  # periods from a seam: 0.2 s before to 0.3 s after
NEAR = (OFFSETS >= 0) & (OFFSETS <= 25)  # the 0.2 s in which a chunk is held against what it replaces
AFTER = (OFFSETS >= 0) & (OFFSETS < 12)  # 0.1 s
BEFORE = (OFFSETS >= -15) & (OFFSETS < -3)  # as long, and no third difference in it reaches over the seam

_RATES = ("speed_rad_s", "acceleration_rad_s2", "jerk_rad_s3")


@dataclass(frozen=True, slots=True)
class Seams:
    """S seams, and the motion around them at `OFFSETS` [N]: of the arm joint that has most, nan where unknown."""

    disagreement_rad: FloatArray  # [S, N] of what the chunk asks for from what ran, before any limit; from the seam on
    speed_jump_rad_s: FloatArray  # [S] of the velocity that the chunk asks for from the one that ran
    speed_rad_s: FloatArray  # [S, N] executed
    acceleration_rad_s2: FloatArray  # [S, N]
    jerk_rad_s3: FloatArray  # [S, N]

    @classmethod
    def of(cls, outcome: Outcome, kinematics: Kinematics) -> Self:
        """Measure an episode whose takeovers were kept and whose monitor period is `PERIOD_S`."""
        arm = outcome.joints[:, :-1]
        rates = [np.abs(np.diff(arm, order, axis=0)).max(axis=1) / PERIOD_S**order for order in (1, 2, 3)]
        apart, jumps, around = [], [], []
        for takeover in outcome.takeovers:
            stamps_ns = takeover.time_ns + OFFSETS * PERIOD_NS
            ran, asked = sample(takeover.replaced, stamps_ns), sample(_asked(takeover, kinematics), stamps_ns)
            position, velocity = (np.abs(a - b)[:, :-1].max(axis=1) for a, b in zip(asked[:2], ran[:2], strict=True))
            apart.append(np.where(NEAR, position, np.nan))
            jumps.append(velocity[OFFSETS == 0][0])
            rows = stamps_ns // PERIOD_NS - 1
            around.append([np.append(rate, np.nan)[np.minimum(rows, len(rate))] for rate in rates])
        shape = (len(jumps), len(OFFSETS))
        speed, acceleration, jerk = np.array(around).reshape(len(jumps), 3, len(OFFSETS)).swapaxes(0, 1)
        return cls(np.array(apart).reshape(shape), np.array(jumps), speed, acceleration, jerk)

    @classmethod
    def joined(cls, parts: Sequence[Seams]) -> Self:
        """Put the seams of many episodes together."""
        return cls(*(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(cls)))


@dataclass(frozen=True, slots=True)
class Cell:
    """One way to fly, measured on the same seeds as every other."""

    name: str  # how seams are made
    seam: str  # of the pilot
    precision: str
    latency_s: float
    load: Callable[[Path, str], Answering]  # makes the policy, given its directory and the precision


@dataclass(frozen=True, slots=True)
class Flown:
    """Episodes of a cell."""

    successes: dict[int, bool]  # by seed
    seams: Seams
    rejections: int

    @classmethod
    def joined(cls, parts: Sequence[Flown]) -> Self:
        """Put parts together."""
        successes = {seed: success for part in parts for seed, success in part.successes.items()}
        seams = Seams.joined([part.seams for part in parts])
        return cls(successes, seams, sum(part.rejections for part in parts))


def row(cell: Cell, flown: Flown) -> dict[str, Any]:
    """Sum up a cell in numbers that JSON holds: peaks and curves as medians and 95th percentiles."""
    seams = flown.seams
    around = {name: np.abs(getattr(seams, name)) for name in ("disagreement_rad", *_RATES)}
    failed = sorted(seed for seed, success in flown.successes.items() if not success)
    n = len(flown.successes)
    return {
        "name": cell.name,
        "precision": cell.precision,
        "latency_s": cell.latency_s,
        "first_seed": min(flown.successes),
        "n": n,
        "failed": failed,
        "wilson95": [round(bound, 4) for bound in wilson95(n - len(failed), n)],
        "rejections": flown.rejections,
        "seams": len(seams.speed_jump_rad_s),
        "jump_rad": _spread(around["disagreement_rad"][:, OFFSETS == 0][:, 0]),
        "near_rad": _spread(_peak(around["disagreement_rad"], NEAR)),
        "speed_jump_rad_s": _spread(seams.speed_jump_rad_s),
        "after": {name: _spread(_peak(around[name], AFTER)) for name in _RATES},
        "before": {name: _spread(_peak(around[name], BEFORE)) for name in _RATES},
        "times_s": [round(time_s, 6) for time_s in (OFFSETS * PERIOD_S).tolist()],
        "around": {name: [_spread(column) for column in values.T] for name, values in around.items()},
    }


@cache
def engine(model: Path, precision: str) -> Answering:
    """Load a policy once in a process."""
    return Engine.load(model, full=precision == FULL)


def fly(
    model: Path,
    cells: Sequence[Cell],
    episodes: Sequence[tuple[int, str]],
    *,
    limit_s: float,
    jobs: int,
    report: Callable[[int], None],
) -> Iterator[tuple[Cell, Flown]]:
    """Fly all cells in `jobs` processes; each comes when its last episode has ended.

    Args:
        model: directory of the policy.
        cells: to fly.
        episodes: a seed and an instruction each.
        limit_s: simulated time that an episode may take.
        jobs: how many processes.
        report: called with the number of episodes that have ended since the last call.

    Raises:
        VlaqError: the policy cannot be used.
    """
    parts = [episodes[start : start + PART] for start in range(0, len(episodes), PART)]
    pool = workers(jobs)
    try:
        running = {pool.submit(_fly, model, cell, part, limit_s): cell for cell in cells for part in parts}
        flown: dict[Cell, list[Flown]] = {cell: [] for cell in cells}
        for done in as_completed(running):
            cell = running[done]
            flown[cell].append(done.result())
            report(len(flown[cell][-1].successes))
            if len(flown[cell]) == len(parts):
                yield cell, Flown.joined(flown.pop(cell))
    finally:
        pool.shutdown(cancel_futures=True)


def _fly(model: Path, cell: Cell, episodes: Sequence[tuple[int, str]], limit_s: float) -> Flown:
    with portable_errors():
        policy, robot = cell.load(model, cell.precision), RobotConfig.load("sim_panda")
        config = PilotConfig(precision=cell.precision, seam=cell.seam, monitor_period_s=PERIOD_S)
        joints = JointMap(robot, policy.spec.joint_names).urdf
        kinematics = Kinematics(panda.urdf(), joints, robot.tool_frame)
        outcomes = list(
            play(policy, robot, config, episodes, latency_s=cell.latency_s, limit_s=limit_s, keep_takeovers=True)
        )
        return Flown(
            {outcome.seed: outcome.success for outcome in outcomes},
            Seams.joined([Seams.of(outcome, kinematics) for outcome in outcomes]),
            sum(outcome.rejections for outcome in outcomes),
        )


def _asked(takeover: Takeover, kinematics: Kinematics) -> Trajectory:
    """What a chunk by itself asks for, from where the arm was seen."""
    chunk, observed = takeover.chunk, takeover.observed
    return asked(
        kinematics.joint_targets(chunk, observed),
        observed,
        step_times(len(chunk.actions), chunk.step_s),
        joint_names=kinematics.joint_names,
        stamp_ns=chunk.stamp_ns,
    )


def _peak(values: FloatArray, columns: BoolArray) -> FloatArray:
    """The largest of some columns; nan where one is not known."""
    peak: FloatArray = values[:, columns].max(axis=1)
    return peak


def _spread(values: FloatArray) -> list[float | None]:
    """Median and 95th percentile of what is known, to 4 digits."""
    known = values[np.isfinite(values)]
    if not len(known):
        return [None, None]
    return [float(f"{np.percentile(known, rank):.4g}") for rank in (50, 95)]
