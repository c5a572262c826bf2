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
from vlaq_ros.sim.attempt import SETTLING_NS
from vlaq_ros.sim.expert import TOOL_DOWN
from vlaq_ros.sim.scene import (
    CAMERAS,
    COLOURS,
    EMPTY_M,
    FAMILIES,
    LIFTED_M,
    PUSHED_M,
    TASKS,
    TIMESTEP_NS,
    UPRIGHT_RAD,
    YAWS_RAD,
    Scene,
    Task,
    mujoco,  # the scene sets MUJOCO_GL first
)
from vlaq_ros.sim.world import (
    BAR_HALF_M,
    BAR_HALF_WIDTHS_M,
    BIN_HALF_M,
    BIN_WALL_M,
    CUBE_HALF_M,
    PEG_HALF_M,
    SOCKET_HALF_M,
    SOCKET_WALL_M,
)

PX = 96
PICK, PUT, BAR = "pick up the green cube", "put the green cube in the bin", "pick up the green bar"
STACK, INSERT = "put the green cube on the red cube", "put the green peg in the socket"
ONE_OF_EACH = (PICK, PUT, BAR, STACK, INSERT)
LOOK_S = 0.02  # the rules are checked so often


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(PX)


@pytest.fixture(scope="module")
def other() -> Scene:
    return Scene(PX)


def place(scene: Scene, colour: str, position: np.ndarray, tilt_rad: float = 0.0) -> None:
    """Put an object there, square to the axes but for its tilt."""
    scene.data.joint(colour).qpos[:] = (*position, np.cos(tilt_rad / 2), np.sin(tilt_rad / 2), 0, 0)
    scene.data.joint(colour).qvel[:] = 0
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
    other.reset(seed, instruction)
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
        seen.append((scene.data.qpos.copy(), scene.receptacle_position(), *scene.images().values()))
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


def test_scenes_that_share_a_renderer_look_as_with_their_own() -> None:
    bars, cubes = Scene(64), Scene(64)
    bars.reset(0, "pick up the red bar")
    cubes.reset(1, "pick up the red cube")
    for scene in (bars, cubes, bars):
        images = scene.images()
        with mujoco.Renderer(scene.model, 64, 64) as own:
            for camera, image in images.items():
                own.update_scene(scene.data, camera)
                np.testing.assert_array_equal(image, own.render())


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
        "put the blue cube in the bin; pick up the red bar; pick up the green bar; pick up the blue bar; "
        "put the red cube on the green cube; put the red cube on the blue cube; put the green cube on the red cube; "
        "put the green cube on the blue cube; put the blue cube on the red cube; put the blue cube on the green cube; "
        "put the red peg in the socket; put the green peg in the socket; put the blue peg in the socket"
    )
    assert scene.instruction == PUT
    assert np.array_equal(scene.data.qpos, before)


def corners(centre: np.ndarray, half: np.ndarray, yaw_rad: float) -> np.ndarray:
    """Of a rectangle [4, 2] m."""
    signs = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])
    cosine, sine = np.cos(yaw_rad), np.sin(yaw_rad)
    return centre + signs * half @ np.array([(cosine, sine), (-sine, cosine)])


def apart(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two convex polygons are disjoint, by their separating axes."""
    for polygon in (a, b):
        for edge in np.roll(polygon, -1, 0) - polygon:
            normal = np.array([-edge[1], edge[0]])
            if (a @ normal).max() < (b @ normal).min() or (b @ normal).max() < (a @ normal).min():
                return True
    return False


@given(st.integers(0, 2**40), st.sampled_from(ONE_OF_EACH))
@settings(deadline=None)
def test_every_layout_is_on_the_table_and_open_fingers_reach_every_object(
    scene: Scene, seed: int, instruction: str
) -> None:
    scene.reset(seed, instruction)
    family = scene.task.family
    low, high = scene.model.geom_pos[0, :2] + np.outer((-1, 1), scene.model.geom_size[0, :2])  # the table comes first
    side_m = SOCKET_HALF_M + SOCKET_WALL_M if family == "insert" else BIN_HALF_M
    receptacle = corners(scene.receptacle_position()[:2], np.full(2, side_m + 0.005), 0)
    feet = {}
    for colour in COLOURS:
        half = scene.model.geom(colour).size
        yaw_rad = scene.object_yaw_rad(colour)
        assert abs(yaw_rad) <= YAWS_RAD[family] + 1e-9
        assert scene.object_position(colour)[2] == half[2]  # it stands
        feet[colour] = corners(scene.object_position(colour)[:2], half[:2], yaw_rad)
        assert (feet[colour] > low).all()
        assert (feet[colour] < high).all()
    for colour in COLOURS:
        turned = scene.object_yaw_rad(colour) if family == "bar" else 0.0
        fingers = corners(scene.object_position(colour)[:2], np.array([0.011, panda.FINGER_OPEN_M + 0.012]), turned)
        for other in [receptacle, *(foot for name, foot in feet.items() if name != colour)]:
            assert apart(fingers, other), colour
    assert not scene.success
    assert not scene.failed
    positions, velocities = scene.joint_state()
    assert (np.abs(positions[:7] - panda.HOME_RAD) <= 0.12).all()
    assert positions[7] == panda.FINGER_OPEN_M
    assert not velocities.any()


def test_the_shapes_are_those_of_the_task(scene: Scene) -> None:
    widths = []
    for seed in range(20):
        scene.reset(seed, BAR)
        halves = np.array([scene.model.geom(colour).size for colour in COLOURS])
        assert (halves[:, [0, 2]] == BAR_HALF_M).all()
        widths.extend(halves[:, 1])
    assert min(widths) >= BAR_HALF_WIDTHS_M[0]
    assert max(widths) <= BAR_HALF_WIDTHS_M[1]
    assert np.std(widths) > 0.2 * np.ptp(BAR_HALF_WIDTHS_M)  # a uniform one's is 0.29
    scene.reset(0, INSERT)  # nothing of the bars is left
    assert all((scene.model.geom(colour).size == PEG_HALF_M).all() for colour in COLOURS)
    scene.reset(0, PICK)
    assert all((scene.model.geom(colour).size == CUBE_HALF_M).all() for colour in COLOURS)


@pytest.mark.parametrize("instruction", ONE_OF_EACH)
def test_one_receptacle_stands_on_the_table_and_the_other_is_out_of_sight(scene: Scene, instruction: str) -> None:
    scene.reset(0, instruction)
    shown, absent = ("socket", "bin") if instruction == INSERT else ("bin", "socket")
    np.testing.assert_array_equal(scene.receptacle_position(), scene.data.body(shown).xpos)
    for camera in CAMERAS:
        assert np.isnan(scene.project(camera, scene.data.body(absent).xpos[None])).all()  # behind it


@pytest.mark.parametrize("instruction", ONE_OF_EACH)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_layout_is_at_rest(scene: Scene, seed: int, instruction: str) -> None:
    scene.reset(seed, instruction)
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
    floor = scene.receptacle_position() + np.array([0, 0, CUBE_HALF_M + 0.006])
    place(scene, "green", floor)
    assert scene.success
    place(scene, "green", floor + np.array([0.05, -0.05, 0]))
    assert scene.success  # anywhere in it
    for elsewhere in ([BIN_HALF_M + 0.001, 0, 0], [0, -BIN_HALF_M - 0.001, 0], [0, 0, BIN_WALL_M]):
        place(scene, "green", floor + np.array(elsewhere))
        assert not scene.success, elsewhere
    grip(scene, "green", floor)
    assert not scene.success  # still held
    scene.reset(0, PUT)
    place(scene, "red", floor)
    assert not scene.success  # not the cube that was asked for


def test_a_cube_is_stacked_once_it_is_released_on_the_other(scene: Scene) -> None:
    scene.reset(0, STACK)
    top = scene.object_position("red") + np.array([0, 0, 2 * CUBE_HALF_M])
    place(scene, "green", top)
    assert scene.success
    place(scene, "green", top + np.array([0.006, -0.006, 0]))
    assert scene.success  # 8.5 mm off
    for elsewhere in ([0.008, -0.008, 0], [0, 0, 0.004]):
        place(scene, "green", top + np.array(elsewhere))
        assert not scene.success, elsewhere
    place(scene, "green", top, tilt_rad=UPRIGHT_RAD + 0.01)
    assert not scene.success
    place(scene, "red", np.array([0.45, 0.0, CUBE_HALF_M]))
    grip(scene, "green", np.array([0.45, 0.0, 3 * CUBE_HALF_M]))
    assert not scene.success  # still held
    scene.reset(0, STACK)
    place(scene, "red", scene.object_position("green") + np.array([0, 0, 2 * CUBE_HALF_M]))
    assert not scene.success  # the wrong way round


def test_a_peg_is_in_the_socket_once_it_is_released_upright_in_its_hole(scene: Scene) -> None:
    scene.reset(0, INSERT)
    middle = scene.receptacle_position() + np.array([0, 0, PEG_HALF_M[2]])
    place(scene, "green", middle)
    assert scene.success
    place(scene, "green", middle + np.array([0.005, -0.005, 0]))
    assert scene.success  # anywhere in the hole
    for elsewhere in ([0, 0, 0.004], [0.008, 0, 0], [0, 0, SOCKET_WALL_M]):
        place(scene, "green", middle + np.array(elsewhere))
        assert not scene.success, elsewhere
    place(scene, "green", middle, tilt_rad=UPRIGHT_RAD + 0.01)
    assert not scene.success
    scene.reset(0, INSERT)
    place(scene, "red", middle)
    assert not scene.success


def test_the_instructions_are_those_of_the_families_in_order(scene: Scene) -> None:
    assert tuple(dict.fromkeys(task.family for task in TASKS.values())) == FAMILIES
    assert len(set(TASKS.values())) == len(TASKS) == 18
    for instruction, task in TASKS.items():
        words = instruction.split()
        assert [word for word in words if word in COLOURS] == [task.colour, *([task.onto] if task.onto else [])]
        noun = {"bar": "bar", "insert": "peg"}.get(task.family, "cube")
        assert words[words.index(task.colour) + 1] == noun
        assert ("bin" in words, "socket" in words) == (task.family == "bin", task.family == "insert")
        scene.reset(0, instruction)
        assert scene.task == task
        expected = scene.receptacle_position() if task.onto is None else scene.object_position(task.onto)
        np.testing.assert_array_equal(scene.destination_position(), expected)
    assert TASKS[STACK] == Task("stack", "green", onto="red")


def rest(scene: Scene, seconds: float) -> None:
    """Let time pass with the arm held where it is."""
    joints, _ = scene.joint_state()
    for _ in range(round(seconds * 1e9) // TIMESTEP_NS):
        scene.step(joints, np.zeros(8))


@pytest.mark.parametrize("instruction", ONE_OF_EACH)
def test_nothing_fails_while_the_arm_waits(scene: Scene, instruction: str) -> None:
    scene.reset(1, instruction)
    rest(scene, 1.0)
    assert not scene.failed


@pytest.mark.parametrize("instruction", ONE_OF_EACH)
def test_an_object_that_is_pushed_too_far_or_tipped_over_before_it_is_held_is_a_failure(
    scene: Scene, instruction: str
) -> None:
    scene.reset(1, instruction)
    start = scene.object_position("green")
    place(scene, "green", start + np.array([PUSHED_M - 0.003, 0, 0]))
    rest(scene, 2 * LOOK_S)
    assert not scene.failed
    place(scene, "blue", scene.object_position("blue") + np.array([0, PUSHED_M + 0.003, 0]))
    rest(scene, 2 * LOOK_S)
    assert not scene.failed  # nobody asked for it
    place(scene, "green", start + np.array([PUSHED_M + 0.003, 0, 0]))
    rest(scene, 2 * LOOK_S)
    assert scene.failed
    scene.reset(1, instruction)
    assert not scene.failed
    place(scene, "green", start + np.array([0, 0, 0.05]), tilt_rad=np.pi / 2)
    rest(scene, 2 * LOOK_S)
    assert scene.failed


def test_to_push_the_cube_below_is_a_failure(scene: Scene) -> None:
    scene.reset(1, STACK)
    place(scene, "red", scene.object_position("red") + np.array([PUSHED_M + 0.003, 0, 0]))
    rest(scene, 2 * LOOK_S)
    assert scene.failed


def test_a_gripper_that_closed_on_nothing_is_a_failure(scene: Scene) -> None:
    scene.reset(1, PICK)
    joints, _ = scene.joint_state()
    for finger_m, failed in ((EMPTY_M + 0.003, False), (EMPTY_M - 0.003, True)):
        joints[-1] = finger_m
        for _ in range(200):
            scene.step(joints, np.zeros(8))
        assert scene.failed == failed


def hold_up(scene: Scene, instruction: str) -> None:
    """Let the gripper hold the green object high over its place."""
    scene.reset(1, instruction)
    grip(scene, "green", scene.object_position("green") + np.array([0, 0, 0.25]))
    joints, _ = scene.joint_state()
    for _ in range(50):
        scene.step(np.array([*joints[:7], 0.0]), np.zeros(8))
    assert scene.held("green")
    assert not scene.failed


def test_an_object_that_was_dropped_is_a_failure_after_it_could_settle(scene: Scene) -> None:
    hold_up(scene, PUT)
    place(scene, "green", np.array([0.45, 0.0, CUBE_HALF_M]))
    rest(scene, SETTLING_NS * 1e-9 - 2 * LOOK_S)
    assert not scene.failed
    rest(scene, 4 * LOOK_S)
    assert scene.failed


def test_an_object_that_was_let_go_where_it_belongs_is_none(scene: Scene) -> None:
    hold_up(scene, PUT)
    place(scene, "green", scene.receptacle_position() + np.array([0, 0, CUBE_HALF_M + 0.01]))
    rest(scene, 1.0)
    assert scene.success
    assert not scene.failed


def test_poses_images_and_contacts_are_those_of_the_present_joints(scene: Scene, other: Scene) -> None:
    scene.reset(2, PICK)
    target = scene.joint_state()[0] - 0.3
    for _ in range(60):
        scene.step(target, np.zeros(8))
    other.reset(2, PICK)
    other.data.qpos[:] = scene.data.qpos
    mujoco.mj_forward(other.model, other.data)
    point = np.array([[0.5, 0.1, 0.05]])
    for camera in CAMERAS:
        np.testing.assert_allclose(scene.project(camera, point), other.project(camera, point), atol=1e-12)
    for mine, its in zip(scene.tool_pose(), other.tool_pose(), strict=True):
        np.testing.assert_allclose(mine, its, atol=1e-12)
    for camera, image in scene.images().items():
        np.testing.assert_array_equal(image, other.images()[camera])


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
                projected = scene.project(camera, scene.object_position(colour)[None])[0] * PX
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
