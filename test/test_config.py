"""Configuration: what is refused and in which words, what resolves where, and that YAML and docs cannot drift."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vlaq_ros.config import PilotConfig, RobotConfig, build, parameters_table, resolve, setting_of
from vlaq_ros.errors import BadValueError, ConfigError, MissingKeyError, RobotFileError, UnknownKeyError

ROOT = Path(__file__).resolve().parents[1]
PANDA = ROOT / "config/robots/sim_panda.yaml"
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
        (
            "image_reliability",
            "maybe",
            "image_reliability in pilot.yaml is 'maybe'; expected one of best_effort, reliable",
        ),
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
    assert robot.cameras == {"front": "camera/front/image_raw", "wrist": "camera/wrist/image_raw"}


@pytest.mark.parametrize("key", [item.name for item in fields(RobotConfig)])
def test_nothing_of_a_robot_has_a_default(tmp_path: Path, key: str) -> None:
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
        ({"cameras": {1: "image"}}, "cameras in {path} is {{1: 'image'}}; expected a mapping of names to text"),
        (
            {"acceleration_limits": {"panda_joint1": 0.0}},
            "acceleration_limits in {path} is {{'panda_joint1': 0.0}}; "
            "expected a mapping of names to numbers from 0.001 to 1000 rad/s^2",
        ),
        (
            {"arm_joints": ["a"], "gripper_joint": "g", "acceleration_limits": {"a": 1.0}},
            "acceleration_limits in {path} is {{'a': 1.0}}; expected exactly one limit for each of a, g",
        ),
        (
            {"arm_joints": ["a", "a"], "gripper_joint": "g", "acceleration_limits": {"a": 1.0, "g": 1.0}},
            "acceleration_limits in {path} is {{'a': 1.0, 'g': 1.0}}; expected exactly one limit for each of a, a, g",
        ),
    ],
)
def test_unusable_robot(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = robot_file(tmp_path, **changes)
    with pytest.raises(BadValueError) as caught:
        RobotConfig.load(str(path))
    assert str(caught.value) == words.format(path=path)


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
    assert text.endswith("; expected the path of a YAML file or the name of a shipped robot: sim_panda")
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
