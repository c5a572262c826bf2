"""What the scene is made of, as MJCF: the table, three objects, a bin and a socket, the cameras and the arm."""

from __future__ import annotations

from collections.abc import Mapping

from vlaq_ros.sim import panda

CUBE_HALF_M = 0.022
BAR_HALF_M = (0.045, 0.022)  # length and height; the width is drawn
BAR_HALF_WIDTHS_M = (0.0275, 0.030)
PEG_HALF_M = (0.020, 0.020, 0.040)
BIN_HALF_M = 0.085
BIN_WALL_M = 0.05
SOCKET_HALF_M = 0.026  # of its square hole
SOCKET_WALL_M = 0.03
OBJECT_KG = 0.06


def _walls(middle_m: float, half_m: float, height_m: float, rgba: str) -> str:
    """Four walls around a square, `middle_m` from its centre."""
    wall = height_m / 2
    length = middle_m + half_m
    return "".join(
        f'<geom class="object" type="box" size="{size} {wall}" pos="{pos} {wall}" rgba="{rgba}"/>'
        for size, pos in (
            (f"{length} {half_m}", f"0 {middle_m}"),
            (f"{length} {half_m}", f"0 {-middle_m}"),
            (f"{half_m} {middle_m - half_m}", f"{middle_m} 0"),
            (f"{half_m} {middle_m - half_m}", f"{-middle_m} 0"),
        )
    )


def mjcf(colours: Mapping[str, str], timestep_s: float, image_size_px: int) -> str:
    """The whole model.

    Args:
        colours: of the objects: a name, which becomes theirs, and its RGBA.
        timestep_s: of the physics.
        image_size_px: side of the square camera images.
    """
    objects = "".join(  # compiled at the largest size, so that the collision bounds hold for every shape
        f'<body name="{colour}" pos="0.5 0 0.045"><freejoint name="{colour}"/>'
        f'<geom class="object" name="{colour}" type="box" size="0.045 0.045 0.045" mass="{OBJECT_KG}" rgba="{rgba}"/>'
        "</body>"
        for colour, rgba in colours.items()
    )
    floor = (
        f'<geom class="object" type="box" size="{BIN_HALF_M} {BIN_HALF_M} 0.003" pos="0 0 0.003" rgba=".45 .33 .2 1"/>'
    )
    bin_geoms = floor + _walls(BIN_HALF_M, 0.004, BIN_WALL_M, ".62 .46 .28 1")
    socket_geoms = _walls(SOCKET_HALF_M + 0.012, 0.012, SOCKET_WALL_M, ".9 .8 .15 1")
    return f"""
<mujoco>
  <compiler angle="radian"/>
  <option timestep="{timestep_s:g}" integrator="implicitfast" cone="elliptic" impratio="10"/>
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
    {objects}
    <body name="bin" mocap="true" pos="0.5 0.3 0">{bin_geoms}</body>
    <body name="socket" mocap="true" pos="0.5 -0.3 0">{socket_geoms}</body>
  </worldbody>
  <equality><joint joint1="panda_finger_joint2" joint2="{panda.FINGER_JOINT}" solref="0.005 1"/></equality>
  <actuator>{panda.mjcf_actuators()}</actuator>
</mujoco>"""
