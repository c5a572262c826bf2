"""The MuJoCo scene: a table with three cubes and a bin in front of the arm, seen by two cameras.

Deterministic by seed on one rendering backend. EGL renders without a display; OSMesa is the fallback.
"""

from __future__ import annotations

import ctypes.util
import os
from dataclasses import dataclass

import numpy as np

from vlaq_ros.datatypes import FloatArray, ImageArray
from vlaq_ros.errors import UnknownInstructionError, VlaqError
from vlaq_ros.sim import panda


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
CUBE_HALF_M = 0.022
BIN_HALF_M = (0.085, 0.085)
BIN_WALL_M = 0.05
LIFTED_M = 0.14  # a cube this high is picked up
TIMESTEP_NS = 4_000_000


@dataclass(frozen=True, slots=True)
class Task:
    """What an instruction asks for."""

    colour: str
    into_bin: bool


TASKS = {f"pick up the {colour} cube": Task(colour, into_bin=False) for colour in COLOURS} | {
    f"put the {colour} cube in the bin": Task(colour, into_bin=True) for colour in COLOURS
}


def _mjcf(image_size_px: int) -> str:
    cubes = "".join(
        f'<body name="{colour}" pos="0.5 0 {CUBE_HALF_M}"><freejoint name="{colour}"/>'
        f'<geom class="object" name="{colour}" type="box" size="{CUBE_HALF_M} {CUBE_HALF_M} {CUBE_HALF_M}" '
        f'mass="0.06" rgba="{rgba}"/></body>'
        for colour, rgba in COLOURS.items()
    )
    x, y = BIN_HALF_M
    wall = BIN_WALL_M / 2
    bin_geoms = f'<geom class="object" type="box" size="{x} {y} 0.003" pos="0 0 0.003" rgba=".45 .33 .2 1"/>' + "".join(
        f'<geom class="object" type="box" size="{size} {wall}" pos="{pos} {wall}" rgba=".62 .46 .28 1"/>'
        for size, pos in (
            (f"{x} 0.004", f"0 {y}"),
            (f"{x} 0.004", f"0 {-y}"),
            (f"0.004 {y}", f"{x} 0"),
            (f"0.004 {y}", f"{-x} 0"),
        )
    )
    return f"""
<mujoco>
  <compiler angle="radian"/>
  <option timestep="{TIMESTEP_NS * 1e-9:g}" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <visual><quality shadowsize="0" offsamples="4" numslices="14" numstacks="8"/><map znear="0.01"/>
    <headlight ambient=".4 .4 .4" diffuse=".35 .35 .35" specular="0 0 0"/>
    <global offwidth="{image_size_px}" offheight="{image_size_px}"/></visual>
  <default>
    <default class="arm"><geom contype="0" conaffinity="0" rgba=".82 .82 .85 1"/></default>
    <default class="finger">
      <geom contype="1" conaffinity="2" condim="4" friction="1.5 .02 .001" rgba=".2 .2 .22 1"/>
    </default>
    <default class="object"><geom contype="2" conaffinity="3" condim="4" friction="1 .02 .001"/></default>
  </default>
  <worldbody>
    <light directional="true" pos="0.5 0 2" dir="0 0 -1" castshadow="false" diffuse=".5 .5 .5" specular="0 0 0"/>
    <geom class="object" type="box" size="0.5 0.6 0.02" pos="0.55 0 -0.02" rgba=".5 .52 .55 1"/>
    <camera name="front" pos="1.15 0 0.68" xyaxes="0 1 0 -0.6 0 0.8" fovy="58"/>
    {panda.mjcf_body()}
    {cubes}
    <body name="bin" mocap="true" pos="0.5 0.3 0">{bin_geoms}</body>
  </worldbody>
  <equality><joint joint1="panda_finger_joint2" joint2="{panda.FINGER_JOINT}" solref="0.005 1"/></equality>
  <actuator>{panda.mjcf_actuators()}</actuator>
</mujoco>"""


class Scene:
    """The arm, three cubes and a bin; stepped in time and rendered on demand.

    Args:
        image_size_px: side of the square camera images.

    Raises:
        NoRendererError: no OpenGL backend works (at the first rendering).
    """

    def __init__(self, image_size_px: int = 96) -> None:
        self.model = mujoco.MjModel.from_xml_string(_mjcf(image_size_px))
        self.data = mujoco.MjData(self.model)
        self._image_size_px = image_size_px
        self._renderer: mujoco.Renderer | None = None
        self._qpos = np.array([self.model.joint(name).qposadr[0] for name in panda.JOINT_NAMES])
        self._qvel = np.array([self.model.joint(name).dofadr[0] for name in panda.JOINT_NAMES])
        self._cube_qpos = {colour: self.model.joint(colour).qposadr[0] for colour in COLOURS}
        self._pads = {self.model.geom(f"pad{side}").id for side in (1, 2)}
        self._tool = self.model.site(panda.TOOL_FRAME).id
        self._feedforward_s = panda.velocity_feedforward_s()
        self.instruction = next(iter(TASKS))
        self.reset(0, self.instruction)

    def reset(self, seed: int, instruction: str) -> None:
        """Lay the cubes, the bin and the arm out anew, by `seed` alone.

        Raises:
            UnknownInstructionError: no task has this instruction.
        """
        if instruction not in TASKS:
            raise UnknownInstructionError(instruction, TASKS)
        self.instruction = instruction
        rng = np.random.default_rng(seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.mocap_pos[0, :2] = rng.uniform(0.46, 0.54), rng.choice((-1, 1)) * rng.uniform(0.305, 0.33)
        spots: list[FloatArray] = []
        while len(spots) < len(COLOURS):
            spot = rng.uniform((0.38, -0.15), (0.62, 0.15))
            if all(np.linalg.norm(spot - other) > 0.10 for other in spots):
                spots.append(spot)
        for colour, spot in zip(COLOURS, spots, strict=True):
            yaw = rng.uniform(-0.35, 0.35)
            address = self._cube_qpos[colour]
            self.data.qpos[address : address + 7] = (*spot, CUBE_HALF_M, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        home = np.array([*panda.HOME_RAD, panda.FINGER_OPEN_M])
        home[:7] += rng.uniform(-0.12, 0.12, 7)
        self.data.qpos[self._qpos] = home
        self.data.qpos[self.model.joint("panda_finger_joint2").qposadr[0]] = panda.FINGER_OPEN_M
        self.data.ctrl[:] = home
        mujoco.mj_forward(self.model, self.data)

    def step(self, positions: FloatArray, velocities: FloatArray) -> None:
        """Advance `TIMESTEP_NS` while the servos follow `positions` [J] rad (m) at `velocities` [J] rad/s (m/s)."""
        self.data.ctrl[:] = positions + self._feedforward_s * velocities
        mujoco.mj_step(self.model, self.data)

    def joint_state(self) -> tuple[FloatArray, FloatArray]:
        """Positions [J] rad (m) and velocities [J] rad/s (m/s), in the order of `panda.JOINT_NAMES`."""
        return self.data.qpos[self._qpos].copy(), self.data.qvel[self._qvel].copy()

    def images(self) -> dict[str, ImageArray]:
        """Both camera images now, [H, W, 3] RGB."""
        if self._renderer is None:
            size = self._image_size_px
            try:
                self._renderer = mujoco.Renderer(self.model, size, size)
            except (RuntimeError, AttributeError, ImportError, mujoco.FatalError) as error:
                raise NoRendererError(f"MUJOCO_GL={os.environ['MUJOCO_GL']}: {error}") from None
        answer = {}
        for camera in CAMERAS:
            self._renderer.update_scene(self.data, camera)
            answer[camera] = self._renderer.render().copy()
        return answer

    def project(self, camera: str, points: FloatArray) -> FloatArray:
        """Where points [P, 3] m appear: column and row [P, 2] as fractions of the image; nan behind the camera."""
        view = self.data.camera(camera)
        local = (points - view.xpos) @ view.xmat.reshape(3, 3)  # x right, y up, looking along -z
        scale = 2 * np.tan(np.deg2rad(self.model.camera(camera).fovy[0]) / 2)
        depth = np.where(local[:, 2] < 0, -local[:, 2], np.nan)
        return np.stack([0.5 + local[:, 0] / depth / scale, 0.5 - local[:, 1] / depth / scale], axis=1)

    def tool_pose(self) -> tuple[FloatArray, FloatArray]:
        """Tool centre point [3] m and rotation [3, 3] in the base frame."""
        return self.data.site_xpos[self._tool].copy(), self.data.site_xmat[self._tool].reshape(3, 3).copy()

    def cube_position(self, colour: str) -> FloatArray:
        """Centre of a cube [3] m."""
        address = self._cube_qpos[colour]
        position: FloatArray = self.data.qpos[address : address + 3].copy()
        return position

    def cube_yaw_rad(self, colour: str) -> float:
        """Yaw of a cube about the vertical."""
        w, _, _, z = self.data.qpos[self._cube_qpos[colour] + 3 : self._cube_qpos[colour] + 7]
        return float(2 * np.arctan2(z, w))

    def bin_position(self) -> FloatArray:
        """Centre of the bin's floor [3] m."""
        position: FloatArray = self.data.mocap_pos[0].copy()
        return position

    def held(self, colour: str) -> bool:
        """Whether both fingers touch this cube."""
        cube = self.model.geom(colour).id
        touched = {pad for pair in self.data.contact.geom if cube in pair for pad in self._pads.intersection(pair)}
        return touched == self._pads

    @property
    def task(self) -> Task:
        """What the present instruction asks for."""
        return TASKS[self.instruction]

    @property
    def success(self) -> bool:
        """Whether the instruction is fulfilled now: the cube lifted in the gripper, or released inside the bin."""
        cube = self.cube_position(self.task.colour)
        if not self.task.into_bin:
            return bool(cube[2] > LIFTED_M) and self.held(self.task.colour)
        inside = np.abs(cube[:2] - self.bin_position()[:2]) < np.array(BIN_HALF_M)
        return bool(inside.all() and cube[2] < BIN_WALL_M) and not self.held(self.task.colour)
