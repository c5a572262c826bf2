"""A robot file for a recording of a robot that has none: what the bag shows, what that lets one guess, what it cannot.

Every line that is guessed says why in a comment. What nobody can guess, the limits above all, is a value that begins
with TODO: who loads the file refuses that value and quotes it, so that it says itself what to fill in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from vlaq_ros.bags.contents import Camera, Contents, JointStates
from vlaq_ros.bags.robot_guess import RobotGuess, arms
from vlaq_ros.config import share
from vlaq_ros.errors import NothingToSuggestError, VlaqError

_NO_COLOUR = re.compile(r"depth|infra|disparity|mask", re.IGNORECASE)
_ANY_CAMERA = re.compile(r"(images?|colou?r|rgb|cameras?|raw|rect|compressed|image_(raw|rect|color|mono)\w*)?")
_CAMERA_WORD = re.compile(r"^cam(era)?_|_cam(era)?$")
_CONTROLLER = re.compile(r"(.+)/(follow_joint_trajectory/_action/\w+|controller_state)")
_FEEDBACK = "/_action/feedback"
_ACTIONS = ("ParallelGripperCommand", "GripperCommand")  # of control_msgs; the longer name first


def suggest(bag: Path, namespace: str = "") -> str:
    """Propose a robot file for a recording.

    Args:
        bag: a directory or a storage file; its first two minutes are looked at.
        namespace: of the robot, where there are several; the first one otherwise.

    Returns:
        YAML for `RobotConfig.load`, to be completed where it says TODO.

    Raises:
        UnreadableBagError: the recording is none, or damaged beyond reading.
        EmptyBagError: it has no message.
        NothingToSuggestError: it holds no joint states of an arm there.
    """
    contents = Contents.read(bag)
    found = arms(contents.joint_states)
    states = next((arm for arm in found if _within(arm.topic, namespace)), None)
    if states is None:
        raise NothingToSuggestError(bag, namespace, sorted(contents.topics))
    others = [arm for arm in found if arm is not states]
    foreign = {_parent(arm.topic) for arm in others} - {_parent(states.topic), ""}
    topics = sorted(topic for topic in contents.topics if not any(_within(topic, other) for other in foreign))
    own = namespace.strip("/") or (_parent(states.topic) if others else _instructed(topics, states.topic))
    proposal = _Proposal(contents, RobotGuess.of(contents, states, topics), topics, own)
    return "\n".join([*_head(bag, own, others), *proposal.lines(), ""])


class _Proposal:
    """The lines of a robot file; topics are named as seen from the robot's namespace."""

    def __init__(self, contents: Contents, robot: RobotGuess, topics: Sequence[str], namespace: str) -> None:
        self._contents, self._robot, self._topics, self._namespace = contents, robot, topics, namespace
        self._positions = [c for c in contents.commands if c.kind == "Float64MultiArray" and c.topic in topics]

    def lines(self) -> list[str]:
        """The whole file."""
        robot, limits = self._robot, _shipped_limits(self._robot)
        return [
            *_joints(robot),
            *self._cameras(),
            _line("joint_state_topic", self._name(robot.states.topic)),
            self._description(),
            *self._commands(),
            *_counts(robot),
            "safety:",
            limits or _line("  joint_limits", "TODO: the file of joint limits that the end of this file begins"),
            *_safety(robot),
            *([] if limits else _limits(robot)),
        ]

    def _cameras(self) -> list[str]:
        """One camera for each name that topics yield: where it is recorded twice, the topic with more images."""
        found: dict[str, Camera] = {}
        for camera in sorted(self._contents.cameras, key=lambda camera: (-camera.count, camera.kind != "Image")):
            if camera.topic in self._topics and not _NO_COLOUR.search(camera.topic):
                found.setdefault(_camera_name(self._name(camera.topic)), camera)
        if not found:
            return [_line("cameras", "TODO: name: {topic: its images, rate_hz: images per second}; the bag has none")]
        lines = [
            "cameras:  # names are guessed from topics; they must be the policy's (vlaq inspect MODEL prints those)"
        ]
        for name, camera in sorted(found.items()):
            unknown = math.isnan(camera.rate_hz)
            said: dict[str, Any] = {
                "topic": self._name(camera.topic),
                "rate_hz": "TODO: images per second; the bag has one" if unknown else round(camera.rate_hz, 1),
            }
            said |= {} if camera.kind == "Image" else {"type": camera.kind}
            lines.append(_line(f"  {name}", said, f"{camera.width} x {camera.height}"))
        return lines

    def _description(self) -> str:
        if self._robot.description:
            return _line("description_topic", self._name(self._robot.description))
        return _line("description_topic", "robot_description", "usual; the bag has no URDF: give it with --urdf")

    def _commands(self) -> list[str]:
        """Where the arm and the gripper are commanded."""
        robot = self._robot
        widths = {len(robot.arm), len(robot.joints)}
        streamed = max((c for c in self._positions if c.width in widths), key=lambda c: c.count, default=None)
        controllers = [(topic, match[1]) for topic in self._topics if (match := _CONTROLLER.fullmatch(topic))]
        arm, why, whole = (
            {"topic": "TODO: the topic that the controller of the arm listens to; the bag has no commands on it"},
            "",
            False,
        )
        if robot.command:
            arm, whole = {"topic": self._name(robot.command.topic)}, robot.gripper in robot.command.joints
        elif streamed:
            arm = {"topic": self._name(streamed.topic), "type": streamed.kind}
            why, whole = f"guessed: it takes {streamed.width} values", streamed.width > len(robot.arm)
        elif controllers:
            [(topic, controller), *_] = controllers
            arm, why = {"topic": self._name(f"{controller}/joint_trajectory")}, f"guessed from {topic}"
        return [_line("arm", arm, why), _line("gripper", {"type": "joint"}) if whole else self._gripper()]

    def _gripper(self) -> str:
        """A controller of the gripper's own."""
        for topic in self._topics:
            kind = self._contents.topics[topic]
            if topic.endswith(_FEEDBACK) and (action := next((name for name in _ACTIONS if name in kind), "")):
                return _line("gripper", {"type": action, "topic": self._name(topic.removesuffix(_FEEDBACK))})
        for command in self._positions:
            if command.width == 1:
                said = {"type": command.kind, "topic": self._name(command.topic)}
                return _line("gripper", said, "guessed: it takes one value")
        return _line(
            "gripper", {"type": "TODO: joint, where the controller of the arm moves it; else the type of its own"}
        )

    def _name(self, topic: str) -> str:
        """A topic as the robot file names it: with a slash in front where it lies outside of the namespace."""
        if not _within(topic, self._namespace):
            return topic
        return topic.strip("/").removeprefix(f"{self._namespace}/" if self._namespace else "")


def _head(bag: Path, namespace: str, others: Iterable[JointStates]) -> list[str]:
    lines = [
        f"# Proposed by vlaq replay --suggest {bag.name}. What has no reason beside it is as the bag shows it;",
        "# every TODO is yours to fill in, from the robot and its maker: the file is refused before.",
    ]
    if namespace:
        lines.append(f"# Names are relative to /{namespace}: give --namespace {namespace}.")
    for other in others:
        place = f"--namespace {_parent(other.topic)}" if _parent(other.topic) else "another --namespace"
        lines.append(f"# There is another robot in this bag, on {other.topic}: {place} proposes its file.")
    return lines


def _joints(robot: RobotGuess) -> list[str]:
    todo = "TODO: the joint of the gripper; its states must come in one message with those of the arm"
    absent = [name for name in robot.joints if robot.tree and robot.known(name) is None]
    lost = f"; the URDF lacks {', '.join(absent)}" if absent else ""
    tool, why = robot.tool(), f"guessed: of the links behind {robot.named(robot.arm[-1])} the one called like a tool"
    return [
        _line("tool_frame", tool, why)
        if tool
        else _line("tool_frame", "TODO: the frame of the URDF that actions move"),
        _line("arm_joints", [robot.named(name) for name in robot.arm], robot.arm_why + lost),
        _line("gripper_joint", robot.named(robot.gripper) if robot.gripper else todo, robot.gripper_why),
    ]


def _counts(robot: RobotGuess) -> list[str]:
    """Joints that the messages call or count otherwise than the URDF; and what was seen of all."""
    spans = ", ".join(f"{name} {low:.3g} to {high:.3g}" for name in robot.joints for low, high in [robot.range(name)])
    lines = [f"# Seen: {spans}"]
    for name in robot.joints:
        called, count = robot.named(name), robot.count(name)
        said = {**({} if called == name else {"message": name}), **count.said}
        reasons = [*([] if called == name else ["its name ends so"]), *filter(None, [count.why])]
        if said:
            lines.append(_line(f"  {called}", said, f"guessed: {'; '.join(reasons)}"))
    lines.insert(1, f"joints:{' {}' if len(lines) == 1 else ''}  # guessed: rad and m where nothing else is said")
    return lines


def _safety(robot: RobotGuess) -> list[str]:
    """What nobody can guess; what the recording shows is told with it."""
    lower = upper = ""
    if robot.tool():
        with suppress(VlaqError):  # the URDF does not fit
            places = robot.places().round(3)
            lower, upper = (f"; in the bag it went to {end.tolist()}" for end in (places.min(0), places.max(0)))
    fastest = max(robot.speed(name) for name in robot.arm)
    return [
        _line("  workspace_lower_m", f"TODO: the corner x, y, z of the box that the tool may not leave{lower}"),
        _line("  workspace_upper_m", f"TODO: the opposite corner{upper}"),
        _line("  max_first_action_rad", "TODO: rad between where an arm joint is and where a chunk begins; often 0.3"),
        _line(
            "  max_action_step_rad",
            f"TODO: rad that an arm joint may move in one step of the policy; the fastest moved {fastest:.2g} rad/s",
        ),
    ]


def _shipped_limits(robot: RobotGuess) -> str:
    """The line of a limits file that comes with the package; empty where none has these joints."""
    names = {robot.named(name) for name in robot.joints}
    for file in sorted((share() / "config/joint_limits").glob("*.yaml")):
        if names <= yaml.safe_load(file.read_text(encoding="utf-8"))["joint_limits"].keys():
            return _line("  joint_limits", str(file), "guessed: it has joints of these names; is it of your arm?")
    return ""


def _limits(robot: RobotGuess) -> list[str]:
    """A file of limits to begin with, as comments."""
    lines = [
        "# The file of joint limits, to be completed too: sed -n 's/^#| //p' THIS_FILE > my_limits.yaml",
        "#| joint_limits:  # max_acceleration and max_jerk: TODO; the rest is the URDF's, and may be made stricter",
    ]
    for name in robot.joints:
        joint = robot.known(name)
        urdf = (joint.velocity, joint.lower, joint.upper) if joint else ()
        known = zip(("max_velocity", "min_position", "max_position"), urdf, strict=False)
        said = {"max_acceleration": "TODO", "max_jerk": "TODO"} | {k: v for k, v in known if math.isfinite(v)}
        lines.append(f"#| {_line(f'  {robot.named(name)}', said, f'in the bag it moved {robot.speed(name):.2g}/s')}")
    return lines


def _camera_name(topic: str) -> str:
    """What of a topic tells one camera from another."""
    parts = [part for part in topic.strip("/").split("/") if not _ANY_CAMERA.fullmatch(part)]
    return "_".join(_CAMERA_WORD.sub("", part) for part in parts) or "camera"


def _instructed(topics: Iterable[str], states: str) -> str:
    """The namespace that a lone robot is instructed in: that is where its pilot was."""
    spaces = [_parent(topic) for topic in topics if topic.endswith("/instruction")]
    return max((space for space in spaces if _within(states, space)), key=len, default="")


def _parent(topic: str) -> str:
    return topic.rpartition("/")[0].strip("/")


def _within(topic: str, namespace: str) -> bool:
    space = namespace.strip("/")
    return not space or topic.startswith(f"/{space}/")


def _line(key: str, value: object, why: str = "") -> str:
    said = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False).removesuffix("...\n").strip()
    return f"{key}: {said}  # {why}" if why else f"{key}: {said}"
