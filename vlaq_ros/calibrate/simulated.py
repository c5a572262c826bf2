"""Observations of the simulated arm: from the policy's own rollouts, or from the expert's demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from vlaq_ros.calibrate.buffer import Buffer
from vlaq_ros.calibrate.draw import Moment, draw
from vlaq_ros.config import LATENCY_S, PilotConfig
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import FloatArray, Observation
from vlaq_ros.errors import NotSimulatedError, UnreadableDemonstrationsError
from vlaq_ros.evaluate.motion import PolicyMotion, UnknownMotion, measure
from vlaq_ros.evaluate.parallel import share_out
from vlaq_ros.evaluate.referee import TIME_LIMIT_S
from vlaq_ros.evaluate.rollout import Outcome, in_turn
from vlaq_ros.policy.description import Description
from vlaq_ros.policy.engine import FULL
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.sim import panda
from vlaq_ros.sim.demonstrations import FRAME_STEPS, STEP_S
from vlaq_ros.sim.scene import CAMERAS, TASKS

FIRST_SEED = 500_000  # of calibration's episodes; training's are below, those of evaluations above
SHARDS = 16  # of demonstrations that are read: 400 episodes
_EPISODES = 2  # of every task at least
_CHUNKS = 8  # that every episode has, for nothing succeeds in less than 2 s


def from_rollouts(policy: Description, *, count: int, seed: int, jobs: int, report: Callable[[int], None]) -> Buffer:
    """Draw observations from what the policy sees when it drives the simulated arm at full precision.

    Args:
        policy: a checkpoint, or a bundle beside its checkpoint.
        count: how many observations.
        seed: of the layouts, of the choice and of the noise.
        jobs: processes that roll out; the buffer does not depend on it.
        report: called with the share of `count` that was seen since the last call.

    Raises:
        NotSimulatedError: the policy is for other tasks, cameras or joints than the simulation's.
        VlaqError: the policy cannot be used.
    """
    spec = policy.spec
    _check(spec, ("camera", "joint", "task"))
    tasks = spec.instructions
    each = max(_EPISODES, ceil(count / len(tasks) / _CHUNKS))
    first = FIRST_SEED + seed * each * len(tasks)
    episodes = in_turn(first, tasks, each * len(tasks))
    running = share_out(
        policy.directory,
        FULL,
        episodes,
        latency_s=LATENCY_S,
        limit_s=TIME_LIMIT_S,
        jobs=jobs,
        keep_observations=True,
    )
    outcomes: list[Outcome] = []
    for outcome in running:
        outcomes.append(outcome)
        report(len(outcomes) * count // len(episodes) - (len(outcomes) - 1) * count // len(episodes))
    outcomes.sort(key=lambda outcome: outcome.seed)
    observations = [(outcome.seed, observation) for outcome in outcomes for observation in outcome.observations]
    columns = _columns(spec)
    moments = [
        Moment(number, observation.stamp_ns, observation.joint_positions[columns], observation.instruction)
        for number, observation in observations
    ]
    source = f"{len(episodes)} episodes of {policy.directory.name} at full precision"
    chosen = draw(moments, spec.state_std, count, seed, source)
    joints = [outcome.joints[:, columns] for outcome in outcomes]
    motion = _motion(spec, joints, PilotConfig().monitor_period_s)
    return Buffer.fill(
        [observations[row][1] for row in chosen], chosen.values(), policy.config, seed, source, motion=motion
    )


def from_demonstrations(
    directory: Path, policy: Description, *, count: int, seed: int, report: Callable[[int], None]
) -> Buffer:
    """Draw observations from recorded demonstrations; tasks that the policy does not know are passed over.

    Args:
        directory: of the files that `sim.demonstrations` recorded.
        policy: whose cameras, joints and instructions they must hold.
        count: how many observations.
        seed: of the choice and of the noise.
        report: called with the number of observations kept since the last call.

    Raises:
        UnreadableDemonstrationsError: a file cannot be read.
        NotSimulatedError: the policy is for other cameras or joints than the simulation's.
        TooFewObservationsError: there are fewer than `count`.
    """
    spec = policy.spec
    _check(spec, ("camera", "joint"))
    shards = sorted(directory.glob("*.npz"))
    shards = shards[:: ceil(len(shards) / SHARDS)]
    places, moments = [], []  # of every frame: its shard and row, and what is known without its images
    for shard in shards:
        for row, moment in enumerate(_moments(shard, spec)):
            if moment.instruction in spec.instructions:
                places.append((shard, row))
                moments.append(moment)
    source = f"demonstrations {directory.name}"
    chosen = draw(moments, spec.state_std, count, seed, source)
    kept: list[Observation] = []
    for shard, group in groupby(chosen, lambda row: places[row][0]):
        images, states = _read(shard, "images", "state")
        for row in group:
            frame = places[row][1]
            pixels = dict(zip(CAMERAS, images[frame], strict=True))
            state = states[frame].astype(np.float64)
            moment = moments[row]
            kept.append(Observation(moment.stamp_ns, pixels, panda.JOINT_NAMES, state, moment.instruction))
            report(1)
    motion = _motion(spec, [joints for shard in shards for joints in _episodes(shard, spec)], STEP_S)
    return Buffer.fill(kept, chosen.values(), policy.config, seed, source, motion=motion)


def is_simulated(spec: PolicySpec) -> bool:
    """Say whether a policy can drive the simulated arm."""
    return not any(_foreign(spec).values())


def _check(spec: PolicySpec, kinds: Sequence[str]) -> None:
    foreign = _foreign(spec)
    for kind in kinds:
        if foreign[kind]:
            raise NotSimulatedError(kind, foreign[kind])


def _foreign(spec: PolicySpec) -> dict[str, list[str]]:
    """Name the cameras, joints and tasks of a policy that the simulation does not have."""
    sides = {
        "camera": (spec.cameras, CAMERAS),
        "joint": (spec.joint_names, panda.JOINT_NAMES),
        "task": (spec.instructions, TASKS),
    }
    return {kind: [name for name in needed if name not in known] for kind, (needed, known) in sides.items()}


def _columns(spec: PolicySpec) -> list[int]:
    """Columns of the simulated arm's joints, in the order of the policy."""
    return [panda.JOINT_NAMES.index(name) for name in spec.joint_names]


def _motion(spec: PolicySpec, episodes: Sequence[FloatArray], step_s: float) -> PolicyMotion | UnknownMotion:
    """Measure how the simulated arm moved: joint positions [K, J] in the order of the policy, every `step_s`."""
    return measure(Kinematics(panda.urdf(), spec.joint_names, panda.TOOL_FRAME), episodes, step_s, spec.motion.period_s)


def _episodes(shard: Path, spec: PolicySpec) -> list[FloatArray]:
    """Give the joint positions [K, J] of a shard's episodes of the policy's tasks."""
    joints, lengths, tasks, seeds = _read(shard, "joints", "lengths", "instruction", "seed")
    _, first = np.unique(seeds, return_index=True)
    if len(first) != len(lengths) or lengths.sum() != len(joints):
        raise UnreadableDemonstrationsError(
            shard,
            f"it has frames of {len(first)} episodes, and {len(joints)} joint states of {len(lengths)} ones of "
            f"{lengths.sum()} in all",
        )
    instructions = [list(TASKS)[task] for task in tasks[np.sort(first)]]
    episodes = np.split(joints[:, _columns(spec)], np.cumsum(lengths))[:-1]
    return [part for part, told in zip(episodes, instructions, strict=True) if told in spec.instructions]


def _moments(shard: Path, spec: PolicySpec) -> list[Moment]:
    """Give the moments of a shard's frames."""
    states, tasks, seeds = _read(shard, "state", "instruction", "seed")
    if len(tasks) and not 0 <= tasks.min() <= tasks.max() < len(TASKS):
        raise UnreadableDemonstrationsError(shard, f"it has task {tasks.max()}, the simulation has {len(TASKS)} tasks")
    instructions, columns = list(TASKS), _columns(spec)
    step_ns = round(FRAME_STEPS * STEP_S * 1e9)
    return [
        Moment((shard, int(number)), step * step_ns, states[row, columns].astype(np.float64), instructions[tasks[row]])
        for number, rows in groupby(range(len(seeds)), lambda row: seeds[row])
        for step, row in enumerate(rows)
    ]


def _read(shard: Path, *fields: str) -> Sequence[np.ndarray[Any, Any]]:
    try:
        with np.load(shard) as file:
            return [file[name] for name in fields]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UnreadableDemonstrationsError(shard, " ".join(str(error).split())) from None
