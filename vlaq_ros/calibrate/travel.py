"""How the arm moved in recordings, as the kinematic monitor sees it: the joint states, cut into episodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from vlaq_ros import messages
from vlaq_ros.bags.rosbag import INSTRUCTION, JOINTS, TEXT, absolute, read
from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.motion import MonitorConfig
from vlaq_ros.datatypes import FloatArray
from vlaq_ros.errors import VlaqError
from vlaq_ros.evaluate.motion import PolicyMotion, UnknownMotion, measure
from vlaq_ros.joints import JointMap
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.sim import panda


def recorded_motion(
    bags: Sequence[Path], robot: RobotConfig, spec: PolicySpec, instruction: str | None, source: str
) -> PolicyMotion | UnknownMotion:
    """Measure how the arm moved while it was asked to do something.

    Args:
        bags: directories or storage files.
        robot: whose joint states and description were recorded; a Panda needs no description.
        spec: names the joints and the control period.
        instruction: what the robot was asked to do; None for what the recordings say on /instruction.
        source: names the recordings.

    Raises:
        RobotDescriptionError: the recorded description is no URDF.
        JointNamesError, FrameNameError: it lacks a joint of the policy, or the tool frame of the robot file.
        VlaqError: as `read` says.
    """
    urdf = _description(bags, robot)
    if urdf is None:
        return UnknownMotion(f"{source} has no robot description ({TEXT} on {absolute(robot.description_topic)})")
    joints = JointMap(robot, spec.joint_names)
    kinematics = Kinematics(urdf, joints.urdf, robot.tool_frame)
    topic = absolute(robot.joint_state_topic)
    episodes = [positions for bag in bags for positions in _episodes(bag, topic, joints, instruction)]
    return measure(kinematics, episodes, PilotConfig().monitor_period_s, spec.motion.period_s)


def _description(bags: Sequence[Path], robot: RobotConfig) -> str | None:
    """Find the URDF: the first that was recorded, else that of a Panda if the robot file names its parts."""
    topic = absolute(robot.description_topic)
    recorded = (message.data for bag in bags for _, message in read(bag, {}, {topic: TEXT}))
    is_panda = robot.joint_names == panda.JOINT_NAMES and robot.tool_frame == panda.TOOL_FRAME
    return next(recorded, panda.urdf() if is_panda else None)


def _episodes(bag: Path, topic: str, joints: JointMap, instruction: str | None) -> Iterator[FloatArray]:
    """Give the joint positions [K, J] of every episode, one row each monitor period."""
    for _, samples in groupby(_samples(bag, topic, joints, instruction), itemgetter(0)):
        _, stamps_ns, positions = zip(*samples, strict=True)
        times_s = (np.array(stamps_ns) - stamps_ns[0]) * 1e-9
        even_s = np.arange(0, times_s[-1] + 1e-9, PilotConfig().monitor_period_s)
        yield np.column_stack([np.interp(even_s, times_s, column) for column in np.array(positions).T])


def _samples(bag: Path, topic: str, joints: JointMap, instruction: str | None) -> Iterator[tuple[int, int, FloatArray]]:
    """Give the joint states under an instruction: number of the episode, stamp and positions [J].

    An episode ends where the instruction changes, or where samples miss for longer than the monitor bears.
    """
    wanted = {topic: JOINTS} | ({INSTRUCTION: TEXT} if instruction is None else {})
    gap_ns = round(MonitorConfig().micro_s * 1e9)
    asked, episode, last_ns = instruction or "", 0, 0
    for name, message in read(bag, wanted):
        if name == INSTRUCTION:
            episode += message.data != asked
            asked = message.data
            continue
        try:
            values, _ = messages.joint_state(message, joints.message)
        except VlaqError:  # of other joints, as where a gripper has its own publisher
            continue
        stamp_ns = messages.stamp_ns(message.header.stamp)
        if abs(stamp_ns - last_ns) > gap_ns:
            episode += 1
        elif stamp_ns <= last_ns:
            continue
        last_ns = stamp_ns
        if asked:
            yield episode, stamp_ns, joints.positions(values)
