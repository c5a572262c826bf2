"""How much one chunk of low precision moves the end of an episode (DyQ-VLA, arXiv 2603.07904).

The paper's s_t = D_T / e_t: an episode at full precision is repeated with the chunk at t from the lower precision, from
the same observation, guide and noise. What D_T is, is not published; here it is the distance between the tool's final
positions. Nothing else moves it: the simulation is deterministic, and observations are answered one at a time, for in a
batch the rounding depends on its size, which alone moved ends by up to 0.4 mm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlaq_ros.calibrate.injection import Chunk, Injection
from vlaq_ros.config import LATENCY_S, PilotConfig, RobotConfig
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import ActionChunk, FloatArray, Guide, Observation
from vlaq_ros.evaluate.referee import TIME_LIMIT_S
from vlaq_ros.evaluate.rollout import Answering, Outcome, Request, Switching, play
from vlaq_ros.joints import JointMap
from vlaq_ros.policy.engine import FULL
from vlaq_ros.sim import panda


class WithFull:
    """A bundle's precisions with its source checkpoint as one more, the finest."""

    def __init__(self, full: Answering, quantized: Answering) -> None:
        self._quantized, self._full = quantized, full
        self.spec, self.noise_shape, self.guidable = full.spec, full.noise_shape, full.guidable
        self.plans = (*full.plans, *quantized.plans)
        self.precisions = (*full.precisions, *quantized.precisions)

    def infer(
        self, observation: Observation, precision: str, noise: FloatArray, guide: Guide | None = None
    ) -> ActionChunk:
        """Compute one chunk."""
        policy = self._full if precision in self._full.precisions else self._quantized
        return policy.infer(observation, precision, noise, guide)

    def infer_batch(
        self,
        observations: Sequence[Observation],
        precision: str,
        noise: FloatArray,
        guides: Sequence[Guide | None] | None = None,
    ) -> list[ActionChunk]:
        """Compute a chunk for each observation, one at a time."""
        rows = zip(observations, noise, guides or [None] * len(observations), strict=True)
        return [self.infer(observation, precision, start, guide) for observation, start, guide in rows]


def perturb(
    full: Answering,
    quantized: Answering,
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
        episodes: a seed and an instruction each; no seed twice.
        each: chunks of an episode that are injected into, each in a run of its own.
        seed: of the choice of these chunks.
        report: called with the number of runs done since the last call, `(1 + each) * len(episodes)` in all; those of
            episodes that fail at full precision, or are too short, are passed over and count as done.

    Returns:
        All chunks at full precision with the errors of every precision, and the injections.
    """
    policy, robot = WithFull(full, quantized), RobotConfig.load("sim_panda")
    kinematics = Kinematics(panda.urdf(), JointMap(robot, full.spec.joint_names).urdf, robot.tool_frame)
    low = quantized.precisions[-1]

    def run(chosen: Sequence[tuple[int, str]], switching: Switching) -> dict[int, Outcome]:
        outcomes = {}
        config = PilotConfig(precision=FULL)
        for outcome in play(
            policy, robot, config, chosen, latency_s=LATENCY_S, limit_s=TIME_LIMIT_S, switching=switching
        ):
            outcomes[outcome.seed] = outcome
            report(1)
        return outcomes

    chunks: list[Chunk] = []

    def look(request: Request) -> str:
        chunks.append(_chunk(policy, quantized.precisions, request))
        return FULL

    references = run(episodes, look)
    by_episode = {
        number: [chunk for chunk in chunks if chunk.seed == number]
        for number, outcome in sorted(references.items())
        if outcome.success
    }
    rng = np.random.default_rng(seed)
    plan = {
        number: rng.choice(len(own), min(each, len(own)), replace=False).tolist() for number, own in by_episode.items()
    }
    report(each * len(episodes) - sum(map(len, plan.values())))
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


def _chunk(policy: Answering, precisions: Sequence[str], request: Request) -> Chunk:
    """Answer a request at every precision."""
    full, *others = (
        policy.infer(request.observation, name, request.noise, request.guide).actions for name in (FULL, *precisions)
    )
    errors = [float(np.linalg.norm((actions - full) / policy.spec.action_std)) for actions in others]
    return Chunk(
        seed=request.seed,
        instruction=request.observation.instruction,
        index=request.index,
        time_s=request.time_s,
        phase=request.phase,
        sensitivity=request.decision.sensitivity,
        errors=dict(zip(precisions, errors, strict=True)),
    )


def _distance_m(kinematics: Kinematics, one: Outcome, other: Outcome) -> float:
    """Distance between the final positions of the tool."""
    positions, _ = kinematics.forward(np.array([one.joints[-1], other.joints[-1]]))
    return float(np.linalg.norm(positions[1] - positions[0]))
