"""Which of many moments a policy is calibrated on: spread over instructions, and within them over phases of the motion.

Frames of an idle robot, or of one task, say little of what a policy meets (QuantVLA's released code calibrates on 32
frames of one trial, arXiv 2602.20309). A phase is told from the motion alone, so that any recording has them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest

import numpy as np

from vlaq_ros.datatypes import FloatArray
from vlaq_ros.errors import TooFewObservationsError

GRIPPER, FAST, SLOW = "gripper", "fast", "slow"
GRIPPER_MOVES_S = 0.5  # deviations of its position per second from which the gripper is moving


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment at which an observation can be taken."""

    episode: Hashable  # the moments of one follow each other
    stamp_ns: int
    positions: FloatArray  # [J] rad (m), the gripper's last
    instruction: str


def draw(moments: Sequence[Moment], scale: FloatArray, count: int, seed: int, source: str) -> dict[int, str]:
    """Choose moments by `seed`: equally many of every instruction and of every phase in it, as far as there are.

    Args:
        moments: to choose from; those of an episode lie together, in the order of time.
        scale: deviations of the joints' positions [J], which speeds are told in.
        count: how many.
        seed: of the choice.
        source: where the moments are from, for the error.

    Returns:
        The chosen rows of `moments`, rising, and the phase of each.

    Raises:
        TooFewObservationsError: there are fewer than `count`.
    """
    if len(moments) < count:
        raise TooFewObservationsError(source, len(moments), count)
    phases = phases_of(moments, scale)
    piles: dict[str, dict[str, list[int]]] = {}
    for row in np.random.default_rng(seed).permutation(len(moments)):
        piles.setdefault(moments[row].instruction, {}).setdefault(phases[row], []).append(int(row))
    dealt = _in_turn(_in_turn(pile.values()) for pile in piles.values())
    return {row: phases[row] for row in sorted(dealt[:count])}


def phases_of(moments: Sequence[Moment], scale: FloatArray) -> list[str]:
    """Say of every moment whether the gripper moves, or else whether the arm is faster than half of the time."""
    speeds = np.concatenate(
        [_speeds(list(episode), scale) for _, episode in groupby(moments, lambda moment: moment.episode)]
    )
    gripper, arm = speeds[:, -1], np.linalg.norm(speeds[:, :-1], axis=1)
    moving = gripper > GRIPPER_MOVES_S
    median = np.median(arm[~moving]) if not moving.all() else 0.0
    return [GRIPPER if grips else FAST if fast else SLOW for grips, fast in zip(moving, arm > median, strict=True)]


def _speeds(episode: Sequence[Moment], scale: FloatArray) -> FloatArray:
    """Speeds [N, J] of the joints, in deviations per second."""
    positions = np.stack([moment.positions for moment in episode]) / scale
    if len(episode) == 1:
        return np.zeros_like(positions)
    times_s = np.array([moment.stamp_ns for moment in episode]) * 1e-9
    return np.abs(np.gradient(positions, times_s - times_s[0], axis=0))


def _in_turn(piles: Iterable[Iterable[int]]) -> list[int]:
    """Deal from piles, one from each in turn, until all are empty."""
    return [row for deal in zip_longest(*piles) for row in deal if row is not None]
