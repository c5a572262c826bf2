"""Closed loop in one process: simulated robots side by side in simulated time, inference batched over them, no ROS.

Every episode has its own pilot and its own flow noise, both from the episode's seed, so that all precisions meet the
same layouts and the same noise. A command arrives some time after its observation, as it does from the node, and the
arm moves on meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from vlaq_ros.config import AUTO, PilotConfig, RobotConfig
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.precision import PrecisionRule, rules
from vlaq_ros.datatypes import (
    ActionChunk,
    Decision,
    FloatArray,
    Guide,
    JointWindow,
    Motion,
    Observation,
    Trajectory,
)
from vlaq_ros.errors import RejectedChunkError
from vlaq_ros.evaluate.referee import Referee
from vlaq_ros.evaluate.statistics import wilson95
from vlaq_ros.joints import JointMap
from vlaq_ros.pilot import Pilot
from vlaq_ros.policy.manifest import PrecisionPlan
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.sim import panda
from vlaq_ros.sim.robot import SimRobot

NEAR_M = 0.08  # a gap below this is a fine phase


class Answering(Protocol):
    """What `play` needs of a policy; `Engine` is one."""

    @property
    def spec(self) -> PolicySpec:
        """How observations enter and numbers become actions."""
        ...

    @property
    def plans(self) -> Sequence[PrecisionPlan]:
        """Of the precisions, finest first."""
        ...

    @property
    def precisions(self) -> tuple[str, ...]:
        """Their names."""
        ...

    @property
    def noise_shape(self) -> tuple[int, int]:
        """[T, A] of the noise that a flow starts from."""
        ...

    @property
    def guidable(self) -> bool:
        """Whether chunks follow guides."""
        ...

    def infer(
        self, observation: Observation, precision: str, noise: FloatArray, guide: Guide | None = None
    ) -> ActionChunk:
        """Compute one chunk."""
        ...

    def infer_batch(
        self,
        observations: Sequence[Observation],
        precision: str,
        noise: FloatArray,
        guides: Sequence[Guide | None] | None = None,
    ) -> list[ActionChunk]:
        """Compute a chunk for each observation; `noise` is [B, *noise_shape], `guides` are B or None for none."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """An episode asks for a chunk: what is known then, and what only the simulator knows."""

    seed: int  # of the episode
    index: int  # of the chunk in the episode
    time_s: float  # since the episode began
    observation: Observation
    noise: FloatArray  # [T, A], where the flow starts
    guide: Guide | None  # the running motion, that the chunk is to continue
    decision: Decision  # the pilot's
    motion: Motion | None  # None where it is unknown
    held: bool  # the object to take is in the gripper
    gap_m: float  # from the tool to that object, or once it is held from the object to its destination

    @property
    def phase(self) -> str:
        """What the arm is at: reach, grasp, carry or place."""
        far, near = ("carry", "place") if self.held else ("reach", "grasp")
        return near if self.gap_m < NEAR_M else far


Switching = Callable[[Request], str]  # names the precision that answers a request


def in_turn(first_seed: int, instructions: Sequence[str], count: int) -> list[tuple[int, str]]:
    """Lay out episodes for `play`: a seed and an instruction each, all instructions in turn."""
    return [(first_seed + k, instructions[k % len(instructions)]) for k in range(count)]


def own(request: Request) -> str:
    """Take the pilot's decision."""
    return request.decision.precision


@dataclass(frozen=True, slots=True)
class Takeover:
    """A chunk took over from a motion."""

    time_ns: int  # simulated
    observed: FloatArray  # [J] rad (m), the joints in the observation
    chunk: ActionChunk
    replaced: Trajectory  # what ran until then


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an episode ended."""

    seed: int
    instruction: str
    success: bool
    precisions: tuple[str, ...]  # of its C chunks
    times_s: FloatArray = field(compare=False)  # [C] of their observations, since the episode began
    sensitivities: FloatArray = field(compare=False)  # [C] S then; nan where the motion was unknown
    joints: FloatArray = field(compare=False)  # [K, J] rad (m), a row each monitor period; the first, one after time 0
    rejections: int = 0  # chunks that the pilot refused; the arm braked instead
    observations: tuple[Observation, ...] = field(default=(), compare=False, repr=False)  # of its chunks, where kept
    takeovers: tuple[Takeover, ...] = field(default=(), compare=False, repr=False)  # where kept


def play(
    policy: Answering,
    robot: RobotConfig,
    config: PilotConfig,
    episodes: Sequence[tuple[int, str]],
    *,
    latency_s: float,
    limit_s: float,
    keep_observations: bool = False,
    keep_takeovers: bool = False,
    switching: Switching = own,
    thresholds: Sequence[float] | None = None,
) -> Iterator[Outcome]:
    """Run episodes of one policy side by side.

    Args:
        policy: at its precisions.
        robot: what must be known of the arm beside its URDF.
        config: of every pilot; its `precision` is a name or `auto`.
        episodes: a seed and an instruction each.
        latency_s: from an observation to the arrival of its command, rounded up to whole monitor periods.
        limit_s: simulated time that an episode may take.
        keep_observations: let outcomes hold what the policy saw.
        keep_takeovers: let outcomes hold what it answered, and what that took over from.
        switching: sees every request; when to ask stays with the pilot, whose own decision a replan follows.
        thresholds: of S, finest precision first, in place of the policy's own and of `config`'s.

    Yields:
        Outcomes, in the order in which episodes end.

    Raises:
        UnknownPrecisionError: the policy has no such precision.
        UnknownInstructionError: the policy or the simulation knows no such task.
    """
    spec = policy.spec
    if thresholds is None:
        chosen_by = rules(policy.plans, config.thresholds)
    else:
        chosen_by = tuple(PrecisionRule(*rule) for rule in zip(policy.precisions, thresholds, strict=True))
    joints = JointMap(robot, spec.joint_names)
    kinematics = Kinematics(panda.urdf(), joints.urdf, robot.tool_frame)

    running = [
        _Episode(
            SimRobot(spec.image_size_px),
            Pilot(
                policy,
                kinematics,
                scales=spec.motion,
                rules=chosen_by,
                robot=robot,
                config=config,
                seed=seed,
            ),
            joints,
            seed=seed,
            instruction=instruction,
            fixed=config.precision != AUTO,
            period_s=config.monitor_period_s,
            latency_s=latency_s,
            limit_s=limit_s,
            keep_observations=keep_observations,
            keep_takeovers=keep_takeovers,
        )
        for seed, instruction in episodes
    ]
    while running:
        _infer(policy, [episode for episode in running if episode.due], switching)
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
        "rejections": sum(outcome.rejections for outcome in outcomes),
        "seconds": round(seconds, 1),
    }


class _Episode:
    """One robot and one pilot, from their reset to the referee's whistle."""

    def __init__(
        self,
        sim: SimRobot,
        pilot: Pilot,
        joints: JointMap,
        *,
        seed: int,
        instruction: str,
        fixed: bool,
        period_s: float,
        latency_s: float,
        limit_s: float,
        keep_observations: bool,
        keep_takeovers: bool,
    ) -> None:
        sim.reset(seed, instruction)
        self.sim = sim
        self.pilot = pilot
        self._joints = joints
        self._columns = [panda.JOINT_NAMES.index(name) for name in joints.urdf]  # of the simulated arm's
        self._seed = seed
        self._fixed = fixed
        self._period_ns = round(period_s * 1e9)
        self._latency_ns = round(latency_s * 1e9)
        self._arriving: tuple[Request, ActionChunk] | None = None
        self._running: Trajectory | None = None  # what was commanded last
        self._rejections = 0
        self._chunks: list[tuple[str, float, float]] = []  # precision, time and S of each
        self._keep_observations = keep_observations
        self._observations: list[Observation] = []
        self._keep_takeovers = keep_takeovers
        self._takeovers: list[Takeover] = []
        self._samples = 2 + round(pilot.span_s / period_s)  # that the monitor needs
        self._history: list[tuple[int, FloatArray, FloatArray]] = []
        for _ in range(self._samples):  # the arm stands until its motion is known
            self.advance()
        self._start_ns = sim.time_ns
        self._referee = Referee(self._start_ns, limit_s)

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
        return Outcome(
            seed=self._seed,
            instruction=self.sim.instruction,
            success=self.sim.success,
            precisions=tuple(precision for precision, _, _ in self._chunks),
            times_s=np.array([time_s for _, time_s, _ in self._chunks]),
            sensitivities=np.array([sensitivity for _, _, sensitivity in self._chunks]),
            joints=joints,
            rejections=self._rejections,
            observations=tuple(self._observations),
            takeovers=tuple(self._takeovers),
        )

    def request(self) -> Request:
        """See the robot now."""
        if self._fixed:
            self._watch()
        sim, pilot, scene = self.sim, self.pilot, self.sim.scene
        positions, _ = self._joint_state()
        observation = Observation(sim.time_ns, sim.images(), self._joints.policy, positions, sim.instruction)
        target = scene.object_position(scene.task.colour)
        held = scene.held(scene.task.colour)
        gap = scene.destination_position() - target if held else target - scene.tool_pose()[0]
        return Request(
            seed=self._seed,
            index=len(self._chunks),
            time_s=(sim.time_ns - self._start_ns) * 1e-9,
            observation=observation,
            noise=pilot.noise(),
            guide=pilot.guide(observation),
            decision=pilot.decision,
            motion=pilot.motion,
            held=held,
            gap_m=float(np.linalg.norm(gap)),
        )

    def expect(self, request: Request, precision: str, chunk: ActionChunk) -> None:
        """Let the answer to `request` be on its way."""
        self._chunks.append((precision, request.time_s, request.decision.sensitivity))
        self._arriving = (request, chunk)
        if self._keep_observations:
            self._observations.append(request.observation)

    def advance(self) -> None:
        """Simulate one monitor period: the arm moves, an answer may arrive, the pilot looks at the motion.

        A pilot of a fixed precision looks when it asks: no other look changes what it does.
        """
        self.sim.advance(self._period_ns)
        now_ns = self.sim.time_ns
        self._history.append((now_ns, *self._joint_state()))
        if self._arriving is not None and now_ns >= self._arriving[0].observation.stamp_ns + self._latency_ns:
            self._running = self._answer(*self._arriving)
            self._arriving = None
            rejection = self.sim.accept(self._running)
            if rejection is not None:
                raise RuntimeError(f"the simulated controller rejected a command of the pilot: {rejection}")
        if not self._fixed:
            self._watch()

    def _answer(self, request: Request, chunk: ActionChunk) -> Trajectory:
        """Let an answer take over, or the arm brake if it is refused."""
        now_ns, observation = self.sim.time_ns, request.observation
        inference_s, guided = self._latency_ns * 1e-9, request.guide is not None
        try:
            command = self.pilot.command(observation, request.decision, chunk, now_ns, inference_s, guided=guided)
        except RejectedChunkError:
            self._rejections += 1
            return self.pilot.hold(self._window(), now_ns)
        if self._keep_takeovers and self._running is not None:
            self._takeovers.append(Takeover(now_ns, observation.joint_positions, chunk, self._running))
        return command.trajectory

    def _joint_state(self) -> tuple[FloatArray, FloatArray]:
        positions, velocities = self.sim.joint_state()
        return positions[self._columns], velocities[self._columns]

    def _window(self) -> JointWindow:
        stamps_ns, positions, velocities = map(np.array, zip(*self._history[-self._samples :], strict=True))
        return JointWindow(self._joints.urdf, stamps_ns, positions, velocities)

    def _watch(self) -> None:
        window = self._window()
        self.pilot.watch(window, window.stamp_ns)


def _infer(policy: Answering, episodes: Sequence[_Episode], switching: Switching) -> None:
    """Answer all that are due, in one batch for each precision that serves some."""
    batches: dict[str, list[tuple[_Episode, Request]]] = {}
    for episode in episodes:
        request = episode.request()
        batches.setdefault(switching(request), []).append((episode, request))
    for precision, batch in batches.items():
        observations = [request.observation for _, request in batch]
        noise = np.stack([request.noise for _, request in batch])
        chunks = policy.infer_batch(observations, precision, noise, [request.guide for _, request in batch])
        for (episode, request), chunk in zip(batch, chunks, strict=True):
            episode.expect(request, precision, chunk)
