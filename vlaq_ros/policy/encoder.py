"""What a network takes, made of observations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from vlaq_ros.datatypes import Observation
from vlaq_ros.errors import CameraNamesError, JointNamesError, UnknownInstructionError
from vlaq_ros.policy.description import Description
from vlaq_ros.policy.pi0 import PI0Network
from vlaq_ros.policy.transforms import normalize, pixel_values


class Encoder:
    """Makes tensors of observations, on the device and in the dtype of a network.

    Args:
        description: of the policy.
        network: embeds words; all precisions embed them alike.
    """

    def __init__(self, description: Description, network: PI0Network) -> None:
        self._spec, self._config, self._prompts = description.spec, description.config, description.prompts
        self._network = network
        self._words: dict[str, Tensor] = {}  # instruction -> [P, D] embedded

    def prompt(self, observation: Observation) -> Tensor:
        """Give the token ids [P] of the observation's prompt.

        Raises:
            UnknownInstructionError: the policy was not trained on its instruction.
        """
        if observation.instruction not in self._prompts:
            raise UnknownInstructionError(observation.instruction, self._spec.instructions)
        return self._prompts[observation.instruction]

    def __call__(self, observations: Sequence[Observation]) -> tuple[Tensor, Tensor, Tensor]:
        """Give pixels [B, cameras, 3, H, W], embedded words [B, P, D] and state [B, S], normalised.

        Args:
            observations: B of them, whose prompts are equally long.

        Raises:
            UnknownInstructionError: the policy was not trained on an instruction.
            CameraNamesError: an observation lacks a camera.
            JointNamesError: an observation lacks a joint.
        """
        weight = self._network.projector.weight
        pixels = torch.stack([self._images(observation) for observation in observations])
        state = torch.stack([self._state(observation) for observation in observations])
        text = torch.stack([self._text(observation) for observation in observations])
        return pixels.to(weight.device, weight.dtype), text, state.to(weight.device, weight.dtype)

    def _images(self, observation: Observation) -> Tensor:
        """[cameras, 3, H, W], in the order of the spec."""
        cameras = self._spec.cameras
        if missing := [camera for camera in cameras if camera not in observation.images]:
            raise CameraNamesError(missing, observation.images)
        return torch.stack([pixel_values(observation.images[camera], self._spec.image_size_px) for camera in cameras])

    def _text(self, observation: Observation) -> Tensor:
        """[words, D]: what follows the images in a prompt, embedded once."""
        instruction = observation.instruction
        if instruction not in self._words:
            images = len(self._spec.cameras) * len(self._network.vision.position)
            words = self.prompt(observation)[images:]
            self._words[instruction] = self._network.words(words.to(self._network.projector.weight.device))
        return self._words[instruction]

    def _state(self, observation: Observation) -> Tensor:
        """[S], in the order of the spec, normalised, with the network's further columns at 0."""
        names = self._spec.joint_names
        if missing := [name for name in names if name not in observation.joint_names]:
            raise JointNamesError(missing, observation.joint_names, "the observation")
        positions = observation.joint_positions[[observation.joint_names.index(name) for name in names]]
        state = torch.tensor(normalize(positions, self._spec.state_mean, self._spec.state_std), dtype=torch.float32)
        return pad(state, (0, self._config.max_state_dim - len(state)))
