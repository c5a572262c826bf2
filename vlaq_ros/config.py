"""Configuration written once: a setting is one dataclass line with its default, unit, bounds and sentence.

YAML loading, the ROS parameters with their descriptors and docs/parameters.md all come from these lines.
A safety limit has no default: the robot's YAML file must say it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar, get_args, get_origin, get_type_hints

import yaml

from vlaq_ros.errors import (
    BadValueError,
    ConfigError,
    JointLimitsFileError,
    MissingKeyError,
    RobotFileError,
    UnknownKeyError,
)

AUTO = "auto"  # the precision that follows the motion of the arm
LATENCY_S = 0.1  # from an observation to its command, where nothing else is asked for and nothing is measured
_TOPIC = re.compile(r"(~?/)?[a-z_]\w*(/[a-z_]\w*)*", re.ASCII | re.IGNORECASE)

Config = TypeVar("Config")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one configuration value beside its type and default."""

    sentence: str
    unit: str = ""
    bounds: tuple[float, float] | None = None  # both allowed
    choices: tuple[str, ...] = ()
    topic: bool = False  # a name in the ROS graph
    changes: str = ""  # when it may change after the start: "live", or while the node is "unconfigured"


def setting(sentence: str, *, default: object = MISSING, **facts: Any) -> Any:
    """Declare a dataclass field that carries a `Setting`; without a default it must be given."""
    metadata = {"setting": Setting(sentence, **facts)}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def required(declared: Field[Any]) -> bool:
    """Whether a field that `setting` declared must be given."""
    return declared.default is MISSING and declared.default_factory is MISSING


def setting_of(declared: Field[Any]) -> Setting:
    """Return the `Setting` of a field that `setting` declared."""
    found: Setting = declared.metadata["setting"]
    return found


@dataclass(frozen=True, slots=True)
class PilotConfig:
    """How the pilot runs; the ROS parameters of the node `pilot`."""

    model: str = setting(
        "Bundle directory, or the name of a shipped one in models/.",
        default="tabletop_pi0_calibrated",
        changes="unconfigured",
    )
    robot: str = setting("Robot file, or the name of a shipped one in config/robots/.", default="sim_panda")
    precision: str = setting(
        "Precision to run at: auto follows the motion of the arm, a name of the model's precisions fixes it.",
        default=AUTO,
        changes="live",
    )
    thresholds: str = setting(
        "Sensitivities S from which each precision is asked for, in place of the model's: finest first and falling, "
        "such as fine=0.5,coarse=0; `vlaq replay --fit-thresholds` writes them.",
        default="",
    )
    autostart: bool = setting("Configure and activate without a lifecycle manager.", default=False)
    enabled: bool = setting(
        "Command the arm as soon as the node is active; otherwise the service ~/enable must be called first.",
        default=False,
    )
    dry_run: bool = setting("Publish commands on ~/shadow/TOPIC instead of to the controllers.", default=False)
    replan_period_s: float = setting(
        "A new chunk is computed once the last observation is this old.", default=0.3, unit="s", bounds=(0.02, 5.0)
    )
    monitor_period_s: float = setting(
        "The motion of the arm is judged this often.", default=0.02, unit="s", bounds=(0.002, 0.5)
    )
    dwell_s: float = setting(
        "A coarser precision must be asked for this long before it is taken.", default=0.25, unit="s", bounds=(0.0, 5.0)
    )
    seam: str = setting(
        "How a chunk takes over from the running one: guided while it is computed (policies that cannot be are "
        "blended), blended afterwards, or naive, as it comes; limits hold in all three.",
        default="guided",
        choices=("guided", "blended", "naive"),
    )
    blend_s: float = setting(
        "A blended chunk leaves the running one over this time.", default=0.1, unit="s", bounds=(0.0, 1.0)
    )
    tracking_tolerance_rad: float = setting(
        "An arm further than this from its command is taken where it is measured.",
        default=0.2,
        unit="rad",
        bounds=(0.01, 3.2),
    )
    max_image_age_s: float = setting(
        "An image older than this blocks inference.", default=0.3, unit="s", bounds=(0.01, 5.0)
    )
    max_camera_skew_s: float = setting(
        "Images of different cameras further apart than this block inference.",
        default=0.1,
        unit="s",
        bounds=(0.0, 1.0),
    )
    max_joint_age_s: float = setting(
        "Joint states older than this block inference and ask for the finest precision.",
        default=0.2,
        unit="s",
        bounds=(0.005, 5.0),
    )
    stall_timeout_s: float = setting(
        "An inference that takes longer than this, by a steady clock, is reported as stalled; the arm rests by then.",
        default=2.0,
        unit="s",
        bounds=(0.1, 600.0),
    )
    follow_timeout_s: float = setting(
        "A command that has not moved the joints for this long is reported: the controller has rejected it.",
        default=0.5,
        unit="s",
        bounds=(0.05, 60.0),
    )
    description_timeout_s: float = setting(
        "Configuring fails when no robot description came for this long.", default=5.0, unit="s", bounds=(0.1, 600.0)
    )
    flow_seed: int = setting("Seed of the noise that every chunk's flow starts from.", default=0, bounds=(0, 2**31))
    threads: int = setting("CPU threads of one inference.", default=1, bounds=(1, 64))


@dataclass(frozen=True, slots=True)
class SimRobotConfig:
    """How the simulated robot runs; the ROS parameters of the node `sim_robot`."""

    camera_rate_hz: float = setting("Images per second of each camera.", default=20.0, unit="Hz", bounds=(0.1, 60.0))
    image_reliability: str = setting(
        "Reliability that the cameras offer.", default="best_effort", choices=("best_effort", "reliable")
    )
    controller: str = setting(
        "What the arm listens to: JointTrajectory is a joint_trajectory_controller of all joints, Float64MultiArray a "
        "forward_command_controller of the arm and one of the gripper.",
        default="JointTrajectory",
        choices=("JointTrajectory", "Float64MultiArray"),
    )
    publish_clock: bool = setting(
        "Publish simulated time on /clock and stamp with it; otherwise stamps are system time.", default=False
    )
    real_time_factor: float = setting(
        "Simulated seconds per second; other than 1 only with publish_clock.", default=1.0, bounds=(0.2, 20.0)
    )


@dataclass(frozen=True, slots=True)
class CameraConfig:
    """A camera that a model may name."""

    topic: str = setting("Topic of its images.", topic=True)
    rate_hz: float = setting(
        "Images per second that it publishes; when fewer than half of them arrive, the camera is starved.",
        unit="Hz",
        bounds=(0.1, 1000.0),
    )
    type: str = setting("sensor_msgs type of its images.", default="Image", choices=("Image", "CompressedImage"))
    reliability: str = setting(
        "Reliability that the subscription asks for.", default="best_effort", choices=("best_effort", "reliable")
    )


@dataclass(frozen=True, slots=True)
class JointConfig:
    """How a joint of the URDF is called and counted elsewhere: position = scale * value in the message + offset."""

    policy: str = setting("Its name in the checkpoint; empty where that is the URDF's.", default="")
    message: str = setting("Its name in joint states and commands; empty where that is the URDF's.", default="")
    unit: str = setting(
        "Unit of the values in messages: si is rad, or m for a prismatic joint.",
        default="si",
        choices=("si", "deg", "mm"),
    )
    scale: float = setting(
        "Factor on the value in messages; -1 where it counts the other way round, the stroke where it is a fraction.",
        default=1.0,
        bounds=(-1e6, 1e6),
    )
    offset: float = setting(
        "Position in the URDF where messages say 0.", default=0.0, unit="rad or m", bounds=(-1e3, 1e3)
    )


@dataclass(frozen=True, slots=True)
class ArmConfig:
    """How the arm's joints are commanded."""

    topic: str = setting("Topic that its controller listens to.", topic=True)
    type: str = setting(
        "JointTrajectory for joint_trajectory_controller (whole chunks), Float64MultiArray for "
        "forward_command_controller (positions at rate_hz).",
        default="JointTrajectory",
        choices=("JointTrajectory", "Float64MultiArray"),
    )
    rate_hz: float = setting(
        "Positions per second of what is streamed: the arm with Float64MultiArray, a gripper that is no joint of it.",
        default=100.0,
        unit="Hz",
        bounds=(10.0, 1000.0),
    )
    replacement: bool = setting(
        "Whether the controller keeps its old motion until a new one begins (allow_trajectory_replacement, "
        "Lyrical and later); then commands begin in the future.",
        default=False,
    )


@dataclass(frozen=True, slots=True)
class GripperConfig:
    """How the gripper is commanded."""

    type: str = setting(
        "joint: a joint of the arm's command; Float64MultiArray: a position for a controller of its own; "
        "GripperCommand or ParallelGripperCommand: an action of control_msgs.",
        default="joint",
        choices=("joint", "Float64MultiArray", "GripperCommand", "ParallelGripperCommand"),
    )
    topic: str = setting("Topic, or name of the action; not read for joint.", default="", topic=True)
    max_effort: float = setting(
        "Effort that an action may use; 0 leaves it to the controller.", default=0.0, unit="N", bounds=(0.0, 1e4)
    )


@dataclass(frozen=True, slots=True)
class SafetyConfig:
    """What the arm may do; there are no defaults."""

    joint_limits: str = setting(
        "File of limits in the format of joint_limits.yaml (ros2_control, MoveIt), from the robot file's directory; "
        "acceleration and jerk of every joint must be there, and of position and velocity the stricter of it and the "
        "URDF holds."
    )
    workspace_lower_m: tuple[float, ...] = setting(
        "Corner x, y, z of the box that the tool frame stays in, in the root link.", unit="m", bounds=(-100.0, 100.0)
    )
    workspace_upper_m: tuple[float, ...] = setting("The opposite corner.", unit="m", bounds=(-100.0, 100.0))
    max_first_action_rad: float = setting(
        "A chunk whose first action lies further than this from the measured pose, in any arm joint, is rejected.",
        unit="rad",
        bounds=(0.0, 6.4),
    )
    max_action_step_rad: float = setting(
        "A chunk in which an arm joint moves further than this from one action to the next is rejected.",
        unit="rad",
        bounds=(0.0, 6.4),
    )


@dataclass(frozen=True, slots=True)
class JointLimitConfig:
    """The limits of one joint, as joint_limits.yaml writes them."""

    max_acceleration: float = setting("Largest acceleration.", unit="rad/s^2 or m/s^2", bounds=(1e-3, 1e4))
    max_jerk: float = setting("Largest jerk.", unit="rad/s^3 or m/s^3", bounds=(1e-2, 1e6))
    max_velocity: float = setting(
        "Largest velocity; the URDF's holds where it is smaller.",
        default=float("inf"),
        unit="rad/s or m/s",
        bounds=(1e-4, float("inf")),
    )
    min_position: float = setting(
        "Smallest position; the URDF's holds where it is larger.",
        default=float("-inf"),
        unit="rad or m",
        bounds=(float("-inf"), 1e3),
    )
    max_position: float = setting(
        "Largest position; the URDF's holds where it is smaller.",
        default=float("inf"),
        unit="rad or m",
        bounds=(-1e3, float("inf")),
    )


@dataclass(frozen=True, slots=True)
class RobotConfig:
    """What must be known of a robot beside its URDF; read from config/robots/NAME.yaml."""

    tool_frame: str = setting("Frame of the URDF that the kinematic monitor and end-effector actions move.")
    arm_joints: tuple[str, ...] = setting("Names of the arm's joints in the URDF, in the order of its controller.")
    gripper_joint: str = setting("Name of the joint that opens the gripper; the last column of state and action.")
    cameras: Mapping[str, CameraConfig] = setting("Each camera that a model may name.")
    joint_state_topic: str = setting("Topic of sensor_msgs/JointState.", topic=True)
    description_topic: str = setting("Topic of the latched URDF (std_msgs/String).", topic=True)
    arm: ArmConfig = setting("How the arm's joints are commanded.")
    gripper: GripperConfig = setting("How the gripper is commanded.")
    safety: SafetyConfig = setting("What the arm may do.")
    joints: Mapping[str, JointConfig] = setting(
        "Joints that the checkpoint or the messages call or count otherwise than the URDF.",
        default={},
    )
    estop_topic: str = setting(
        "Topic of std_msgs/Bool that is true while an emergency stop is pressed; it must be heard before the arm is "
        "commanded. Empty where there is none.",
        default="",
        topic=True,
    )

    @property
    def joint_names(self) -> tuple[str, ...]:
        """The arm's joints, then the gripper's: the columns of every joint array."""
        return (*self.arm_joints, self.gripper_joint)

    @classmethod
    def load(cls, name: str) -> Self:
        """Read a robot file, given as a path or as the name of a shipped one.

        Raises:
            RobotFileError: there is no such file, or it is not a YAML mapping.
            UnknownKeyError, MissingKeyError, BadValueError: its content cannot be used.
        """
        path = resolve(name, "config/robots", ".yaml")
        if not path.is_file():
            raise RobotFileError(path, "does not exist", shipped_robots())
        robot = build(cls, _read(path), str(path))
        robot.check(str(path))
        limits = (path.parent / robot.safety.joint_limits).resolve()
        return replace(robot, safety=replace(robot.safety, joint_limits=str(limits)))

    def check(self, where: str) -> None:
        """Hold values against each other.

        Args:
            where: what they are part of, for the error.

        Raises:
            BadValueError: they do not fit.
        """
        names = self.joint_names
        if len(set(names)) < len(names):
            raise BadValueError("arm_joints", list(names), "every joint once, the gripper's not among the arm's", where)
        if unknown := sorted(set(self.joints) - set(names)):
            raise BadValueError("joints", unknown, f"joints among {', '.join(names)}", where)
        for name, joint in self.joints.items():
            if joint.scale == 0.0:
                raise BadValueError(f"joints.{name}.scale", 0.0, "a number other than 0", where)
        for key in ("policy", "message"):
            called = [getattr(self.joints.get(name), key, "") or name for name in names]
            if len(set(called)) < len(called):
                raise BadValueError("joints", called, f"another {key} name for every joint", where)
        if self.gripper.type != "joint" and not self.gripper.topic:
            raise BadValueError("gripper.topic", "", f"the topic or action of {self.gripper.type}", where)
        lower, upper = self.safety.workspace_lower_m, self.safety.workspace_upper_m
        if len(lower) != 3 or len(upper) != 3 or not all(a < b for a, b in zip(lower, upper, strict=True)):
            got = [list(lower), list(upper)]
            raise BadValueError(
                "safety.workspace", got, "three numbers each, every lower one below its upper one", where
            )

    def joint_limits(self) -> dict[str, JointLimitConfig]:
        """Read the file of limits.

        Returns:
            The limits of every joint, by its name in the URDF.

        Raises:
            RobotFileError: the file cannot be read.
            MissingKeyError, BadValueError: a limit is missing, or cannot be used.
        """
        path = Path(self.safety.joint_limits)
        if not path.is_file():
            raise JointLimitsFileError(path, "does not exist")
        said = _read(path).get("joint_limits")
        if not isinstance(said, dict):
            raise JointLimitsFileError(path, "has no mapping joint_limits")
        known = [item.name for item in fields(JointLimitConfig)]
        limits = {}
        for name in self.joint_names:
            if not isinstance(said.get(name), dict):
                raise JointLimitsFileError(path, f"has no limits of {name}")
            # has_velocity_limits: false switches max_velocity off, as ros2_control reads it
            values = {
                key: value
                for key, value in said[name].items()
                if key in known and said[name].get(f"has_{key[4:]}_limits", True)
            }
            limits[name] = build(JointLimitConfig, values, f"{path}: {name}")
        return limits


def shipped_robots() -> list[str]:
    """Names of the robot files that come with the package."""
    return sorted(file.stem for file in (share() / "config/robots").glob("*.yaml"))


def _read(path: Path) -> dict[Any, Any]:
    """Read a robot's file."""
    return read_mapping(path, lambda why: RobotFileError(path, why, shipped_robots()))


def read_mapping(path: Path, refuse: Callable[[str], ConfigError]) -> dict[Any, Any]:
    """Read a YAML file that is a mapping; what it is instead is told to `refuse`, whose error is raised."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise refuse(f"is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise refuse("is not a mapping of keys to values")
    return values


def build(cls: type[Config], values: Mapping[Any, object], where: str) -> Config:
    """Make a configuration from plain values.

    Args:
        cls: a dataclass whose fields are settings.
        values: from YAML or from ROS parameters.
        where: what the values are part of, for the error.

    Raises:
        UnknownKeyError: a key is no setting of `cls`.
        MissingKeyError: a setting without default is not given.
        BadValueError: a value has the wrong type or lies outside its bounds.
    """
    declared: dict[str, Field[Any]] = {item.name: item for item in fields(cls)}  # type: ignore[arg-type]  # a dataclass
    for key in values:
        if key not in declared:
            raise UnknownKeyError(str(key), declared, where)
    hints = get_type_hints(cls)
    parsed = {}
    for key, item in declared.items():
        known = setting_of(item)
        if key not in values:
            if required(item):
                raise MissingKeyError(key, known.sentence, where)
            continue
        try:
            parsed[key] = _convert(values[key], hints[key], known, f"{where}: {key}")
            if known.topic and not _TOPIC.fullmatch(parsed[key]) and (parsed[key] or required(item)):
                raise ValueError
        except ValueError:
            raise BadValueError(key, values[key], _expected(hints[key], known), where) from None
    return cls(**parsed)


def resolve(name: str, folder: str, suffix: str = "") -> Path:
    """Find what a user names: a path as it is (absolute or from the working directory), else a shipped file.

    Args:
        name: a path, or the name of a shipped file without its suffix.
        folder: where the package ships such files, `models` or `config/robots`.
        suffix: of the shipped files.

    Returns:
        The shipped file, if there is one and no such path; otherwise the path, which may not exist.
    """
    given = Path(name).expanduser()
    shipped = share() / folder / f"{name}{suffix}"
    return shipped if shipped.exists() and not given.exists() else given.absolute()


def share() -> Path:
    """Directory of the package's `models`, `config` and `launch`: the source checkout, else PREFIX/share/vlaq_ros."""
    root = Path(__file__).resolve().parents[1]
    installed = [parent / "share" / "vlaq_ros" for parent in root.parents]
    return next((place for place in [root, *installed] if (place / "package.xml").is_file()), root)


def parameters_table() -> str:
    """Render docs/parameters.md."""
    lines = ["# Parameters", "", "Written by `python -m vlaq_ros.config > docs/parameters.md`; do not edit by hand."]
    titles = {
        PilotConfig: "Node `pilot`",
        SimRobotConfig: "Node `sim_robot`",
        RobotConfig: "Robot file",
        CameraConfig: "Robot file: `cameras.NAME`",
        ArmConfig: "Robot file: `arm`",
        GripperConfig: "Robot file: `gripper`",
        SafetyConfig: "Robot file: `safety`",
        JointConfig: "Robot file: `joints.NAME`",
        JointLimitConfig: "Joint limits file: `joint_limits.NAME`",
    }
    for cls, title in titles.items():
        lines += ["", *settings_table(cls, title)]
    return "\n".join(lines) + "\n"


def settings_table(cls: type, title: str) -> list[str]:
    """Render the settings of a dataclass as lines of Markdown."""
    head = "| name | type | default | unit | allowed | changes | meaning |"
    lines = [f"## {title}", "", str(cls.__doc__), "", head, "|---|---|---|---|---|---|---|"]
    hints = get_type_hints(cls)
    for item in fields(cls):
        known = setting_of(item)
        default = "required" if required(item) else _said(item.default)
        kind = _word(hints[item.name])
        cells = [f"`{item.name}`", kind, default, known.unit, _allowed(known), known.changes, known.sentence]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _said(default: object) -> str:
    """Write a default; one that is empty or unlimited says nothing."""
    return "" if default in ("", MISSING, float("inf"), float("-inf")) else f"`{default}`"


_WORDS: dict[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple[str, ...]: "a list of text",
    tuple[float, ...]: "a list of numbers",
}


def _word(hint: Any) -> str:
    if is_dataclass(hint):
        return "a mapping"
    return "a mapping of names to mappings" if get_origin(hint) is Mapping else _WORDS[hint]


def _allowed(known: Setting) -> str:
    if known.choices:
        return ", ".join(known.choices)
    return f"{known.bounds[0]:.10g} to {known.bounds[1]:.10g}" if known.bounds else ""


def _expected(hint: Any, known: Setting) -> str:
    if known.choices:
        return f"one of {_allowed(known)}"
    if known.topic:
        return "a ROS name such as camera/front/image_raw"
    return f"{_word(hint)} from {_allowed(known)} {known.unit}".rstrip() if known.bounds else _word(hint)


def _convert(value: Any, hint: Any, known: Setting, where: str) -> Any:
    """Convert a plain value to its field's type and hold it to its bounds; ValueError where it does not fit."""
    if is_dataclass(hint) and isinstance(value, dict):
        return build(hint, value, where)  # type: ignore[arg-type]  # a class, as the hint of a field is
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_convert(item, get_args(hint)[0], known, where) for item in value)
    if get_origin(hint) is Mapping and isinstance(value, dict):
        if not all(type(key) is str for key in value):
            raise ValueError
        return {key: _convert(item, get_args(hint)[1], known, f"{where}.{key}") for key, item in value.items()}
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint or (known.choices and value not in known.choices):
        raise ValueError
    if known.bounds and not known.bounds[0] <= value <= known.bounds[1]:  # nan is within no bounds
        raise ValueError
    return value


if __name__ == "__main__":
    sys.stdout.write(parameters_table())
