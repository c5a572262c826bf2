"""What commands the robot: a motion as the messages that its controllers take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from vlaq_ros.config import RobotConfig
from vlaq_ros.control.interpolation import sample
from vlaq_ros.datatypes import FloatArray, Trajectory
from vlaq_ros.errors import BadValueError, JointNamesError
from vlaq_ros.joints import JointMap
from vlaq_ros.ros import encode, gripper
from vlaq_ros.ros.clocks import STEADY

_LEAD_NS = 20_000_000  # a message takes less than this to its controller
_SETTLE_NS = 500_000_000  # streaming goes on for this long at rest
_GOAL_STEP = 0.05  # of the gripper's range: a target that moved less is no new goal of its action

Stream = Callable[[FloatArray, bool], None]  # takes the values [J] of all joints in messages; whether the arm rests


class Outputs:
    """Publishes motions for the arm and the gripper, as the robot file says.

    A JointTrajectory goes out whole; everything else is sampled from the last motion, on the node's clock, at
    `arm.rate_hz` until the motion rests. Publishers are plain ones behind a switch of our own, as rclpy never forgets a
    lifecycle publisher: a node that is configured again and again would keep them all.

    Args:
        node: that they belong to; every method is called in its executor's thread.
        robot: which controllers listen, and where.
        joints: translates motions into the controllers' names and units.
        dry_run: everything goes to ~/shadow/TOPIC instead; an action becomes a Float64MultiArray there.

    Raises:
        JointNamesError: the policy does not command a joint of the arm.
        MissingDependencyError: the gripper's action needs control_msgs, which is not installed.
        BadValueError: the gripper's action needs the range of its joint, which the limits file does not give.
    """

    def __init__(self, node: Node, robot: RobotConfig, joints: JointMap, *, dry_run: bool) -> None:
        if missing := [name for name in robot.joint_names if name not in joints.urdf]:
            raise JointNamesError(missing, joints.urdf, "the policy's state")
        self._node, self._joints, self._dry_run = node, joints, dry_run
        self._replacement = robot.arm.replacement
        self._publishers: list[Publisher[Any]] = []
        self._streams: list[Stream] = []
        self._whole: Publisher[JointTrajectory] | None = None
        self._action: gripper.GripperAction | None = None
        self._active = False
        self._motion: Trajectory | None = None  # that is streamed

        finger = joints.urdf.index(robot.gripper_joint)
        if robot.gripper.type == "Float64MultiArray" or (dry_run and robot.gripper.type != "joint"):
            self._stream_positions(robot.gripper.topic, [finger])
        elif robot.gripper.type != "joint":
            self._stream_goals(robot, finger)  # first, as it may raise
        arm = robot.joint_names if robot.gripper.type == "joint" else robot.arm_joints
        self._arm = [joints.urdf.index(name) for name in arm]
        if robot.arm.type == "JointTrajectory":
            self._whole = self._publisher(JointTrajectory, robot.arm.topic)
        else:
            self._stream_positions(robot.arm.topic, self._arm)
        self._period_ns = round(1e9 / robot.arm.rate_hz)
        # At simulated time's pace where there is one; otherwise by a clock that no jump of the time can stop.
        clock = node.get_clock() if node.get_parameter("use_sim_time").value else STEADY
        self._timer = node.create_timer(self._period_ns * 1e-9, self._tick, clock=clock) if self._streams else None

    def activate(self) -> None:
        """Let motions through."""
        self._active = True

    def send(self, trajectory: Trajectory) -> None:
        """Command a motion, instead of the one before; nothing goes out while inactive.

        Args:
            trajectory: in the joints of the map, SI, stamped.
        """
        if not self._active:
            return
        if self._whole is not None:
            begun = _ahead(trajectory, self._now_ns() + _LEAD_NS) if self._replacement else trajectory
            self._whole.publish(encode.joint_trajectory(self._in_message_terms(begun)))
        if self._timer is not None:
            self._motion = trajectory
            self._timer.reset()

    def deactivate(self) -> None:
        """Let nothing through any more; what is streamed is finished first, so that the arm comes to rest by its brake.

        That takes as long as the motion does: brake before. The executor stands still meanwhile, and so may simulated
        time: the rest of the motion is paced by the machine's.
        """
        if self._active and (motion := self._streamed()):
            end_ns = motion.stamp_ns + int(motion.times_ns[-1])
            for stamp_ns in range(self._now_ns(), end_ns + self._period_ns, self._period_ns):
                self._stream(motion, stamp_ns)
                time.sleep(self._period_ns * 1e-9)
        self._active, self._motion = False, None

    def commanders(self) -> tuple[str, ...]:
        """Names of the other nodes that publish on a topic of ours."""
        own, others = self._node.get_fully_qualified_name(), set()
        for publisher in self._publishers:
            infos = self._node.get_publishers_info_by_topic(publisher.topic_name)
            names = [f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in infos]
            if own in names:
                names.remove(own)  # once: another node may have our name
            others.update(names)
        return tuple(sorted(others))

    def close(self) -> None:
        """Deactivate, and free everything."""
        self.deactivate()
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
        if self._action is not None:
            self._action.close()

    def _publisher(self, kind: type[Any], topic: str) -> Publisher[Any]:
        name = f"~/shadow/{topic.lstrip('/')}" if self._dry_run else topic
        self._publishers.append(self._node.create_publisher(kind, name, 1))
        return self._publishers[-1]

    def _stream_positions(self, topic: str, columns: list[int]) -> None:
        publisher = self._publisher(Float64MultiArray, topic)
        self._streams.append(lambda values, _: publisher.publish(encode.positions(values[columns])))

    def _stream_goals(self, robot: RobotConfig, finger: int) -> None:
        kind, goals = gripper.action(robot.gripper, self._joints.message[finger])
        limits = robot.joint_limits()[robot.gripper_joint]
        ends = np.zeros((2, len(self._joints.urdf)))
        ends[:, finger] = limits.min_position, limits.max_position
        if not np.isfinite(ends).all():
            got = [limits.min_position, limits.max_position]
            expected = "min_position and max_position, as goals are sent in shares of the range"
            raise BadValueError(robot.gripper_joint, got, expected, robot.safety.joint_limits)
        step = _GOAL_STEP * float(np.ptp(self._joints.message_positions(ends)[:, finger]))
        self._action = action = gripper.GripperAction(self._node, kind, robot.gripper.topic, goals, step)
        self._streams.append(lambda values, resting: action.follow(float(values[finger]), resting=resting))

    def _tick(self) -> None:
        motion = self._streamed()
        if motion is not None:
            self._stream(motion, self._now_ns())
        elif self._timer is not None:
            self._timer.cancel()

    def _streamed(self) -> Trajectory | None:
        """The motion to stream now: none where it rests already, or where time has jumped away from it."""
        motion, now_ns = self._motion, self._now_ns()
        if motion is None:
            return None
        begin_ns, end_ns = (motion.stamp_ns + motion.times_ns[[0, -1]]).tolist()
        return motion if begin_ns - _SETTLE_NS <= now_ns <= end_ns + _SETTLE_NS else None

    def _stream(self, motion: Trajectory, stamp_ns: int) -> None:
        values = self._joints.message_positions(sample(motion, stamp_ns)[0])
        resting = stamp_ns >= motion.stamp_ns + int(motion.times_ns[-1])
        for stream in self._streams:
            stream(values, resting)

    def _in_message_terms(self, trajectory: Trajectory) -> Trajectory:
        """The arm's columns of a motion, in the names and units of the controller."""
        joints, columns = self._joints, self._arm
        velocities, accelerations = trajectory.velocities, trajectory.accelerations
        return replace(
            trajectory,
            joint_names=tuple(joints.message[column] for column in columns),
            positions=joints.message_positions(trajectory.positions)[:, columns],
            velocities=None if velocities is None else joints.message_rates(velocities)[:, columns],
            accelerations=None if accelerations is None else joints.message_rates(accelerations)[:, columns],
        )

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds


def _ahead(trajectory: Trajectory, begin_ns: int) -> Trajectory:
    """The points of a motion that lie after `begin_ns`, stamped with that.

    A controller that replaces (ros2_controllers 6.9) follows its old motion until the stamp and bridges from there to
    the first point. A stamp that has passed it takes for now, which would delay every point.
    """
    stamps_ns = trajectory.stamp_ns + trajectory.times_ns
    first = min(int(np.searchsorted(stamps_ns, begin_ns, side="right")), len(stamps_ns) - 1)
    stamp_ns = min(begin_ns, int(stamps_ns[first]))
    velocities, accelerations = trajectory.velocities, trajectory.accelerations
    return replace(
        trajectory,
        stamp_ns=stamp_ns,
        times_ns=stamps_ns[first:] - stamp_ns,
        positions=trajectory.positions[first:],
        velocities=None if velocities is None else velocities[first:],
        accelerations=None if accelerations is None else accelerations[first:],
    )
