"""The pilot: from what the robot sees to what it is told, at the precision that its motion asks for.

    joint states -> watch:  monitor -> controller -> the decision in force
    observation  -> step:   policy at that precision, guided by the running motion -> joint targets -> splice
                            -> safety -> command

The ROS node and the closed-loop rollout run these lines and no others. Time is an argument.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from vlaq_ros.config import AUTO, PilotConfig, RobotConfig
from vlaq_ros.control.chunks import at_rest, commitment, splice, step_times
from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.motion import KinematicMonitor, MonitorConfig
from vlaq_ros.control.precision import PrecisionController, PrecisionRule
from vlaq_ros.control.safety import Safety
from vlaq_ros.datatypes import (
    ActionChunk,
    Command,
    Decision,
    FloatArray,
    Guide,
    JointWindow,
    Motion,
    MotionScales,
    Observation,
    Policy,
    Trajectory,
)
from vlaq_ros.errors import PrecisionFailedError, UnknownPrecisionError, VlaqError

_DELAYS = 10  # commands whose delays are remembered


class Pilot:
    """Flies one arm with one policy.

    One `step` at a time may run in another thread than everything else.

    Args:
        policy: answers observations with chunks.
        kinematics: of the arm, in the columns of the policy's state and with the URDF's names.
        scales: what the monitor divides by.
        rules: the policy's precisions, finest first.
        robot: gives the limits.
        config: gives the precision, the seam, periods and tolerances.
        seed: of the noise that a flow starts from.

    Raises:
        UnknownPrecisionError: `config.precision` is none of the policy's.
        RobotFileError, JointLimitsFileError, MissingKeyError, BadValueError: the limits cannot be read.

    Attributes:
        decision: the precision in force for the next inference.
        motion: what the monitor last said; None where the motion is unknown.
        upswitch_s: time from the decision for a finer precision to the command that answered it, where the last
            command was that answer; None otherwise.
        span_s: how long a joint window `watch` needs.
        draws: how often noise was drawn.
        delays_s: how long the arm moved on, from an observation to the command that answered it, for the last commands;
            the first command is left out: what a policy sets up in its first inference never comes again.
    """

    def __init__(
        self,
        policy: Policy,
        kinematics: Kinematics,
        *,
        scales: MotionScales,
        rules: Sequence[PrecisionRule],
        robot: RobotConfig,
        config: PilotConfig,
        seed: int,
    ) -> None:
        self._policy = policy
        self._kinematics = kinematics
        self._monitor = KinematicMonitor(kinematics, scales, MonitorConfig())
        self._controller = PrecisionController(rules, config.dwell_s)
        self._safety = Safety(kinematics, robot)
        self._config = config
        self._random = np.random.default_rng(seed)
        self._command: Command | None = None
        self._chunk: ActionChunk | None = None  # the last one; all have its steps and its space
        self.delays_s: deque[float] = deque(maxlen=_DELAYS)
        self._crossing_ns: int | None = None  # when the decision became finer than it was before
        self._answered_ns: int | None = None  # the crossing that a command has answered
        self.select(config.precision)
        self.decision = self._controller.decide(None, 0)
        self.motion: Motion | None = None
        self.upswitch_s: float | None = None
        self.span_s = self._monitor.span_s
        self.draws = 0

    def select(self, precision: str) -> None:
        """Fix the precision by its name, or let it follow the motion with `auto`.

        Raises:
            UnknownPrecisionError: the policy has no such precision.
        """
        if precision not in (AUTO, *self._policy.precisions):
            raise UnknownPrecisionError(precision, (AUTO, *self._policy.precisions))
        self._controller.fix(None if precision == AUTO else precision)

    def lose(self, precision: str) -> str:
        """Go on without a precision that cannot be computed: the finest that is left takes its place.

        Returns:
            That precision; empty where none is left, and all are tried again.
        """
        return self._controller.lose(precision)

    def watch(self, window: JointWindow | None, stamp_ns: int) -> Decision:
        """Judge the motion and decide on the precision; cheap, and called every monitor period.

        Args:
            window: the newest joint states; None or too old where the motion is unknown.
            stamp_ns: time of this look.
        """
        if window is None or stamp_ns - window.stamp_ns > self._config.max_joint_age_s * 1e9:
            self.motion = None
        else:
            self.motion = self._monitor.motion(window)
        decision = self._controller.decide(self.motion, stamp_ns)
        if self._controller.finer(decision.precision, self.decision.precision):
            self._crossing_ns = stamp_ns
        elif decision.precision != self.decision.precision:
            self._crossing_ns = None
        self.decision = decision
        return decision

    def due(self, now_ns: int) -> bool:
        """Whether to take a step: nothing runs, a finer precision is asked for, or the last observation is old."""
        command = self._command
        if command is None or self._controller.finer(self.decision.precision, command.decision.precision):
            return True
        age_ns = now_ns - command.observation_stamp_ns
        return not 0 <= age_ns < self._config.replan_period_s * 1e9

    def step(self, observation: Observation, decision: Decision, clock: Callable[[], int]) -> Command:
        """Answer an observation.

        Args:
            observation: what the robot sees.
            decision: that was in force when it was taken.
            clock: tells the time in ns, on the clock of the observation's stamp.

        Raises:
            PrecisionFailedError: that precision cannot be computed.
            VlaqError: the policy cannot use the observation, or answered what no robot can follow.
        """
        start_ns = clock()
        guide = self.guide(observation)
        try:
            chunk = self._policy.infer(observation, decision.precision, self.noise(), guide)
        except VlaqError:
            raise
        except Exception as error:  # of a kernel, of the driver, of the allocator: another precision may do without
            raise PrecisionFailedError(decision.precision, error) from error
        now_ns = clock()
        return self.command(observation, decision, chunk, now_ns, (now_ns - start_ns) * 1e-9, guided=guide is not None)

    def noise(self) -> FloatArray:
        """Draw what the next flow starts from."""
        self.draws += 1
        return self._random.standard_normal(self._policy.noise_shape)

    @property
    def delay_s(self) -> float:
        """How long the arm moves on from an observation to the command that answers it; nan before that is known."""
        return max(self.delays_s, default=math.nan)

    def guide(self, observation: Observation) -> Guide | None:
        """Say where the running motion will lead after an observation, for the chunk that is to continue it.

        It is in SI units and relative to the observation, so a chunk of one precision may continue one of another.

        Returns:
            None where nothing is left to continue or seams are not guided.
        """
        command, chunk = self._command, self._chunk
        if self._config.seam != "guided" or not self._policy.guidable or not self.delays_s:
            return None
        if command is None or chunk is None:
            return None
        stamp_ns, positions = observation.stamp_ns, observation.joint_positions
        running = self._running(positions, stamp_ns)
        if running is not command.trajectory:  # the arm does not follow it
            return None
        times_ns = step_times(len(chunk.actions), chunk.step_s)
        end_ns = command.observation_stamp_ns + int(times_ns[-1]) - stamp_ns  # what follows is the brake
        weights = commitment(times_ns, delay_ns=round(self.delay_s * 1e9), end_ns=end_ns)
        if not weights.any():
            return None
        targets, _, _ = sample(running, stamp_ns + times_ns)
        return Guide(self._kinematics.relative_actions(targets, positions, chunk.space), weights)

    def command(
        self,
        observation: Observation,
        decision: Decision,
        chunk: ActionChunk,
        now_ns: int,
        inference_s: float,
        *,
        guided: bool,
    ) -> Command:
        """Turn a chunk into the motion that takes over from the running one at `now_ns`.

        Args:
            observation: that the chunk answers.
            decision: that it was computed under.
            chunk: of the policy.
            now_ns: when it takes over.
            inference_s: what computing it took.
            guided: whether it continues the running motion by itself.

        Raises:
            ActionSizeError: the chunk does not fit the arm.
            RejectedChunkError: the chunk is no motion of this arm.
        """
        targets = self._kinematics.joint_targets(chunk, observation.joint_positions)
        self._safety.admit(targets, observation.joint_positions)
        running = self._running(observation.joint_positions, observation.stamp_ns)
        joined = splice(
            targets,
            observation_stamp_ns=observation.stamp_ns,
            step_s=chunk.step_s,
            now_ns=now_ns,
            running=running,
            blend_s=0.0 if guided or self._config.seam == "naive" else self._config.blend_s,
        )
        trajectory, violations = self._safety.enforce(joined, running)
        self._measure_upswitch(decision, now_ns)
        if self._chunk is not None:
            self.delays_s.append((now_ns - observation.stamp_ns) * 1e-9)
        self._chunk = chunk
        self._command = command = Command(trajectory, decision, observation.stamp_ns, inference_s, violations)
        return command

    def late_s(self, command: Command, now_ns: int) -> float:
        """How long the arm has been braking or resting for want of a successor of its command; 0 while it is not."""
        chunk = self._chunk
        if chunk is None:
            return 0.0
        end_ns = command.observation_stamp_ns + int(step_times(len(chunk.actions), chunk.step_s)[-1])
        return max(now_ns - end_ns, 0) * 1e-9

    def hold(self, window: JointWindow, now_ns: int) -> Trajectory:
        """Brake from what is commanded and stay there; what was commanded is forgotten.

        Args:
            window: its newest sample says where the arm is, if that is not where it was sent.
            now_ns: when to begin.
        """
        trajectory = self._safety.stop(self._running(window.positions[-1], window.stamp_ns), now_ns)
        self.reset()
        return trajectory

    def reset(self, command: Command | None = None) -> None:
        """Forget the last command, where it never took effect; `command` is the one that did, None for none."""
        self._command = command

    def _running(self, positions: FloatArray, stamp_ns: int) -> Trajectory:
        """What the arm is doing: the last command, or standing where it is measured if it does not follow that.

        It does not after a jump in time or a reset of the robot, or when the controller rejected the command. The
        gripper is not asked: an object keeps it from its target.
        """
        standing = at_rest(self._kinematics.joint_names, positions, stamp_ns)
        command = self._command
        if command is None:
            return standing
        last = command.trajectory
        elapsed_ns = stamp_ns - last.stamp_ns
        if 0 <= elapsed_ns < last.times_ns[0]:  # measured before that command took effect
            return last
        expected, _, _ = sample(last, stamp_ns)
        error_rad = np.abs(expected - positions)[:-1].max()
        return last if elapsed_ns >= 0 and error_rad <= self._config.tracking_tolerance_rad else standing

    def _measure_upswitch(self, decision: Decision, now_ns: int) -> None:
        """Measure how long the arm waited for a finer precision, once for each crossing."""
        crossing_ns = self._crossing_ns
        self.upswitch_s = None
        if crossing_ns is None or crossing_ns == self._answered_ns:
            return
        if not self._controller.finer(self.decision.precision, decision.precision):
            self._answered_ns = crossing_ns
            self.upswitch_s = (now_ns - crossing_ns) * 1e-9
