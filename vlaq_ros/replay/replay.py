"""A bag, flown again: its messages go through the lines that run live, on the bag's time.

Where the pilot has left a journal, it can be repeated exactly: ticks, inputs and inferences come when they came. Of any
other bag time is that of the newest header stamp: then ticks are even, and messages come between them as they arrived.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path

from vlaq_ros.bags.reference import Reference
from vlaq_ros.bags.rosbag import open_bag
from vlaq_ros.bags.topics import Topics
from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import Policy
from vlaq_ros.errors import NoJournalError
from vlaq_ros.joints import JointMap
from vlaq_ros.replay.inbox import Inbox
from vlaq_ros.replay.reenactment import Reenactment
from vlaq_ros.replay.reflight import Answering, Reflight
from vlaq_ros.replay.repetition import Repetition
from vlaq_ros.replay.replayed import Event


class Pace(StrEnum):
    """How long inferences take on the bag's time, where it is not a number of seconds."""

    RECORDED = "recorded"  # as long as they took: the recorded flight is repeated
    MEASURED = "measured"  # as long as they take here


RECORDED, MEASURED = Pace
Latency = Pace | float


def replay(
    bag: Path,
    policy: Answering,
    reference: Reference,
    topics: Topics,
    joints: JointMap,
    *,
    robot: RobotConfig,
    config: PilotConfig,
    shadows: Mapping[str, Policy],
    latency: Latency,
    urdf: str = "",
    instruction: str = "",
) -> Iterator[Event]:
    """Fly a bag again.

    Args:
        bag: a recording.
        policy: flies.
        reference: what is known of the bag.
        topics: that are read.
        joints: of the policy.
        robot: that was recorded.
        config: of the pilot; `precision` is a name or `auto`, which is what was asked for then where the flight is
            repeated.
        shadows: who computes each precision that is to be computed beside the one that flies.
        latency: of an inference, on the bag's time.
        urdf: in the place of the recorded one.
        instruction: in the place of the recorded ones; not read where the flight is repeated.

    Yields:
        Events, in the order in which they happened.

    Raises:
        NoJournalError: the recorded flight is to be repeated, and the bag does not say how it was.
        VlaqError: the bag cannot be read, or the robot's description does not fit.
    """
    if latency is RECORDED and not reference.journal:
        raise NoJournalError(bag, topics.journal)
    kinematics = Kinematics(urdf or reference.urdf, joints.urdf, robot.tool_frame)
    fly = partial(Reflight, policy, shadows, kinematics, joints, robot=robot, config=config)
    with open_bag(bag) as opened:
        inbox = Inbox(opened, topics, robot)
        if latency is RECORDED:
            yield from Repetition(inbox, fly, config).events()
        else:
            latency_s = None if latency is MEASURED else float(latency)
            yield from Reenactment(inbox, fly, config.monitor_period_s, latency_s, instruction).events()
