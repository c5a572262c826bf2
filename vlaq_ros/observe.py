"""The newest camera images, joint states and instruction, and what of them the policy may see.

Callbacks only store; images are decoded when an observation is taken. Every method may be called from any thread.
An input that is missing or too old is never replaced by an invented one: it blocks, with a sentence that says why.

Of every input the newest stamp wins, and what comes late is dropped. Later than the age that is allowed means that time
jumped back (a bag that loops, a simulation that starts again): then everything is forgotten, whichever input told it.
A single stamp from the future blocks, and is forgotten in the same way with the next message of its input.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlaq_ros import messages
from vlaq_ros.datatypes import FloatArray, ImageArray, IntArray, JointWindow, Observation, Stale
from vlaq_ros.errors import VlaqError
from vlaq_ros.joints import JointMap

JOINT_STATES = "joint states"  # this input's name in reasons and ages
_JOINT_HISTORY = 4096  # samples kept at least: four seconds of a 1 kHz joint state
_RATE_NS = 2_000_000_000  # over which images are counted


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


class Tally:
    """Counts the images of a camera by their stamps, over the last two seconds; not thread-safe."""

    def __init__(self) -> None:
        self._stamps_ns: deque[int] = deque()

    def count(self, stamp_ns: int) -> None:
        """Count an image in whatever order it comes, unless it is repeated."""
        if stamp_ns not in self._stamps_ns:
            self._stamps_ns.append(stamp_ns)
        while self._stamps_ns[0] <= stamp_ns - _RATE_NS:
            self._stamps_ns.popleft()

    def rate_hz(self, end_ns: int) -> float:
        """Images per second over the two seconds that end at a stamp."""
        counted = sum(end_ns - _RATE_NS < stamp_ns <= end_ns for stamp_ns in self._stamps_ns)
        return counted / _seconds(_RATE_NS)


@dataclass(frozen=True, slots=True)
class _Image:
    stamp_ns: int
    decode: Callable[[], ImageArray]


@dataclass(frozen=True, slots=True)
class Held:
    """What an observation would be made of, at one moment."""

    images: dict[str, _Image]  # of the cameras that sent one
    joint_stamps_ns: IntArray  # [N]
    joint_positions: FloatArray  # [N, J]
    refusal: str  # why the newest joint state could not be used
    instruction: str


class Observer:
    """Gathers messages by topic and gives observations whose parts belong together.

    Args:
        cameras: names of the images that an observation needs.
        joints: its joint state, and how messages call and count it.
        max_image_age_s: an older image blocks.
        max_camera_skew_s: images further apart block.
        max_joint_age_s: an older joint state blocks; also how far it may trail the newest image, and how far apart the
            two may be that an image lies between.

    Attributes:
        cameras: as given.
        joint_names: of the joints [J], as messages call them.
        kept: how many joint states were not refused, nor too late.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        joints: JointMap,
        *,
        max_image_age_s: float,
        max_camera_skew_s: float,
        max_joint_age_s: float,
    ) -> None:
        self.cameras = tuple(cameras)
        self.joint_names = joints.message
        self.kept = 0
        self._map = joints
        self._max_image_age_s = max_image_age_s
        self._max_camera_skew_s = max_camera_skew_s
        self._max_joint_age_s = max_joint_age_s
        self._lock = threading.Lock()
        self._images: dict[str, _Image] = {}  # the newest of each camera
        self._undecodable: dict[str, str] = {}  # camera -> why its image could not be decoded when it was wanted
        self._tallies = {name: Tally() for name in cameras}
        self._first_ns: int | None = None  # stamp of the first message, of whatever input
        self._ring = JointRing(len(joints.urdf))
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

    def push_image(self, camera: str, stamp_ns: int, decode: Callable[[], ImageArray]) -> None:
        """Keep an image as the newest of its camera; `decode` is called by `sample` alone, in its thread.

        `decode` gives [H, W, 3] RGB, or raises a VlaqError.
        """
        with self._lock:
            newest = self._images.get(camera)
            if not self._late(stamp_ns, newest.stamp_ns if newest else None, self._max_image_age_s):
                self._images[camera] = _Image(stamp_ns, decode)
            self._tallies[camera].count(stamp_ns)

    def push_instruction(self, instruction: str) -> None:
        """Set what the robot is asked to do, empty for nothing; repeating the sentence changes nothing."""
        with self._lock:
            if instruction != self._instruction:
                self._instruction = instruction
                self._epoch += 1

    def push_joints(self, message: Any) -> None:
        """Keep a sensor_msgs/JointState; one that cannot be used is refused, and blocks as if it had not come."""
        stamp_ns = messages.stamp_ns(message.header.stamp)
        try:
            positions, velocities = messages.joint_state(message, self._map.message)
        except VlaqError as error:
            with self._lock:
                self._refusal = str(error)
            return
        self.push_joint_samples(np.array([stamp_ns]), positions[None], velocities[None])

    def push_joint_samples(self, stamps_ns: IntArray, positions: FloatArray, velocities: FloatArray) -> None:
        """Keep joint states as they came, with what `messages.joint_state` gives [N, J] of each."""
        samples = zip(stamps_ns.tolist(), self._map.positions(positions), self._map.rates(velocities), strict=True)
        with self._lock:
            self._refusal = ""
            for stamp_ns, *sample in samples:
                if not self._late(stamp_ns, self._ring.newest_ns(), self._max_joint_age_s):
                    self._ring.append(stamp_ns, *sample)
                    self.kept += 1

    def joints(self, span_s: float) -> JointWindow | None:
        """The newest joint samples that cover `span_s`, fewer where there are no more; None where there is none."""
        with self._lock:
            stamps_ns, positions, velocities = self._ring.last(round(span_s * 1e9))
        return JointWindow(self._map.urdf, stamps_ns, positions, velocities) if len(stamps_ns) else None

    def newest_ns(self) -> dict[str, int]:
        """Stamp of each camera's newest image, by its name, and of the newest joint state, where there is one."""
        with self._lock:
            stamps_ns = {name: image.stamp_ns for name, image in self._images.items()}
            joints_ns = self._ring.newest_ns()
        return stamps_ns if joints_ns is None else stamps_ns | {JOINT_STATES: joints_ns}

    def ages_s(self, now_ns: int) -> dict[str, float]:
        """Age of each camera's newest image, by its name, and of the newest joint state; nan where there is none."""
        stamps_ns = self.newest_ns()
        names = (*self.cameras, JOINT_STATES)
        return {name: _seconds(now_ns - stamps_ns[name]) if name in stamps_ns else np.nan for name in names}

    def rates_hz(self, now_ns: int) -> dict[str, float]:
        """Images of each camera that were received per second; nan until two seconds after the first message.

        The two seconds end now, or with the newest image where that is no older than allowed: travelling is no loss.
        """
        with self._lock:
            rates_hz = {}
            for name, tally in self._tallies.items():
                age_ns = now_ns - self._images[name].stamp_ns if name in self._images else 0
                travel_ns = min(max(age_ns, 0), round(self._max_image_age_s * 1e9))
                end_ns = now_ns - travel_ns
                counted = self._first_ns is not None and end_ns - self._first_ns >= _RATE_NS
                rates_hz[name] = tally.rate_hz(end_ns) if counted else np.nan
        return rates_hz

    def blocking(self, now_ns: int) -> tuple[str, ...]:
        """Say of every input why there is no observation now; nothing is decoded.

        Of an image that cannot be decoded it is said as soon as `sample` has tried.
        """
        with self._lock:
            undecodable = [f"camera {name}: {why}" for name, why in self._undecodable.items()]
        return (*self._reasons(self.take(), now_ns), *undecodable)

    def take(self) -> Held:
        """Take what an observation would be made of now."""
        with self._lock:
            stamps_ns, positions, _ = self._ring.last(round((self._max_image_age_s + self._max_joint_age_s) * 1e9))
            return Held(dict(self._images), stamps_ns, positions, self._refusal, self._instruction)

    def sample(self, now_ns: int, held: Held | None = None) -> Observation | Stale:
        """Make an observation, or say of every input why there is none.

        Its stamp is that of the newest image. The joint state is interpolated to it; when the newest joint state is a
        little older than the image, it is taken as it is.

        Args:
            now_ns: the time that inputs are old at.
            held: what was taken then, where messages may have come since.
        """
        held = held or self.take()
        if reasons := self._reasons(held, now_ns):
            return Stale(tuple(reasons))
        decoded: dict[str, ImageArray] = {}
        undecodable: dict[str, str] = {}
        for name, image in held.images.items():
            try:
                decoded[name] = image.decode()
            except VlaqError as error:
                undecodable[name] = str(error)
        with self._lock:
            self._undecodable = undecodable
        if undecodable:
            return Stale(tuple(f"camera {name}: {why}" for name, why in undecodable.items()))
        stamp_ns = max(image.stamp_ns for image in held.images.values())
        since_image_ns = held.joint_stamps_ns - stamp_ns
        at_image = np.array([np.interp(0, since_image_ns, column) for column in held.joint_positions.T])
        return Observation(stamp_ns, decoded, self._map.policy, at_image, held.instruction)

    def _late(self, stamp_ns: int, newest_ns: int | None, allowed_s: float) -> bool:
        """Whether a message comes after its successor; if so late that time must have jumped, forget everything."""
        if self._first_ns is None:
            self._first_ns = stamp_ns
        if newest_ns is None or stamp_ns > newest_ns:
            return False
        if _seconds(newest_ns - stamp_ns) <= allowed_s:
            return True
        self._ring.clear()
        self._images = {}
        self._undecodable = {}
        self._tallies = {name: Tally() for name in self.cameras}
        self._first_ns = stamp_ns
        self._epoch += 1
        return False

    def _reasons(self, held: Held, now_ns: int) -> list[str]:
        stamps_ns = {name: image.stamp_ns for name, image in held.images.items()}
        reasons = [] if held.instruction else ["instruction: none given"]
        reasons += [f"camera {name}: no image received" for name in self.cameras if name not in stamps_ns]
        reasons += self._image_reasons(stamps_ns, now_ns)
        reasons += self._joint_reasons(held, now_ns)
        return reasons or self._gap(held, max(stamps_ns.values()))

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

    def _joint_reasons(self, held: Held, now_ns: int) -> list[str]:
        if not len(held.joint_stamps_ns):
            return [f"{JOINT_STATES}: {held.refusal or 'none received'}"]
        overdue = _outside(JOINT_STATES, _seconds(now_ns - int(held.joint_stamps_ns[-1])), self._max_joint_age_s)
        return [f"{JOINT_STATES}: {held.refusal}"] if overdue and held.refusal else overdue

    def _gap(self, held: Held, image_ns: int) -> list[str]:
        """Say where joint states miss around an image; one taken after the newest of them is near enough."""
        after = int(np.searchsorted(held.joint_stamps_ns, image_ns))
        if after == len(held.joint_stamps_ns) or held.joint_stamps_ns[after] == image_ns:
            return []
        if after == 0:
            late_s = _seconds(int(held.joint_stamps_ns[0]) - image_ns)
            return [f"{JOINT_STATES}: the first one came {late_s:.2f} s after the image"]
        gap_s = _seconds(int(held.joint_stamps_ns[after] - held.joint_stamps_ns[after - 1]))
        if gap_s > self._max_joint_age_s:
            return [f"{JOINT_STATES}: {gap_s:.2f} s apart at the image, allowed {self._max_joint_age_s:.2f} s"]
        return []


def _seconds(duration_ns: int) -> float:
    return duration_ns * 1e-9


def _outside(what: str, age_s: float, allowed_s: float) -> list[str]:
    """Say how an input's age lies outside what is allowed; nothing where it does not."""
    if age_s > allowed_s:
        return [f"{what}: {age_s:.2f} s old, allowed {allowed_s:.2f} s"]
    if age_s < -allowed_s:
        return [f"{what}: stamped {-age_s:.2f} s in the future; synchronise the clocks"]
    return []
