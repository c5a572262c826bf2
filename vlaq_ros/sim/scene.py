"""The MuJoCo scene: three objects and a receptacle on a table in front of the arm, seen by two cameras.

Deterministic by seed on one rendering backend. EGL renders without a display; OSMesa is the fallback.
"""

from __future__ import annotations

import ctypes.util
import os
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
from scipy.spatial.distance import pdist

from vlaq_ros.datatypes import FloatArray, ImageArray
from vlaq_ros.errors import UnknownInstructionError, VlaqError
from vlaq_ros.sim import panda
from vlaq_ros.sim.attempt import Attempt
from vlaq_ros.sim.world import (
    BAR_HALF_M,
    BAR_HALF_WIDTHS_M,
    BIN_HALF_M,
    BIN_WALL_M,
    CUBE_HALF_M,
    OBJECT_KG,
    PEG_HALF_M,
    SOCKET_HALF_M,
    mjcf,
)


class NoRendererError(VlaqError):
    """Neither EGL nor OSMesa can render here."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"MuJoCo cannot render the cameras ({why}); expected EGL or OSMesa; "
            "install one, on Debian or Ubuntu: apt-get install libegl1 libegl-mesa0, or libosmesa6"
        )


if "MUJOCO_GL" not in os.environ:  # read by mujoco at import
    os.environ["MUJOCO_GL"] = "egl" if ctypes.util.find_library("EGL") else "osmesa"
try:
    import mujoco
except (ImportError, AttributeError, RuntimeError) as error:  # PyOpenGL without its library: by backend
    if getattr(error, "name", None) == "mujoco":
        raise
    raise NoRendererError(f"MUJOCO_GL={os.environ['MUJOCO_GL']}: {error}") from None

COLOURS = {"red": ".85 .12 .1 1", "green": ".1 .7 .15 1", "blue": ".12 .25 .9 1"}
CAMERAS = ("front", "wrist")
FAMILIES = ("lift", "bin", "bar", "stack", "insert")
LIFTED_M = 0.14  # an object this high is picked up
PUSHED_M = 0.03  # an object that was moved this far, or tilted, without being held is lost
TILTED_RAD = 0.5
UPRIGHT_RAD = 0.1
YAWS_RAD = {"lift": 0.35, "bin": 0.35, "bar": 0.7, "stack": 0.35, "insert": 0.1}  # at most, either way
EMPTY_M = 0.014  # a finger this far in has nothing to hold
TIMESTEP_NS = 4_000_000
_LOOK_STEPS = 5  # the attempt is judged every 20 ms: contacts are costly
_FINGERS_M = 0.069  # reach of the open fingers around the tool, with a margin
_PARKED_M = (5.0, 0.0, 5.0)  # behind both cameras


@dataclass(frozen=True, slots=True)
class Task:
    """What an instruction asks for."""

    family: str
    colour: str  # of the object to take
    onto: str | None = None  # stack: colour of the cube below


TASKS = (
    {f"pick up the {colour} cube": Task("lift", colour) for colour in COLOURS}
    | {f"put the {colour} cube in the bin": Task("bin", colour) for colour in COLOURS}
    | {f"pick up the {colour} bar": Task("bar", colour) for colour in COLOURS}
    | {f"put the {a} cube on the {b} cube": Task("stack", a, b) for a, b in permutations(COLOURS, 2)}
    | {f"put the {colour} peg in the socket": Task("insert", colour) for colour in COLOURS}
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object belongs, relative to its destination."""

    reach_m: float  # horizontally, in the norm of this order
    order: float
    low_m: float  # heights of its centre
    high_m: float
    upright: bool

    def holds(self, offset: FloatArray) -> bool:
        """Whether an object `offset` [3] m from the destination is there."""
        near = np.linalg.norm(offset[:2], self.order) < self.reach_m
        return bool(near and self.low_m < offset[2] < self.high_m)


PLACES = {
    "bin": Place(BIN_HALF_M, np.inf, 0.0, BIN_WALL_M, upright=False),
    "stack": Place(0.010, 2, 2 * CUBE_HALF_M - 0.003, 2 * CUBE_HALF_M + 0.003, upright=True),
    "insert": Place(SOCKET_HALF_M - PEG_HALF_M[0] + 0.001, np.inf, PEG_HALF_M[2] - 0.003, PEG_HALF_M[2] + 0.003, True),
}


def _half_sizes(family: str, rng: np.random.Generator) -> FloatArray:
    """Half lengths of an object's sides [3] m; the fingers close along the second."""
    if family == "bar":
        length, height = BAR_HALF_M
        return np.array([length, rng.uniform(*BAR_HALF_WIDTHS_M), height])
    return np.array(PEG_HALF_M) if family == "insert" else np.full(3, CUBE_HALF_M)


def _model(image_size_px: int) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(mjcf(COLOURS, TIMESTEP_NS * 1e-9, image_size_px))


@cache
def _renderer(image_size_px: int) -> mujoco.Renderer:
    """One for all scenes of a process, which keep to one thread: it costs as much as 30 images of a scene."""
    try:
        return mujoco.Renderer(_model(image_size_px), image_size_px, image_size_px)
    except (RuntimeError, AttributeError, ImportError, mujoco.FatalError) as error:
        raise NoRendererError(f"MUJOCO_GL={os.environ['MUJOCO_GL']}: {error}") from None


class Scene:
    """The arm, three objects and a bin or socket; stepped in time and rendered on demand.

    Args:
        image_size_px: side of the square camera images.

    Raises:
        NoRendererError: no OpenGL backend works (at the first rendering).
    """

    def __init__(self, image_size_px: int = 96) -> None:
        self.model = _model(image_size_px)
        self.data = mujoco.MjData(self.model)
        self._image_size_px = image_size_px
        self._qpos = np.array([self.model.joint(name).qposadr[0] for name in panda.JOINT_NAMES])
        self._qvel = np.array([self.model.joint(name).dofadr[0] for name in panda.JOINT_NAMES])
        self._object_qpos = {colour: self.model.joint(colour).qposadr[0] for colour in COLOURS}
        self._geoms = {colour: self.model.geom(colour).id for colour in COLOURS}
        self._pads = {self.model.geom(f"pad{side}").id for side in (1, 2)}
        self._tool = self.model.site(panda.TOOL_FRAME).id
        self._feedforward_s = panda.velocity_feedforward_s()
        self.instruction = next(iter(TASKS))
        self.reset(0, self.instruction)

    def reset(self, seed: int, instruction: str) -> None:
        """Lay the objects, the receptacle and the arm out anew, by `seed` alone.

        Raises:
            UnknownInstructionError: no task has this instruction.
        """
        if instruction not in TASKS:
            raise UnknownInstructionError(instruction, TASKS)
        self.instruction = instruction
        family = self.task.family
        rng = np.random.default_rng(seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.mocap_pos[:] = _PARKED_M
        self.data.mocap_pos[self._receptacle] = (
            rng.uniform(0.46, 0.54),
            rng.choice((-1, 1)) * rng.uniform(0.305, 0.33),
            0,
        )
        sizes = [_half_sizes(family, rng) for _ in COLOURS]
        spacing_m = _FINGERS_M + max(np.hypot(*size[:2]) for size in sizes)
        spots = rng.uniform((0.38, -0.15), (0.62, 0.15), (len(COLOURS), 2))
        while pdist(spots).min() < spacing_m:
            spots = rng.uniform((0.38, -0.15), (0.62, 0.15), spots.shape)
        for colour, spot, size in zip(COLOURS, spots, sizes, strict=True):
            yaw = rng.uniform(-1, 1) * YAWS_RAD[family]
            address = self._object_qpos[colour]
            self.data.qpos[address : address + 7] = (*spot, size[2], np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
            self.model.geom(colour).size[:] = size
            self.model.body(colour).inertia[:] = OBJECT_KG / 3 * (size @ size - size**2)
        home = np.array([*panda.HOME_RAD, panda.FINGER_OPEN_M])
        home[:7] += rng.uniform(-0.12, 0.12, 7)
        self.data.qpos[self._qpos] = home
        self.data.qpos[self.model.joint("panda_finger_joint2").qposadr[0]] = panda.FINGER_OPEN_M
        self.data.ctrl[:] = home
        mujoco.mj_forward(self.model, self.data)
        self._moved = False
        self._steps = 0
        self._attempt = Attempt()
        self._start = {colour: self.object_position(colour) for colour in COLOURS}

    def step(self, positions: FloatArray, velocities: FloatArray) -> None:
        """Advance `TIMESTEP_NS` while the servos follow `positions` [J] rad (m) at `velocities` [J] rad/s (m/s)."""
        self.data.ctrl[:] = positions + self._feedforward_s * velocities
        mujoco.mj_step(self.model, self.data)
        self._moved = True
        self._steps += 1
        if self._steps % _LOOK_STEPS == 0:
            self._look()

    def joint_state(self) -> tuple[FloatArray, FloatArray]:
        """Positions [J] rad (m) and velocities [J] rad/s (m/s), in the order of `panda.JOINT_NAMES`."""
        return self.data.qpos[self._qpos].copy(), self.data.qvel[self._qvel].copy()

    def images(self) -> dict[str, ImageArray]:
        """Both camera images now, [H, W, 3] RGB."""
        renderer = _renderer(self._image_size_px)
        renderer.model.geom_size[:] = self.model.geom_size  # all in which scenes differ before a renderer
        self._refresh()
        answer = {}
        for camera in CAMERAS:
            renderer.update_scene(self.data, camera)
            answer[camera] = renderer.render()
        return answer

    def project(self, camera: str, points: FloatArray) -> FloatArray:
        """Where points [P, 3] m appear: column and row [P, 2] as fractions of the image; nan behind the camera."""
        self._refresh()
        view = self.data.camera(camera)
        local = (points - view.xpos) @ view.xmat.reshape(3, 3)  # x right, y up, looking along -z
        scale = 2 * np.tan(np.deg2rad(self.model.camera(camera).fovy[0]) / 2)
        depth = np.where(local[:, 2] < 0, -local[:, 2], np.nan)
        return np.stack([0.5 + local[:, 0] / depth / scale, 0.5 - local[:, 1] / depth / scale], axis=1)

    def tool_pose(self) -> tuple[FloatArray, FloatArray]:
        """Tool centre point [3] m and rotation [3, 3] in the base frame."""
        self._refresh()
        return self.data.site_xpos[self._tool].copy(), self.data.site_xmat[self._tool].reshape(3, 3).copy()

    def object_position(self, colour: str) -> FloatArray:
        """Centre of an object [3] m."""
        address = self._object_qpos[colour]
        position: FloatArray = self.data.qpos[address : address + 3].copy()
        return position

    def object_yaw_rad(self, colour: str) -> float:
        """Yaw of an object about the vertical."""
        w, _, _, z = self._quaternion(colour)
        return float(2 * np.arctan2(z, w))

    def receptacle_position(self) -> FloatArray:
        """Centre of the bin's or the socket's foot [3] m."""
        position: FloatArray = self.data.mocap_pos[self._receptacle].copy()
        return position

    def destination_position(self) -> FloatArray:
        """Centre of the cube below if the task is to stack, else of the receptacle's foot [3] m."""
        onto = self.task.onto
        return self.receptacle_position() if onto is None else self.object_position(onto)

    def held(self, colour: str) -> bool:
        """Whether both fingers touch this object."""
        return self._touching(colour) == self._pads

    @property
    def task(self) -> Task:
        """What the present instruction asks for."""
        return TASKS[self.instruction]

    @property
    def success(self) -> bool:
        """Whether the instruction is fulfilled now: the object lifted in the gripper, or let go where it belongs."""
        task = self.task
        position = self.object_position(task.colour)
        if task.family not in PLACES:
            return bool(position[2] > LIFTED_M) and self.held(task.colour)
        place = PLACES[task.family]
        return (
            place.holds(position - self.destination_position())
            and not (place.upright and self._tilt_rad(task.colour) > UPRIGHT_RAD)
            and not self._touching(task.colour)
        )

    @property
    def failed(self) -> bool:
        """Whether the episode cannot succeed any more by rule.

        The named object was dropped, or let go at a wrong place; or it was pushed or tilted before it was held; or the
        cube that it shall stand on was pushed; or the gripper closed on nothing.
        """
        return self._attempt.failed

    @property
    def _receptacle(self) -> int:
        """Index of the mocap body on the table."""
        return int(self.model.body("socket" if self.task.family == "insert" else "bin").mocapid[0])

    def _refresh(self) -> None:
        """Bring poses and contacts to the present joint state: mj_step leaves those of the state before."""
        if self._moved:
            mujoco.mj_fwdPosition(self.model, self.data)
            self._moved = False

    def _touching(self, colour: str) -> set[int]:
        """Which pads touch this object."""
        self._refresh()
        geom, pairs = self._geoms[colour], self.data.contact.geom.tolist()
        return {pad for pair in pairs if geom in pair for pad in self._pads.intersection(pair)}

    def _quaternion(self, colour: str) -> FloatArray:
        address = self._object_qpos[colour]
        quaternion: FloatArray = self.data.qpos[address + 3 : address + 7]
        return quaternion

    def _tilt_rad(self, colour: str) -> float:
        """Angle between the vertical and the object's own."""
        _, x, y, _ = self._quaternion(colour)
        return float(np.arccos(np.clip(1 - 2 * (x * x + y * y), -1, 1)))

    def _pushed_m(self, colour: str) -> float:
        return float(np.linalg.norm((self.object_position(colour) - self._start[colour])[:2]))

    def _look(self) -> None:
        """Let the attempt be judged."""
        colour, onto = self.task.colour, self.task.onto
        held = self.held(colour)
        moved = not self._attempt.was_held and (
            self._pushed_m(colour) > PUSHED_M or self._tilt_rad(colour) > TILTED_RAD
        )
        self._attempt.look(
            self._steps * TIMESTEP_NS,
            held=held,
            success=self.success,
            disturbed=moved or (onto is not None and self._pushed_m(onto) > PUSHED_M),
            empty=bool(self.data.qpos[self._qpos[-1]] < EMPTY_M),
        )
