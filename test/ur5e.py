"""A UR5e with a Robotiq 2F-85 as somebody else has recorded it: other names, units, rates and topics than ours."""

from __future__ import annotations

import re
from pathlib import Path

from vlaq_ros.config import RobotConfig

ARM = (
    *("shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint"),
    *("wrist_1_joint", "wrist_2_joint", "wrist_3_joint"),
)
KNUCKLE = "robotiq_85_left_knuckle_joint"


def urdf(gripper: str = 'type="revolute"', limit: str = 'lower="0" upper="0.8" velocity="2" effort="1"') -> str:
    """Six turning joints, a knuckle behind a mount, its mimic, and the tool's frame."""
    names = ["base", "shoulder", "upper_arm", "forearm", "wrist_1", "wrist_2", "wrist_3", "mount", "knuckle", "other"]
    links = "".join(f'<link name="{name}_link"/>' for name in names) + '<link name="tool0"/>'
    turning = 'lower="-6.28" upper="6.28" velocity="3.14" effort="1"'
    arm = "".join(
        f'<joint name="{joint}" type="revolute"><parent link="{a}_link"/><child link="{b}_link"/>'
        f'<origin xyz="0 0.1 0.3"/><axis xyz="{"0 1 0" if k % 2 else "0 0 1"}"/><limit {turning}/></joint>'
        for k, (joint, a, b) in enumerate(zip(ARM, names, names[1:], strict=False))
    )
    return (
        f'<robot name="ur5e">{links}{arm}'
        '<joint name="flange" type="fixed"><parent link="wrist_3_link"/><child link="tool0"/></joint>'
        '<joint name="bolts" type="fixed"><parent link="tool0"/><child link="mount_link"/></joint>'
        f'<joint name="{KNUCKLE}" {gripper}><limit {limit}/>'
        '<parent link="mount_link"/><child link="knuckle_link"/></joint>'
        '<joint name="robotiq_85_right_knuckle_joint" type="revolute"><parent link="mount_link"/>'
        f'<child link="other_link"/><limit {limit}/><mimic joint="{KNUCKLE}"/></joint></robot>'
    )


def completed(proposal: str, path: Path) -> RobotConfig:
    """Fill in what `vlaq replay --suggest` leaves to a person, write it, and load it."""
    for key, value in (
        ("workspace_lower_m", "[-2.0, -2.0, -1.0]"),
        ("workspace_upper_m", "[2.0, 2.0, 3.0]"),
        ("max_first_action_rad", "0.3"),
        ("max_action_step_rad", "0.2"),
    ):
        proposal, count = re.subn(rf"(  {key}): 'TODO.*", rf"\1: {value}", proposal)
        assert count == 1
    path.write_text(proposal)
    return RobotConfig.load(str(path))
