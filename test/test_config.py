"""Configuration: what is refused and in which words, what resolves where, and that YAML and docs cannot drift."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.config import (
    CameraConfig,
    PilotConfig,
    RobotConfig,
    SafetyConfig,
    build,
    parameters_table,
    required,
    resolve,
    setting_of,
    shipped_robots,
)
from vlaq_ros.errors import (
    BadValueError,
    ConfigError,
    JointLimitsFileError,
    MissingKeyError,
    RobotFileError,
    UnknownKeyError,
)

ROOT = Path(__file__).resolve().parents[1]
PANDA = ROOT / "config/robots/sim_panda.yaml"
SAFETY = yaml.safe_load(PANDA.read_text())["safety"]
BOUNDED = [item for item in fields(PilotConfig) if setting_of(item).bounds]


def robot_file(folder: Path, **changes: Any) -> Path:
    values = yaml.safe_load(PANDA.read_text()) | changes
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return path


def test_shipped_parameters_are_the_defaults() -> None:
    document = yaml.safe_load((ROOT / "config/pilot.yaml").read_text())
    values = document["/**"]["ros__parameters"]
    assert values.keys() == {item.name for item in fields(PilotConfig)}
    assert build(PilotConfig, values, "config/pilot.yaml") == PilotConfig()


def test_docs_table_is_current() -> None:
    assert (ROOT / "docs/parameters.md").read_text() == parameters_table(), (
        "run: python -m vlaq_ros.config > docs/parameters.md"
    )


def test_default_values_lie_within_their_own_bounds() -> None:
    defaults = {item.name: item.default for item in fields(PilotConfig)}
    assert build(PilotConfig, defaults, "the defaults") == PilotConfig()


def test_unknown_key() -> None:
    with pytest.raises(UnknownKeyError) as caught:
        build(PilotConfig, {"replan_periods": 0.3}, "pilot.yaml")
    assert str(caught.value).startswith("unknown key 'replan_periods' in pilot.yaml; known keys: model, robot, ")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("dwell_s", -0.1, "dwell_s in pilot.yaml is -0.1; expected a number from 0 to 5 s"),
        ("dwell_s", "fast", "dwell_s in pilot.yaml is 'fast'; expected a number from 0 to 5 s"),
        ("dwell_s", True, "dwell_s in pilot.yaml is True; expected a number from 0 to 5 s"),
        ("dwell_s", float("nan"), "dwell_s in pilot.yaml is nan; expected a number from 0 to 5 s"),
        ("threads", 1.0, "threads in pilot.yaml is 1.0; expected a whole number from 1 to 64"),
        ("autostart", 1, "autostart in pilot.yaml is 1; expected true or false"),
        ("model", None, "model in pilot.yaml is None; expected text"),
        ("seam", "hard", "seam in pilot.yaml is 'hard'; expected one of guided, blended, naive"),
    ],
)
def test_bad_value(key: str, value: object, text: str) -> None:
    with pytest.raises(BadValueError) as caught:
        build(PilotConfig, {key: value}, "pilot.yaml")
    assert str(caught.value) == text


@given(st.sampled_from(BOUNDED), st.floats(allow_nan=True) | st.integers())
def test_a_number_is_accepted_exactly_within_its_bounds(item: Any, value: float) -> None:
    low, high = setting_of(item).bounds or (0, 0)
    fits = low <= value <= high and (isinstance(value, int) or item.type == "float")
    try:
        accepted = getattr(build(PilotConfig, {item.name: value}, "here"), item.name)
    except BadValueError:
        assert not fits
    else:
        assert fits
        assert accepted == value


def test_whole_number_for_a_float_becomes_a_float() -> None:
    dwell_s = build(PilotConfig, {"dwell_s": 1}, "here").dwell_s
    assert (type(dwell_s), dwell_s) == (float, 1.0)


def test_shipped_robot() -> None:
    robot = RobotConfig.load("sim_panda")
    assert robot == RobotConfig.load(str(PANDA))
    assert robot.joint_names == (*(f"panda_joint{i}" for i in range(1, 8)), "panda_finger_joint1")
    assert robot.cameras["wrist"] == CameraConfig("camera/wrist/image_raw", 20.0)
    assert list(robot.joint_limits()) == list(robot.joint_names)


@pytest.mark.parametrize("name", shipped_robots())
def test_every_shipped_robot_loads_with_its_limits(name: str) -> None:
    robot = RobotConfig.load(name)
    assert set(robot.joint_limits()) == set(robot.joint_names)


@pytest.mark.parametrize("key", [item.name for item in fields(RobotConfig) if required(item)])
def test_what_has_no_default_must_be_said(tmp_path: Path, key: str) -> None:
    path = robot_file(tmp_path, **{key: None})
    with pytest.raises(MissingKeyError) as caught:
        RobotConfig.load(str(path))
    sentence = next(setting_of(item).sentence for item in fields(RobotConfig) if item.name == key)
    assert str(caught.value) == f"{path} has no key '{key}'; add it: {sentence}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arm_joints": "panda_joint1"}, "arm_joints in {path} is 'panda_joint1'; expected a list of text"),
        ({"arm_joints": [1]}, "arm_joints in {path} is [1]; expected a list of text"),
        ({"cameras": {1: {}}}, "cameras in {path} is {{1: {{}}}}; expected a mapping of names to mappings"),
        (
            {"cameras": {"front": "image"}},
            "cameras in {path} is {{'front': 'image'}}; expected a mapping of names to mappings",
        ),
        (
            {"cameras": {"front": {"topic": "a", "rate_hz": 0}}},
            "rate_hz in {path}: cameras.front is 0; expected a number from 0.1 to 1000 Hz",
        ),
        (
            {"cameras": {"front": {"topic": "front camera", "rate_hz": 30.0}}},
            "topic in {path}: cameras.front is 'front camera'; expected a ROS name such as camera/front/image_raw",
        ),
        (
            {"joint_state_topic": ""},
            "joint_state_topic in {path} is ''; expected a ROS name such as camera/front/image_raw",
        ),
        (
            {"estop_topic": "e-stop"},
            "estop_topic in {path} is 'e-stop'; expected a ROS name such as camera/front/image_raw",
        ),
        (
            {"arm_joints": ["a", "a"], "gripper_joint": "g"},
            "arm_joints in {path} is ['a', 'a', 'g']; expected every joint once, the gripper's not among the arm's",
        ),
        (
            {"joints": {"elbow": {"scale": -1.0}}},
            "joints in {path} is ['elbow']; expected joints among panda_joint1, panda_joint2, panda_joint3, "
            "panda_joint4, panda_joint5, panda_joint6, panda_joint7, panda_finger_joint1",
        ),
        (
            {"joints": {"panda_joint1": {"scale": 0.0}}},
            "joints.panda_joint1.scale in {path} is 0.0; expected a number other than 0",
        ),
        (
            {"arm_joints": ["a", "b"], "gripper_joint": "g", "joints": {"a": {"message": "b"}}},
            "joints in {path} is ['b', 'b', 'g']; expected another message name for every joint",
        ),
        (
            {"gripper": {"type": "GripperCommand"}},
            "gripper.topic in {path} is ''; expected the topic or action of GripperCommand",
        ),
        (
            {"safety": SAFETY | {"workspace_lower_m": [0.0, 0.0, 2.0]}},
            "safety.workspace in {path} is [[0.0, 0.0, 2.0], [0.9, 0.6, 0.9]]; expected three numbers each, every "
            "lower one below its upper one",
        ),
    ],
)
def test_unusable_robot(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = robot_file(tmp_path, **changes)
    with pytest.raises(BadValueError) as caught:
        RobotConfig.load(str(path))
    assert str(caught.value) == words.format(path=path)


@pytest.mark.parametrize("topic", ["a", "/a/b_1", "~/a", "left/camera/image_raw"])
def test_ros_names(tmp_path: Path, topic: str) -> None:
    assert RobotConfig.load(str(robot_file(tmp_path, estop_topic=topic))).estop_topic == topic


@pytest.mark.parametrize("key", [item.name for item in fields(SafetyConfig)])
def test_no_safety_limit_has_a_default(tmp_path: Path, key: str) -> None:
    path = robot_file(tmp_path, safety={name: value for name, value in SAFETY.items() if name != key})
    with pytest.raises(MissingKeyError, match=f"{path}: safety has no key '{key}'; add it: "):
        RobotConfig.load(str(path))


def limits_file(folder: Path, **of_joint1: Any) -> RobotConfig:
    """A robot whose limits are those of the Panda, changed for its first joint."""
    values = yaml.safe_load((PANDA.parent / SAFETY["joint_limits"]).read_text())
    values["joint_limits"]["panda_joint1"] |= of_joint1
    (folder / "limits.yaml").write_text(yaml.safe_dump(values))
    return RobotConfig.load(str(robot_file(folder, safety=SAFETY | {"joint_limits": "limits.yaml"})))


def test_limits_are_read_as_ros2_control_reads_them(tmp_path: Path) -> None:
    robot = limits_file(
        tmp_path,
        has_velocity_limits=True,
        max_velocity=1.5,
        has_position_limits=False,
        min_position=-1.0,
        max_position=1.0,
        angle_wraparound=False,
    )
    limit = robot.joint_limits()["panda_joint1"]
    assert (limit.max_velocity, limit.min_position, limit.max_position) == (1.5, -np.inf, np.inf)
    assert (limit.max_acceleration, limit.max_jerk) == (15.0, 7500.0)


@pytest.mark.parametrize("key", ["max_acceleration", "max_jerk"])
def test_a_limit_that_is_switched_off_is_missing(tmp_path: Path, key: str) -> None:
    robot = limits_file(tmp_path, **{f"has_{key[4:]}_limits": False})
    with pytest.raises(MissingKeyError, match=f"limits.yaml: panda_joint1 has no key '{key}'; add it: "):
        robot.joint_limits()


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "does not exist"), ("a: 1", "has no mapping joint_limits"), ("joint_limits: {}", "has no limits of ")],
)
def test_unusable_limits_file(tmp_path: Path, content: str | None, why: str) -> None:
    if content is not None:
        (tmp_path / "limits.yaml").write_text(content)
    robot = RobotConfig.load(str(robot_file(tmp_path, safety=SAFETY | {"joint_limits": "limits.yaml"})))
    with pytest.raises(JointLimitsFileError) as caught:
        robot.joint_limits()
    assert str(caught.value).startswith(f"joint limits file '{tmp_path / 'limits.yaml'}' {why}")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "does not exist"),
        ("[1, 2]", "is not a mapping of keys to values"),
        ("a: [", "is not YAML (while parsing a flow node"),
        (b"\xff\xfe\xff", "is not YAML ("),
    ],
)
def test_unreadable_robot_file(tmp_path: Path, content: str | bytes | None, why: str) -> None:
    path = tmp_path / "arm.yaml"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(RobotFileError) as caught:
        RobotConfig.load(str(path))
    text = str(caught.value)
    assert text.startswith(f"robot file '{path}' {why}")
    assert text.endswith(
        f"; expected the path of a YAML file or the name of a shipped robot: {', '.join(shipped_robots())}"
    )
    assert "\n" not in text
    assert isinstance(caught.value, ConfigError)


def test_resolve_prefers_an_existing_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("sim_panda", "config/robots", ".yaml") == PANDA
    assert resolve("not_there", "models") == tmp_path / "not_there"
    mine = tmp_path / "sim_panda"
    mine.touch()
    assert resolve("sim_panda", "config/robots", ".yaml") == mine
    assert resolve(str(mine), "config/robots", ".yaml") == mine


@pytest.mark.parametrize("layout", ["lib/python3.11/site-packages", "local/lib/python3.12/dist-packages"])
def test_shipped_files_of_an_installed_package(tmp_path: Path, layout: str) -> None:
    prefix = tmp_path / "prefix"
    package = prefix / layout / "vlaq_ros"
    package.mkdir(parents=True)
    for name in ("__init__.py", "config.py", "errors.py"):
        shutil.copy(ROOT / "vlaq_ros" / name, package / name)
    installed = prefix / "share/vlaq_ros"
    shutil.copytree(ROOT / "config", installed / "config")
    shutil.copy(ROOT / "package.xml", installed / "package.xml")
    script = "import vlaq_ros.config as c; print(c.__file__, c.resolve('sim_panda', 'config/robots', '.yaml'))"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(package.parent)},
    )
    assert ran.stdout.split() == [str(package / "config.py"), str(installed / "config/robots/sim_panda.yaml")]
