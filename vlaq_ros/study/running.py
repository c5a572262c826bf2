"""Rolling cells out, a part of the episodes at a time, on whatever runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch

from vlaq_ros.calibrate.pipeline import Stage
from vlaq_ros.config import AUTO, LATENCY_S, PilotConfig, RobotConfig
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.evaluate.parallel import PART, portable_errors
from vlaq_ros.evaluate.referee import TIME_LIMIT_S
from vlaq_ros.evaluate.rollout import Outcome, Switching, in_turn, own, play
from vlaq_ros.evaluate.smoothness import rms_jerk
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.engine import Engine
from vlaq_ros.policy.manifest import PrecisionPlan
from vlaq_ros.policy.memory import Meter
from vlaq_ros.quant.kernels import select
from vlaq_ros.sim import panda
from vlaq_ros.study.cells import ROLES, SHARES, Cell, Pair
from vlaq_ros.study.pilots import Look, Pilot, Resolved, Watched, fly
from vlaq_ros.study.results import Results, Row, path
from vlaq_ros.study.variants import Variant
from vlaq_ros.study.workshop import Workshop

FIRST_SEED = 1_000_000  # of the study's episodes
PILOT_SEED, PILOT_EPISODES = 980_000, 3 * PART
_STATIC = Resolved(own, (0.0,), 0.0)


@dataclass(frozen=True, slots=True)
class Part:
    """Episodes that a worker plays side by side."""

    workshop: Workshop
    variants: tuple[Variant, ...]
    switching: Resolved
    first_seed: int
    numbers: tuple[int, ...]


def rows(part: Part) -> list[Row]:
    """Play a part; a worker's entry. Jerk is that of positions as far apart as the policy's actions."""
    with portable_errors():
        robot, period_s = RobotConfig.load("sim_panda"), PilotConfig().monitor_period_s
        stride = max(1, round(engine(part.workshop, part.variants).spec.step_s / period_s))
        arm = [name != robot.gripper_joint for name in panda.JOINT_NAMES]
        kinematics = Kinematics(panda.urdf(), panda.JOINT_NAMES, robot.tool_frame)
        return [
            Row(
                number=outcome.seed - part.first_seed,
                success=outcome.success,
                seconds=round(len(outcome.joints) * period_s, 2),
                chunks=tuple(outcome.precisions.count(role) for role in ROLES[: len(part.variants)]),
                jerk=round(rms_jerk(outcome.joints[::stride, arm], stride * period_s), 2),
                tool_jerk=round(rms_jerk(kinematics.forward(outcome.joints[::stride])[0], stride * period_s), 3),
            )
            for outcome in _play(part, part.switching.rule)
        ]


def looks(part: Part) -> list[Look]:
    """Play a part for a pilot; a worker's entry."""
    with portable_errors():
        watched = Watched(part.switching.rule)
        _play(part, watched)
        return watched.looks


def run(
    workshop: Workshop,
    cells: Sequence[Cell],
    pilots: Mapping[tuple[Variant, ...], Pilot],
    *,
    episodes: int,
    pool: Executor,
    stage: Stage,
) -> None:
    """Play the episodes that are missing, and keep every part as it is done.

    Args:
        workshop: where everything is prepared.
        cells: to play.
        pilots: of what cells switch between.
        episodes: of every cell.
        pool: runs parts.
        stage: for progress.

    Raises:
        OtherStudyError: what is there of a cell is of something else.
        VlaqError: a policy cannot be used.
    """
    running: dict[Future[list[Row]], Results] = {}
    total = 0
    for cell in cells:
        switching = _STATIC if cell.switch is None else pilots[cell.variants].resolve(cell.switch)
        results = Results(path(workshop.out, cell.name), _facts(cell, switching))
        for numbers in results.missing(episodes, PART):
            part = Part(workshop, cell.variants, switching, FIRST_SEED, numbers)
            running[pool.submit(rows, part)] = results
            total += len(numbers)
    report = stage("episodes", total)
    for done in as_completed(running):
        played = done.result()
        running[done].add(played)
        report(len(played))


def pilot(workshop: Workshop, pair: Pair, pool: Executor, stage: Stage) -> Pilot:
    """Give a pair's pilot; it is flown once."""
    file = workshop.out / "pilots" / f"{pair.name}.json"
    there = Pilot.load(file, pair)
    if there is not None:
        return there
    report = stage(f"pilot: {pair.name}", PILOT_EPISODES * (1 + len(SHARES)))

    def fleet(rule: Switching, thresholds: tuple[float, ...]) -> list[Look]:
        switching = Resolved(rule, thresholds, 0.0)
        parts = [
            Part(workshop, pair.variants, switching, PILOT_SEED, tuple(range(first, first + PART)))
            for first in range(0, PILOT_EPISODES, PART)
        ]
        seen = []
        for played in pool.map(looks, parts):
            seen.extend(played)
            report(PART)
        return seen

    flown = fly(fleet, Checkpoint.open(workshop.model).spec.fine_threshold)
    flown.save(file, pair)
    return flown


def _facts(cell: Cell, switching: Resolved) -> dict[str, Any]:
    """Say what the episodes of a cell are of."""
    return cell.facts | {"switch": cell.switch and {**asdict(cell.switch), "at": switching.at}}


def engine(workshop: Workshop, variants: tuple[Variant, ...]) -> Engine:
    """Put variants side by side as the precisions `cells.ROLES` of one engine; a process keeps the last few."""
    return _engine(workshop, variants)


@lru_cache(2)
def _engine(workshop: Workshop, variants: tuple[Variant, ...]) -> Engine:
    checkpoint, device = Checkpoint.open(workshop.model), torch.device("cpu")
    meter = Meter(device)
    networks = {role: workshop.network(variant.weights) for role, variant in zip(ROLES, variants, strict=False)}
    plans = [
        PrecisionPlan(role, 16, variant.denoise_steps or checkpoint.spec.denoising_steps, 0.0)
        for role, variant in zip(ROLES, variants, strict=False)
    ]
    memory = meter.read(checkpoint.config, networks.values())
    return Engine(checkpoint, networks, plans, select.chosen(device), memory, compiled=False)


def _play(part: Part, rule: Switching) -> list[Outcome]:
    policy = engine(part.workshop, part.variants)
    layout = in_turn(part.first_seed, policy.spec.instructions, max(part.numbers) + 1)
    episodes = [layout[number] for number in part.numbers]
    how: dict[str, Any] = {"latency_s": LATENCY_S, "limit_s": TIME_LIMIT_S, "switching": rule}
    config = PilotConfig(precision=AUTO if len(part.variants) > 1 else ROLES[0])
    robot = RobotConfig.load("sim_panda")
    return list(play(policy, robot, config, episodes, thresholds=part.switching.thresholds, **how))
