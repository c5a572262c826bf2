"""The newest camera images, joint states and instruction, and what of them the policy may see.

Callbacks only store; images are decoded when an observation is taken. Every method may be called from any thread.
An input that is missing or too old is never replaced by an invented one: it blocks, with a sentence that says why.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlaq_ros import messages
from vlaq_ros.datatypes import FloatArray, IntArray, JointWindow, Observation, Stale
from vlaq_ros.errors import VlaqError

JOINT_STATES = "joint states"  # this input's name in reasons and ages
_JOINT_HISTORY = 4096  # samples kept at least: four seconds of a 1 kHz joint state


class JointRing:
    """The last joint samples in one block of memory; not thread-safe.

    New samples are appended; when the block is full its newer half moves to the front, so a window is always one slice.
    """

    def __init__(self, joints: int) -> None:
        self._stamps_ns: IntArray = np.zeros(2 * _JOINT_HISTORY, dtype=np.int64)
        self._positions: FloatArray = np.zeros((2 * _JOINT_HISTORY, joints))
        self._velocities: FloatArray = np.zeros((2 * _JOINT_HISTORY, joints))
        self._end = 0

    def append(self, stamp_ns: int, positions: FloatArray, velocities: FloatArray) -> None:
        """Add a sample newer than all others."""
        if self._end == len(self._stamps_ns):
            for block in (self._stamps_ns, self._positions, self._velocities):
                block[:_JOINT_HISTORY] = block[_JOINT_HISTORY:]
            self._end = _JOINT_HISTORY
        self._stamps_ns[self._end] = stamp_ns
        self._positions[self._end] = positions
        self._velocities[self._end] = velocities
        self._end += 1

    def clear(self) -> None:
        """Forget all samples."""
        self._end = 0

    def newest_ns(self) -> int | None:
        """Stamp of the newest sample, None where there is none."""
        return int(self._stamps_ns[self._end - 1]) if self._end else None

    def last(self, span_ns: int) -> tuple[IntArray, FloatArray, FloatArray]:
        """Stamps [N], positions and velocities [N, J] of the fewest newest samples that cover `span_ns`; copies.

        All samples where they do not cover it.
        """
        held = self._stamps_ns[: self._end]
        first = int(np.searchsorted(held, held[-1] - span_ns, side="right")) - 1 if self._end else 0
        rows = slice(max(first, 0), self._end)
        return self._stamps_ns[rows].copy(), self._positions[rows].copy(), self._velocities[rows].copy()


class Observer:
    """Gathers messages by topic and gives observations whose parts belong together.

    Args:
        cameras: names of the images that an observation needs.
        joint_names: columns of its joint state.
        max_image_age_s: an older image blocks.
        max_camera_skew_s: images further apart block.
        max_joint_age_s: an older joint state blocks; also how far it may trail the newest image.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        joint_names: tuple[str, ...],
        *,
        max_image_age_s: float,
        max_camera_skew_s: float,
        max_joint_age_s: float,
    ) -> None:
        self.cameras = tuple(cameras)
        self.joint_names = joint_names
        self._max_image_age_s = max_image_age_s
        self._max_camera_skew_s = max_camera_skew_s
        self._max_joint_age_s = max_joint_age_s
        self._lock = threading.Lock()
        self._images: dict[str, Any] = dict.fromkeys(cameras)  # the newest message of each camera
        self._ring = JointRing(len(joint_names))
        self._refusal = ""  # why the newest joint state could not be used
        self._instruction = ""
        self._epoch = 0

    @property
    def epoch(self) -> int:
        """Grows when the instruction changes or time jumps backward: what was computed before no longer counts."""
        with self._lock:
            return self._epoch

    @property
    def instruction(self) -> str:
        """What the robot is asked to do; empty where it is asked for nothing."""
        with self._lock:
            return self._instruction

    def push_image(self, camera: str, message: Any) -> None:
        """Keep a sensor_msgs/Image as the newest of its camera."""
        with self._lock:
            self._images[camera] = message

    def push_instruction(self, instruction: str) -> None:
        """Set what the robot is asked to do, empty for nothing; repeating the sentence changes nothing."""
        with self._lock:
            if instruction != self._instruction:
                self._instruction = instruction
                self._epoch += 1

    def push_joints(self, message: Any) -> None:
        """Keep a sensor_msgs/JointState.

        A message that is late by less than the allowed age is dropped. One that is later means that time jumped (a bag
        that loops, a simulation that starts again): everything older is forgotten.
        """
        stamp_ns = messages.stamp_ns(message.header.stamp)
        try:
            positions, velocities = messages.joint_state(message, self.joint_names)
        except VlaqError as error:
            with self._lock:
                self._refusal = str(error)
            return
        with self._lock:
            self._refusal = ""
            newest_ns = self._ring.newest_ns()
            if newest_ns is not None and stamp_ns <= newest_ns:
                if _seconds(newest_ns - stamp_ns) <= self._max_joint_age_s:
                    return
                self._ring.clear()
                self._images = dict.fromkeys(self._images)
                self._epoch += 1
            self._ring.append(stamp_ns, positions, velocities)

    def joints(self, span_s: float) -> JointWindow | None:
        """The newest joint samples that cover `span_s`, fewer where there are no more; None where there is none."""
        with self._lock:
            stamps_ns, positions, velocities = self._ring.last(round(span_s * 1e9))
        return JointWindow(self.joint_names, stamps_ns, positions, velocities) if len(stamps_ns) else None

    def ages_s(self, now_ns: int) -> dict[str, float]:
        """Age of each camera's newest image, by its name, and of the newest joint state; nan where there is none."""
        with self._lock:
            images, joints_ns = dict(self._images), self._ring.newest_ns()
        stamps_ns = {name: messages.stamp_ns(image.header.stamp) if image else None for name, image in images.items()}
        stamps_ns[JOINT_STATES] = joints_ns
        return {name: np.nan if ns is None else _seconds(now_ns - ns) for name, ns in stamps_ns.items()}

    def sample(self, now_ns: int) -> Observation | Stale:
        """Take an observation, or say of every input why there is none.

        Its stamp is that of the newest image. The joint state is interpolated to it; when the newest joint state is a
        little older than the image, it is taken as it is.
        """
        with self._lock:
            images, instruction, refusal = dict(self._images), self._instruction, self._refusal
            joint_stamps_ns, positions, _ = self._ring.last(
                round((self._max_image_age_s + self._max_joint_age_s) * 1e9)
            )
        stamps_ns = {name: messages.stamp_ns(image.header.stamp) for name, image in images.items() if image}
        reasons = [] if instruction else ["instruction: none given"]
        reasons += [f"camera {name}: no image received" for name in images if name not in stamps_ns]
        reasons += self._image_reasons(stamps_ns, now_ns)
        reasons += self._joint_reasons(joint_stamps_ns, refusal, now_ns)
        if reasons:
            return Stale(tuple(reasons))

        stamp_ns = max(stamps_ns.values())
        if joint_stamps_ns[0] > stamp_ns:
            late_s = _seconds(int(joint_stamps_ns[0]) - stamp_ns)
            return Stale((f"{JOINT_STATES}: the first one came {late_s:.2f} s after the image",))
        decoded = {}
        for name, image in images.items():
            try:
                decoded[name] = messages.image(image)
            except VlaqError as error:
                return Stale((f"camera {name}: {error}",))
        since_image_ns = joint_stamps_ns - stamp_ns
        at_image = np.array([np.interp(0, since_image_ns, column) for column in positions.T])
        return Observation(stamp_ns, decoded, self.joint_names, at_image, instruction)

    def _image_reasons(self, stamps_ns: dict[str, int], now_ns: int) -> list[str]:
        reasons = []
        for name, stamp_ns in stamps_ns.items():
            reasons += _outside(f"camera {name}", _seconds(now_ns - stamp_ns), self._max_image_age_s)
        if reasons or not stamps_ns:
            return reasons
        oldest, newest = min(stamps_ns, key=stamps_ns.__getitem__), max(stamps_ns, key=stamps_ns.__getitem__)
        skew_s = _seconds(stamps_ns[newest] - stamps_ns[oldest])
        if skew_s > self._max_camera_skew_s:
            reasons = [f"cameras {oldest}, {newest}: {skew_s:.2f} s apart, allowed {self._max_camera_skew_s:.2f} s"]
        return reasons

    def _joint_reasons(self, stamps_ns: IntArray, refusal: str, now_ns: int) -> list[str]:
        if not len(stamps_ns):
            return [f"{JOINT_STATES}: {refusal or 'none received'}"]
        overdue = _outside(JOINT_STATES, _seconds(now_ns - int(stamps_ns[-1])), self._max_joint_age_s)
        return [f"{JOINT_STATES}: {refusal}"] if overdue and refusal else overdue


def _seconds(duration_ns: int) -> float:
    return duration_ns * 1e-9


def _outside(what: str, age_s: float, allowed_s: float) -> list[str]:
    """Say how an input's age lies outside what is allowed; nothing where it does not."""
    if age_s > allowed_s:
        return [f"{what}: {age_s:.2f} s old, allowed {allowed_s:.2f} s"]
    if age_s < -allowed_s:
        return [f"{what}: stamped {-age_s:.2f} s in the future; synchronise the clocks"]
    return []
