"""Demonstrations from seeds: the expert drives through delays and disturbances; what it would do next is recorded.

Every frame's label is a whole chunk planned from that frame's true state (DART: the disturbed motion is executed, the
clean one is recorded; Laskey et al., arXiv 1703.09327). Plans are executed late, by as much as inference will be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import ActionChunk, ActionSpace, FloatArray, Trajectory
from vlaq_ros.sim import expert, panda
from vlaq_ros.sim.robot import SimRobot
from vlaq_ros.sim.scene import CAMERAS, COLOURS, TASKS

STEP_S = 0.05
CHUNK_STEPS = 16
FRAME_STEPS = 4  # a frame every 0.2 s: more layouts teach more than more frames of one
TIME_LIMIT_STEPS = 240
SETTLE_STEPS = 6  # recorded after success, so that the policy learns to stay
LOWEST_M = 0.020  # of the tool, or the fingers scrape the table
SOON_STEPS = 5
BOLD_M = 0.05  # a chunk that goes this far so soon is disturbed in full, a slower one less: near contact it is steady
STEADIEST = 0.3
_STEP_NS = round(STEP_S * 1e9)

FIELDS = {  # per frame: shape and type
    "images": ((len(CAMERAS), 96, 96, 3), np.uint8),
    "state": ((len(panda.JOINT_NAMES),), np.float32),
    "joint": ((CHUNK_STEPS, 8), np.float32),  # actions in ActionSpace.JOINT
    "end_effector": ((CHUNK_STEPS, 7), np.float32),  # and in ActionSpace.END_EFFECTOR
    "instruction": ((), np.int16),  # index into TASKS
    "pixels": ((len(CAMERAS), len(COLOURS) + 1, 2), np.float32),  # of the objects and the receptacle: column, row
    "relative": ((2, 3), np.float32),  # the asked-for object and its destination from the tool, m
    "turn": ((), np.float32),  # expert.turn_rad
    "seed": ((), np.int64),
}


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One successful episode, frame by frame: `FIELDS` with a leading N."""

    frames: dict[str, np.ndarray]
    joints: FloatArray  # [K, J] rad (m), every STEP_S, for the kinematic monitor's scales


def demonstrate(seed: int, instruction: str) -> Demonstration | None:
    """Record the expert on one layout; None where it failed."""
    robot, kinematics = _arm()
    robot.reset(seed, instruction)
    rng = np.random.default_rng((seed, 1))
    disturbance_m = rng.choice((0.0, 0.012, 0.03))
    frames: list[dict[str, object]] = []
    joints = []
    replan_at = 0
    settling = 0
    for step in range(TIME_LIMIT_STEPS):
        joints.append(robot.joint_state()[0])
        if step % FRAME_STEPS == seed % FRAME_STEPS:
            frames.append(_frame(robot, kinematics, seed))
        if step >= replan_at:
            delay = int(rng.integers(0, 4))
            replan_at = step + int(rng.integers(5, 10))
            _execute(robot, kinematics, rng.normal(0, disturbance_m, 3), delay)
        robot.advance(_STEP_NS)
        if robot.failed:
            return None
        settling = settling + 1 if robot.success else 0
        if settling == SETTLE_STEPS:
            stacked = {name: np.array([frame[name] for frame in frames], dtype) for name, (_, dtype) in FIELDS.items()}
            return Demonstration(stacked, np.array(joints))
    return None


_ARM: tuple[SimRobot, Kinematics] | None = None


def _arm() -> tuple[SimRobot, Kinematics]:
    """One robot and its kinematics per process: building the scene and its renderer costs more than an episode."""
    global _ARM  # noqa: PLW0603 - a cache per worker process
    if _ARM is None:
        robot = SimRobot()
        _ARM = robot, Kinematics(robot.urdf, robot.joint_names, panda.TOOL_FRAME)
    return _ARM


def _frame(robot: SimRobot, kinematics: Kinematics, seed: int) -> dict[str, object]:
    scene = robot.scene
    state, _ = robot.joint_state()
    chunk = ActionChunk(0, STEP_S, ActionSpace.END_EFFECTOR, expert.plan(scene, CHUNK_STEPS, STEP_S))
    targets = kinematics.joint_targets(chunk, state)
    targets[:, :-1] -= state[:-1]
    images = scene.images()
    tool, _ = scene.tool_pose()
    objects = [*(scene.object_position(colour) for colour in COLOURS), scene.receptacle_position()]
    return {
        "images": np.stack([images[camera] for camera in CAMERAS]),
        "state": state,
        "joint": targets,
        "end_effector": chunk.actions,
        "instruction": list(TASKS).index(scene.instruction),
        "pixels": np.stack([scene.project(camera, np.array(objects)) for camera in CAMERAS]),
        "relative": np.stack([scene.object_position(scene.task.colour), scene.destination_position()]) - tool,
        "turn": expert.turn_rad(scene),
        "seed": seed,
    }


def _execute(robot: SimRobot, kinematics: Kinematics, offset_m: FloatArray, delay: int) -> None:
    """Let the arm follow the expert's chunk, off by `offset_m` at its end, as if it came `delay` steps late."""
    state, _ = robot.joint_state()
    actions = expert.plan(robot.scene, CHUNK_STEPS, STEP_S)
    tool, _ = robot.scene.tool_pose()
    steadiness = np.clip(np.linalg.norm(actions[SOON_STEPS - 1, :3]) / BOLD_M, STEADIEST, 1)
    drift = np.linspace(0, 1, CHUNK_STEPS)[:, None] * offset_m * steadiness
    drift[:, 2] = np.maximum(drift[:, 2], LOWEST_M - tool[2] - actions[:, 2])
    actions[:, :3] += drift
    targets = kinematics.joint_targets(ActionChunk(0, STEP_S, ActionSpace.END_EFFECTOR, actions), state)
    velocities = np.gradient(np.vstack([state, targets]), STEP_S, axis=0)[1:]
    velocities[-1] = 0
    times_ns = (1 + delay + np.arange(CHUNK_STEPS)) * _STEP_NS
    robot.accept(Trajectory(robot.time_ns, robot.joint_names, times_ns, targets, velocities))


def _record(seeds: Sequence[int], path: Path) -> int:
    """Write the successful episodes of `seeds` as one shard; the number of them."""
    episodes = [demonstrate(seed, list(TASKS)[seed % len(TASKS)]) for seed in seeds]
    kept = [episode for episode in episodes if episode is not None]
    shard: dict[str, Any] = {  # each begins with nothing: every episode may have failed
        name: np.concatenate([np.empty((0, *shape), dtype), *(episode.frames[name] for episode in kept)])
        for name, (shape, dtype) in FIELDS.items()
    }
    shard["joints"] = np.concatenate([np.empty((0, len(panda.JOINT_NAMES))), *(episode.joints for episode in kept)])
    shard["lengths"] = np.array([len(episode.joints) for episode in kept], np.int64)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **shard)
    partial.rename(path)
    return len(kept)


def plan(directory: Path, episodes: int, *, seed: int = 0, shard: int = 25) -> dict[Path, range]:
    """Say which shard holds which of the seeds `seed .. seed + episodes - 1`: the same for recording and reading."""
    starts = range(seed, seed + episodes, shard)
    parts = (range(start, min(start + shard, seed + episodes)) for start in starts)
    return {directory / f"{seeds[0]:07d}-{seeds[-1]:07d}.npz": seeds for seeds in parts}


def generate(shards: Mapping[Path, Sequence[int]], processes: int) -> Iterator[tuple[int, int]]:
    """Record the shards of a plan; what is already there is kept.

    Yields:
        Episodes asked for and episodes kept, after each shard.
    """
    jobs = {}
    for path, seeds in shards.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            with np.load(path) as saved:
                yield len(seeds), len(saved["lengths"])
        else:
            jobs[path] = seeds
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(_record, seeds, path): seeds for path, seeds in jobs.items()}
        for done in as_completed(waiting):
            yield len(waiting[done]), done.result()


def load(shards: Iterable[Path]) -> tuple[dict[str, np.ndarray], list[FloatArray]]:
    """Read shards: the frames as `FIELDS` with a leading N, and each episode's joints [K, J]."""
    frames: dict[str, list[np.ndarray]] = {name: [] for name in FIELDS}
    episodes: list[FloatArray] = []
    for path in shards:
        with np.load(path) as shard:
            lengths = shard["lengths"]
            episodes += np.split(shard["joints"], np.cumsum(lengths))[:-1]
            for name, parts in frames.items():
                parts.append(shard[name])
    return {name: np.concatenate(parts) for name, parts in frames.items()}, episodes
