"""Demonstrations: what a frame says fits the robot it was taken of, and shards come from seeds alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import FloatArray
from vlaq_ros.sim import demonstrations, expert, panda
from vlaq_ros.sim.demonstrations import CHUNK_STEPS, FIELDS, FRAME_STEPS, STEP_S, plan
from vlaq_ros.sim.robot import SimRobot
from vlaq_ros.sim.scene import CAMERAS, COLOURS, TASKS, Scene

EPISODES = len(TASKS)  # one of each


def record(base: Path) -> Path:
    """Make a directory of demonstrations once per test session: what is already there is kept."""
    directory = base / "demonstrations"
    assert sum(kept for _, kept in demonstrations.generate(plan(directory, EPISODES), processes=1)) == EPISODES
    return directory


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def frames(demos: Path) -> dict[str, np.ndarray]:
    return demonstrations.load(plan(demos, EPISODES))[0]


@pytest.fixture(scope="module")
def episodes(demos: Path) -> list[FloatArray]:
    return demonstrations.load(plan(demos, EPISODES))[1]


@pytest.fixture(scope="module")
def kinematics() -> Kinematics:
    return Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.iterdir()}


def test_a_frame_has_every_field(frames: dict[str, np.ndarray]) -> None:
    assert list(frames) == list(FIELDS)
    count = len(frames["seed"])
    for name, (shape, dtype) in FIELDS.items():
        assert frames[name].shape == (count, *shape), name
        assert frames[name].dtype == dtype, name
        assert np.isfinite(frames[name]).all(), name


def test_an_episode_is_one_seed_and_its_task(frames: dict[str, np.ndarray], episodes: list[FloatArray]) -> None:
    assert len(episodes) == EPISODES
    for seed, joints in enumerate(episodes):
        own = frames["seed"] == seed
        assert (frames["instruction"][own] == seed % len(TASKS)).all()
        expected = joints[seed % FRAME_STEPS :: FRAME_STEPS]
        np.testing.assert_array_equal(frames["state"][own], expected.astype(np.float32))
        assert joints.shape[1] == len(panda.JOINT_NAMES)


def test_a_seed_gives_the_same_arrays_in_another_process(
    frames: dict[str, np.ndarray], episodes: list[FloatArray]
) -> None:
    for seed in (3, 3, 7, 16):
        again = demonstrations.demonstrate(seed, list(TASKS)[seed])
        assert again is not None
        np.testing.assert_array_equal(again.joints, episodes[seed])
        for name, values in again.frames.items():
            np.testing.assert_array_equal(values, frames[name][frames["seed"] == seed], err_msg=name)


def test_a_label_is_what_the_undisturbed_expert_would_do(frames: dict[str, np.ndarray], scene: Scene) -> None:
    for seed in (0, 4):  # their first frame shows the layout itself
        scene.reset(seed, list(TASKS)[seed])
        first = int((frames["seed"] == seed).argmax())
        planned = expert.plan(scene, CHUNK_STEPS, STEP_S)
        np.testing.assert_array_equal(frames["end_effector"][first], planned.astype(np.float32))
        for camera, shown in zip(CAMERAS, frames["images"][first], strict=True):
            np.testing.assert_array_equal(shown, scene.images()[camera])


def test_joint_labels_reach_the_poses_of_the_end_effector_labels(
    frames: dict[str, np.ndarray], kinematics: Kinematics
) -> None:
    states = frames["state"].astype(np.float64)
    tools, rotations = kinematics.forward(states)
    for state, tool, rotation, joint, wanted in zip(
        states, tools, rotations, frames["joint"], frames["end_effector"], strict=True
    ):
        reached, turned = kinematics.forward(state + np.column_stack([joint[:, :7], np.zeros(CHUNK_STEPS)]))
        np.testing.assert_allclose(reached, tool + wanted[:, :3], atol=1e-4)
        asked = Rotation.from_rotvec(wanted[:, 3:6]) * Rotation.from_matrix(rotation)
        assert (Rotation.from_matrix(turned) * asked.inv()).magnitude().max() < 1e-4
        np.testing.assert_array_equal(joint[:, 7], wanted[:, 6])  # the gripper's target is absolute


def test_labels_of_place_agree_with_each_other(
    frames: dict[str, np.ndarray], kinematics: Kinematics, scene: Scene
) -> None:
    tools, _ = kinematics.forward(frames["state"].astype(np.float64))
    front = CAMERAS.index("front")  # it does not move
    tasks = list(TASKS.values())
    order = [*COLOURS, None]  # of the labelled objects; the last is the receptacle
    assert frames["relative"].shape[0] == len(tools)
    for i, tool in enumerate(tools):
        task = tasks[frames["instruction"][i]]
        taken, destination = tool + frames["relative"][i]
        assert taken[2] > 0.018  # on the table, or higher
        assert destination[2] == pytest.approx(0.022 if task.onto else 0, abs=2e-3)
        seen = frames["pixels"][i, front, [order.index(task.colour), order.index(task.onto)]]
        np.testing.assert_allclose(scene.project("front", np.array([taken, destination])), seen, atol=1e-5)


def test_the_turn_is_what_the_expert_has_still_to_turn(
    frames: dict[str, np.ndarray], kinematics: Kinematics, scene: Scene
) -> None:
    for seed in (0, 8, 12):  # their first frame shows the layout itself; 8 is a bar
        scene.reset(seed, list(TASKS)[seed])
        first = int((frames["seed"] == seed).argmax())
        assert frames["turn"][first] == np.float32(expert.turn_rad(scene))
    _, rotations = kinematics.forward(frames["state"].astype(np.float64))
    square = ~np.isin(frames["instruction"], [k for k, task in enumerate(TASKS.values()) if task.family == "bar"])
    yaws = np.arctan2(rotations[:, 1, 0], rotations[:, 0, 0])
    np.testing.assert_allclose(frames["turn"][square], -yaws[square], atol=1e-4)


def test_an_episode_that_failed_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimRobot, "failed", property(lambda robot: robot.scene.data.time > 1))
    assert demonstrations.demonstrate(0, "pick up the red cube") is None
    robot, _ = demonstrations._arm()
    assert robot.scene.data.time == pytest.approx(1, abs=0.1)  # it was not gone on with


def test_an_episode_that_runs_out_of_time_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demonstrations, "TIME_LIMIT_STEPS", 8)
    assert demonstrations.demonstrate(0, "pick up the red cube") is None
    assert demonstrations._record(range(2), tmp_path / "0000000-0000001.npz") == 0
    frames, episodes = demonstrations.load([tmp_path / "0000000-0000001.npz"])
    assert episodes == []
    for name, (shape, dtype) in FIELDS.items():
        assert frames[name].shape == (0, *shape)
        assert frames[name].dtype == dtype


def test_a_shard_that_was_not_finished_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demonstrations, "TIME_LIMIT_STEPS", 8)
    path = tmp_path / "0000000-0000001.npz"
    write = np.savez

    def die(file: Path, **arrays: np.ndarray) -> None:
        write(file, **arrays)
        file.write_bytes(file.read_bytes()[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", die)
    with pytest.raises(KeyboardInterrupt):
        demonstrations._record(range(2), path)
    assert len(list(tmp_path.iterdir())) == 1  # what was written so far
    assert not path.exists()
    monkeypatch.setattr(np, "savez", write)
    demonstrations._record(range(2), path)
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_there_is_kept_and_what_is_missing_is_added(tmp_path: Path) -> None:
    def shards(episodes: int) -> dict[Path, range]:
        return plan(tmp_path, episodes, seed=1, shard=1)

    def generate(episodes: int) -> list[tuple[int, int]]:
        return list(demonstrations.generate(shards(episodes), processes=1))

    assert generate(1) == [(1, 1)]
    before = contents(tmp_path)
    assert generate(1) == [(1, 1)]
    assert contents(tmp_path) == before
    assert generate(2) == [(1, 1), (1, 1)]
    after = contents(tmp_path)
    assert list(before) == ["0000001-0000001.npz"]
    assert sorted(after) == ["0000001-0000001.npz", "0000002-0000002.npz"]
    assert after["0000001-0000001.npz"] == before["0000001-0000001.npz"]

    frames, episodes = demonstrations.load(shards(2))
    assert len(episodes) == 2
    assert set(frames["seed"]) == {1, 2}
    frames, episodes = demonstrations.load(shards(1))
    assert len(episodes) == 1
    assert set(frames["seed"]) == {1}


def test_no_seed_is_in_two_shards_of_a_plan() -> None:
    for episodes in (1, 25, 30, 50):  # a folder may hold the shards of all of them
        seeds = [seed for part in plan(Path("demos"), episodes).values() for seed in part]
        assert seeds == list(range(episodes))
