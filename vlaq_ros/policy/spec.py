"""`policy.json`: what a policy must say beside its transformers files, read and written strictly."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vlaq_ros.datatypes import ActionSpace, FloatArray, MotionScales
from vlaq_ros.errors import CorruptModelError
from vlaq_ros.policy import document
from vlaq_ros.policy.document import Parser, array, count, names, one_of, optional, record, scale

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """How observations enter a trained policy and how its numbers become actions; docs/models.md explains every key.

    The network may be wider than the state and the action, as those of public checkpoints are: the state is then
    padded with zeros after it is normalised, and further columns of the answer are dropped.

    Raises:
        ValueError: fields contradict each other.
    """

    FILE: ClassVar[str] = "policy.json"

    family: str  # of the network: "pi0"
    cameras: tuple[str, ...]  # in the order of the image tokens
    image_size_px: int  # images are square
    joint_names: tuple[str, ...]  # in the order of the state: the arm, then the gripper
    action_space: ActionSpace
    step_s: float
    denoising_steps: int  # Euler steps of the flow at full precision
    text_length: int | None  # tokens after the image tokens, shorter instructions are padded; None: never padded
    instructions: tuple[str, ...]  # every sentence it was trained on
    state_mean: FloatArray  # [S]
    state_std: FloatArray  # [S]
    action_mean: FloatArray  # [A] or [T, A]
    action_std: FloatArray  # of the same shape
    motion: MotionScales
    fine_threshold: float  # the sensitivity S from which the finest precision is asked for

    def __post_init__(self) -> None:
        state = (len(self.joint_names),)
        for name, shape, expected in (
            ("state_mean", self.state_mean.shape, state),
            ("state_std", self.state_std.shape, state),
            ("action_std", self.action_std.shape, self.action_mean.shape),
        ):
            if shape != expected:
                raise ValueError(f"{name} has shape {list(shape)}, expected {list(expected)}")
        columns = len(self.joint_names) if self.action_space is ActionSpace.JOINT else 7
        if self.action_mean.ndim not in (1, 2) or self.action_mean.shape[-1] != columns:
            raise ValueError(
                f"action_mean has shape {list(self.action_mean.shape)}, expected [{columns}] or [T, {columns}]"
            )
        if not (self.state_std > 0).all() or not (self.action_std > 0).all():
            raise ValueError("state_std and action_std must be above 0")

    @classmethod
    def load(cls, directory: Path) -> PolicySpec:
        """Read `directory/policy.json`.

        Raises:
            ModelNotFoundError: there is no such file.
            FormatVersionError: it was written in another format.
            UnknownKeyError: it has a key that this format does not know.
            CorruptModelError: a key is missing or a value cannot be used.
        """
        path = directory / cls.FILE
        values = document.read(path, FORMAT_VERSION, _PARSERS)
        try:
            return cls(**values)
        except ValueError as error:
            raise CorruptModelError(path, str(error)) from None

    def save(self, directory: Path) -> None:
        """Write `directory/policy.json`; `load` gives an equal one back."""
        values = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        document.write(directory / self.FILE, FORMAT_VERSION, values)


def _plain(value: Any) -> Any:
    """Turn a field into what JSON holds."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return asdict(value) if isinstance(value, MotionScales) else value


def _motion(value: Any) -> MotionScales:
    return MotionScales(**record({field.name: scale for field in fields(MotionScales)})(value))


_PARSERS: dict[str, Parser] = {
    "family": one_of("pi0"),
    "cameras": names,
    "image_size_px": count,
    "joint_names": names,
    "action_space": ActionSpace,
    "step_s": scale,
    "denoising_steps": count,
    "text_length": optional(count),
    "instructions": names,
    "state_mean": array,
    "state_std": array,
    "action_mean": array,
    "action_std": array,
    "motion": _motion,
    "fine_threshold": scale,
}
