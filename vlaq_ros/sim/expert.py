"""The scripted expert: from any state of the scene, the chunk that goes on with the task.

It has no memory. A kinematic model of what the arm does next is rolled out under one reactive rule, so that the
answer is a whole chunk from every state, also from those that only a mistake leads to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from vlaq_ros.datatypes import FloatArray
from vlaq_ros.sim import panda
from vlaq_ros.sim.scene import PLACES, Scene, Task
from vlaq_ros.sim.world import CUBE_HALF_M, PEG_HALF_M

GRASP_ABOVE_M = 0.002  # the tool above the object's centre
GRASP_PEG_ABOVE_M = 0.017
HOVER_M = 0.10  # above the grasp, until the tool is over the object and turned
LIFT_HEIGHT_M = 0.24
CARRY_HEIGHT_M = 0.17
TRANSIT_M_S = 0.30
CAREFUL_M_S = 0.13
NEAR_M = 0.04  # careful from here on
TURN_RAD_S = 1.0
FINGER_M_S = 0.08
APPROACH_RATE_S = 5.0  # speed over distance near a goal
CENTRED_M = 0.010
TURNED_RAD = 0.10
GRIPPED_M = 0.010  # commanded this far, the finger presses on the object, whatever its lag
SQUEEZE_M = 0.012  # a closing finger is commanded this far ahead, so that it presses as soon as it touches
CLEAR_M = 0.033  # fingers this far open have let go of the object
TOOL_DOWN = Rotation.from_matrix(np.diag([1.0, -1.0, -1.0]))


@dataclass(frozen=True, slots=True)
class _Release:
    """How to bring an object to its destination: down as far as it is centred."""

    height_m: float  # of the object's centre over the destination
    centred_m: float
    slope: float  # height kept over the distance from the centre


_RELEASES = {
    "bin": _Release(0.083, 0.030, 3.0),
    "stack": _Release(2 * CUBE_HALF_M + 0.001, 0.003, 10.0),
    "insert": _Release(PEG_HALF_M[2] + 0.006, 0.003, 10.0),
}
_LANDED_M = {"bin": CUBE_HALF_M, "stack": 2 * CUBE_HALF_M, "insert": PEG_HALF_M[2]}  # centre over the destination


@dataclass(frozen=True, slots=True)
class _State:
    tool: FloatArray  # [3] m
    angle_rad: float  # that the tool has still to turn about any axis
    finger_m: float  # as commanded: on contact the finger itself stops at the object
    object: FloatArray  # [3] m
    held: bool
    destination: FloatArray  # [3] m
    task: Task


@dataclass(frozen=True, slots=True)
class _Move:
    goal: FloatArray  # [3] m
    speed_m_s: float
    grip: bool


def plan(scene: Scene, steps: int, step_s: float) -> FloatArray:
    """The expert's chunk from the present state.

    Returns:
        [T, 7] in `ActionSpace.END_EFFECTOR`: displacement m and rotation vector rad from the present tool pose, in the
        base frame, and the finger's target m.
    """
    tool, rotation = scene.tool_pose()
    joints, _ = scene.joint_state()
    colour = scene.task.colour
    yaw = Rotation.from_rotvec([0, 0, _yaw_rad(rotation) + turn_rad(scene)])
    turn = (yaw * TOOL_DOWN * Rotation.from_matrix(rotation).inv()).as_rotvec()
    angle = float(np.linalg.norm(turn))
    state = _State(
        tool,
        angle,
        joints[-1],
        scene.object_position(colour),
        scene.held(colour),
        scene.destination_position(),
        scene.task,
    )
    actions = np.empty((steps, 7))
    for k in range(steps):
        state, finger_target_m = _advance(state, step_s)
        turned = 1 - state.angle_rad / max(angle, 1e-9)
        actions[k] = *(state.tool - tool), *(turn * turned), finger_target_m
    return actions


def turn_rad(scene: Scene) -> float:
    """Yaw that the tool has still to turn about the vertical: across a bar, else square to the table."""
    _, rotation = scene.tool_pose()
    task = scene.task
    if task.family != "bar":
        return -_yaw_rad(rotation)
    if scene.held(task.colour):
        return 0.0
    half_turn = scene.object_yaw_rad(task.colour) - _yaw_rad(rotation) + np.pi / 2
    return float(half_turn % np.pi - np.pi / 2)


def _yaw_rad(rotation: FloatArray) -> float:
    return float(np.arctan2(rotation[1, 0], rotation[0, 0]))


def _advance(state: _State, step_s: float) -> tuple[_State, float]:
    move = _rule(state)
    gap = move.goal - state.tool
    distance = float(np.linalg.norm(gap))
    step = gap * min(1.0, APPROACH_RATE_S * step_s, move.speed_m_s * step_s / max(distance, 1e-9))
    if move.grip:
        finger_m = 0.0 if state.held else max(state.finger_m - FINGER_M_S * step_s, 0.0)
        target_m = max(finger_m - SQUEEZE_M, 0.0)
        held = state.held or finger_m < GRIPPED_M
    else:
        finger_m = target_m = min(max(state.finger_m, CUBE_HALF_M) + FINGER_M_S * step_s, panda.FINGER_OPEN_M)
        held = state.held and finger_m < CLEAR_M
    object_ = state.object + step if held and state.held else state.object
    if state.held and not held:
        object_ = _above(object_, state.destination[2] + _LANDED_M[state.task.family])
    angle_rad = max(state.angle_rad - TURN_RAD_S * step_s, 0.0)
    return replace(
        state, tool=state.tool + step, angle_rad=angle_rad, finger_m=finger_m, object=object_, held=held
    ), target_m


def _rule(state: _State) -> _Move:
    place = PLACES.get(state.task.family)
    if state.held:
        return _Move(_above(state.tool, LIFT_HEIGHT_M), TRANSIT_M_S, grip=True) if place is None else _carry(state)
    if place is not None and place.holds(state.object - state.destination):
        clear = state.finger_m > CLEAR_M
        return _Move(_above(state.tool, LIFT_HEIGHT_M) if clear else state.tool, TRANSIT_M_S, grip=False)
    return _reach(state)


def _reach(state: _State) -> _Move:
    off_m = float(np.linalg.norm((state.object - state.tool)[:2]))
    grasp_m = state.object[2] + (GRASP_PEG_ABOVE_M if state.task.family == "insert" else GRASP_ABOVE_M)
    height_m = grasp_m + float(
        np.clip(6.0 * max(off_m - 0.004, 0.0) + 0.15 * max(state.angle_rad - TURNED_RAD, 0.0), 0.0, HOVER_M)
    )
    low = state.tool[2] < height_m - 0.03  # rise before moving sideways, or the fingers push the object away
    goal = _above(state.tool if low else state.object, height_m)
    slack = 2.0 if state.finger_m < panda.FINGER_OPEN_M - 0.004 else 1.0  # once closing, it goes on closing
    there = max(off_m, abs(state.tool[2] - grasp_m)) < slack * CENTRED_M and state.angle_rad < slack * TURNED_RAD
    return _Move(goal, TRANSIT_M_S if off_m > NEAR_M else CAREFUL_M_S, grip=there)


def _carry(state: _State) -> _Move:
    """Over the destination by the object's own centre, and down as far as it is centred."""
    release = _RELEASES[state.task.family]
    gap = state.destination - state.object
    off_m = float(np.linalg.norm(gap[:2]))
    low_m = state.tool[2] + gap[2] + release.height_m
    height_m = low_m + release.slope * max(off_m - release.centred_m, 0.0)
    if off_m > NEAR_M and state.tool[2] < CARRY_HEIGHT_M - 0.03:
        return _Move(_above(state.tool, CARRY_HEIGHT_M), TRANSIT_M_S, grip=True)
    goal = state.tool + gap
    done = off_m < release.centred_m + 0.002 and state.tool[2] < low_m + 0.003
    return _Move(
        _above(goal, min(height_m, CARRY_HEIGHT_M)), TRANSIT_M_S if off_m > NEAR_M else CAREFUL_M_S, grip=not done
    )


def _above(point: FloatArray, height_m: float) -> FloatArray:
    return np.array([point[0], point[1], height_m])
