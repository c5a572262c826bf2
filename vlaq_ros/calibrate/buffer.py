"""What a policy is calibrated on, as one file: observations, the noise of their flows, and how the arm moved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers import PI0Config

from vlaq_ros.datatypes import FloatArray, ImageArray, IntArray, MotionScales, Observation
from vlaq_ros.errors import BufferFileError
from vlaq_ros.evaluate.motion import PolicyMotion, UnknownMotion

FORMAT_VERSION = "1"
UNSEEN = UnknownMotion("single observations do not tell how the arm moved")
COUNT = 128  # observations where nothing else is said: QuantVLA's calibration steps (arXiv 2602.20309)


@dataclass(frozen=True, slots=True)
class Buffer:
    """N observations of one robot, all with the same cameras and joints.

    Raises:
        ValueError: observations, noise and phases differ in number, or there are none.
    """

    observations: tuple[Observation, ...]
    noise: NDArray[np.float32]  # [N, T, A'] standard normal: what teacher and students start from alike
    phases: tuple[str, ...]  # of the motion, by `draw`
    origin: str  # one line for a report
    motion: PolicyMotion | UnknownMotion = UNSEEN  # in all that the observations were drawn from

    def __post_init__(self) -> None:
        counts = len(self.observations), len(self.noise), len(self.phases)
        if not counts[0] or len(set(counts)) != 1:
            raise ValueError(f"a buffer has {counts} observations, noises and phases, expected equally many, above 0")

    @classmethod
    def fill(
        cls,
        observations: Sequence[Observation],
        phases: Iterable[str],
        config: PI0Config,
        seed: int,
        origin: str,
        *,
        motion: PolicyMotion | UnknownMotion = UNSEEN,
    ) -> Self:
        """Give observations their noise, drawn by `seed`, of the shape that a network of `config` takes."""
        shape = len(observations), config.chunk_size, config.max_action_dim
        noise = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
        return cls(tuple(observations), noise, tuple(phases), origin, motion)

    @property
    def sha256(self) -> str:
        """Hash of what a policy meets: images, joint states, instructions and noise, not where they came from."""
        digest = hashlib.sha256(self.noise.tobytes())
        for observation in self.observations:
            words = [observation.instruction, observation.joint_names]
            shapes = [(name, pixels.shape) for name, pixels in sorted(observation.images.items())]
            digest.update(json.dumps([words, shapes]).encode())
            digest.update(observation.joint_positions.tobytes())
            for _, pixels in sorted(observation.images.items()):
                digest.update(pixels.tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write a safetensors file, whole or not at all; `load` gives an equal buffer back."""
        tensors: dict[str, NDArray[Any]] = {
            "noise": self.noise,
            "joint_positions": np.stack([observation.joint_positions for observation in self.observations]),
            "stamps_ns": np.array([observation.stamp_ns for observation in self.observations], np.int64),
        }
        for row, observation in enumerate(self.observations):
            for camera, pixels in observation.images.items():
                tensors[f"{row}/{camera}"] = np.ascontiguousarray(pixels)
        facts: dict[str, Any] = {
            "cameras": list(self.observations[0].images),
            "joint_names": self.observations[0].joint_names,
            "instructions": [observation.instruction for observation in self.observations],
            "phases": self.phases,
            "origin": self.origin,
        }
        if isinstance(self.motion, PolicyMotion):
            tensors["sensitivities"] = self.motion.sensitivities
            facts["scales"] = asdict(self.motion.scales)
        else:
            facts["unknown_motion"] = self.motion.why
        partial = path.with_name(f"{path.name}.partial")
        save_file(
            tensors,
            partial,
            {"format_version": FORMAT_VERSION, "facts": json.dumps(facts), "sha256": self.sha256},
        )
        partial.rename(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            BufferFileError: it cannot be read, is of another format, or is not what was saved.
        """
        try:
            with safe_open(path, "np") as file:
                metadata: dict[str, str] = file.metadata() or {}
                if metadata.get("format_version") != FORMAT_VERSION:
                    raise BufferFileError(path, f"its format_version is not {FORMAT_VERSION}")
                facts = json.loads(metadata["facts"])
                positions: FloatArray = file.get_tensor("joint_positions")
                stamps_ns: IntArray = file.get_tensor("stamps_ns")
                observations = []
                for row, instruction in enumerate(facts["instructions"]):
                    images: dict[str, ImageArray] = {
                        camera: file.get_tensor(f"{row}/{camera}") for camera in facts["cameras"]
                    }
                    names = tuple(facts["joint_names"])
                    observations.append(Observation(int(stamps_ns[row]), images, names, positions[row], instruction))
                motion = (
                    PolicyMotion(MotionScales(**facts["scales"]), file.get_tensor("sensitivities"))
                    if "scales" in facts
                    else UnknownMotion(facts["unknown_motion"])
                )
                noise = file.get_tensor("noise")
                read = cls(tuple(observations), noise, tuple(facts["phases"]), facts["origin"], motion)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise BufferFileError(path, " ".join(str(error).split())) from None
        if read.sha256 != metadata.get("sha256"):
            raise BufferFileError(path, "its content is not what was saved")
        return read
