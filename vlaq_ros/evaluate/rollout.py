"""Closed loop in one process: simulated robots side by side in simulated time, inference batched over them, no ROS.

Every episode has its own pilot and its own flow noise, both from the episode's seed, so that all precisions meet the
same layouts and the same noise. A command arrives some time after its observation, as it does from the node, and the
arm moves on meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.precision import PrecisionRule
from vlaq_ros.datatypes import ActionChunk, Decision, FloatArray, JointWindow, Observation
from vlaq_ros.evaluate.referee import Referee
from vlaq_ros.evaluate.statistics import wilson95
from vlaq_ros.pilot import Pilot
from vlaq_ros.policy.engine import Engine
from vlaq_ros.sim import panda
from vlaq_ros.sim.robot import SimRobot


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an episode ended."""

    seed: int
    instruction: str
    success: bool
    precisions: tuple[str, ...]  # of its chunks
    joints: FloatArray = field(compare=False)  # [K, J] rad (m), one row each monitor period
    observations: tuple[Observation, ...] = field(default=(), compare=False, repr=False)  # of its chunks, where kept


def play(
    engine: Engine,
    robot: RobotConfig,
    config: PilotConfig,
    episodes: Sequence[tuple[int, str]],
    *,
    latency_s: float,
    limit_s: float,
    keep_observations: bool = False,
) -> Iterator[Outcome]:
    """Run episodes of one policy side by side.

    Args:
        engine: the policy.
        robot: what must be known of the arm beside its URDF.
        config: of every pilot; its `precision` is a name or `auto`.
        episodes: a seed and an instruction each.
        latency_s: from an observation to the arrival of its command, rounded up to whole monitor periods.
        limit_s: simulated time that an episode may take.
        keep_observations: let outcomes hold what the policy saw.

    Yields:
        Outcomes, in the order in which episodes end.

    Raises:
        UnknownPrecisionError: the policy has no such precision.
        UnknownInstructionError: the policy or the simulation knows no such task.
    """
    spec = engine.spec
    rules = [PrecisionRule(plan.name, plan.threshold) for plan in engine.plans]
    kinematics = Kinematics(panda.urdf(), spec.joint_names, robot.tool_frame)

    running = [
        _Episode(
            SimRobot(spec.image_size_px),
            Pilot(
                engine,
                kinematics,
                scales=spec.motion,
                rules=rules,
                robot=robot,
                config=config,
                seed=seed,
            ),
            seed=seed,
            instruction=instruction,
            period_s=config.monitor_period_s,
            latency_s=latency_s,
            limit_s=limit_s,
            keep_observations=keep_observations,
        )
        for seed, instruction in episodes
    ]
    while running:
        _infer(engine, [episode for episode in running if episode.due])
        for episode in running:
            episode.advance()
        for over in [episode for episode in running if episode.over]:
            running.remove(over)
            yield over.outcome


def summary(precision: str, outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Count what `vlaq rollout` reports; a switch is a chunk at another precision than the one before it."""
    successes = sum(outcome.success for outcome in outcomes)
    used = [name for outcome in outcomes for name in outcome.precisions]
    tasks: dict[str, dict[str, int]] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.instruction):
        task = tasks.setdefault(outcome.instruction, {"n": 0, "successes": 0})
        task["n"] += 1
        task["successes"] += outcome.success
    return {
        "precision": precision,
        "n": len(outcomes),
        "successes": successes,
        "wilson95": [round(bound, 4) for bound in wilson95(successes, len(outcomes))],
        "by_task": tasks,
        "precision_share": {name: round(used.count(name) / len(used), 4) for name in sorted(set(used))},
        "switches": sum(a != b for outcome in outcomes for a, b in pairwise(outcome.precisions)),
        "seconds": round(seconds, 1),
    }


class _Episode:
    """One robot and one pilot, from their reset to the referee's whistle."""

    def __init__(
        self,
        sim: SimRobot,
        pilot: Pilot,
        *,
        seed: int,
        instruction: str,
        period_s: float,
        latency_s: float,
        limit_s: float,
        keep_observations: bool,
    ) -> None:
        sim.reset(seed, instruction)
        self.sim = sim
        self.pilot = pilot
        self._seed = seed
        self._period_ns = round(period_s * 1e9)
        self._latency_ns = round(latency_s * 1e9)
        self._arriving: tuple[Observation, Decision, ActionChunk] | None = None
        self._precisions: list[str] = []
        self._keep_observations = keep_observations
        self._observations: list[Observation] = []
        self._samples = 2 + round(pilot.span_s / period_s)  # that the monitor needs
        self._history: list[tuple[int, FloatArray, FloatArray]] = []
        for _ in range(self._samples):  # the arm stands until its motion is known
            self.advance()
        self._referee = Referee(sim.time_ns, limit_s)

    @property
    def over(self) -> bool:
        """Whether it ends now; ask once after every advance."""
        return self._referee.over(self.sim.success, self.sim.failed, self.sim.time_ns)

    @property
    def due(self) -> bool:
        """Whether to take an observation now: one inference at a time, when the pilot asks."""
        return self._arriving is None and self.pilot.due(self.sim.time_ns)

    @property
    def outcome(self) -> Outcome:
        """How it stands."""
        joints = np.array([positions for _, positions, _ in self._history])
        seen = tuple(self._observations)
        return Outcome(self._seed, self.sim.instruction, self.sim.success, tuple(self._precisions), joints, seen)

    def observe(self) -> Observation:
        """See the robot now."""
        positions, _ = self.sim.joint_state()
        return Observation(self.sim.time_ns, self.sim.images(), self.sim.joint_names, positions, self.sim.instruction)

    def expect(self, observation: Observation, decision: Decision, chunk: ActionChunk) -> None:
        """Let an answer to `observation` be on its way."""
        self._precisions.append(decision.precision)
        self._arriving = (observation, decision, chunk)
        if self._keep_observations:
            self._observations.append(observation)

    def advance(self) -> None:
        """Simulate one monitor period: the arm moves, an answer may arrive, the pilot looks at the motion."""
        self.sim.advance(self._period_ns)
        now_ns = self.sim.time_ns
        if self._arriving is not None and now_ns >= self._arriving[0].stamp_ns + self._latency_ns:
            command = self.pilot.command(*self._arriving, now_ns, self._latency_ns * 1e-9)
            self._arriving = None
            rejection = self.sim.accept(command.trajectory)
            if rejection is not None:
                raise RuntimeError(f"the simulated controller rejected a command of the pilot: {rejection}")
        self._history.append((now_ns, *self.sim.joint_state()))
        stamps_ns, positions, velocities = map(np.array, zip(*self._history[-self._samples :], strict=True))
        self.pilot.watch(JointWindow(self.sim.joint_names, stamps_ns, positions, velocities), now_ns)


def _infer(engine: Engine, episodes: Sequence[_Episode]) -> None:
    """Answer all that are due, in one batch for each precision in force."""
    batches: dict[str, list[_Episode]] = {}
    for episode in episodes:
        batches.setdefault(episode.pilot.decision.precision, []).append(episode)
    for precision, batch in batches.items():
        observations = [episode.observe() for episode in batch]
        noise = np.stack([episode.pilot.noise() for episode in batch])
        for episode, observation, chunk in zip(
            batch, observations, engine.infer_batch(observations, precision, noise), strict=True
        ):
            episode.expect(observation, episode.pilot.decision, chunk)
