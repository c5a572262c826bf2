"""What the replay of a bag tells, one event after the other, in the order of the bag's time.

Joint columns are the arm's, gripper last, in URDF names and SI units. Stamps are those of the messages' headers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vlaq_ros.datatypes import (
    ActionChunk,
    Command,
    Decision,
    FloatArray,
    ImageArray,
    Motion,
    Observation,
    Trajectory,
)


@dataclass(frozen=True, slots=True)
class Seen:
    """An image of the bag; nothing is decoded until it is asked for."""

    camera: str
    stamp_ns: int
    decode: Callable[[], ImageArray]  # [H, W, 3] RGB; raises VlaqError


@dataclass(frozen=True, slots=True)
class Look:
    """What the pilot thought of the motion, once every monitor period."""

    stamp_ns: int
    positions: FloatArray | None  # [J], the newest measured; None before the first
    decision: Decision  # in force for the next inference
    motion: Motion | None  # None where it is unknown
    blocking: tuple[str, ...]  # why no observation could be made now; empty where one could
    late_s: float  # how long the arm would have braked or rested for want of a chunk
    jump: str  # what jumped in the joint states; empty where nothing did


@dataclass(frozen=True, slots=True)
class Answer:
    """An observation that the policy has answered."""

    observation: Observation  # with its images: whoever keeps it, keeps them
    took_over_ns: int  # when its command begins
    decision: Decision  # that it was computed under
    chunk: ActionChunk | None  # at that precision, guided where seams are; None where the policy raised
    command: Command | None  # as it would have left; None where there is none
    fault: (
        str  # why there is none: what the policy or the safety said, or that it was dropped; empty where there is one
    )
    rejected: str  # the kind of a RejectedChunkError; empty where it was none
    targets: dict[str, FloatArray]  # [T, J] joint targets by precision, of this observation and noise, without a guide
    inference_s: dict[str, float]  # what computing them took here, by precision


@dataclass(frozen=True, slots=True)
class Held:
    """The arm would have been braked."""

    stamp_ns: int
    trajectory: Trajectory


Event = Seen | Look | Answer | Held
