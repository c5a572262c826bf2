"""Demonstration frames as the network takes them: normalised, disturbed, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vlaq_ros.datatypes import FloatArray
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.policy.tokenizer import prompt_ids
from vlaq_ros.sim import network
from vlaq_ros.sim.guidance import RECEPTACLE, Labels
from vlaq_ros.sim.scene import CAMERAS, COLOURS, TASKS

HELD_OUT = 40  # frames come from this share of the episodes, 1 in HELD_OUT, never trained on
_INDEX = {None: RECEPTACLE} | {colour: index for index, colour in enumerate(COLOURS)}
_NAMED_BY_TASK = torch.tensor([[_INDEX[task.colour], _INDEX[task.onto]] for task in TASKS.values()])


class Frames:
    """Demonstration frames as tensors, normalised.

    Args:
        frames: `demonstrations.FIELDS` with a leading N.
        spec: its statistics and action space.
        tokenizer: of the policy.

    Attributes:
        spec: as given.
        training, held_out: rows; those of one episode are all in one of them.
    """

    def __init__(self, frames: dict[str, np.ndarray], spec: PolicySpec, tokenizer: PreTrainedTokenizerFast) -> None:
        self.spec = spec
        self._images = torch.from_numpy(frames["images"])  # [N, C, H, W, 3] uint8
        self._pixels = torch.from_numpy(frames["pixels"])
        self._relative = torch.from_numpy(frames["relative"])
        self._turn = torch.from_numpy(frames["turn"])
        self._task = torch.from_numpy(frames["instruction"].astype(np.int64))
        actions = frames[spec.action_space.value]
        self._state = _normalised(frames["state"], spec.state_mean, spec.state_std)
        self._actions = _normalised(actions, spec.action_mean, spec.action_std)
        image_tokens = len(CAMERAS) * network.GRID**2
        self._prompts = torch.stack([prompt_ids(tokenizer, text, image_tokens, spec.text_length) for text in TASKS])
        held_out = torch.from_numpy(frames["seed"] % HELD_OUT == 0)
        self.training, self.held_out = (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
        task = self._task[self.training]
        self._weights = 1 / task.bincount()[task].float()  # of the frames for training

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw rows [count] for training: every instruction is as frequent, however long its episodes are."""
        return self.training[self._weights.multinomial(count, replacement=True, generator=generator)]

    def batch(self, rows: Tensor, generator: torch.Generator | None) -> Batch:
        """Take frames; with a generator, their colours and states are disturbed."""
        images = self._images[rows].permute(0, 1, 4, 2, 3).float().sub_(127.5).div_(127.5)
        state = self._state[rows]
        if generator is not None:
            gain = 1 + 0.15 * torch.randn(len(rows), images.shape[1], 3, 1, 1, generator=generator)
            shift = 0.1 * torch.randn(len(rows), images.shape[1], 1, 1, 1, generator=generator)
            images = ((images + 1) * gain - 1 + shift).clamp(-1, 1)
            state = state + 0.02 * torch.randn(state.shape, generator=generator)
        task = self._task[rows]
        labels = Labels(self._pixels[rows], _NAMED_BY_TASK[task], self._relative[rows], self._turn[rows])
        return Batch(images, self._prompts[task], state, self._actions[rows], labels)


@dataclass(frozen=True, slots=True)
class Batch:
    """B frames."""

    images: Tensor  # [B, C, 3, H, W]
    prompts: Tensor  # [B, P]
    state: Tensor  # [B, S]
    actions: Tensor  # [B, T, A]
    labels: Labels


def _normalised(values: np.ndarray, mean: FloatArray, std: FloatArray) -> Tensor:
    return torch.from_numpy((values - mean) / std).float()
