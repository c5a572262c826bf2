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
from vlaq_ros.sim.scene import BIN_HALF_M, BIN_WALL_M, CUBE_HALF_M, Scene, Task

GRASP_HEIGHT_M = 0.024
HOVER_M = 0.10  # above the grasp, until the tool is over the cube
LIFT_HEIGHT_M = 0.24
CARRY_HEIGHT_M = 0.17
RELEASE_HEIGHT_M = 0.085
TRANSIT_M_S = 0.30
CAREFUL_M_S = 0.13
TURN_RAD_S = 1.0
FINGER_M_S = 0.08
APPROACH_RATE_S = 5.0  # speed over distance near a goal
CENTRED_M = 0.010
GRIPPED_M = 0.010  # commanded this far, the finger presses on the cube, whatever its lag
TOOL_DOWN = Rotation.from_matrix(np.diag([1.0, -1.0, -1.0]))


@dataclass(frozen=True, slots=True)
class _State:
    tool: FloatArray  # [3] m
    finger_m: float  # as commanded: on contact the finger itself stops at the cube
    cube: FloatArray  # [3] m
    held: bool
    bin: FloatArray  # [3] m
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
    state = _State(tool, joints[-1], scene.cube_position(colour), scene.held(colour), scene.bin_position(), scene.task)
    turn = (TOOL_DOWN * Rotation.from_matrix(rotation).inv()).as_rotvec()
    angle = float(np.linalg.norm(turn))
    actions = np.empty((steps, 7))
    for k in range(steps):
        state, finger_target_m = _advance(state, step_s)
        turned = min(1.0, TURN_RAD_S * (k + 1) * step_s / max(angle, 1e-9))
        actions[k] = *(state.tool - tool), *(turn * turned), finger_target_m
    return actions


def _advance(state: _State, step_s: float) -> tuple[_State, float]:
    move = _rule(state)
    gap = move.goal - state.tool
    distance = float(np.linalg.norm(gap))
    step = gap * min(1.0, APPROACH_RATE_S * step_s, move.speed_m_s * step_s / max(distance, 1e-9))
    if move.grip:
        finger_m = target_m = 0.0 if state.held else max(state.finger_m - FINGER_M_S * step_s, 0.0)
        held = state.held or finger_m < GRIPPED_M
    else:
        finger_m = target_m = min(max(state.finger_m, CUBE_HALF_M) + FINGER_M_S * step_s, panda.FINGER_OPEN_M)
        held = state.held and finger_m < panda.FINGER_OPEN_M
    cube = state.cube + step if held and state.held else state.cube
    if state.held and not held:
        cube = np.array([*cube[:2], CUBE_HALF_M])
    return replace(state, tool=state.tool + step, finger_m=finger_m, cube=cube, held=held), target_m


def _rule(state: _State) -> _Move:
    if state.held:
        return (
            _carry(state) if state.task.into_bin else _Move(_above(state.tool, LIFT_HEIGHT_M), TRANSIT_M_S, grip=True)
        )
    inside = bool((np.abs(state.cube[:2] - state.bin[:2]) < BIN_HALF_M).all() and state.cube[2] < BIN_WALL_M)
    if state.task.into_bin and inside:
        return _Move(_above(state.tool, LIFT_HEIGHT_M), TRANSIT_M_S, grip=False)
    return _reach(state)


def _reach(state: _State) -> _Move:
    off_m = float(np.linalg.norm(state.cube[:2] - state.tool[:2]))
    grasp_m = max(state.cube[2], GRASP_HEIGHT_M)
    height_m = grasp_m + float(np.clip(3.0 * (off_m - 0.008), 0.0, HOVER_M))
    low = state.tool[2] < height_m - 0.03  # rise before moving sideways, or the fingers push the cube away
    goal = _above(state.tool if low else state.cube, height_m)
    return _Move(goal, TRANSIT_M_S if off_m > 0.04 else CAREFUL_M_S, grip=_centred(state))


def _carry(state: _State) -> _Move:
    off_m = float(np.linalg.norm(state.bin[:2] - state.tool[:2]))
    if off_m > 0.03:
        climbing = state.tool[2] < CARRY_HEIGHT_M - 0.06
        return _Move(_above(state.tool if climbing else state.bin, CARRY_HEIGHT_M), TRANSIT_M_S, grip=True)
    low = state.tool[2] < RELEASE_HEIGHT_M + 0.02
    return _Move(_above(state.bin, RELEASE_HEIGHT_M), CAREFUL_M_S, grip=not low)


def _centred(state: _State) -> bool:
    """Whether the cube is between the fingers; a closing gripper keeps closing on a slightly larger error."""
    slack = 2.0 if state.finger_m < panda.FINGER_OPEN_M - 0.004 else 1.0
    gap = np.abs(state.cube - state.tool)
    return bool(np.linalg.norm(gap[:2]) < slack * CENTRED_M and gap[2] < slack * CENTRED_M)


def _above(point: FloatArray, height_m: float) -> FloatArray:
    return np.array([point[0], point[1], height_m])
