"""What of a motion lies beyond a robot's limits, judged apart from `control.safety`: on a grid, as it is executed."""

from __future__ import annotations

import numpy as np

from vlaq_ros.config import RobotConfig
from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.safety import JointLimits
from vlaq_ros.datatypes import FloatArray, Trajectory

STEP_NS = 1_000_000
POSES = 20  # steps between two poses of the tool that are looked at
HAIR = 1e-3  # of a limit; rad or m where it is a position


def excess(motion: Trajectory, kinematics: Kinematics, robot: RobotConfig) -> dict[str, str]:
    """Say which limits a motion does not hold, between its first and last point.

    Returns:
        Sentences by limit; one that is held is not in it.
    """
    limits = JointLimits.of(kinematics, robot)
    lower, upper = limits.positions.T
    first_ns, last_ns = motion.stamp_ns + motion.times_ns[[0, -1]]
    positions, velocities, accelerations = sample(motion, np.arange(first_ns, last_ns + 1, STEP_NS))
    jerks = np.diff(accelerations, axis=0) / (STEP_NS * 1e-9)
    tool, _ = kinematics.forward(positions[::POSES])
    box = robot.safety.workspace_lower_m, robot.safety.workspace_upper_m
    beyond: dict[str, FloatArray] = {
        "position": np.maximum(lower - positions, positions - upper),
        "velocity": np.abs(velocities) / limits.velocities - 1.0,
        "acceleration": np.abs(accelerations) / limits.accelerations - 1.0,
        "jerk": np.abs(jerks) / limits.jerks - 1.0,
        "workspace": np.maximum(box[0] - tool, tool - box[1]),
        "rest": np.abs(sample(motion, last_ns - 1)[1]),
    }
    return {name: f"{values.max():.4f} beyond" for name, values in beyond.items() if values.max() > HAIR}
