"""The prefix of a PI0 in training: what the language model remembers of images and instruction, with its gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from transformers import GemmaModel
from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer, apply_rotary_pos_emb


class Prefix:
    """The language model's keys and values, in the shape of transformers' cache as far as a layer calls it."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep what a layer gives first; give what it has later behind that, without keeping it."""
        if layer not in self.layers:
            self.layers[layer] = (key, value)
            return key, value
        first_key, first_value = self.layers[layer]
        return torch.cat([first_key, key], dim=2), torch.cat([first_value, value], dim=2)


def remember(language: GemmaModel, hidden: torch.Tensor, prefix: Prefix) -> list[torch.Tensor]:
    """Run the language model over the embedded prompt [B, P, D], attending everywhere, for its keys and values.

    The last layer acts only through these: the rest of it is not run.

    Returns:
        What entered each layer, [B, P, D].
    """
    entered = [hidden]
    rotary = language.rotary_emb(hidden, torch.arange(hidden.shape[1])[None])
    *layers, last = cast("Iterable[GemmaDecoderLayer]", language.layers)
    for layer in layers:
        hidden = layer(hidden, position_embeddings=rotary, past_key_values=prefix)
        entered.append(hidden)
    attention = last.self_attn
    hidden = last.input_layernorm(hidden)
    key, value = (
        project(hidden).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for project in (attention.k_proj, attention.v_proj)
    )
    _, key = apply_rotary_pos_emb(key, key, *rotary)
    prefix.update(key, value, attention.layer_idx)
    return entered
