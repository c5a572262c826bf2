"""From a chunk of joint targets to a motion that continues the running one.

A command is made in three steps, each value once:

    Kinematics.joint_targets   chunk -> absolute joint positions
    chunks.splice              -> points: past steps dropped, joined to the running motion, blended
    limits.enforce             -> clipped points, their velocities, and a brake to rest
"""

from __future__ import annotations

import numpy as np

from vlaq_ros.control.interpolation import sample
from vlaq_ros.datatypes import FloatArray, Trajectory


def at_rest(joint_names: tuple[str, ...], positions: FloatArray, stamp_ns: int) -> Trajectory:
    """Return the running motion of an arm that nobody commands: it stands at `positions` [J] rad (m)."""
    return Trajectory(stamp_ns, joint_names, np.zeros(1, dtype=np.int64), positions[None])


def splice(
    targets: FloatArray,
    *,
    observation_stamp_ns: int,
    step_s: float,
    now_ns: int,
    running: Trajectory,
    blend_s: float,
) -> Trajectory:
    """Join a chunk to the motion that runs now.

    The first point is where `running` is at `now_ns`: it lies in the past when the controller receives it, which
    therefore never interpolates from a measured, lagging state. Then come the steps at least one step ahead of now,
    blended from `running` into the chunk by a smoothstep. A chunk that is past leaves the first point alone, from which
    `limits.enforce` brakes.

    Args:
        targets: joint positions [T, J] rad (m); row k is for `(k + 1) * step_s` after the observation.
        observation_stamp_ns: stamp of the observation that the chunk answers.
        step_s: time between two rows.
        now_ns: when the new motion takes over.
        running: what is commanded until then, or `at_rest` where nothing is; it gives the joint names.
        blend_s: how long after now the chunk is followed fully.

    Returns:
        Positions without velocities, stamped with the observation: `limits.enforce` completes it.
    """
    step_ns = round(step_s * 1e9)
    elapsed_ns = now_ns - observation_stamp_ns
    times_ns = step_ns * np.arange(1, len(targets) + 1)
    ahead = times_ns >= elapsed_ns + step_ns
    times_ns = np.append(elapsed_ns, times_ns[ahead])
    expected = sample(running, observation_stamp_ns + times_ns)[0]

    share = np.minimum((times_ns[1:, None] - elapsed_ns) / max(blend_s * 1e9, 1.0), 1.0)
    blend = share**2 * (3 - 2 * share)
    positions = expected.copy()
    positions[1:] += blend * (targets[ahead] - expected[1:])
    return Trajectory(observation_stamp_ns, running.joint_names, times_ns, positions)
