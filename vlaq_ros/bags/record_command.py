"""What `ros2 bag record` is told, so that a replay finds all it needs: the topics of a robot and of its pilot.

A regular expression names them, as the option for a list of names is another one in every distribution. The recorder
fits its subscriptions to what publishers offer, ten messages deep. Overridden is what that loses: joint states and
positions that come at up to 1 kHz, and latched topics of which one publisher among several is not latched.
"""

from __future__ import annotations

from tempfile import NamedTemporaryFile
from typing import Any

import yaml

from vlaq_ros.bags.rosbag import POSITIONS, absolute
from vlaq_ros.bags.topics import Topics
from vlaq_ros.config import RobotConfig

_ALSO = ("/clock", "/diagnostics")
_OFTEN = {"history": "keep_last", "depth": 500, "reliability": "best_effort", "durability": "volatile"}
_LATCHED = {"history": "keep_last", "depth": 10, "reliability": "reliable", "durability": "transient_local"}


def record_command(robot: RobotConfig, bag: str, *, namespace: str, instruction: str) -> list[str]:
    """Give the command line that records a robot, and its pilot where there is one.

    A temporary file with the overrides is written and left for the command to read.

    Args:
        robot: whose topics are recorded.
        bag: directory that does not exist yet.
        namespace: of the robot and the pilot; empty for none.
        instruction: topic that the pilot is instructed on, as seen from the namespace.
    """
    topics = _topics(robot, namespace)
    others = [absolute(topic, namespace) for topic in (instruction, robot.estop_topic, "pilot/.*") if topic]
    wanted = "|".join(sorted({*topics.types, *others, *_ALSO}))
    with NamedTemporaryFile("w", prefix="vlaq_record_", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(qos_overrides(robot, namespace), file)
    options = {
        "--storage": "mcap",
        "--output": bag,
        "--qos-profile-overrides-path": file.name,
        "--regex": f"^({wanted})$",
    }
    return ["ros2", "bag", "record", *(word for option in options.items() for word in option)]


def qos_overrides(robot: RobotConfig, namespace: str) -> dict[str, dict[str, Any]]:
    """Profiles of the recorder's subscriptions by topic, in the words of its file of overrides."""
    topics = _topics(robot, namespace)
    streamed = [topic for topic, kind in topics.types.items() if kind == POSITIONS]
    latched = (topics.description, topics.session, topics.precision)
    return {topic: dict(_OFTEN) for topic in (topics.joint_states, *streamed)} | {t: dict(_LATCHED) for t in latched}


def _topics(robot: RobotConfig, namespace: str) -> Topics:
    return Topics.of(robot, tuple(robot.cameras), namespace)
