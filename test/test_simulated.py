"""Observations of the simulated arm: what rollouts saw and what shards hold, drawn evenly, and mistakes in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlaq_ros.calibrate import simulated
from vlaq_ros.calibrate.buffer import Buffer
from vlaq_ros.calibrate.data import open_data
from vlaq_ros.calibrate.simulated import from_demonstrations, from_rollouts
from vlaq_ros.config import RobotConfig
from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import FloatArray
from vlaq_ros.errors import (
    CalibrationDataError,
    NotSimulatedError,
    TooFewObservationsError,
    UnreadableDemonstrationsError,
    VlaqError,
)
from vlaq_ros.evaluate.motion import PolicyMotion, measure
from vlaq_ros.policy.description import Description, describe
from vlaq_ros.sim import panda
from vlaq_ros.sim.demonstrations import FIELDS, STEP_S
from vlaq_ros.sim.scene import CAMERAS, TASKS

FRAMES = 9  # of every episode
EPISODES = 2 * len(TASKS)


@pytest.fixture(scope="module")
def policy(tiny_checkpoint: Path) -> Description:
    return describe(tiny_checkpoint)


def shard(path: Path, seeds: range) -> None:
    """Write demonstrations whose numbers say which frame they are: a third still, a third moving, a third closing."""
    count = FRAMES * len(seeds)
    frames: dict[str, np.ndarray[Any, Any]] = {
        name: np.zeros((count, *shape), dtype) for name, (shape, dtype) in FIELDS.items()
    }
    step = np.tile(np.arange(FRAMES), len(seeds))
    frames["seed"] = np.repeat(np.array(seeds), FRAMES)
    frames["instruction"] = (frames["seed"] % len(TASKS)).astype(np.int16)
    frames["state"][:, :7] = 0.1 * np.clip(step - 2, 0, 3)[:, None]
    frames["state"][:, 7] = 0.04 - 0.01 * np.clip(step - 5, 0, 3)
    frames["images"][:, 0] = frames["seed"][:, None, None, None]
    frames["images"][:, 1] = step[:, None, None, None]
    joints = np.concatenate([path_of(seed) for seed in seeds])
    np.savez(path, **frames, joints=joints, lengths=np.array([len(path_of(seed)) for seed in seeds]))


def path_of(seed: int) -> FloatArray:
    """Joint positions of an episode in which the arm swings."""
    times_s = np.arange(0, 1.5 + 0.1 * (seed % 3), STEP_S)[:, None]
    swing: FloatArray = (0.1 + 0.01 * seed) * np.sin(3 * times_s * np.arange(1, 9))
    return np.array([*panda.HOME_RAD, 0.02]) + swing * ([1] * 7 + [0])


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("demos")
    for start in range(0, EPISODES, 10):
        shard(directory / f"{start:07d}.npz", range(start, min(start + 10, EPISODES)))
    return directory


def drawn(directory: Path, policy: Description, count: int = 36) -> Buffer:
    return from_demonstrations(directory, policy, count=count, seed=0, report=lambda _: None)


def test_frames_of_demonstrations_are_what_was_recorded(demos: Path, policy: Description) -> None:
    done: list[int] = []
    buffer = from_demonstrations(demos, policy, count=36, seed=0, report=done.append)
    assert sum(done) == 36
    assert buffer.origin == f"demonstrations {demos.name}"
    for observation in buffer.observations:
        assert tuple(observation.images) == CAMERAS
        seed, step = (int(observation.images[camera].max()) for camera in CAMERAS)
        assert {int(observation.images[camera].min()) for camera in CAMERAS} == {seed, step}
        assert observation.instruction == list(TASKS)[seed % len(TASKS)]
        assert observation.stamp_ns == step * 200_000_000
        assert observation.joint_names == panda.JOINT_NAMES
        assert observation.joint_positions[0] == pytest.approx(0.1 * np.clip(step - 2, 0, 3))
    assert Counter(observation.instruction for observation in buffer.observations) == dict.fromkeys(
        policy.spec.instructions, 6
    )
    assert Counter(buffer.phases) == {"gripper": 12, "fast": 12, "slow": 12}


def test_motion_is_that_of_the_episodes_of_the_policys_tasks(demos: Path, policy: Description) -> None:
    known = [seed for seed in range(EPISODES) if list(TASKS)[seed % len(TASKS)] in policy.spec.instructions]
    assert 0 < len(known) < EPISODES
    kinematics = Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME)
    expected = measure(kinematics, [path_of(seed) for seed in known], STEP_S, policy.spec.motion.period_s)
    found = drawn(demos, policy).motion
    assert isinstance(expected, PolicyMotion)
    assert isinstance(found, PolicyMotion)
    assert found.scales == expected.scales
    np.testing.assert_array_equal(found.sensitivities, expected.sensitivities)


def test_the_arms_joints_are_read_in_the_policys_order(demos: Path, policy: Description) -> None:
    names = policy.spec.joint_names
    turned = replace(policy.spec, joint_names=(*names[6::-1], names[7]), state_std=policy.spec.state_std)
    assert drawn(demos, replace(policy, spec=turned)).sha256 == drawn(demos, policy).sha256


def test_of_many_shards_a_few_are_read(demos: Path, policy: Description, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "SHARDS", 2)
    seeds = {int(observation.images["front"].max()) for observation in drawn(demos, policy, 18).observations}
    read = sorted(demos.glob("*.npz"))[:: -(-len(list(demos.glob("*.npz"))) // 2)]
    assert len(read) == 2
    assert {seed // 10 for seed in seeds} <= {int(path.stem) // 10 for path in read}


def test_demonstrations_that_cannot_be_used_are_told(demos: Path, policy: Description, tmp_path: Path) -> None:
    def refusal(kind: type[VlaqError]) -> str:
        with pytest.raises(kind) as mistake:
            drawn(tmp_path, policy)
        return str(mistake.value)

    path = tmp_path / "0000000.npz"
    shard(path, range(1))
    assert refusal(TooFewObservationsError) == (
        f"demonstrations {tmp_path.name} gives 9 observations, expected at least 36; record more, or ask for fewer"
    )
    np.savez(path, state=np.zeros((1, 8)), instruction=np.array([len(TASKS)]), seed=np.zeros(1))
    assert refusal(UnreadableDemonstrationsError) == (
        f"demonstrations {str(path)!r} cannot be read (it has task {len(TASKS)}, the simulation has {len(TASKS)} tasks)"
        "; expected a file that this version of `vlaq train` recorded: remove it and record it again"
    )
    shard(path, range(EPISODES))
    with np.load(path) as saved:
        cut = dict(saved) | {"joints": saved["joints"][1:]}
    np.savez(path, **cut)
    count = len(cut["joints"])
    assert (
        f"(it has frames of {EPISODES} episodes, and {count} joint states of {EPISODES} ones of {count + 1} in all)"
    ) in refusal(UnreadableDemonstrationsError)
    np.savez(path, state=np.zeros((1, 8)))
    refusal(UnreadableDemonstrationsError)
    path.write_bytes(next(demos.glob("*.npz")).read_bytes()[:1000])
    refusal(UnreadableDemonstrationsError)
    path.write_bytes(b"")
    refusal(UnreadableDemonstrationsError)


def test_a_policy_of_another_robot_is_told(demos: Path, policy: Description) -> None:
    spec = policy.spec
    rest = ", which the policy needs; calibrate it on a rosbag2 recording of its own robot: give one with --data"
    for wrong, sentence in (
        (replace(spec, cameras=("front", "left", "right")), f"the simulation has no camera 'left', 'right'{rest}"),
        (replace(spec, joint_names=(*spec.joint_names[:7], "thumb")), f"the simulation has no joint 'thumb'{rest}"),
    ):
        with pytest.raises(NotSimulatedError) as mistake:
            drawn(demos, replace(policy, spec=wrong))
        assert str(mistake.value) == sentence
    folding = replace(policy, spec=replace(spec, instructions=(*spec.instructions, "fold the towel")))
    with pytest.raises(NotSimulatedError) as mistake:
        from_rollouts(folding, count=1, seed=0, jobs=1, report=lambda _: None)
    assert str(mistake.value) == f"the simulation has no task 'fold the towel'{rest}"


def test_rollouts_give_what_the_policy_saw(policy: Description, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "TIME_LIMIT_S", 0.9)  # three chunks each
    done: list[int] = []
    buffer = from_rollouts(policy, count=24, seed=0, jobs=1, report=done.append)
    assert sum(done) == 24
    assert buffer.origin == f"12 episodes of {policy.directory.name} at full precision"
    assert Counter(observation.instruction for observation in buffer.observations) == dict.fromkeys(
        policy.spec.instructions, 4
    )
    layouts = {observation.images["front"].tobytes() for observation in buffer.observations}
    assert len(layouts) == 24
    for observation in buffer.observations:
        assert observation.images["wrist"].shape == (96, 96, 3)
        assert set(observation.images) == set(CAMERAS)


def test_a_path_says_what_it_holds(demos: Path, policy: Description, tmp_path: Path) -> None:
    def opened(path: Path) -> Buffer:
        robot = RobotConfig.load("sim_panda")
        return open_data(path, robot, policy, instruction=None, count=36, seed=0, report=lambda _: None)

    assert opened(demos).sha256 == drawn(demos, policy).sha256
    (tmp_path / "empty").mkdir()
    for path in (tmp_path, tmp_path / "empty", tmp_path / "none", demos / "0000000.npz"):
        with pytest.raises(CalibrationDataError) as mistake:
            opened(path)
        assert str(mistake.value) == (
            f"{str(path)!r} holds no calibration data; expected a rosbag2 recording (a directory, or an .mcap or .db3 "
            "file), a directory of recordings, or a directory of demonstrations that `vlaq train` recorded"
        )
