"""A robot's file and its file of limits, by themselves and beside a model."""

from __future__ import annotations

from pathlib import Path

from vlaq_ros.config import RobotConfig
from vlaq_ros.doctor.finding import Finding, Level, ok
from vlaq_ros.errors import CameraNamesError, VlaqError
from vlaq_ros.joints import JointMap
from vlaq_ros.policy.spec import PolicySpec


def robot(name: str, model: Path) -> Finding:
    """Read a robot file as the pilot does.

    Args:
        name: path, or the name of a shipped robot.
        model: directory of the model that it shall run.
    """
    try:
        config = RobotConfig.load(name)
        config.joint_limits()
        spec = PolicySpec.load(model)
        joints = JointMap(config, spec.joint_names)
        if missing := [camera for camera in spec.cameras if camera not in config.cameras]:
            raise CameraNamesError(missing, config.cameras)
    except VlaqError as error:
        return Finding("robot file", Level.FAIL, str(error))  # which says what was expected and what to do
    return ok("robot file", f"{name}: {len(joints.urdf)} joints with limits, cameras {', '.join(spec.cameras)}")
