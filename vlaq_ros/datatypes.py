"""The words of the package as values: frozen, numpy only, imported by every room.

Axis letters: T chunk steps, A action dimensions, J joints, N samples in a window.
Time is integer nanoseconds from header stamps; every scalar carries its unit in its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
ImageArray = NDArray[np.uint8]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class JointWindow:
    """The most recent joint samples, oldest first, columns in the order of `names`."""

    names: tuple[str, ...]
    stamps_ns: IntArray  # [N], strictly increasing
    positions: FloatArray  # [N, J] rad (m for a prismatic joint)
    velocities: FloatArray  # [N, J] rad/s (m/s)

    @property
    def stamp_ns(self) -> int:
        """Stamp of the newest sample."""
        return int(self.stamps_ns[-1])


@dataclass(frozen=True, slots=True)
class Observation:
    """What the policy sees, at one stamp."""

    stamp_ns: int  # exposure of the newest image; the joint state is interpolated to it
    images: dict[str, ImageArray]  # camera name -> [H, W, 3] RGB
    joint_names: tuple[str, ...]
    joint_positions: FloatArray  # [J] rad (m), at stamp_ns
    instruction: str


@dataclass(frozen=True, slots=True)
class Stale:
    """Why there is no observation now: one sentence per input that blocks, with its measured value."""

    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Motion:
    """What the kinematic monitor says of the arm now (DyQ-VLA; docs/methods in the repo)."""

    stamp_ns: int
    motion_fineness: float  # 1 - normalised end-effector speed, smoothed; 1 at rest
    angular_jerk: float  # normalised change of the end-effector rotation, smoothed
    sensitivity: float  # S, their fusion, >= 0


@dataclass(frozen=True, slots=True)
class MotionScales:
    """What motion is divided by; it belongs to the arm, its tasks and its policy, so it comes with the bundle."""

    period_s: float  # control period T
    displacement_m: float  # mu: 95th percentile of the tool's displacement over one period
    rotation_rad: float  # nu: of the change of the tool's rotation from one period to the next


@dataclass(frozen=True, slots=True)
class Decision:
    """The Precision in force, and why."""

    precision: str
    sensitivity: float  # S; nan where the motion is unknown
    reason: str


class ActionSpace(StrEnum):
    """What the columns of an action mean; every row is relative to the observation, not to the row before."""

    JOINT = "joint"  # [dq_1 .. dq_n rad, gripper joint position m]
    END_EFFECTOR = "end_effector"  # [dx dy dz m, rotation vector rad (both in the base frame), gripper m]


@dataclass(frozen=True, slots=True)
class ActionChunk:
    """What a policy answers. Row k is the target `(k + 1) * step_s` after `stamp_ns`."""

    stamp_ns: int  # of the observation it was computed from
    step_s: float
    space: ActionSpace
    actions: FloatArray  # [T, A], de-normalised, SI; the gripper column is absolute


@dataclass(frozen=True, slots=True)
class Guide:
    """What the arm is committed to, as actions relative to a new observation: where its flow is to lead.

    Real-time chunking (Black, Galliker and Levine, arXiv 2506.07339).
    """

    actions: FloatArray  # [T, A], in the space and units of an ActionChunk's; rows of weight 0 are not read
    weights: FloatArray  # [T] in [0, 1]: 1 for a step that is executed before the answer comes, 0 for a free one


@dataclass(frozen=True, slots=True)
class Violations:
    """What of a chunk a robot's limits did not allow: how many points of the motion lie on a limit or were cut off."""

    position: int = 0
    velocity: int = 0
    acceleration: int = 0
    jerk: int = 0
    workspace: int = 0  # points cut off, because the tool would have left its box


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A timed joint motion; the same thing as trajectory_msgs/JointTrajectory, as arrays."""

    stamp_ns: int  # 0: starts when it is received
    joint_names: tuple[str, ...]
    times_ns: IntArray  # [T] time_from_start, strictly increasing
    positions: FloatArray  # [T, J] rad (m)
    velocities: FloatArray | None = None  # [T, J] rad/s (m/s)
    accelerations: FloatArray | None = None  # [T, J] rad/s^2 (m/s^2)


@dataclass(frozen=True, slots=True)
class Command:
    """What leaves for the controllers: a spliced, limited trajectory and why it looks so."""

    trajectory: Trajectory  # ends at rest
    decision: Decision
    observation_stamp_ns: int
    inference_s: float
    violations: Violations  # that were clipped in this command


class Policy(Protocol):
    """A vision-language-action policy that is held at several precisions (declared for `pilot`)."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """Names of the loaded precisions, finest first."""
        ...

    @property
    def noise_shape(self) -> tuple[int, int]:
        """T, A of the noise that a flow starts from; A may exceed the columns of an action."""
        ...

    @property
    def guidable(self) -> bool:
        """Whether `infer` follows a guide."""
        ...

    def infer(
        self, observation: Observation, precision: str, noise: FloatArray, guide: Guide | None = None
    ) -> ActionChunk:
        """Compute one chunk; `noise` of `noise_shape`, standard normal, is the start of the flow.

        Raises:
            UnknownPrecisionError: `precision` is not loaded.
        """
        ...
