"""The scene: deterministic layouts, what success means, and where things appear in the images."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from sources import ROOT

from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.datatypes import ActionChunk, ActionSpace
from vlaq_ros.errors import UnknownInstructionError
from vlaq_ros.sim import panda
from vlaq_ros.sim.expert import TOOL_DOWN
from vlaq_ros.sim.scene import (
    BIN_HALF_M,
    BIN_WALL_M,
    CAMERAS,
    COLOURS,
    CUBE_HALF_M,
    LIFTED_M,
    TASKS,
    Scene,
    mujoco,  # the scene sets MUJOCO_GL first
)

PX = 96
PICK, PUT = "pick up the green cube", "put the green cube in the bin"
BIN_CORNER_M = float(np.hypot(*BIN_HALF_M))


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(PX)


@pytest.fixture(scope="module")
def other() -> Scene:
    return Scene(PX)


def place(scene: Scene, colour: str, position: np.ndarray) -> None:
    """Put a cube there, square to the axes."""
    scene.data.joint(colour).qpos[:] = (*position, 1, 0, 0, 0)
    mujoco.mj_forward(scene.model, scene.data)


def grip(scene: Scene, colour: str, position: np.ndarray, fingers_m: float = CUBE_HALF_M - 5e-4) -> None:
    """Put a cube there, between fingers that point down."""
    kinematics = Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME)
    joints, _ = scene.joint_state()
    tool, rotation = scene.tool_pose()
    turn = (TOOL_DOWN * Rotation.from_matrix(rotation).inv()).as_rotvec()
    action = np.array([[*(position - tool), *turn, fingers_m]])
    reached = kinematics.joint_targets(ActionChunk(0, 0.05, ActionSpace.END_EFFECTOR, action), joints)[0]
    for name, value in zip((*panda.JOINT_NAMES, "panda_finger_joint2"), [*reached, fingers_m], strict=True):
        scene.data.joint(name).qpos[0] = value
    place(scene, colour, position)


@given(st.integers(0, 2**31), st.sampled_from(list(TASKS)))
@settings(max_examples=5, deadline=None)
def test_a_seed_lays_out_the_same_pixels_in_another_scene(
    scene: Scene, other: Scene, seed: int, instruction: str
) -> None:
    scene.reset(seed, instruction)
    scene.step(scene.joint_state()[0] + 0.1, np.zeros(8))  # what came before leaves no trace
    scene.reset(seed, instruction)
    other.reset(seed, PICK)  # nor does the instruction matter
    np.testing.assert_array_equal(scene.data.qpos, other.data.qpos)
    for camera in CAMERAS:
        np.testing.assert_array_equal(scene.images()[camera], other.images()[camera])


def test_the_physics_repeat(scene: Scene, other: Scene) -> None:
    for each in (scene, other):
        each.reset(4, PICK)
        target = each.joint_state()[0] - 0.2
        for _ in range(50):
            each.step(target, np.zeros(8))
    assert np.array_equal(scene.data.qpos, other.data.qpos)
    assert np.array_equal(scene.data.qvel, other.data.qvel)


def test_seeds_differ(scene: Scene) -> None:
    seen = []
    for seed in range(4):
        scene.reset(seed, PICK)
        seen.append((scene.data.qpos.copy(), scene.bin_position(), *scene.images().values()))
    for field in zip(*seen, strict=True):
        assert len({value.tobytes() for value in field}) == 4


def test_images_are_of_the_asked_for_size_and_differ_by_camera() -> None:
    images = Scene(64).images()
    assert list(images) == list(CAMERAS)
    for image in images.values():
        assert image.shape == (64, 64, 3)
        assert image.dtype == np.uint8
        assert image.std() > 10
    assert not np.array_equal(images["front"], images["wrist"])


def test_an_image_is_the_callers_own(scene: Scene) -> None:
    scene.reset(0, PICK)
    first = scene.images()["front"]
    before = first.copy()
    scene.reset(1, PICK)
    scene.images()
    assert np.array_equal(first, before)


def test_an_unknown_instruction_is_told_and_changes_nothing(scene: Scene) -> None:
    scene.reset(3, PUT)
    before = scene.data.qpos.copy()
    with pytest.raises(UnknownInstructionError) as caught:
        scene.reset(5, "pick up the violet cube")
    assert str(caught.value) == (
        "no task knows the instruction 'pick up the violet cube'; this policy was trained on: pick up the red cube; "
        "pick up the green cube; pick up the blue cube; put the red cube in the bin; put the green cube in the bin; "
        "put the blue cube in the bin"
    )
    assert scene.instruction == PUT
    assert np.array_equal(scene.data.qpos, before)


@given(st.integers(0, 2**40))
@settings(deadline=None)
def test_every_layout_is_on_the_table_and_leaves_room_for_the_gripper(scene: Scene, seed: int) -> None:
    scene.reset(seed, PICK)
    cubes = np.array([scene.cube_position(colour) for colour in COLOURS])
    radius_m = CUBE_HALF_M * np.sqrt(2)  # of a cube's footprint, however it is turned
    low, high = scene.model.geom_pos[0, :2] + np.outer((-1, 1), scene.model.geom_size[0, :2])  # the table comes first
    assert (cubes[:, :2] - radius_m > low).all()
    assert (cubes[:, :2] + radius_m < high).all()
    assert (cubes[:, 2] == CUBE_HALF_M).all()
    for i in range(3):
        assert (np.linalg.norm(cubes[i] - np.delete(cubes, i, 0), axis=1) >= 0.10).all()
    gap_m = (np.abs(cubes[:, :2] - scene.bin_position()[:2]) - BIN_HALF_M).max(1) - radius_m
    assert (gap_m > 0.03).all()
    assert not scene.success
    positions, velocities = scene.joint_state()
    assert (np.abs(positions[:7] - panda.HOME_RAD) <= 0.12).all()
    assert positions[7] == panda.FINGER_OPEN_M
    assert not velocities.any()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_layout_is_at_rest(scene: Scene, seed: int) -> None:
    scene.reset(seed, PICK)
    before, joints = scene.data.qpos.copy(), scene.joint_state()[0]
    for _ in range(50):
        scene.step(joints, np.zeros(8))
    np.testing.assert_allclose(scene.data.qpos, before, atol=1e-3)


def test_a_cube_is_picked_up_once_it_is_lifted_in_the_gripper(scene: Scene) -> None:
    scene.reset(0, PICK)
    high, low = np.array([0.45, 0.0, LIFTED_M + 0.01]), np.array([0.45, 0.0, LIFTED_M - 0.01])
    grip(scene, "green", high)
    assert scene.held("green")
    assert not scene.held("red")
    assert scene.success
    grip(scene, "green", low)
    assert scene.held("green")
    assert not scene.success  # not lifted
    grip(scene, "green", high, fingers_m=panda.FINGER_OPEN_M)
    assert not scene.success  # not held
    place(scene, "green", high + np.array([0, panda.FINGER_OPEN_M - CUBE_HALF_M + 5e-4, 0]))
    cube = scene.model.geom("green").id
    touching = {scene.model.geom(geom).name for pair in scene.data.contact.geom if cube in pair for geom in pair}
    assert touching in ({"green", "pad1"}, {"green", "pad2"})
    assert not scene.success  # one finger does not hold
    scene.reset(0, PICK)
    grip(scene, "red", high)
    assert not scene.success  # not the cube that was asked for


def test_a_cube_is_put_in_the_bin_once_it_is_released_there(scene: Scene) -> None:
    scene.reset(0, PUT)
    floor = scene.bin_position() + np.array([0, 0, CUBE_HALF_M + 0.006])
    place(scene, "green", floor)
    assert scene.success
    place(scene, "green", floor + np.array([0.05, -0.05, 0]))
    assert scene.success  # anywhere in it
    for elsewhere in ([BIN_HALF_M[0] + 0.001, 0, 0], [0, -BIN_HALF_M[1] - 0.001, 0], [0, 0, BIN_WALL_M]):
        place(scene, "green", floor + np.array(elsewhere))
        assert not scene.success, elsewhere
    grip(scene, "green", floor)
    assert not scene.success  # still held
    scene.reset(0, PUT)
    place(scene, "red", floor)
    assert not scene.success  # not the cube that was asked for


@pytest.mark.parametrize("instruction", TASKS)
def test_an_instruction_says_which_cube_and_where(scene: Scene, instruction: str) -> None:
    scene.reset(0, instruction)
    assert scene.task.colour in instruction.split()
    assert scene.task.into_bin == ("bin" in instruction.split())
    if scene.task.into_bin:
        place(scene, scene.task.colour, scene.bin_position() + np.array([0, 0, 0.03]))
    else:
        grip(scene, scene.task.colour, np.array([0.45, 0.0, 0.2]))
    assert scene.success


def middle_px(image: np.ndarray, colour: str) -> np.ndarray | None:
    """Column and row of what has this colour; None where there is nothing, or only what the border cuts."""
    channel = list(COLOURS).index(colour)
    pixels = image.astype(int)
    shown = (pixels[..., channel] > 60) & (pixels[..., channel] > 1.6 * np.delete(pixels, channel, -1).max(-1))
    if not shown.any() or shown[[0, -1]].any() or shown[:, [0, -1]].any():
        return None
    rows, columns = shown.nonzero()
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5])  # pixel centres


@pytest.mark.parametrize(("camera", "tolerance_px", "least"), [("front", 0.6, 18), ("wrist", 1.5, 12)])
def test_a_cube_appears_where_it_is_projected(scene: Scene, camera: str, tolerance_px: float, least: int) -> None:
    compared = 0
    for seed in range(6):
        scene.reset(seed, PICK)
        image = scene.images()[camera]
        for colour in COLOURS:
            seen = middle_px(image, colour)
            if seen is not None:
                projected = scene.project(camera, scene.cube_position(colour)[None])[0] * PX
                assert np.linalg.norm(projected - seen) < tolerance_px, (seed, colour)
                compared += 1
    assert compared >= least


@pytest.mark.parametrize("camera", CAMERAS)
def test_projection_of_the_optical_axis_and_of_what_lies_behind(scene: Scene, camera: str) -> None:
    view = scene.data.camera(camera)
    axes = view.xmat.reshape(3, 3).T
    ahead = view.xpos - 0.5 * axes[2]
    edge_m = 0.5 * np.tan(np.deg2rad(scene.model.camera(camera).fovy[0]) / 2)
    points = np.array([ahead, ahead + edge_m * axes[0], ahead + edge_m * axes[1], view.xpos + 0.5 * axes[2]])
    expected = [[0.5, 0.5], [1, 0.5], [0.5, 0], [np.nan, np.nan]]
    np.testing.assert_allclose(scene.project(camera, points), expected, atol=1e-12)


RENDER = """
from vlaq_ros.errors import VlaqError
try:
    from vlaq_ros.sim.scene import Scene
    Scene().images()
except VlaqError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"MUJOCO_GL": "none"}, "MUJOCO_GL=none: "),  # mujoco itself makes no context then
        ({"MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_DIRS": "{empty}"}, "MUJOCO_GL=egl: "),  # EGL without a driver
        ({"MUJOCO_GL": "crayons"}, "MUJOCO_GL=crayons: "),  # no such backend
    ],
    ids=["none", "no driver", "no such backend"],
)
def test_without_a_renderer_one_sentence_says_what_to_install(
    environment: dict[str, str], why: str, tmp_path: Path
) -> None:
    environment = {name: value.format(empty=tmp_path) for name, value in environment.items()}
    done = subprocess.run(
        [sys.executable, "-c", RENDER],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYOPENGL_PLATFORM"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"NoRendererError MuJoCo cannot render the cameras ({why}")
    assert done.stdout.endswith(
        "); expected EGL or OSMesa; install one, on Debian or Ubuntu: apt-get install libegl1 libegl-mesa0, "
        "or libosmesa6\n"
    )
    assert done.stdout.count("\n") == 1
