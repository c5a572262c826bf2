"""The flight that runs live, over a recording: nobody is commanded, and every call of it tells what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Protocol

from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.control.jumps import JumpWatch
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.precision import rules
from vlaq_ros.control.safety import JointLimits
from vlaq_ros.datatypes import ActionChunk, Command, FloatArray, Guide, Observation, Policy, Stale, Trajectory
from vlaq_ros.errors import RejectedChunkError
from vlaq_ros.flight import Flight
from vlaq_ros.gate import Gate
from vlaq_ros.joints import JointMap
from vlaq_ros.journal import Entry, Fetch
from vlaq_ros.observe import Observer
from vlaq_ros.pilot import Pilot
from vlaq_ros.policy.manifest import PrecisionPlan
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.replay.replayed import Answer, Event, Held, Look


class Answering(Policy, Protocol):
    """What a replay needs of the policy that flies; `Engine` is one."""

    @property
    def spec(self) -> PolicySpec:
        """How observations enter and numbers become actions."""
        ...

    @property
    def plans(self) -> Sequence[PrecisionPlan]:
        """Of the precisions, finest first."""
        ...


@dataclass(slots=True)
class _Asked:
    """What the policy was asked, and what it said."""

    observation: Observation
    precision: str
    noise: FloatArray
    guide: Guide | None
    chunk: ActionChunk | None = None  # None where it raised
    took_s: float = 0.0  # on this machine


class _Overheard:
    """A policy that is listened to.

    Attributes:
        asked: the last inference; None where there was none since this was set to None.
        failing: whether the next inference fails, as it did on another machine.
    """

    def __init__(self, policy: Policy) -> None:
        self.precisions, self.noise_shape, self.guidable = policy.precisions, policy.noise_shape, policy.guidable
        self.asked: _Asked | None = None
        self.failing = False
        self._policy = policy

    def infer(
        self, observation: Observation, precision: str, noise: FloatArray, guide: Guide | None = None
    ) -> ActionChunk:
        self.asked = asked = _Asked(observation, precision, noise, guide)
        if self.failing:
            raise RuntimeError("it did where this was recorded")
        asked.chunk, asked.took_s = _timed(self._policy, asked, precision, guide)
        return asked.chunk


class _Deferred(Executor):
    """Computes nothing before it is told to, and gives nothing before it is told to.

    Attributes:
        waits: whether something was submitted that has not been given.
        error: what the last task raised; None where it raised nothing.
    """

    def __init__(self) -> None:
        self.waits = False
        self.error: Exception | None = None
        self._task: Callable[[], Any] = lambda: None
        self._result: Any = None
        self._future: Future[Any] = Future()

    def submit(self, task: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        self.waits, self._task, self._future = True, lambda: task(*given, **named), Future()
        return self._future

    def run(self) -> None:
        """Compute what was submitted."""
        self._result = self.error = None
        try:
            self._result = self._task()
        except Exception as error:  # the flight is told
            self.error = error

    def decline(self) -> None:
        """Compute nothing: there is no observation."""
        self._result, self.error = Stale(("the recorded pilot did not ask here",)), None

    def give(self) -> None:
        """Give the answer."""
        self.waits = False
        if self.error is not None:
            self._future.set_exception(self.error)
        else:
            self._future.set_result(self._result)


class Reflight:
    """One flight, from its configuring on.

    Args:
        policy: flies.
        shadows: who computes each precision that is to be computed beside it.
        kinematics, joints, robot, config: as the node has them.

    Attributes:
        flight, observer, gate: they are fed by the owner.
    """

    def __init__(
        self,
        policy: Answering,
        shadows: Mapping[str, Policy],
        kinematics: Kinematics,
        joints: JointMap,
        *,
        robot: RobotConfig,
        config: PilotConfig,
    ) -> None:
        self._policy, self._shadows, self._kinematics = policy, shadows, kinematics
        self._overheard = _Overheard(policy)
        self._pilot = Pilot(
            self._overheard,
            kinematics,
            scales=policy.spec.motion,
            rules=rules(policy.plans, config.thresholds),
            robot=robot,
            config=config,
            seed=config.flow_seed,
        )
        self.observer = Observer(
            policy.spec.cameras,
            joints,
            max_image_age_s=config.max_image_age_s,
            max_camera_skew_s=config.max_camera_skew_s,
            max_joint_age_s=config.max_joint_age_s,
        )
        self.gate = Gate(enabled=True, estop="")
        self._worker = _Deferred()
        self._clock: Callable[[], int] = lambda: 0
        self._command: Command | None = None  # that was sent last
        self._told: list[Event] = []
        self._fetched: Fetch | None = None  # what was noted last of an answer
        self.flight = Flight(
            self._pilot,
            self.observer,
            self.gate,
            jumps=JumpWatch(JointLimits.of(kinematics, robot).velocities, config.tracking_tolerance_rad),
            following=None,
            config=config,
            executor=self._worker,
            clock=self._read_clock,
            send=self._send,
            wake=lambda: None,
            say=lambda _: None,
            note=self._note,
        )
        self._decision = self._pilot.decision

    @property
    def infers(self) -> bool:
        """Whether an inference has begun whose answer was not fetched."""
        return self._worker.waits

    @property
    def took_s(self) -> float | None:
        """What the policy took for that inference, on this machine; None where it has not computed any."""
        asked = self._overheard.asked
        return None if asked is None or asked.chunk is None else asked.took_s

    def land(self, now_ns: int) -> Iterator[Event]:
        """Hold the arm and forget everything."""
        self.flight.land(now_ns)
        yield from self._tell()

    def tick(self, now_ns: int, steady_ns: int) -> Iterator[Event]:
        """Judge the motion, and begin an inference if one is due."""
        began = self.infers
        self.flight.tick(now_ns, steady_ns)
        if self.infers and not began:
            self._decision = self._pilot.decision
        yield from self._tell()
        window = self.observer.joints(0.0)
        yield Look(
            now_ns,
            None if window is None else window.positions[-1],
            self._pilot.decision,
            self._pilot.motion,
            self.observer.blocking(now_ns),
            self.flight.late_s(now_ns),
            self.flight.jump,
        )

    def infer(self, clock: Callable[[], int], *, failing: bool = False) -> None:
        """Compute what was begun.

        Args:
            clock: that the pilot reads on the way.
            failing: let it fail, as it did on another machine.
        """
        self._clock = clock
        self._overheard.asked, self._overheard.failing = None, failing
        self._worker.run()

    def decline(self) -> None:
        """Let what was begun have no observation, though there is one."""
        self._overheard.asked = None
        self._worker.decline()

    def fetch(self, now_ns: int) -> Iterator[Event]:
        """Let what was inferred arrive."""
        self._worker.give()
        self._command = None
        self.flight.fetch(now_ns)
        yield from self._tell()
        asked, fetched = self._overheard.asked, self._fetched
        if asked is None or fetched is None:  # it had no observation
            return
        targets, took_s = {}, {asked.precision: asked.took_s}
        for name, shadow in self._shadows.items() if asked.chunk is not None else ():
            chunk, took_s[name] = self._beside(asked, name, shadow)
            targets[name] = self._kinematics.joint_targets(chunk, asked.observation.joint_positions)
        error = self._worker.error
        yield Answer(
            observation=asked.observation,
            took_over_ns=fetched.readings_ns[-1],
            decision=self._decision,
            chunk=asked.chunk,
            command=self._command,
            fault=fetched.why,
            rejected=error.kind if isinstance(error, RejectedChunkError) else "",
            targets=targets,
            inference_s=took_s,
        )

    def resume(self, delays_s: Iterable[float]) -> None:
        """Go on as if the last commands had been so late."""
        self._pilot.delays_s.clear()
        self._pilot.delays_s.extend(delays_s)

    def skip_noise(self, draws: int) -> None:
        """Go on as if noise had been drawn so often."""
        while self._pilot.draws < draws:
            self._pilot.noise()

    def _beside(self, asked: _Asked, name: str, shadow: Policy) -> tuple[ActionChunk, float]:
        if asked.chunk is not None and asked.guide is None and name == asked.precision and shadow is self._policy:
            return asked.chunk, asked.took_s
        return _timed(shadow, asked, name, None)

    def _read_clock(self) -> int:
        return self._clock()

    def _tell(self) -> Iterator[Event]:
        told, self._told = self._told, []
        yield from told

    def _send(self, trajectory: Trajectory, command: Command | None) -> None:
        self._command = command
        if command is None:
            self._told.append(Held(trajectory.stamp_ns + int(trajectory.times_ns[0]), trajectory))

    def _note(self, entry: Entry) -> None:
        if isinstance(entry, Fetch):
            self._fetched = entry


def _timed(policy: Policy, asked: _Asked, precision: str, guide: Guide | None) -> tuple[ActionChunk, float]:
    begun_s = time.perf_counter()
    chunk = policy.infer(asked.observation, precision, asked.noise, guide)
    return chunk, time.perf_counter() - begun_s
