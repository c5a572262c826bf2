"""How the arm moved in a recording: closed forms of its scales, what ends an episode, and which description counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bag_writer import SECOND, START, Entry, header, text, write
from test_bags import BLUE, RED, ROBOT

from vlaq_ros.calibrate.travel import recorded_motion
from vlaq_ros.config import JointConfig, PilotConfig, RobotConfig
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.motion import KinematicMonitor, MonitorConfig
from vlaq_ros.datatypes import FloatArray, JointWindow
from vlaq_ros.errors import FrameNameError, RobotDescriptionError
from vlaq_ros.evaluate.motion import PolicyMotion, UnknownMotion, measure
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.sim import panda

PERIOD_S = PilotConfig().monitor_period_s
KINEMATICS = Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME)


def swing(seconds: float, seed: int = 0) -> FloatArray:
    """Joint positions [K, 8] of an arm that swings, every monitor period."""
    rng = np.random.default_rng(seed)
    times_s = np.arange(0, seconds, PERIOD_S)[:, None]
    moved = 0.2 * np.sin(2 * np.pi * times_s * rng.uniform(0.2, 0.6, 8) + rng.uniform(0, 6, 8))
    return np.array([*panda.HOME_RAD, 0.02]) + moved * ([1] * 7 + [0])


def states(positions: FloatArray, start_s: float, names: Iterable[str] = ROBOT.joint_names) -> list[Entry]:
    """Joint states, one every monitor period."""
    stamps_ns = [START + round((start_s + row * PERIOD_S) * SECOND) for row in range(len(positions))]
    nothing = np.zeros(0)
    return [
        (
            stamp_ns,
            "/joint_states",
            "sensor_msgs/msg/JointState",
            {"header": header(stamp_ns), "name": list(names), "position": row, "velocity": nothing, "effort": nothing},
        )
        for stamp_ns, row in zip(stamps_ns, positions, strict=True)
    ]


def description(urdf: str, topic: str = "/robot_description") -> Entry:
    return START, topic, "std_msgs/msg/String", {"data": urdf}


@pytest.fixture
def spec(tiny_checkpoint: Path) -> PolicySpec:
    return PolicySpec.load(tiny_checkpoint)


def moved(
    bags: Sequence[Path], spec: PolicySpec, robot: RobotConfig = ROBOT, instruction: str | None = None
) -> PolicyMotion | UnknownMotion:
    return recorded_motion(bags, robot, spec, instruction, "bag mine")


def same(found: PolicyMotion | UnknownMotion, episodes: Sequence[FloatArray], spec: PolicySpec) -> bool:
    """Say whether a motion is that of these episodes."""
    expected = measure(KINEMATICS, episodes, PERIOD_S, spec.motion.period_s)
    assert isinstance(expected, PolicyMotion)
    assert isinstance(found, PolicyMotion)
    return np.allclose(
        [*found.sensitivities, found.scales.displacement_m, found.scales.rotation_rad],
        [*expected.sensitivities, expected.scales.displacement_m, expected.scales.rotation_rad],
        rtol=1e-6,
    )


def test_a_known_motion_gives_numpys_percentiles(spec: PolicySpec, tmp_path: Path) -> None:
    """Only the first joint turns, about the vertical: the tool is on a circle, its turn is that of the joint."""
    positions = np.tile([*panda.HOME_RAD, 0.02], (400, 1))
    positions[:, 0] = 0.5 * np.sin(np.arange(400) * PERIOD_S * 1.7) ** 3
    bag = write(tmp_path / "bag", [text(START, RED), *states(positions, 0)])
    found = moved([bag], replace(spec, motion=replace(spec.motion, period_s=5 * PERIOD_S)))
    assert isinstance(found, PolicyMotion)
    translation, _ = KINEMATICS.forward(positions[:1])
    radius_m = np.linalg.norm(translation[0, :2])
    angles = positions[::-1, 0]
    means = np.array(  # over two periods, that begin at the newest sample
        [np.trapezoid(angles[k : k + 11]) / 10 for k in range(0, 390, 5)]
    )
    turns = np.diff(means)
    assert found.scales.period_s == 5 * PERIOD_S
    assert found.scales.displacement_m == pytest.approx(np.percentile(2 * radius_m * np.sin(abs(turns) / 2), 95))
    assert found.scales.rotation_rad == pytest.approx(np.percentile(abs(np.diff(turns)), 95))
    monitor = KinematicMonitor(KINEMATICS, found.scales, MonitorConfig())
    stamps_ns = np.arange(400) * round(PERIOD_S * SECOND)
    ends = 2 + round(monitor.span_s / PERIOD_S) + np.arange(len(found.sensitivities)) * round(0.1 / PERIOD_S)
    assert 400 - ends[-1] < 0.1 / PERIOD_S
    said = [
        monitor.motion(JointWindow(panda.JOINT_NAMES, stamps_ns[:end], positions[:end], positions[:end]))
        for end in ends
    ]
    expected = [motion.sensitivity for motion in said if motion is not None]
    np.testing.assert_allclose(found.sensitivities, expected, atol=1e-6)


def test_an_episode_ends_with_its_instruction_with_its_bag_and_where_samples_miss(
    spec: PolicySpec, tmp_path: Path
) -> None:
    parts = [swing(1.5, seed) for seed in range(5)]
    gripper = states(np.zeros((75, 1)), 0.01, ["another_joint"])  # of a publisher of its own
    first = write(
        tmp_path / "first",
        [
            *(text(START, RED), *states(parts[0], 0), *gripper),
            *(text(START + round(1.495 * SECOND), BLUE), *states(parts[1], 1.5)),
            *(text(START + round(2.995 * SECOND), ""), *states(swing(2, 9), 3)),  # driven by hand
            *(text(START + round(4.995 * SECOND), RED), *states(parts[2], 5), *states(parts[3], 6.8)),
        ],
    )
    second = write(tmp_path / "second", [text(START, RED), *states(parts[4], 0)])
    assert same(moved([first, second], spec), parts, spec)


def test_the_given_instruction_counts_alone(spec: PolicySpec, tmp_path: Path) -> None:
    positions = swing(3)
    split = [*states(positions, 0), text(START + SECOND, RED), text(START + 2 * SECOND, "")]
    assert same(moved([write(tmp_path / "bag", split)], spec, instruction=BLUE), [positions], spec)


def test_joint_states_at_another_rate_are_taken_as_straight_lines(spec: PolicySpec, tmp_path: Path) -> None:
    positions = swing(3)
    slow = [entry for k, entry in enumerate(states(positions, 0)) if k % 3 == 0]
    lines = np.column_stack([np.interp(np.arange(148), np.arange(0, 150, 3), each) for each in positions[::3].T])
    assert same(moved([write(tmp_path / "bag", [text(START, RED), *slow])], spec), [lines], spec)


def test_the_recorded_description_counts_else_that_of_a_panda(spec: PolicySpec, tmp_path: Path) -> None:
    positions = swing(2)
    own = spec.joint_names[:-1]
    mine = replace(
        ROBOT,
        arm_joints=tuple(name.replace("panda", "mine") for name in own),
        gripper_joint="mine_finger_joint1",
        tool_frame="mine_hand_tcp",
        description_topic="arm/urdf",
    )
    renamed = replace(spec, joint_names=mine.joint_names)
    urdf = panda.urdf().replace("panda", "mine")
    entries = [text(START, RED), *states(positions, 0, mine.joint_names)]
    bare = write(tmp_path / "bare", entries)
    told = write(tmp_path / "told", [*entries, description(urdf, "/arm/urdf")])
    assert same(moved([told], renamed, mine), [positions], spec)
    assert same(moved([bare, told], renamed, mine), [positions, positions], spec)  # one robot, whichever bag says it
    assert moved([bare], renamed, mine) == UnknownMotion(
        "bag mine has no robot description (std_msgs/msg/String on /arm/urdf)"
    )
    of_panda = [text(START, RED), *states(positions, 0)]
    assert same(moved([write(tmp_path / "panda", of_panda)], spec), [positions], spec)
    wrong = write(tmp_path / "wrong", [*of_panda, description("no URDF")])
    with pytest.raises(RobotDescriptionError):
        moved([wrong], spec)
    with pytest.raises(FrameNameError):
        moved([write(tmp_path / "other", [*of_panda, description(panda.urdf())])], spec, replace(ROBOT, tool_frame="x"))


def test_joints_in_other_words_move_the_same_arm(spec: PolicySpec, tmp_path: Path) -> None:
    positions = swing(3)
    described = {name: JointConfig(message=f"motor_{name}", unit="deg", scale=-1.0) for name in ROBOT.arm_joints}
    told = np.hstack([-np.rad2deg(positions[:, :-1]), positions[:, -1:]])
    names = [*(f"motor_{name}" for name in ROBOT.arm_joints), ROBOT.gripper_joint]
    bag = write(tmp_path / "bag", [text(START, RED), *states(told, 0, names)])
    assert same(moved([bag], spec, replace(ROBOT, joints=described)), [positions], spec)


def test_an_arm_that_nobody_asked_anything_tells_nothing(spec: PolicySpec, tmp_path: Path) -> None:
    found = moved([write(tmp_path / "bag", [*states(swing(2), 0), text(START + 3 * SECOND, RED)])], spec)
    assert isinstance(found, UnknownMotion)
    assert found.why.startswith("the arm was not seen moving for ")
