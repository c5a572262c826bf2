"""Static keys and values of a prompt, a state token and action tokens: nothing is allocated while actions are made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PI0Config

from vlaq_ros.policy.pi0 import towers
from vlaq_ros.policy.window import Window


class Cache:
    """Windows for all layers, over one buffer.

    The state token sees the prompt and itself, whatever the actions are. So it is computed once, along with the actions
    of the first step, and the actions of later steps see all there is.

    Args:
        config: of the network.
        batch: B prompts.
        prompt: tokens of each of them.
        dtype: of the arithmetic.
        device: of everything.

    Attributes:
        language: a window per layer, for the prompt.
        first: a window per layer of the expert, for state and actions.
        later: the same for actions alone.
    """

    @torch.inference_mode(False)  # for torch.compile, inference tensors hide that they are views of one buffer
    def __init__(self, config: PI0Config, batch: int, prompt: int, dtype: torch.dtype, device: torch.device) -> None:
        _, language, expert = towers(config)
        groups, size, state = expert.num_key_value_heads, expert.head_dim, prompt
        total = state + 1 + config.chunk_size
        kept = torch.zeros(expert.num_hidden_layers, batch, total, 2 * groups, size, dtype=dtype, device=device)
        mask = torch.ones(1 + config.chunk_size, total, dtype=torch.bool, device=device)
        mask[0, state + 1 :] = False

        def windows(config: Any, first: int, end: int, mask: Tensor | None = None) -> list[Window]:
            cos, sin = (table.to(device, dtype) for table in _rotary(config, torch.arange(first, end)))
            keys, values = kept[:, :, :end].transpose(2, 3).chunk(2, dim=2)
            layers = zip(kept[:, :, first:end], keys, values, strict=True)
            return [Window(cos, sin, written, k, v, mask) for written, k, v in layers]

        self.batch, self.prompt = batch, prompt
        *layers, last = windows(language, 0, prompt)  # the last layer projects keys and values alone
        cos, sin = (table[:, -2 * groups :].contiguous() for table in (last.cos, last.sin))
        self.language = [*layers, replace(last, cos=cos, sin=sin)]
        self.first = windows(expert, state, total, mask)
        self.later = windows(expert, state + 1, total)


def _rotary(config: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines [n, heads, D] of a Gemma's queries, keys and values."""
    size, groups = config.head_dim, config.num_key_value_heads
    frequency = config.rope_parameters["rope_theta"] ** -(torch.arange(0, size, 2) / size)
    angle = (positions[:, None] * frequency).repeat(1, 2)[:, None]
    sign = torch.cat([-torch.ones(size // 2), torch.ones(size // 2)])
    turned, values = (1, config.num_attention_heads + groups, 1), (len(positions), groups, size)
    cos = torch.cat([angle.cos().repeat(turned), torch.ones(values)], 1)
    return cos, torch.cat([(sign * angle.sin()).repeat(turned), torch.zeros(values)], 1)
