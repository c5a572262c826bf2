"""Events of replays whose scores are known: an arm turns evenly about its base, and chunks are off by so much."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vlaq_ros.bags.measured import Measured
from vlaq_ros.bags.reference import Reference
from vlaq_ros.control.chunks import step_times
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.precision import PrecisionRule
from vlaq_ros.datatypes import (
    ActionChunk,
    ActionSpace,
    Command,
    Decision,
    FloatArray,
    Motion,
    Observation,
    Trajectory,
    Violations,
)
from vlaq_ros.replay.replayed import Answer, Look
from vlaq_ros.sim import panda

KINEMATICS = Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME)
HOME = np.array([*panda.HOME_RAD, 0.04])
RULES = (PrecisionRule("fine", 0.5), PrecisionRule("coarse", -0.5))
START_NS = 10_000_000_000
STEP_S, STEPS = 0.05, 16
STEP_NS = 50_000_000
SPEED_RAD_S = 0.2  # of the first joint, whose axis is vertical
RADIUS_M = float(np.linalg.norm(KINEMATICS.forward(HOME[None])[0][0, :2]))  # of the tool's circle about it


def chord_m(angle_rad: float) -> float:
    """How far the tool is off where the first joint is off by so much."""
    return 2 * RADIUS_M * float(np.sin(angle_rad / 2))


def reference(seconds: float = 20.0, gripper_m: Mapping[float, float] | None = None) -> Reference:
    """An arm that turns evenly; its gripper moves in straight lines between positions at some times (s -> m)."""
    times_s = np.arange(0, seconds + 1e-9, 0.01)
    joints = np.tile(HOME, (len(times_s), 1))
    joints[:, 0] += SPEED_RAD_S * times_s
    if gripper_m:
        joints[:, 7] = np.interp(times_s, list(gripper_m), list(gripper_m.values()))
    stamps_ns = START_NS + np.rint(times_s * 1e9).astype(np.int64)
    return Reference(
        start_ns=START_NS,
        end_ns=int(stamps_ns[-1]),
        offset_ns=0,
        motion=Measured(stamps_ns, joints),
        told=(),
        repeated_ns=(),
        commands=(),
        instructions=(),
        precisions=(np.zeros(0, dtype=np.int64), ()),
        urdf="",
        journal=False,
        lines=("the wrist camera began 2.0 s late",),
        camera_rates_hz={},
        camera_sizes_px={},
        joint_rate_hz=100.0,
    )


def ns(time_s: float) -> int:
    """A stamp, so long after the beginning."""
    return START_NS + round(time_s * 1e9)


def look(time_s: float, sensitivity: float | None, precision: str = "fine", *blocking: str, jump: str = "") -> Look:
    """The pilot looks at the motion."""
    motion = None if sensitivity is None else Motion(ns(time_s), 0.0, 0.0, sensitivity)
    decision = Decision(precision, np.nan if sensitivity is None else sensitivity, f"at {time_s}")
    return Look(ns(time_s), None, decision, motion, blocking, 0.0, jump)


def answer(
    recorded: Reference,
    seen_s: float,
    *,
    delay_s: float = 0.1,
    off_rad: Mapping[str, float] | None = None,
    flown_rad: float | FloatArray = 0.0,
    decision: Decision | None = None,
    command: Trajectory | None = None,
    violations: Violations = Violations(),  # noqa: B008  # frozen
    fault: str = "",
    rejected: str = "",
    lag_s: float = 0.0,
) -> Answer:
    """An answer whose chunks follow the recording, with the first joint off by so much.

    Args:
        recorded: what they follow.
        seen_s: when it was observed.
        delay_s: from then to the command.
        off_rad: by precision.
        flown_rad: of the chunk that flew; one value or one for every step.
        decision: that it was computed under.
        command: that left; without one, and without a fault, a motion through the chunk's targets.
        violations: of the command.
        fault: why no command left.
        rejected: the kind of that.
        lag_s: how far the chunks are behind the recording.
    """
    decision = decision or Decision("fine", 1.0, "fixed")
    stamp_ns = ns(seen_s)
    times_ns = step_times(STEPS, STEP_S)
    followed = recorded.at(stamp_ns + times_ns - round(lag_s * 1e9))
    observed = recorded.at(np.array([stamp_ns]))[0]

    def off(angle_rad: float | FloatArray) -> FloatArray:
        targets = followed.copy()
        targets[:, 0] += angle_rad
        return targets

    flown = off(flown_rad)
    actions = flown - np.append(observed[:-1], 0.0)
    motion = command or Trajectory(stamp_ns, panda.JOINT_NAMES, np.append(0, times_ns), np.vstack([observed, flown]))
    return Answer(
        observation=Observation(stamp_ns, {}, panda.JOINT_NAMES, observed, "wave"),
        took_over_ns=stamp_ns + round(delay_s * 1e9),
        decision=decision,
        chunk=ActionChunk(stamp_ns, STEP_S, ActionSpace.JOINT, actions),
        command=None if fault else Command(motion, decision, stamp_ns, 0.05, violations),
        fault=fault,
        rejected=rejected,
        targets={name: off(angle_rad) for name, angle_rad in (off_rad or {}).items()},
        inference_s={decision.precision: 0.05},
    )
