"""Calibration data as a user names it: a recording or demonstrations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vlaq_ros.bags.rosbag import find_bags
from vlaq_ros.calibrate.bags import from_bags
from vlaq_ros.calibrate.buffer import Buffer
from vlaq_ros.config import RobotConfig
from vlaq_ros.errors import CalibrationDataError
from vlaq_ros.policy.description import Description


def open_data(
    path: Path,
    robot: RobotConfig,
    policy: Description,
    *,
    instruction: str | None,
    count: int,
    seed: int,
    report: Callable[[int], None],
) -> Buffer:
    """Draw observations from what lies at a path.

    Args:
        path: a rosbag2 recording, a directory of them, or a directory of demonstrations.
        robot: whose topics were recorded.
        policy: whose cameras, joints and instructions the data must hold.
        instruction: what the robot was asked to do; None for what a recording says itself.
        count: how many observations.
        seed: of the choice and of the noise.
        report: called with the number of observations done since the last call.

    Raises:
        CalibrationDataError: there is neither.
        VlaqError: as `from_bags` and `from_demonstrations` say.
    """
    if bags := find_bags(path):
        return from_bags(bags, robot, policy, instruction=instruction, count=count, seed=seed, report=report)
    if path.is_dir() and any(path.glob("*.npz")):
        from vlaq_ros.calibrate.simulated import from_demonstrations  # noqa: PLC0415 - a bag needs no simulator

        return from_demonstrations(path, policy, count=count, seed=seed, report=report)
    raise CalibrationDataError(path)
