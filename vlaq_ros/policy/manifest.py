"""`manifest.json`: what a policy bundle must say beside its transformers files, read and written strictly."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vlaq_ros.datatypes import ActionSpace, FloatArray, MotionScales
from vlaq_ros.errors import CorruptModelError, ManifestVersionError, ModelNotFoundError, UnknownKeyError

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class PrecisionPlan:
    """One precision that the policy can run at."""

    name: str
    weight_bits: int  # of the weight codes that are read: 8 or 4
    activation_bits: int  # of the activations entering a quantized linear: 8
    threshold: float  # the sensitivity S from which this precision is asked for


@dataclass(frozen=True, slots=True)
class Manifest:
    """How observations enter a trained policy and how its numbers become actions.

    Raises:
        ValueError: fields contradict each other.
    """

    FILE: ClassVar[str] = "manifest.json"

    family: str  # of the network: "pi0"
    cameras: tuple[str, ...]  # in the order of the image tokens
    image_size_px: int  # images are square
    joint_names: tuple[str, ...]  # in the order of the state: the arm, then the gripper
    action_space: ActionSpace
    step_s: float
    denoising_steps: int  # Euler steps of the flow
    text_length: int  # tokens after the image tokens; shorter instructions are padded
    instructions: tuple[str, ...]  # every sentence it was trained on
    state_mean: FloatArray  # [S]
    state_std: FloatArray  # [S]
    action_mean: FloatArray  # [T, A]
    action_std: FloatArray  # [T, A]
    motion: MotionScales
    precisions: tuple[PrecisionPlan, ...]  # finest first

    def __post_init__(self) -> None:
        state = (len(self.joint_names),)
        chunk = self.action_mean.shape
        for name, shape, expected in (
            ("state_mean", self.state_mean.shape, state),
            ("state_std", self.state_std.shape, state),
            ("action_std", self.action_std.shape, chunk),
        ):
            if shape != expected:
                raise ValueError(f"{name} has shape {list(shape)}, expected {list(expected)}")
        columns = len(self.joint_names) if self.action_space is ActionSpace.JOINT else 7
        if len(chunk) != 2 or chunk[1] != columns:
            raise ValueError(f"action_mean has shape {list(chunk)}, expected [T, {columns}]")
        if not (self.state_std > 0).all() or not (self.action_std > 0).all():
            raise ValueError("state_std and action_std must be above 0")
        names = [plan.name for plan in self.precisions]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"precisions are named {names}, expected one or more different names")
        for plan in self.precisions:
            if plan.weight_bits not in (8, 4) or plan.activation_bits != 8:
                raise ValueError(
                    f"precision {plan.name!r} has {plan.weight_bits}-bit weights and {plan.activation_bits}-bit "
                    "activations, expected 8- or 4-bit weights and 8-bit activations"
                )
        thresholds = [plan.threshold for plan in self.precisions]
        if any(finer <= coarser for finer, coarser in pairwise(thresholds)):
            raise ValueError(f"thresholds are {thresholds}, expected them falling, finest precision first")

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        """Read `directory/manifest.json`.

        Raises:
            ModelNotFoundError: there is no such file.
            ManifestVersionError: it was written in another format.
            UnknownKeyError: it has a key that this format does not know.
            CorruptModelError: a key is missing or a value cannot be used.
        """
        path = directory / cls.FILE
        if not path.is_file():
            raise ModelNotFoundError(directory, cls.FILE)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise CorruptModelError(path, str(error)) from None
        if not isinstance(values, dict):
            raise CorruptModelError(path, "it is not a JSON object")
        version = values.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ManifestVersionError(path, version, FORMAT_VERSION)
        for key in values:
            if key not in _PARSERS:
                raise UnknownKeyError(key, _PARSERS, str(path))
        parsed = {}
        for key, parse in _PARSERS.items():
            if key not in values:
                raise CorruptModelError(path, f"it has no key {key!r}")
            try:
                parsed[key] = parse(values[key])
            except (TypeError, ValueError) as error:
                raise CorruptModelError(path, f"{key}: {error}") from None
        try:
            return cls(**parsed)
        except ValueError as error:
            raise CorruptModelError(path, str(error)) from None

    def save(self, directory: Path) -> None:
        """Write `directory/manifest.json`; `load` gives an equal manifest back."""
        values = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        text = json.dumps({"format_version": FORMAT_VERSION, **values}, indent=1, allow_nan=False)
        (directory / self.FILE).write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Turn a field into what JSON holds."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, MotionScales):
        return asdict(value)
    if isinstance(value, tuple):
        return [asdict(item) if isinstance(item, PrecisionPlan) else item for item in value]
    return value


def _family(value: Any) -> str:
    if value != "pi0":
        raise ValueError(f"got {value!r}, expected 'pi0'")
    return "pi0"


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"got {value!r}, expected text")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or len(set(map(str, value))) != len(value):
        raise ValueError(f"got {value!r}, expected a list of different names")
    return tuple(_text(item) for item in value)


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:  # a bool is an int, and no count
        raise ValueError(f"got {value!r}, expected a whole number above 0")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not np.isfinite(value):
        raise ValueError(f"got {value!r}, expected a finite number")
    return float(value)


def _scale(value: Any) -> float:
    if _number(value) <= 0:
        raise ValueError(f"got {value!r}, expected a number above 0")
    return float(value)


def _array(value: Any) -> FloatArray:
    array = np.array(value, dtype=np.float64)  # a ragged list is a ValueError here
    if not np.isfinite(array).all():
        raise ValueError("got a value that is not finite")
    return array


def _motion(value: Any) -> MotionScales:
    return MotionScales(**_record(value, {field.name: _scale for field in fields(MotionScales)}))


def _precisions(value: Any) -> tuple[PrecisionPlan, ...]:
    parsers = {"name": _text, "weight_bits": _count, "activation_bits": _count, "threshold": _number}
    if not isinstance(value, list):
        raise ValueError(f"got {value!r}, expected a list")
    return tuple(PrecisionPlan(**_record(item, parsers)) for item in value)


def _record(value: Any, parsers: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != parsers.keys():
        raise ValueError(f"got {value!r}, expected exactly the keys {', '.join(parsers)}")
    return {key: parse(value[key]) for key, parse in parsers.items()}


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "family": _family,
    "cameras": _names,
    "image_size_px": _count,
    "joint_names": _names,
    "action_space": ActionSpace,
    "step_s": _scale,
    "denoising_steps": _count,
    "text_length": _count,
    "instructions": _names,
    "state_mean": _array,
    "state_std": _array,
    "action_mean": _array,
    "action_std": _array,
    "motion": _motion,
    "precisions": _precisions,
}
