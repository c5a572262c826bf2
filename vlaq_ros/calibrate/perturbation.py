"""How much one chunk of low precision moves the end of an episode (DyQ-VLA, arXiv 2603.07904).

The paper's s_t = D_T / e_t: an episode at full precision is repeated with the chunk at t from the lower precision, from
the same observation and noise. What D_T is, is not published; here it is the distance between the tool's final
positions. The simulation is deterministic, so that nothing else moves it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vlaq_ros.calibrate.injection import Chunk, Injection
from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import ActionChunk, FloatArray, Observation
from vlaq_ros.evaluate.referee import TIME_LIMIT_S
from vlaq_ros.evaluate.rollout import Answering, Outcome, Request, Switching, play
from vlaq_ros.policy.engine import FULL
from vlaq_ros.sim import panda

LATENCY_S = 0.1  # from an observation to its command, as `vlaq rollout` has it


class WithFull:
    """A bundle's precisions with its source checkpoint as one more, the finest."""

    def __init__(self, full: Answering, quantized: Answering) -> None:
        self._quantized, self._full = quantized, full
        self.spec, self.noise_shape = full.spec, full.noise_shape
        self.plans = (*full.plans, *quantized.plans)
        self.precisions = (*full.precisions, *quantized.precisions)

    def infer(self, observation: Observation, precision: str, noise: FloatArray) -> ActionChunk:
        """Compute one chunk."""
        return self.infer_batch([observation], precision, noise[None])[0]

    def infer_batch(self, observations: Sequence[Observation], precision: str, noise: FloatArray) -> list[ActionChunk]:
        """Compute a chunk for each observation, as `Engine` does."""
        policy = self._full if precision in self._full.precisions else self._quantized
        return policy.infer_batch(observations, precision, noise)


def perturb(
    full: Answering,
    quantized: Answering,
    robot: RobotConfig,
    episodes: Sequence[tuple[int, str]],
    *,
    each: int,
    seed: int,
    report: Callable[[int], None],
) -> tuple[list[Chunk], list[Injection]]:
    """Measure the chunks of episodes at full precision, then inject the coarsest precision into some.

    Args:
        full: the checkpoint, as "full".
        quantized: the bundle made of it.
        robot: the simulated arm's.
        episodes: a seed and an instruction each; no seed twice.
        each: chunks of an episode that are injected into, each in a run of its own.
        seed: of the choice of these chunks.
        report: called with the number of episodes done, of `(1 + each) * len(episodes)`; those that fail at full
            precision are passed over.

    Returns:
        All chunks at full precision with the errors of every precision, and the injections.
    """
    policy = WithFull(full, quantized)
    kinematics = Kinematics(panda.urdf(), full.spec.joint_names, robot.tool_frame)
    low = quantized.precisions[-1]
    done = 0

    def run(chosen: Sequence[tuple[int, str]], switching: Switching) -> dict[int, Outcome]:
        nonlocal done
        outcomes = {}
        config = PilotConfig(precision=FULL)
        for outcome in play(
            policy, robot, config, chosen, latency_s=LATENCY_S, limit_s=TIME_LIMIT_S, switching=switching
        ):
            outcomes[outcome.seed] = outcome
            done += 1
            report(done)
        return outcomes

    requests = _Recorder()
    references = run(episodes, requests)
    chunks = [chunk for asked in requests.by_time.values() for chunk in _chunks(policy, quantized.precisions, asked)]
    by_episode = {
        number: [chunk for chunk in chunks if chunk.seed == number]
        for number, outcome in sorted(references.items())
        if outcome.success
    }
    rng = np.random.default_rng(seed)
    plan = {
        number: rng.choice(len(own), min(each, len(own)), replace=False).tolist() for number, own in by_episode.items()
    }
    injections = []
    for turn in range(each):
        now = {number: order[turn] for number, order in plan.items() if turn < len(order)}
        outcomes = run([(number, references[number].instruction) for number in now], Inject(low, now))
        for number, index in now.items():
            deviation_m = _distance_m(kinematics, references[number], outcomes[number])
            injections.append(Injection(by_episode[number][index], low, deviation_m, outcomes[number].success))
    return chunks, injections


@dataclass(frozen=True, slots=True)
class Inject:
    """Full precision, but for one chunk in every episode."""

    precision: str
    indices: Mapping[int, int]  # seed -> of the chunk

    def __call__(self, request: Request) -> str:
        """Name the precision."""
        return self.precision if request.index == self.indices[request.seed] else FULL


@dataclass(slots=True)
class _Recorder:
    """Full precision throughout; remembers what was asked."""

    by_time: dict[int, list[Request]] = field(default_factory=dict)  # stamp -> requests, which share a batch

    def __call__(self, request: Request) -> str:
        self.by_time.setdefault(request.observation.stamp_ns, []).append(request)
        return FULL


def _chunks(policy: Answering, precisions: Sequence[str], requests: Sequence[Request]) -> list[Chunk]:
    """Answer requests at every precision."""
    observations = [request.observation for request in requests]
    noise = np.stack([request.noise for request in requests])
    answers = {
        name: np.array([chunk.actions for chunk in policy.infer_batch(observations, name, noise)])
        for name in (FULL, *precisions)
    }
    differences = {name: (answers[name] - answers[FULL]) / policy.spec.action_std for name in precisions}
    return [
        Chunk(
            seed=request.seed,
            instruction=request.observation.instruction,
            index=request.index,
            time_s=request.time_s,
            phase=request.phase,
            sensitivity=request.decision.sensitivity,
            motion_fineness=np.nan if request.motion is None else request.motion.motion_fineness,
            angular_jerk=np.nan if request.motion is None else request.motion.angular_jerk,
            errors={name: float(np.linalg.norm(difference[row])) for name, difference in differences.items()},
        )
        for row, request in enumerate(requests)
    ]


def _distance_m(kinematics: Kinematics, one: Outcome, other: Outcome) -> float:
    """Distance between the final positions of the tool."""
    positions, _ = kinematics.forward(np.array([one.joints[-1], other.joints[-1]]))
    return float(np.linalg.norm(positions[1] - positions[0]))
