"""Which joint is which, and in which unit: the one place where names and numbers of messages become the URDF's."""

from __future__ import annotations

import math
from typing import Self

import numpy as np

from vlaq_ros.config import JointConfig, RobotConfig
from vlaq_ros.datatypes import FloatArray
from vlaq_ros.errors import JointNamesError

_UNITS = {"si": 1.0, "deg": math.radians(1.0), "mm": 1e-3}


class JointMap:
    """The joints of a policy under their three names, in the order of its state: the arm, then the gripper.

    Args:
        robot: says how they are called and counted.
        policy: their names in the checkpoint.

    Raises:
        JointNamesError: the robot file knows no joint by one of these names.

    Attributes:
        policy, urdf, message: their names [J] in the checkpoint, in the URDF, and in joint states and commands.
    """

    def __init__(self, robot: RobotConfig, policy: tuple[str, ...]) -> None:
        known = dict(zip(_policy_names(robot), robot.joint_names, strict=True))
        if missing := [name for name in policy if name not in known]:
            raise JointNamesError(missing, known, "the robot file")
        self.policy = policy
        self.urdf = tuple(known[name] for name in policy)
        joints = [robot.joints.get(name, JointConfig()) for name in self.urdf]
        self.message = tuple(joint.message or name for joint, name in zip(joints, self.urdf, strict=True))
        self._scales: FloatArray = np.array([joint.scale * _UNITS[joint.unit] for joint in joints])
        self._offsets: FloatArray = np.array([joint.offset for joint in joints])

    @classmethod
    def whole(cls, robot: RobotConfig) -> Self:
        """All joints of a robot, in the order of its file."""
        return cls(robot, _policy_names(robot))

    def positions(self, values: FloatArray) -> FloatArray:
        """Positions [*, J] rad (m) of the URDF's joints, from the values in a message."""
        return values * self._scales + self._offsets

    def rates(self, values: FloatArray) -> FloatArray:
        """Velocities [*, J] rad/s (m/s) from the values in a message; accelerations likewise."""
        return values * self._scales

    def message_positions(self, positions: FloatArray) -> FloatArray:
        """Values [*, J] for a message, from positions rad (m): the inverse of `positions`."""
        return (positions - self._offsets) / self._scales

    def message_rates(self, rates: FloatArray) -> FloatArray:
        """Values [*, J] for a message, from velocities or accelerations: the inverse of `rates`."""
        return rates / self._scales


def _policy_names(robot: RobotConfig) -> tuple[str, ...]:
    return tuple(robot.joints.get(name, JointConfig()).policy or name for name in robot.joint_names)
