"""The pilot: from what the robot sees to what it is told, at the precision that its motion asks for.

    joint states -> watch:  monitor -> controller -> the decision in force
    observation  -> step:   policy at that precision -> joint targets -> splice -> limits -> command

The ROS node and the closed-loop rollout run these lines and no others. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vlaq_ros.config import AUTO, PilotConfig, RobotConfig
from vlaq_ros.control.chunks import at_rest, splice
from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.limits import JointLimits, enforce, stop
from vlaq_ros.control.motion import KinematicMonitor, MonitorConfig
from vlaq_ros.control.precision import PrecisionController, PrecisionRule
from vlaq_ros.datatypes import (
    ActionChunk,
    Command,
    Decision,
    FloatArray,
    JointWindow,
    Motion,
    MotionScales,
    Observation,
    Policy,
    Trajectory,
)
from vlaq_ros.errors import UnknownPrecisionError


class Pilot:
    """Flies one arm with one policy.

    One `step` at a time may run in another thread than everything else.

    Args:
        policy: answers observations with chunks.
        kinematics: of the arm, in the columns of the policy's state.
        scales: what the monitor divides by.
        rules: the policy's precisions, finest first.
        robot: gives the acceleration limits.
        config: gives the precision, periods and tolerances.
        seed: of the noise that a flow starts from.

    Raises:
        UnknownPrecisionError: `config.precision` is none of the policy's.

    Attributes:
        decision: the precision in force for the next inference.
        motion: what the monitor last said; None where the motion is unknown.
        upswitch_s: time from the decision for a finer precision to the command that answered it, where the last
            command was that answer; None otherwise.
        span_s: how long a joint window `watch` needs.
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
        accelerations = np.array([robot.acceleration_limits[name] for name in kinematics.joint_names])
        self._limits = JointLimits(kinematics.position_limits, kinematics.velocity_limits, accelerations)
        self._config = config
        self._random = np.random.default_rng(seed)
        self._command: Command | None = None
        self._crossing_ns: int | None = None  # when the decision became finer than it was before
        self._answered_ns: int | None = None  # the crossing that a command has answered
        self.select(config.precision)
        self.decision = self._controller.decide(None, 0)
        self.motion: Motion | None = None
        self.upswitch_s: float | None = None
        self.span_s = self._monitor.span_s

    def select(self, precision: str) -> None:
        """Fix the precision by its name, or let it follow the motion with `auto`.

        Raises:
            UnknownPrecisionError: the policy has no such precision.
        """
        if precision not in (AUTO, *self._policy.precisions):
            raise UnknownPrecisionError(precision, (AUTO, *self._policy.precisions))
        self._controller.fix(None if precision == AUTO else precision)

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

    def step(self, observation: Observation, clock: Callable[[], int]) -> Command:
        """Answer an observation.

        Args:
            observation: what the robot sees.
            clock: tells the time in ns, on the clock of the observation's stamp.

        Raises:
            VlaqError: the policy cannot use the observation, or answered what no robot can follow.
        """
        decision = self.decision
        start_ns = clock()
        chunk = self._policy.infer(observation, decision.precision, self.noise())
        now_ns = clock()
        return self.command(observation, decision, chunk, now_ns, (now_ns - start_ns) * 1e-9)

    def noise(self) -> FloatArray:
        """Draw what the next flow starts from."""
        return self._random.standard_normal(self._policy.noise_shape)

    def command(
        self, observation: Observation, decision: Decision, chunk: ActionChunk, now_ns: int, inference_s: float
    ) -> Command:
        """Turn a chunk into the motion that takes over from the running one at `now_ns`.

        Raises:
            ActionSizeError: the chunk does not fit the arm.
            NonFiniteActionError: the chunk holds a number that no robot can follow.
        """
        targets = self._kinematics.joint_targets(chunk, observation.joint_positions)
        running = self._running(observation.joint_positions, observation.stamp_ns)
        joined = splice(
            targets,
            observation_stamp_ns=observation.stamp_ns,
            step_s=chunk.step_s,
            now_ns=now_ns,
            running=running,
            blend_s=self._config.blend_s,
        )
        trajectory, clipped = enforce(joined, running, self._limits)
        self._measure_upswitch(decision, now_ns)
        self._command = command = Command(trajectory, decision, observation.stamp_ns, inference_s, clipped)
        return command

    def hold(self, window: JointWindow, now_ns: int) -> Trajectory:
        """Brake from what is commanded and stay there; what was commanded is forgotten.

        Args:
            window: its newest sample says where the arm is, if that is not where it was sent.
            now_ns: when to begin.
        """
        trajectory = stop(self._running(window.positions[-1], window.stamp_ns), now_ns, self._limits)
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
