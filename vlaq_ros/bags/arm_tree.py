"""The tree of a URDF as far as a guess needs it: which joint moves how, what it carries, and which link is the tool."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Self
from xml.etree import ElementTree

from vlaq_ros.errors import RobotDescriptionError

_TOOLS = [
    re.compile(word, re.IGNORECASE) for word in ("tcp", "tool0", "tool", "gripper_frame", "ee|effector", "flange")
]


@dataclass(frozen=True, slots=True)
class TreeJoint:
    """A joint of a URDF."""

    name: str
    kind: str  # of the URDF: revolute, continuous, prismatic, fixed, ...
    parent: str  # link
    child: str  # link
    mimics: bool
    lower: float  # rad (m); -inf and inf where it has none
    upper: float
    velocity: float  # rad/s (m/s); inf where it has none

    @property
    def moves(self) -> bool:
        """Whether it is one that a command can name."""
        return self.kind in ("revolute", "continuous", "prismatic") and not self.mimics


class ArmTree:
    """The joints of a URDF, from the root outwards.

    Attributes:
        joints: by name.
    """

    def __init__(self, joints: Collection[TreeJoint]) -> None:
        self._of_child = {joint.child: joint for joint in joints}
        self.joints = {joint.name: joint for joint in sorted(joints, key=lambda joint: len(list(self._up(joint))))}

    @classmethod
    def parse(cls, urdf: str) -> Self:
        """Read a URDF.

        Raises:
            RobotDescriptionError: it is none.
        """
        try:
            return cls([_joint(found) for found in ElementTree.fromstring(urdf).findall("joint")])
        except (ElementTree.ParseError, AttributeError, KeyError, ValueError) as error:
            raise RobotDescriptionError(f"{type(error).__name__}: {error}") from None

    def chain(self, names: Collection[str]) -> tuple[str, ...]:
        """The longest chain of some joints that move, from the root outwards; the first where several are as long."""
        chains = [
            [up.name for up in self._up(self.joints[name]) if up.name in names and up.moves][::-1]
            for name in self.joints
            if name in names
        ]
        longest: list[str] = max(chains, key=len, default=[])
        return tuple(longest)

    def carries(self, joint: str, other: str) -> bool:
        """Whether a joint moves another."""
        return self.joints[joint] in list(self._up(self.joints[other]))[1:]

    def tool(self, last: str) -> str:
        """The link behind the last joint of an arm that is called like a tool, else the one right behind it."""
        links = [self.joints[last].child]
        for link in links:  # grows
            links += [joint.child for joint in self.joints.values() if joint.parent == link and joint.kind == "fixed"]
        return next((link for tool in _TOOLS for link in reversed(links) if tool.search(link)), links[0])

    def _up(self, joint: TreeJoint) -> Iterator[TreeJoint]:
        """A joint and those that carry it."""
        seen: TreeJoint | None = joint
        while seen is not None:
            yield seen
            seen = self._of_child.get(seen.parent)


def _joint(element: ElementTree.Element) -> TreeJoint:
    limit = element.find("limit")
    said = {} if limit is None else limit.attrib
    turns = element.attrib["type"] == "continuous"
    return TreeJoint(
        name=element.attrib["name"],
        kind=element.attrib["type"],
        parent=element.find("parent").attrib["link"],  # type: ignore[union-attr]  # AttributeError is caught
        child=element.find("child").attrib["link"],  # type: ignore[union-attr]  # likewise
        mimics=element.find("mimic") is not None,
        lower=-math.inf if turns else float(said.get("lower", -math.inf)),
        upper=math.inf if turns else float(said.get("upper", math.inf)),
        velocity=float(said.get("velocity", math.inf)),
    )
