"""Images and joint states, which come often, read where they lie in their serialized messages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rclpy.serialization import deserialize_message
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import JointState

from vlaq_ros import messages
from vlaq_ros.datatypes import FloatArray, ImageArray, IntArray
from vlaq_ros.errors import UnusableMessageError, VlaqError
from vlaq_ros.observe import Observer

_TYPES = get_typestore(Stores.ROS2_KILTED)  # these messages are the same in every distribution
_LITTLE_ENDIAN = b"\x00\x01"  # plain CDR; how a message begins


def image(kind: str, raw: bytes) -> ImageArray:
    """Pixels [H, W, 3] RGB of a sensor_msgs/Image or CompressedImage, as `kind` says; a view of `raw` where possible.

    Raises:
        UnusableMessageError: it is cut short or damaged, or as for `messages.IMAGES`.
    """
    try:
        message = _TYPES.deserialize_cdr(memoryview(raw), f"sensor_msgs/msg/{kind}")
    except SerdeError as error:
        raise UnusableMessageError(f"the image cannot be read ({error})", f"a whole sensor_msgs/{kind}") from None
    return messages.IMAGES[kind](message)


class JointLayout:
    """Where a serialized JointState holds its numbers, to read many at once that differ in nothing else.

    Plain CDR (DDS-RTPS 10.2): after four bytes, every number lies at a multiple of its size from there; a text is its
    length, its bytes and a zero, a sequence its length and its elements. What lies in between may be anything.

    Args:
        raw: a message.
        message: the same, deserialized.
        names: of the joints [J] to read.

    Raises:
        JointNamesError, UnusableMessageError: as for `messages.joint_state`, or it is in another encoding.
    """

    def __init__(self, raw: bytes, message: JointState, names: tuple[str, ...]) -> None:
        messages.joint_state(message, names)
        if raw[:2] != _LITTLE_ENDIAN:
            raise UnusableMessageError(f"the joint state is encoded as {raw[:2].hex()}", _LITTLE_ENDIAN.hex())
        same = bytearray([1] * 4 + [0] * 8)  # by byte: whether all have it in common; the stamp is not

        def length() -> int:
            same.extend([0] * (-len(same) % 4) + [1] * 4)
            return int.from_bytes(raw[len(same) - 4 : len(same)], "little")

        def numbers() -> tuple[str, int]:
            count = length()
            same.extend([0] * ((4 - len(same)) % 8 if count else 0))
            begin = len(same)
            same.extend([0] * (8 * count))
            return f"({count},)<f8", begin

        same.extend([1] * length())  # the frame
        for _ in range(length()):
            same.extend([1] * length())
        fields = {"seconds": ("<i4", 4), "nanoseconds": ("<u4", 8)}
        fields |= {name: numbers() for name in ("position", "velocity", "effort")}
        kinds, offsets = zip(*fields.values(), strict=True)
        self._numbers = np.dtype({"names": [*fields], "formats": kinds, "offsets": offsets, "itemsize": len(raw)})
        self._same = np.flatnonzero(same)
        self._expected = np.frombuffer(raw, np.uint8)[self._same]
        self._has_velocities = len(message.velocity) == len(message.name)
        index = {name: column for column, name in enumerate(message.name)}
        self._columns = [index[name] for name in names]

    def read(self, raws: Sequence[bytes]) -> tuple[IntArray, FloatArray, FloatArray] | None:
        """Stamps [N] of messages, and what `messages.joint_state` gives [N, J] of each.

        None where one is laid out otherwise, or has a position that is not finite.
        """
        if any(len(raw) != self._numbers.itemsize for raw in raws):
            return None
        rows = np.frombuffer(b"".join(raws), self._numbers)
        if (rows.view(np.uint8).reshape(len(raws), -1)[:, self._same] != self._expected).any():
            return None
        positions = rows["position"][:, self._columns]
        if not np.isfinite(positions).all():
            return None
        stamps_ns = rows["seconds"].astype(np.int64) * 1_000_000_000 + rows["nanoseconds"]
        unknown = np.full_like(positions, np.nan)
        return stamps_ns, positions, rows["velocity"][:, self._columns] if self._has_velocities else unknown


class JointStates:
    """Gives an observer the joint states that have come, at once where they differ in nothing but numbers."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._layout: JointLayout | None = None

    def push(self, raws: Sequence[bytes]) -> None:
        """Take serialized messages, in the order in which they came."""
        samples = self._layout.read(raws) if self._layout else None
        if samples is not None:
            self._observer.push_joint_samples(*samples)
            return
        for raw in raws:
            message = deserialize_message(raw, JointState)
            self._observer.push_joints(message)
        try:
            self._layout = JointLayout(raw, message, self._observer.joint_names)
        except VlaqError:  # the observer says why
            self._layout = None
