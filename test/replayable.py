"""A short recording of the simulated arm's topics, by rosbags alone: what a replay can be tried on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from bag_writer import SECOND, START, Entry, image, joint_state, text, trajectory, write

from vlaq_ros.config import RobotConfig
from vlaq_ros.sim import panda

ROBOT = RobotConfig.load("sim_panda")
HOME = np.array([*panda.HOME_RAD, 0.04])
TASK = "pick up the red cube"
SECONDS = 3.0
_PX = 48


def entries(seconds: float = SECONDS) -> list[Entry]:
    """The arm stands, then turns its first joint as it is told to; two cameras look on."""
    names = ROBOT.joint_names
    told_ns = START + SECOND // 2
    turned = HOME + np.array([0.2, *np.zeros(7)])
    said = [
        text(START, panda.urdf(), "/robot_description"),
        text(START, TASK),
        trajectory(told_ns, "/arm_controller/joint_trajectory", names, [0.01, 1.0], [HOME, turned], stamp_ns=told_ns),
    ]
    for tick in range(round(50 * seconds)):
        stamp_ns = START + tick * SECOND // 50
        share = np.clip((stamp_ns - told_ns) / SECOND, 0.0, 1.0)
        said.append(joint_state(stamp_ns, names, HOME + share * (turned - HOME)))
        if tick % 4 == 0:
            pixels = np.full((_PX, _PX, 3), tick % 256, np.uint8)
            said += [image(stamp_ns, f"/camera/{name}/image_raw", pixels) for name in ("front", "wrist")]
    return said


def record(bag: Path, *without: str) -> Path:
    """Write it, less some topics."""
    return write(bag, [entry for entry in entries() if entry[1] not in without])
