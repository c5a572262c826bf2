"""The simulated arm's kinematics, written once: a Franka Panda from primitive shapes, as URDF and as MJCF.

Joint origins, limits and the tool centre point are Franka Emika's published values; masses and shapes are our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ARM_JOINTS = tuple(f"panda_joint{i}" for i in range(1, 8))
FINGER_JOINT = "panda_finger_joint1"  # the second finger mimics it
JOINT_NAMES = (*ARM_JOINTS, FINGER_JOINT)
TOOL_FRAME = "panda_hand_tcp"
FINGER_OPEN_M = 0.04
HOME_RAD = (0.0, -0.45, 0.0, -2.45, 0.0, 2.0, 0.785398)  # the tool points down in front of the base


@dataclass(frozen=True, slots=True)
class _Joint:
    name: str
    origin_m: tuple[float, float, float]
    roll_rad: float
    lower_rad: float
    upper_rad: float
    velocity_rad_s: float
    effort_nm: float
    mass_kg: float
    capsule: tuple[float, ...]  # from, to [m] and radius [m], in the frame that this joint moves


_HALF_PI = np.pi / 2
_JOINTS = (
    _Joint(ARM_JOINTS[0], (0, 0, 0.333), 0, -2.8973, 2.8973, 2.175, 87, 3.0, (0, 0, -0.19, 0, 0, 0, 0.06)),
    _Joint(ARM_JOINTS[1], (0, 0, 0), -_HALF_PI, -1.7628, 1.7628, 2.175, 87, 3.0, (0, 0, -0.06, 0, 0, 0.06, 0.06)),
    _Joint(ARM_JOINTS[2], (0, -0.316, 0), _HALF_PI, -2.8973, 2.8973, 2.175, 87, 2.5, (0, 0, -0.2, 0, 0, -0.06, 0.055)),
    _Joint(ARM_JOINTS[3], (0.0825, 0, 0), _HALF_PI, -3.0718, -0.0698, 2.175, 87, 2.5, (0, 0, -0.05, 0, 0, 0.05, 0.055)),
    _Joint(
        ARM_JOINTS[4], (-0.0825, 0.384, 0), -_HALF_PI, -2.8973, 2.8973, 2.61, 12, 2.0, (0, 0.07, -0.2, 0, 0.02, 0, 0.05)
    ),
    _Joint(ARM_JOINTS[5], (0, 0, 0), _HALF_PI, -0.0175, 3.7525, 2.61, 12, 1.5, (0, 0, -0.05, 0, 0, 0.05, 0.048)),
    _Joint(ARM_JOINTS[6], (0.088, 0, 0), _HALF_PI, -2.8973, 2.8973, 2.61, 12, 1.0, (0, 0, 0, 0, 0, 0.08, 0.045)),
)
_FLANGE_M = 0.107  # panda_link7 -> panda_link8
_HAND_YAW_RAD = -np.pi / 4  # panda_link8 -> panda_hand
_FINGER_M = 0.0584  # panda_hand -> finger joints
_TOOL_M = 0.1034  # panda_hand -> tool centre point
_FINGER_VELOCITY_M_S = 0.1


def urdf() -> str:
    """The arm as a robot would publish it on `robot_description`."""
    parts = ['<?xml version="1.0"?>', '<robot name="panda">', _urdf_link("panda_link0", 4.0)]
    for i, joint in enumerate(_JOINTS):
        parts += [
            _urdf_link(f"panda_link{i + 1}", joint.mass_kg, joint.capsule),
            _urdf_joint(
                joint.name,
                "revolute",
                f"panda_link{i}",
                f"panda_link{i + 1}",
                xyz=joint.origin_m,
                roll_rad=joint.roll_rad,
            ),
            f'<axis xyz="0 0 1"/><limit lower="{joint.lower_rad}" upper="{joint.upper_rad}" '
            f'velocity="{joint.velocity_rad_s}" effort="{joint.effort_nm}"/></joint>',
        ]
    parts += [
        _urdf_link("panda_link8", 0.01),
        _urdf_joint("panda_joint8", "fixed", "panda_link7", "panda_link8", xyz=(0, 0, _FLANGE_M)) + "</joint>",
        _urdf_link("panda_hand", 0.5),
        _urdf_joint("panda_hand_joint", "fixed", "panda_link8", "panda_hand", yaw_rad=_HAND_YAW_RAD) + "</joint>",
        f'<link name="{TOOL_FRAME}"/>',
        _urdf_joint("panda_hand_tcp_joint", "fixed", "panda_hand", TOOL_FRAME, xyz=(0, 0, _TOOL_M)) + "</joint>",
    ]
    for side, sign in ((1, 1), (2, -1)):
        mimic = f'<mimic joint="{FINGER_JOINT}"/>' if side == 2 else ""
        parts += [
            _urdf_link(f"panda_finger{side}", 0.05),
            _urdf_joint(
                f"panda_finger_joint{side}", "prismatic", "panda_hand", f"panda_finger{side}", xyz=(0, 0, _FINGER_M)
            ),
            f'<axis xyz="0 {sign} 0"/><limit lower="0" upper="{FINGER_OPEN_M}" velocity="{_FINGER_VELOCITY_M_S}" '
            f'effort="20"/>{mimic}</joint>',
        ]
    return "\n".join([*parts, "</robot>"])


def _urdf_link(name: str, mass_kg: float, capsule: tuple[float, ...] | None = None) -> str:
    inertia = 0.01 * mass_kg
    visual = ""
    if capsule:
        start, end, radius = np.array(capsule[:3]), np.array(capsule[3:6]), capsule[6]
        middle, length = (start + end) / 2, float(np.linalg.norm(end - start))
        roll = -np.arctan2((end - start)[1], (end - start)[2])
        visual = (
            f'<visual><origin xyz="{_row(middle)}" rpy="{roll} 0 0"/>'
            f'<geometry><cylinder radius="{radius}" length="{length}"/></geometry></visual>'
        )
    return (
        f'<link name="{name}"><inertial><mass value="{mass_kg}"/><inertia ixx="{inertia}" iyy="{inertia}" '
        f'izz="{inertia}" ixy="0" ixz="0" iyz="0"/></inertial>{visual}</link>'
    )


def _urdf_joint(
    name: str,
    kind: str,
    parent: str,
    child: str,
    *,
    xyz: tuple[float, float, float] = (0, 0, 0),
    roll_rad: float = 0,
    yaw_rad: float = 0,
) -> str:
    return (
        f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>'
        f'<origin xyz="{_row(xyz)}" rpy="{roll_rad} 0 {yaw_rad}"/>'
    )


def mjcf_body() -> str:
    """The same arm as nested MJCF bodies, hand, fingers and wrist camera included."""
    opening, closing = [], []
    for i, joint in enumerate(_JOINTS):
        damping = 1.0 if joint.effort_nm > 50 else 0.5
        opening.append(
            f'<body name="panda_link{i + 1}" pos="{_row(joint.origin_m)}" euler="{joint.roll_rad} 0 0" gravcomp="1">'
            f'<joint name="{joint.name}" range="{joint.lower_rad} {joint.upper_rad}" damping="{damping}" '
            f'armature="0.1"/>'
            f'<geom class="arm" type="capsule" fromto="{_row(joint.capsule[:6])}" size="{joint.capsule[6]}" '
            f'mass="{joint.mass_kg}"/>'
        )
        closing.append("</body>")
    fingers = "".join(
        f'<body name="panda_finger{side}" pos="0 0 {_FINGER_M}" gravcomp="1">'
        f'<joint name="panda_finger_joint{side}" type="slide" axis="0 {sign} 0" range="0 {FINGER_OPEN_M}" '
        f'damping="2" armature="0.1"/>'
        f'<geom class="finger" name="pad{side}" type="box" size="0.011 0.006 0.027" pos="0 {sign * 0.006} 0.027" '
        f'mass="0.05"/></body>'
        for side, sign in ((1, 1), (2, -1))
    )
    hand = (
        f'<body name="panda_hand" pos="0 0 {_FLANGE_M}" euler="0 0 {_HAND_YAW_RAD}" gravcomp="1">'
        '<geom class="arm" type="box" size="0.03 0.1 0.03" pos="0 0 0.03" mass="0.5" rgba=".25 .25 .28 1"/>'
        f'<site name="{TOOL_FRAME}" pos="0 0 {_TOOL_M}" rgba="0 0 0 0"/>'
        '<camera name="wrist" pos="0.085 0 0.01" xyaxes="0 -1 0 -0.9 0 -0.436" fovy="80"/>'
        f"{fingers}</body>"
    )
    base = '<geom class="arm" type="cylinder" size="0.09 0.07" pos="0 0 0.07"/>'
    return f'<body name="panda_link0">{base}{"".join(opening)}{hand}{"".join(closing)}</body>'


def mjcf_actuators() -> str:
    """Position servos: stiff for the arm, a weak one for the gripper so that it yields on contact."""
    arm = "".join(
        f'<position name="{joint.name}" joint="{joint.name}" kp="{_stiffness(joint)[0]}" kv="{_stiffness(joint)[1]}" '
        f'forcerange="-{2 * joint.effort_nm} {2 * joint.effort_nm}"/>'
        for joint in _JOINTS
    )
    return arm + f'<position name="{FINGER_JOINT}" joint="{FINGER_JOINT}" kp="1000" kv="40" forcerange="-20 20"/>'


def velocity_feedforward_s() -> np.ndarray:
    """Damping over stiffness of each servo [s]: adding it times the wanted velocity removes the tracking lag."""
    return np.array([*(_stiffness(joint)[1] / _stiffness(joint)[0] for joint in _JOINTS), 0.0])


def _stiffness(joint: _Joint) -> tuple[float, float]:
    return (4500.0, 300.0) if joint.effort_nm > 50 else (2000.0, 120.0)


def _row(values: object) -> str:
    return " ".join(f"{value:.9g}" for value in np.asarray(values, dtype=float))
