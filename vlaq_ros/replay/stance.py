"""How far one motion of the arm lies from another at the same times, in joints and at the tool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import FloatArray


@dataclass(frozen=True, slots=True)
class StanceErrors:
    """Distances at T times; nan where either motion is unknown."""

    joints: FloatArray  # [T, J] rad (m), absolute
    tool_m: FloatArray  # [T] between the tool's positions
    tool_rad: FloatArray  # [T] between its orientations

    @property
    def columns(self) -> FloatArray:
        """All of them [T, 2 + J]: tool_m, tool_rad, joints."""
        return np.column_stack([self.tool_m, self.tool_rad, self.joints])


@dataclass(frozen=True, slots=True)
class Stance:
    """Joint positions at T times, and where the tool is then by forward kinematics."""

    joints: FloatArray  # [T, J] rad (m)
    tool: FloatArray  # [T, 3] m, in the root link
    rotations: FloatArray  # [T, 3, 3]

    @classmethod
    def of(cls, kinematics: Kinematics, joints: FloatArray) -> Self:
        """Find the tool for joint positions [T, J] rad (m); nan where one of them is."""
        return cls(joints, *kinematics.forward(joints))

    def errors(self, other: Stance) -> StanceErrors:
        """Measure how far this is from another [T] at the same times."""
        # |A - B| of two rotations is sqrt(8) sin(angle / 2): unlike the trace, exact for the smallest angles
        chord = np.linalg.norm(self.rotations - other.rotations, axis=(1, 2)) / np.sqrt(8)
        return StanceErrors(
            np.abs(self.joints - other.joints),
            np.linalg.norm(self.tool - other.tool, axis=1),
            2 * np.arcsin(np.minimum(chord, 1.0)),
        )
