"""What a bag of the demo says, as arrays: episodes, chunks, signals and camera frames. Read without ROS.

Stamps are the bag's receive times, on one clock for all topics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlaq_ros import messages
from vlaq_ros.bags.rosbag import INSTRUCTION, open_bag
from vlaq_ros.config import RobotConfig
from vlaq_ros.datatypes import IntArray
from vlaq_ros.errors import VlaqError
from vlaq_ros.joints import JointMap

SEED = "/sim_robot/seed"
SUCCESS = "/sim_robot/success"
REAL_TIME_FACTOR = "/sim_robot/real_time_factor"
PRECISION = "/pilot/precision"
SENSITIVITY = "/pilot/sensitivity"
INFERENCE_MS = "/pilot/inference_ms"
BYTES_OVER_BF16 = {"linears": "/pilot/bytes_over_bf16/linears", "all": "/pilot/bytes_over_bf16/all"}


@dataclass(frozen=True, slots=True)
class Episode:
    """One attempt at one instruction."""

    seed: int
    instruction: str
    start_ns: int
    end_ns: int
    success: bool


@dataclass(frozen=True, slots=True)
class Series:
    """A signal: values [N] at rising stamps [N]."""

    stamps_ns: IntArray
    values: NDArray[Any]

    def at(self, stamp_ns: int) -> Any:
        """Return the last value at or before a stamp, the first one where there is none."""
        return self.values[max(0, int(np.searchsorted(self.stamps_ns, stamp_ns, side="right")) - 1)]

    def within(self, episode: Episode) -> Series:
        """Cut the part that belongs to an episode."""
        inside = slice(*np.searchsorted(self.stamps_ns, (episode.start_ns, episode.end_ns)))
        return Series(self.stamps_ns[inside], self.values[inside])


@dataclass(frozen=True, slots=True)
class Chunk:
    """One inference, at the stamp at which its command was out."""

    stamp_ns: int
    precision: str
    inference_ms: float


@dataclass(frozen=True, slots=True)
class Recording:
    """One bag of the demo."""

    episodes: tuple[Episode, ...]
    chunks: tuple[Chunk, ...]
    precision: Series  # of the last chunk
    sensitivity: Series  # S
    gripper: Series  # position of the gripper joint, m
    images: Series  # of one camera, [N] objects, each [H, W, 3] RGB
    real_time_factor: Series
    bytes_over_bf16: dict[str, float]


class EmptyRecordingError(VlaqError):
    """A bag lacks what a report needs."""

    def __init__(self, bag: Path, topic: str) -> None:
        super().__init__(f"bag {str(bag)!r} has no message on {topic}; expected a bag that `vlaq demo` finished")


def read(bag: Path, robot: RobotConfig, camera: str) -> Recording:
    """Read a bag of the demo.

    Args:
        bag: directory of the bag.
        robot: whose topics were recorded.
        camera: name of the camera whose images are kept.

    Raises:
        EmptyRecordingError: a topic that the report needs has no message.
    """
    joint_map = JointMap.whole(robot)
    joints, images = f"/{robot.joint_state_topic}", f"/{robot.cameras[camera].topic}"
    signals = (INSTRUCTION, SEED, SUCCESS, REAL_TIME_FACTOR, PRECISION, SENSITIVITY, INFERENCE_MS)
    topics = (*signals, *BYTES_OVER_BF16.values(), joints, images)
    received: dict[str, list[tuple[int, Any]]] = {topic: [] for topic in topics}
    with open_bag(bag) as opened:
        recorded = {topic: msgtype for topic, (msgtype, _) in opened.topics.items() if topic in received}
        for message in opened.messages(recorded):
            received[message.topic].append((message.received_ns, opened.deserialize(message)))
        end_ns = opened.end_ns + 1
    for topic, entries in received.items():
        if not entries:
            raise EmptyRecordingError(bag, topic)
    scalar = {topic: _series(received[topic], lambda message: message.data) for topic in topics[:-2]}
    return Recording(
        episodes=_episodes(scalar[INSTRUCTION], scalar[SEED], scalar[SUCCESS], end_ns),
        chunks=tuple(
            Chunk(int(stamp_ns), str(scalar[PRECISION].at(stamp_ns)), float(inference_ms))
            for stamp_ns, inference_ms in zip(scalar[INFERENCE_MS].stamps_ns, scalar[INFERENCE_MS].values, strict=True)
        ),
        precision=scalar[PRECISION],
        sensitivity=scalar[SENSITIVITY],
        gripper=_series(
            received[joints],
            lambda message: joint_map.positions(messages.joint_state(message, joint_map.message)[0])[-1],
        ),
        images=_series(received[images], messages.IMAGES[robot.cameras[camera].type]),
        real_time_factor=scalar[REAL_TIME_FACTOR],
        bytes_over_bf16={name: float(scalar[topic].values[-1]) for name, topic in BYTES_OVER_BF16.items()},
    )


def summary(recording: Recording) -> dict[str, Any]:
    """Count what the demo reports: successes, precisions, inference times and memory."""
    chunks = [[c for c in recording.chunks if e.start_ns <= c.stamp_ns < e.end_ns] for e in recording.episodes]
    names = sorted({chunk.precision for chunk in chain(*chunks)})
    times_ms = {name: [c.inference_ms for c in chain(*chunks) if c.precision == name] for name in names}
    total = sum(map(len, times_ms.values()))
    return {
        "episodes": len(recording.episodes),
        "successes": sum(episode.success for episode in recording.episodes),
        "precision_share": {name: round(len(values) / total, 3) for name, values in times_ms.items()},
        "switches": sum(a.precision != b.precision for episode in chunks for a, b in pairwise(episode)),
        "chunk_ms": {
            name: {f"p{q}": round(float(np.percentile(values, q)), 1) for q in (50, 95)}
            for name, values in times_ms.items()
        },
        "real_time_factor": round(float(np.mean(recording.real_time_factor.values)), 3),
        "bytes_over_bf16": {name: round(share, 4) for name, share in recording.bytes_over_bf16.items()},
    }


def _episodes(instruction: Series, seed: Series, success: Series, end_ns: int) -> tuple[Episode, ...]:
    """Cut the time: an episode runs from its instruction to the next, empty one, and is judged by its last moment."""
    stamps_ns = [*(int(stamp_ns) for stamp_ns in instruction.stamps_ns), end_ns]
    return tuple(
        Episode(int(seed.at(start_ns)), str(text), start_ns, stop_ns, bool(success.at(stop_ns)))
        for (start_ns, stop_ns), text in zip(pairwise(stamps_ns), instruction.values, strict=True)
        if text
    )


def _series(received: list[tuple[int, Any]], value: Callable[[Any], Any]) -> Series:
    stamps_ns, messages_ = zip(*received, strict=True)
    values = [value(message) for message in messages_]
    # A list of images must not become one array of four dimensions: sizes may change while recording.
    boxed = np.empty(len(values), dtype=object) if isinstance(values[0], np.ndarray) else np.array(values)
    boxed[:] = values
    return Series(np.array(stamps_ns, dtype=np.int64), boxed)
