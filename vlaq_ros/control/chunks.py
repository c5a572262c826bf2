"""From a chunk of joint targets to a motion that continues the running one.

A command is made in four steps, each value once:

    Kinematics.joint_targets   chunk -> absolute joint positions
    Safety.admit               refuses what is no motion of this arm
    chunks.splice              -> points: past steps dropped, joined to the running motion, blended
    Safety.enforce             -> the motion: within all limits, smooth where it takes over, at rest where it ends

Where the policy can be guided, the running motion is in the chunk already: `commitment` says how much of it.
"""

from __future__ import annotations

import numpy as np

from vlaq_ros.control.interpolation import sample
from vlaq_ros.datatypes import FloatArray, IntArray, Trajectory


def at_rest(joint_names: tuple[str, ...], positions: FloatArray, stamp_ns: int) -> Trajectory:
    """Return the running motion of an arm that nobody commands: it stands at `positions` [J] rad (m)."""
    return Trajectory(stamp_ns, joint_names, np.zeros(1, dtype=np.int64), positions[None])


def step_times(steps: int, step_s: float) -> IntArray:
    """Return when the rows of a chunk [T] are due, in ns after its observation."""
    return round(step_s * 1e9) * np.arange(1, steps + 1)


def asked(
    targets: FloatArray, observed: FloatArray, times_ns: IntArray, *, joint_names: tuple[str, ...], stamp_ns: int
) -> Trajectory:
    """Return what a chunk by itself asks for, from where the arm was seen.

    Args:
        targets: joint positions [T, J] rad (m).
        observed: joint positions [J] at the observation.
        times_ns: of the targets [T] after the observation.
        joint_names: of the columns.
        stamp_ns: of the observation.
    """
    return Trajectory(stamp_ns, joint_names, np.append(0, times_ns), np.vstack([observed, targets]))


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
    `Safety.enforce` brakes.

    Args:
        targets: joint positions [T, J] rad (m); row k is for `(k + 1) * step_s` after the observation.
        observation_stamp_ns: stamp of the observation that the chunk answers.
        step_s: time between two rows.
        now_ns: when the new motion takes over.
        running: what is commanded until then, or `at_rest` where nothing is; it gives the joint names.
        blend_s: how long after now the chunk is followed fully; 0 follows it at once.

    Returns:
        Positions without velocities, stamped with the observation: `Safety.enforce` completes it.
    """
    elapsed_ns = now_ns - observation_stamp_ns
    times_ns = step_times(len(targets), step_s)
    ahead = times_ns >= elapsed_ns + times_ns[0]
    times_ns = np.append(elapsed_ns, times_ns[ahead])
    expected = sample(running, observation_stamp_ns + times_ns)[0]

    share = np.minimum((times_ns[1:, None] - elapsed_ns) / max(blend_s * 1e9, 1.0), 1.0)
    blend = share**2 * (3 - 2 * share)
    positions = expected.copy()
    positions[1:] += blend * (targets[ahead] - expected[1:])
    return Trajectory(observation_stamp_ns, running.joint_names, times_ns, positions)


def commitment(times_ns: IntArray, *, delay_ns: int, end_ns: int) -> FloatArray:
    """Weigh how far each step of a new chunk is to follow the running motion.

    Steps that are executed before the chunk can take over are kept: 1. From there to the end of what is commanded the
    weight falls as in real-time chunking (Black, Galliker and Levine, arXiv 2506.07339, eq. 5), c (e^c - 1) / (e - 1)
    with c falling linearly; steps beyond are free: 0.

    Args:
        times_ns: of the steps [T] after the observation, increasing.
        delay_ns: from the observation until the chunk takes over.
        end_ns: from the observation to the end of what is commanded.

    Returns:
        Weights [T] in [0, 1].
    """
    step_ns = times_ns[0]
    share = np.clip((end_ns + step_ns - times_ns) / max(end_ns + step_ns - delay_ns, 1), 0.0, 1.0)
    soft = share * np.expm1(share) / np.expm1(1.0)
    weights: FloatArray = np.where(times_ns > end_ns, 0.0, np.where(times_ns <= delay_ns, 1.0, soft))
    return weights
