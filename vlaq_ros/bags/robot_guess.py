"""Which robot a recording shows: its arm, its gripper, its tool and its units, guessed, and why each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from vlaq_ros.bags.arm_tree import ArmTree, TreeJoint
from vlaq_ros.bags.contents import Commands, Contents, JointStates
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import FloatArray
from vlaq_ros.errors import RobotDescriptionError

FEWEST = 4  # joints of an arm: wheels and lone grippers are none
_SAME = 0.05  # two topics whose ranges differ less, in rad, show one arm
_SLACK = 1.1  # a joint is measured a little beyond its limits
_TURN = 2 * math.pi  # what a joint of unknown limits may reach, rad
_FINGER_M = 0.12  # and a finger
_FACTORS = {"si": 1.0, "deg": math.radians(1.0), "mm": 1e-3}
_GRIPPER = re.compile(r"grip|finger|knuckle|jaw|claw|hand", re.IGNORECASE)
_ROWS = 500  # of joint states that the tool is followed through


@dataclass(frozen=True, slots=True)
class Count:
    """How the messages count a joint: what the robot file says of it, and why."""

    said: dict[str, Any]  # unit, scale, offset of `JointConfig`; empty where they count in rad or m
    why: str = ""

    @property
    def factor(self) -> float:
        """SI of one in the message."""
        return float(self.said.get("scale", 1.0)) * _FACTORS[self.said.get("unit", "si")]


@dataclass(frozen=True, slots=True)
class RobotGuess:
    """A robot, its joints under the names of its messages."""

    states: JointStates
    description: str  # topic of the URDF; empty where there is none
    urdf: str
    tree: ArmTree | None
    command: Commands | None  # a JointTrajectory for the arm
    arm: tuple[str, ...]
    arm_why: str
    gripper: str  # empty where none was found
    gripper_why: str

    @classmethod
    def of(cls, contents: Contents, states: JointStates, topics: Iterable[str]) -> Self:
        """Guess from one topic of joint states and the other topics that are this robot's."""
        trees = {topic: tree for topic in topics if (tree := _tree(contents.descriptions.get(topic, "")))}
        fits = {topic: sum(_named(name, tree) in tree.joints for name in states.names) for topic, tree in trees.items()}
        description = max(fits, key=lambda topic: fits[topic], default="")
        tree = trees.get(description)
        known = {name: tree.joints.get(_named(name, tree)) if tree else None for name in states.names}
        command = max(
            (
                c
                for c in contents.commands
                if c.topic in topics and len(c.joints) > 1 and {*c.joints} <= {*states.names}
            ),
            key=lambda command: (command.width, command.count),
            default=None,
        )
        gripper, gripper_why = _gripper(states, tree, known, command)
        arm, arm_why = _arm([name for name in states.names if name != gripper], tree, known, command)
        urdf = contents.descriptions.get(description, "")
        return cls(states, description, urdf, tree, command, arm, arm_why, gripper, gripper_why)

    @property
    def joints(self) -> tuple[str, ...]:
        """The arm's, and the gripper's where there is one."""
        return (*self.arm, self.gripper) if self.gripper else self.arm

    def known(self, name: str) -> TreeJoint | None:
        """A joint as the URDF has it; None where it does not."""
        return self.tree.joints.get(_named(name, self.tree)) if self.tree else None

    def named(self, name: str) -> str:
        """What the robot file calls a joint: as the URDF does, where that has it."""
        return joint.name if (joint := self.known(name)) else name

    def range(self, name: str) -> tuple[float, float]:
        """Smallest and largest measured position, as messages count."""
        lowest, highest = self.states.ranges[self.states.names.index(name)]
        return float(lowest), float(highest)

    def speed(self, name: str) -> float:
        """What the measured speed rarely exceeds, in SI."""
        return float(self.states.speeds[self.states.names.index(name)]) * abs(self.count(name).factor)

    def count(self, name: str) -> Count:
        """How the messages count a joint."""
        joint = self.known(name)
        if name == self.gripper:
            return _gripper_count(joint, *self.range(name))
        return self._arm_count() if joint is None or joint.kind != "prismatic" else Count({})

    def tool(self) -> str:
        """The link that is called like a tool; empty where there is no URDF of the arm."""
        last = self.known(self.arm[-1])
        return self.tree.tool(last.name) if self.tree and last else ""

    def places(self) -> FloatArray:
        """Where the tool was [N, 3], m in the root link.

        Raises:
            RobotDescriptionError, JointNamesError, FrameNameError: the URDF does not fit.
        """
        columns = [self.states.names.index(name) for name in self.arm]
        rows = self.states.positions[:, columns] * np.array([self.count(name).factor for name in self.arm])
        rows = rows[np.isfinite(rows).all(axis=1)]
        kinematics = Kinematics(self.urdf, tuple(map(self.named, self.arm)), self.tool())
        return kinematics.forward(rows[:: math.ceil(len(rows) / _ROWS)])[0]

    def _arm_count(self) -> Count:
        """Degrees for every turning joint where one went further than it can in radians."""
        for name in self.arm:
            joint, furthest = self.known(name), max(map(abs, self.range(name)))
            if (joint is None or joint.kind != "prismatic") and furthest > _SLACK * _reach(joint):
                return Count({"unit": "deg"}, f"{name} went to {furthest:.4g}, and reaches {_reach(joint):.3g} rad")
        return Count({})


def arms(topics: Iterable[JointStates]) -> list[JointStates]:
    """The arms of a recording, one topic for each; one that tells less of the same arm is left out."""
    found: list[JointStates] = []
    for states in sorted(topics, key=lambda states: (-len(states.names), len(states.topic), states.topic)):
        if len(states.names) >= FEWEST and not any(_same(states, other) for other in found):
            found.append(states)
    return sorted(found, key=lambda states: states.topic)


def _same(states: JointStates, other: JointStates) -> bool:
    """Whether two topics show one arm: the same joints, over the same ranges."""
    if not {*states.names} <= {*other.names}:
        return False
    columns = [other.names.index(name) for name in states.names]
    return bool(np.allclose(states.ranges, other.ranges[columns], atol=_SAME))


def _gripper(
    states: JointStates, tree: ArmTree | None, known: dict[str, TreeJoint | None], command: Commands | None
) -> tuple[str, str]:
    """The joint of the gripper and why it is that; empty where nothing says so."""
    commanded = command.joints if command else ()
    names = [name for name, joint in known.items() if joint is None or joint.moves]
    if tree and commanded and (first := known[commanded[0]]):
        names = [name for name in names if (joint := known[name]) is None or tree.carries(first.name, joint.name)]
    named = [name for name in names if _GRIPPER.search(name)]
    if named:
        return min(named, key=lambda name: name not in commanded), "guessed by its name"
    sliding = [name for name in names if (joint := known[name]) and joint.kind == "prismatic"]
    if len(sliding) == 1:
        return sliding[0], "guessed: the only joint that slides"
    last, (lowest, highest) = states.names[-1], states.ranges[-1]
    if known[last] is None and lowest >= 0 and highest <= _FINGER_M:
        return last, f"guessed by its range: the last joint goes from {lowest:.3g} to {highest:.3g}, as fingers in m"
    return "", ""


def _arm(
    names: list[str], tree: ArmTree | None, known: dict[str, TreeJoint | None], command: Commands | None
) -> tuple[tuple[str, ...], str]:
    """The joints of the arm in their order, and why."""
    called = {joint.name: name for name in names if (joint := known[name])}
    if command:
        arm, why = tuple(name for name in command.joints if name in names), f"the order of {command.topic}"
    elif tree and (chain := tree.chain(called)):
        arm, why = tuple(called[name] for name in chain), "guessed: the longest chain of the URDF that is measured"
    else:
        arm, why = tuple(names), "guessed: the order of the joint states, which need not be the controller's"
    left = [name for name in names if name not in arm and ((joint := known[name]) is None or joint.moves)]
    return arm, f"{why}; left out: {', '.join(left)}" if left else why


def _gripper_count(joint: TreeJoint | None, lowest: float, highest: float) -> Count:
    """How the gripper is counted: the reading of its range that stays within its limits."""
    if joint is None or not math.isfinite(joint.upper - joint.lower) or max(-lowest, highest) <= _SLACK * _reach(joint):
        return Count({})
    small = "mm" if joint.kind == "prismatic" else "deg"
    said = f"it went from {lowest:.3g} to {highest:.3g}, and reaches {_reach(joint):.3g}"
    if highest > 1.0 and max(-lowest, highest) * _FACTORS[small] <= _SLACK * _reach(joint):
        return Count({"unit": small}, said)
    whole = 1.0 if highest <= 1.0 else 100.0
    if lowest >= 0.0 and highest <= whole:
        scale = float(f"{(joint.upper - joint.lower) / whole:.6g}")
        share = f"{said}, so it is taken for a share of {whole:g} of its stroke; look which end is 0"
        return Count({"scale": scale, "offset": joint.lower}, share)
    return Count({})


def _reach(joint: TreeJoint | None) -> float:
    """How far from zero a joint can be, rad (m)."""
    if joint is None or not math.isfinite(joint.upper - joint.lower):
        return _TURN
    return max(abs(joint.lower), abs(joint.upper))


def _tree(urdf: str) -> ArmTree | None:
    with suppress(RobotDescriptionError):
        return ArmTree.parse(urdf)
    return None


def _named(name: str, tree: ArmTree) -> str:
    """What the URDF calls a joint of the messages: the same, or the one name that ends with it or that it ends with."""
    alike = [joint.name for joint in tree.joints.values() if _ends(joint.name, name) or _ends(name, joint.name)]
    return alike[0] if len(alike) == 1 and name not in tree.joints else name


def _ends(name: str, part: str) -> bool:
    return name.endswith((f"_{part}", f"/{part}", f"-{part}"))
