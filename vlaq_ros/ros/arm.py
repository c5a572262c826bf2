"""The arm without a policy: brought to a pose while the pilot commands nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from vlaq_ros.config import RobotConfig
from vlaq_ros.control.approach import approach
from vlaq_ros.control.interpolation import sample
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.safety import JointLimits, Safety
from vlaq_ros.datatypes import FloatArray, Trajectory
from vlaq_ros.errors import BadValueError, NoDescriptionError, VlaqError
from vlaq_ros.evaluate.trial import StartConfig
from vlaq_ros.joints import JointMap
from vlaq_ros.observe import JOINT_STATES, Observer
from vlaq_ros.ros.outputs import Outputs
from vlaq_ros.ros.qos import LATCHED
from vlaq_ros.ros.station import Station

_FIND_TIMEOUT_S = 20.0
_REST_S = 0.4  # an arm that has moved by less than a quarter of the tolerances for so long is at rest
_REST_TIMEOUT_S = 15.0
_MAX_JOINT_AGE_S = 0.5
_TRIES = 3  # a controller that has just been found, or hears of a motion after its end, misses one
_CHECKS = 50  # points of the way at which the tool must be in the workspace


class OutOfPlaceError(VlaqError):
    """The arm is not where a trial begins, and cannot be brought there."""


class Arm:
    """One robot's joints.

    Args:
        station: whose node listens and commands; in the robot's namespace.
        robot: its topics and limits.

    Raises:
        NoDescriptionError: the robot does not say what it looks like.
        ConfigError: its limits cannot be used.
    """

    def __init__(self, station: Station, robot: RobotConfig) -> None:
        self._station, self._robot = station, robot
        node, joints = station.node, JointMap.whole(robot)
        descriptions: list[str] = []
        description = node.create_subscription(
            String, robot.description_topic, lambda message: descriptions.append(message.data), LATCHED
        )
        if not station.wait(lambda: bool(descriptions), _FIND_TIMEOUT_S):
            raise NoDescriptionError(description.topic_name, _FIND_TIMEOUT_S)
        self._kinematics = Kinematics(descriptions[0], joints.urdf, robot.tool_frame)
        self._limits = JointLimits.of(self._kinematics, robot)
        self._safety = Safety(self._kinematics, robot)
        self._observer = Observer(  # of no camera
            (), joints, max_image_age_s=0.0, max_camera_skew_s=0.0, max_joint_age_s=_MAX_JOINT_AGE_S
        )
        node.create_subscription(
            JointState, robot.joint_state_topic, self._observer.push_joints, qos_profile_sensor_data
        )
        self._outputs = Outputs(node, robot, joints, dry_run=False)

    def check(self, start: StartConfig) -> None:
        """Hold a start pose against the limits.

        Raises:
            BadValueError: it lies beyond them.
        """
        lower, upper = self._limits.positions.T
        for name, position, least, most in zip(
            self._kinematics.joint_names, start.positions, lower, upper, strict=True
        ):
            if not least <= position <= most:
                raise BadValueError("start.positions", position, f"{least:.4g} to {most:.4g} for {name}", "the plan")

    def bring(self, start: StartConfig, check: Callable[[], None]) -> None:
        """Bring the arm to the start pose, unless it is there.

        Args:
            start: where to, and how fast.
            check: called over and over on the way; when it raises, the arm brakes.

        Raises:
            OutOfPlaceError: it does not come to rest there.
        """
        goal = np.array(start.positions)
        for _ in range(_TRIES):
            pose = self._rest(start)
            if not _astray(pose, start).any():
                return
            self._go(pose, goal, start.velocity_share, check)
        pose = self._rest(start)
        astray = _astray(pose, start)
        if astray.any():
            joint = int(astray.argmax())
            raise OutOfPlaceError(
                f"{self._kinematics.joint_names[joint]} is at {pose[joint]:.4f} after the way to the start pose, "
                f"expected {goal[joint]:.4f}; see whether its controller runs and whether it is blocked"
            )

    def _rest(self, start: StartConfig) -> FloatArray:
        """Wait until the arm is at rest, and say where [J] rad (m)."""
        self._station.wait(lambda: not self._unrest(start), _REST_TIMEOUT_S)
        window, why = self._observer.joints(0.0), self._unrest(start)
        if window is None or why:
            raise OutOfPlaceError(f"the arm did not come to rest within {_REST_TIMEOUT_S:.0f} s: {why}")
        position: FloatArray = window.positions[-1]
        return position

    def _unrest(self, start: StartConfig) -> str:
        """Say why the arm is not known to be at rest; empty where it is."""
        window, age_s = self._observer.joints(_REST_S), self._observer.ages_s(self._station.now_ns())[JOINT_STATES]
        if window is None:
            return f"no joint state came on {self._robot.joint_state_topic}"
        if age_s > _MAX_JOINT_AGE_S:
            return f"its joint states are {age_s:.2f} s old"
        if (seen_s := np.ptp(window.stamps_ns) * 1e-9) < _REST_S:
            return f"its joint states cover {seen_s:.2f} s, expected {_REST_S} s"
        moved = np.ptp(window.positions, axis=0)
        joint = int((moved / _tolerances(start)).argmax())
        if moved[joint] <= _tolerances(start)[joint] / 4:
            return ""
        return f"{window.names[joint]} has moved by {moved[joint]:.4f} in the last {seen_s:.1f} s"

    def _go(self, pose: FloatArray, goal: FloatArray, velocity_share: float, check: Callable[[], None]) -> None:
        """Move from rest to rest, and wait for the end."""
        motion = approach(
            self._kinematics.joint_names,
            pose,
            goal,
            self._limits,
            velocity_share=velocity_share,
            stamp_ns=self._station.now_ns(),
        )
        self._check_workspace(motion)
        end_ns = motion.stamp_ns + int(motion.times_ns[-1])
        self._outputs.activate()
        self._outputs.send(motion)
        try:
            while self._station.now_ns() < end_ns:
                self._station.tick()
                check()
        except BaseException:  # Ctrl-C too
            self._outputs.send(self._safety.stop(motion, self._station.now_ns()))
            raise
        finally:
            self._outputs.deactivate()

    def _check_workspace(self, motion: Trajectory) -> None:
        stamps_ns = motion.stamp_ns + np.linspace(0, motion.times_ns[-1], _CHECKS).astype(np.int64)
        tool_m = self._kinematics.forward(sample(motion, stamps_ns)[0])[0]
        safety = self._robot.safety
        lower = np.minimum(safety.workspace_lower_m, tool_m[0])  # a tool that is outside may come back in
        upper = np.maximum(safety.workspace_upper_m, tool_m[0])
        outside = (tool_m < lower) | (tool_m > upper)
        if outside.any():
            x, y, z = tool_m[outside.any(axis=1)][0]
            raise OutOfPlaceError(
                f"the way to the start pose leads the tool to ({x:.3f}, {y:.3f}, {z:.3f}) m, out of the robot's "
                "workspace; bring the arm nearer by hand"
            )


def _tolerances(start: StartConfig) -> FloatArray:
    return np.array([start.tolerance_rad] * (len(start.positions) - 1) + [start.gripper_tolerance])


def _astray(pose: FloatArray, start: StartConfig) -> FloatArray:
    """How far each joint [J] is beyond its tolerance, rad (m); 0 within."""
    beyond: FloatArray = np.abs(pose - np.array(start.positions)) - _tolerances(start)
    return beyond.clip(min=0.0)
