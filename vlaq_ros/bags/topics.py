"""The topics that a replay reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from vlaq_ros.bags.rosbag import INSTRUCTION, JOINTS, POSITIONS, TEXT, TRAJECTORY, absolute, image_type
from vlaq_ros.config import RobotConfig
from vlaq_ros.errors import CameraNamesError

_PILOT = "pilot/"  # the node's name
_COMMANDS = {"JointTrajectory": TRAJECTORY, "Float64MultiArray": POSITIONS}


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics that a replay reads, by what they are to it; absolute names."""

    cameras: dict[str, str]  # by the camera's name
    joint_states: str
    instruction: str
    arm: str  # commands of it
    gripper: str  # likewise; empty where it is commanded with the arm, or by an action
    description: str
    precision: str  # these are the pilot's
    session: str
    journal: str
    types: dict[str, str]  # of every topic above
    rates_hz: dict[str, float]  # of the cameras, as the robot file says
    commanded: dict[str, tuple[str, ...]]  # joints (URDF) whose positions a topic of commands tells, in its order

    @classmethod
    def of(cls, robot: RobotConfig, cameras: Sequence[str], namespace: str = "") -> Self:
        """Name the topics of a robot.

        Args:
            robot: as its file says.
            cameras: that the policy looks through.
            namespace: of the robot, with or without slashes; empty for none.

        Raises:
            CameraNamesError: the robot file lacks a camera.
        """
        if missing := [name for name in cameras if name not in robot.cameras]:
            raise CameraNamesError(missing, robot.cameras)

        def name(topic: str) -> str:
            return absolute(topic, namespace)

        finger = (robot.gripper_joint,)
        together = robot.gripper.type == "joint"
        arm = name(robot.arm.topic)
        gripper = name(robot.gripper.topic) if robot.gripper.type == "Float64MultiArray" else ""
        seen = {camera: name(robot.cameras[camera].topic) for camera in cameras}
        joint_states, description = name(robot.joint_state_topic), name(robot.description_topic)
        said = {field: name(_PILOT + field) for field in ("precision", "session", "journal")}
        instruction = name(INSTRUCTION.lstrip("/"))
        types = {topic: image_type(robot.cameras[camera]) for camera, topic in seen.items()}
        types |= {joint_states: JOINTS, arm: _COMMANDS[robot.arm.type]}
        types |= {gripper: POSITIONS} if gripper else {}
        types |= dict.fromkeys((instruction, description, *said.values()), TEXT)
        return cls(
            cameras=seen,
            joint_states=joint_states,
            instruction=instruction,
            arm=arm,
            gripper=gripper,
            description=description,
            **said,
            types=types,
            rates_hz={camera: robot.cameras[camera].rate_hz for camera in cameras},
            commanded={arm: (*robot.arm_joints, *finger) if together else robot.arm_joints}
            | ({gripper: finger} if gripper else {}),
        )
