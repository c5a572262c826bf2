"""A trained policy in memory: its weights once, as codes, and one network per precision that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from vlaq_ros.datatypes import ActionChunk, FloatArray, Observation
from vlaq_ros.errors import (
    CameraNamesError,
    JointNamesError,
    UnknownInstructionError,
    UnknownPrecisionError,
)
from vlaq_ros.policy import pi0
from vlaq_ros.policy.bundle import Bundle
from vlaq_ros.policy.transforms import denormalize, normalize, pixel_values
from vlaq_ros.quant.linear import linear_weights, quantize_linears, resident_bytes, view

FULL = "full"  # names the source checkpoint where a precision is asked for


class Engine:
    """Implements `datatypes.Policy`. Its only state is the weights, so any thread may ask it at any time.

    Attributes:
        manifest: what the bundle says of itself.
        bytes_over_bf16: bytes held for all precisions together over the bytes of the source in bf16, for the `linears`
            that are quantized and for `all` weights.
    """

    def __init__(self, bundle: Bundle, *, full: bool) -> None:
        network = bundle.network
        self.manifest = bundle.manifest
        self._prompts = bundle.prompts
        source = sum(parameter.numel() for parameter in network.parameters())
        pi0.drop_unused(network)
        source_linears = sum(weight.numel() for weight in linear_weights(network, pi0.is_quantized))
        if full:
            self._networks = {FULL: network}
        else:
            quantize_linears(network, pi0.is_quantized)
            self._networks = {plan.name: view(network, plan.weight_bits) for plan in self.manifest.precisions}
        networks = self._networks.values()
        linears = chain.from_iterable(linear_weights(held, pi0.is_quantized) for held in networks)
        weights = chain.from_iterable(chain(held.parameters(), held.buffers()) for held in networks)
        self.bytes_over_bf16 = {
            "linears": resident_bytes(linears) / (2 * source_linears),
            "all": resident_bytes(weights) / (2 * source),
        }

    @classmethod
    def load(cls, directory: Path, *, full: bool = False) -> Engine:
        """Read a bundle and build its precisions.

        Args:
            directory: the bundle. `Bundle.load` says what it may raise.
            full: hold nothing but the source checkpoint in float32, as the one precision "full".
        """
        return cls(Bundle.load(directory), full=full)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Names of the loaded precisions, finest first."""
        return tuple(self._networks)

    def infer(self, observation: Observation, precision: str, noise: FloatArray) -> ActionChunk:
        """Compute one chunk; `noise` is [T, A]. Raises as `infer_batch` does."""
        return self.infer_batch([observation], precision, noise[None])[0]

    def infer_batch(self, observations: Sequence[Observation], precision: str, noise: FloatArray) -> list[ActionChunk]:
        """Compute a chunk for each of B observations.

        Args:
            observations: B of them; other cameras and joints than the policy's own are passed over.
            precision: one of `precisions`.
            noise: [B, T, A], standard normal: where the flow starts.

        Raises:
            UnknownPrecisionError: `precision` is not loaded.
            UnknownInstructionError: an instruction is none that the policy was trained on.
            CameraNamesError: an observation lacks a camera.
            JointNamesError: an observation lacks a joint.
            ValueError: `noise` has another shape.
        """
        if precision not in self._networks:
            raise UnknownPrecisionError(precision, self.precisions)
        expected = (len(observations), *self.manifest.action_mean.shape)
        if noise.shape != expected:
            raise ValueError(f"noise has shape {noise.shape}, expected {expected}")
        actions = pi0.denoise(
            self._networks[precision],
            pixel_values=torch.stack([self._images(observation) for observation in observations]),
            input_ids=torch.stack([self._prompt(observation) for observation in observations]),
            state=torch.stack([self._state(observation) for observation in observations]),
            noise=_float32(noise),
            steps=self.manifest.denoising_steps,
        )
        chunks = denormalize(actions.numpy(), self.manifest.action_mean, self.manifest.action_std)
        return [
            ActionChunk(observation.stamp_ns, self.manifest.step_s, self.manifest.action_space, chunk)
            for observation, chunk in zip(observations, chunks, strict=True)
        ]

    def warm_up(self) -> None:
        """Run every precision once: the first run pays for what the libraries set up."""
        size = self.manifest.image_size_px
        black = np.zeros((size, size, 3), dtype=np.uint8)
        observation = Observation(
            stamp_ns=0,
            images=dict.fromkeys(self.manifest.cameras, black),
            joint_names=self.manifest.joint_names,
            joint_positions=self.manifest.state_mean,
            instruction=self.manifest.instructions[0],
        )
        for precision in self.precisions:
            self.infer(observation, precision, np.zeros_like(self.manifest.action_mean))

    def _images(self, observation: Observation) -> torch.Tensor:
        """[cameras, 3, H, W], in the manifest's order."""
        cameras = self.manifest.cameras
        if missing := [camera for camera in cameras if camera not in observation.images]:
            raise CameraNamesError(missing, observation.images)
        return torch.stack(
            [pixel_values(observation.images[camera], self.manifest.image_size_px) for camera in cameras]
        )

    def _prompt(self, observation: Observation) -> torch.Tensor:
        """[P] token ids."""
        if observation.instruction not in self._prompts:
            raise UnknownInstructionError(observation.instruction, self.manifest.instructions)
        return self._prompts[observation.instruction]

    def _state(self, observation: Observation) -> torch.Tensor:
        """[S], in the manifest's order, normalised."""
        names = self.manifest.joint_names
        if missing := [name for name in names if name not in observation.joint_names]:
            raise JointNamesError(missing, observation.joint_names, "the observation")
        positions = observation.joint_positions[[observation.joint_names.index(name) for name in names]]
        return _float32(normalize(positions, self.manifest.state_mean, self.manifest.state_std))


def _float32(values: FloatArray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)
