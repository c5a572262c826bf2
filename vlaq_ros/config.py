"""Configuration written once: a setting is one dataclass line with its default, unit, bounds and sentence.

YAML loading, the ROS parameters with their descriptors and docs/parameters.md all come from these lines.
A safety limit has no default: the robot's YAML file must say it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TypeVar, get_args, get_origin, get_type_hints

import yaml

from vlaq_ros.errors import BadValueError, MissingKeyError, RobotFileError, UnknownKeyError

AUTO = "auto"  # the precision that follows the motion of the arm

Config = TypeVar("Config")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one configuration value beside its type and default."""

    sentence: str
    unit: str = ""
    bounds: tuple[float, float] | None = None  # both allowed
    choices: tuple[str, ...] = ()
    live: bool = False  # can be changed while the node runs


def setting(sentence: str, *, default: object = MISSING, **facts: Any) -> Any:
    """Declare a dataclass field that carries a `Setting`; without a default it must be given."""
    return field(default=default, metadata={"setting": Setting(sentence, **facts)})


def setting_of(declared: Field[Any]) -> Setting:
    """Return the `Setting` of a field that `setting` declared."""
    found: Setting = declared.metadata["setting"]
    return found


@dataclass(frozen=True, slots=True)
class PilotConfig:
    """How the pilot runs; the ROS parameters of the node `pilot`."""

    model: str = setting(
        "Bundle directory, or the name of a shipped one in models/.", default="tabletop_pi0_calibrated"
    )
    robot: str = setting("Robot file, or the name of a shipped one in config/robots/.", default="sim_panda")
    precision: str = setting(
        "Precision to run at: auto follows the motion of the arm, a name of the model's precisions fixes it.",
        default=AUTO,
        live=True,
    )
    autostart: bool = setting("Configure and activate without a lifecycle manager.", default=False)
    replan_period_s: float = setting(
        "A new chunk is computed once the last observation is this old.", default=0.3, unit="s", bounds=(0.02, 5.0)
    )
    monitor_period_s: float = setting(
        "The motion of the arm is judged this often.", default=0.02, unit="s", bounds=(0.002, 0.5)
    )
    dwell_s: float = setting(
        "A coarser precision must be asked for this long before it is taken.", default=0.25, unit="s", bounds=(0.0, 5.0)
    )
    blend_s: float = setting(
        "A new chunk is blended into the running one over this time.", default=0.1, unit="s", bounds=(0.0, 1.0)
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
    image_reliability: str = setting(
        "Reliability that the camera subscriptions ask for.",
        default="best_effort",
        choices=("best_effort", "reliable"),
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
    publish_clock: bool = setting(
        "Publish simulated time on /clock and stamp with it; otherwise stamps are system time.", default=False
    )
    real_time_factor: float = setting(
        "Simulated seconds per second; other than 1 only with publish_clock.", default=1.0, bounds=(0.2, 20.0)
    )


@dataclass(frozen=True, slots=True)
class RobotConfig:
    """What must be known of a robot beside its URDF; read from config/robots/NAME.yaml."""

    tool_frame: str = setting("Frame of the URDF that the kinematic monitor and end-effector actions move.")
    arm_joints: tuple[str, ...] = setting("Names of the arm's joints, in the order of the policy's state.")
    gripper_joint: str = setting("Name of the joint that opens the gripper; the last column of state and action.")
    cameras: Mapping[str, str] = setting("Topic (sensor_msgs/Image) of each camera that a model may name.")
    joint_state_topic: str = setting("Topic of sensor_msgs/JointState.")
    description_topic: str = setting("Topic of the latched URDF (std_msgs/String).")
    command_topic: str = setting("Topic of trajectory_msgs/JointTrajectory that the arm's controller listens to.")
    acceleration_limits: Mapping[str, float] = setting(
        "Largest acceleration of each joint (m/s^2 for a prismatic one); a brake uses all of it.",
        unit="rad/s^2",
        bounds=(1e-3, 1e3),
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
        shipped = sorted(file.stem for file in (share() / "config/robots").glob("*.yaml"))
        if not path.is_file():
            raise RobotFileError(path, "does not exist", shipped)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RobotFileError(path, f"is not YAML ({' '.join(str(error).split())})", shipped) from None
        if not isinstance(values, dict):
            raise RobotFileError(path, "is not a mapping of keys to values", shipped)
        robot = build(cls, values, str(path))
        if sorted(robot.acceleration_limits) != sorted(robot.joint_names):
            expected = f"exactly one limit for each of {', '.join(robot.joint_names)}"
            raise BadValueError("acceleration_limits", dict(robot.acceleration_limits), expected, str(path))
        return robot


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
            if item.default is MISSING:
                raise MissingKeyError(key, known.sentence, where)
            continue
        try:
            parsed[key] = _convert(values[key], hints[key], known)
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
    titles = {PilotConfig: "Node `pilot`", SimRobotConfig: "Node `sim_robot`", RobotConfig: "Robot file"}
    for cls, title in titles.items():
        head = "| name | type | default | unit | allowed | live | meaning |"
        lines += ["", f"## {title}", "", str(cls.__doc__), "", head, "|---|---|---|---|---|---|---|"]
        hints = get_type_hints(cls)
        for item in fields(cls):
            known = setting_of(item)
            kind = _WORDS[hints[item.name]]
            default = "required" if item.default is MISSING else f"`{item.default}`"
            live = "yes" if known.live else ""
            cells = [f"`{item.name}`", kind, default, known.unit, _allowed(known), live, known.sentence]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


_WORDS: dict[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple[str, ...]: "a list of text",
    Mapping[str, str]: "a mapping of names to text",
    Mapping[str, float]: "a mapping of names to numbers",
}


def _allowed(known: Setting) -> str:
    if known.choices:
        return ", ".join(known.choices)
    return f"{known.bounds[0]:.10g} to {known.bounds[1]:.10g}" if known.bounds else ""


def _expected(hint: Any, known: Setting) -> str:
    if known.choices:
        return f"one of {_allowed(known)}"
    return f"{_WORDS[hint]} from {_allowed(known)} {known.unit}".rstrip() if known.bounds else _WORDS[hint]


def _convert(value: Any, hint: Any, known: Setting) -> Any:
    """Convert a plain value to its field's type and hold it to its bounds; ValueError where it does not fit."""
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_convert(item, get_args(hint)[0], known) for item in value)
    if get_origin(hint) is Mapping and isinstance(value, dict):
        if not all(type(key) is str for key in value):
            raise ValueError
        return {key: _convert(item, get_args(hint)[1], known) for key, item in value.items()}
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint or (known.choices and value not in known.choices):
        raise ValueError
    if known.bounds and not known.bounds[0] <= value <= known.bounds[1]:  # nan is within no bounds
        raise ValueError
    return value


if __name__ == "__main__":
    sys.stdout.write(parameters_table())
