"""The PI0 family (arXiv 2410.24164), on the modules of transformers' `PI0ForConditionalGeneration`.

The denoising loop is written here because transformers' `sample_actions` makes masks, positions and cache bookkeeping
anew at every Euler step (a small network takes 1.4 to 1.7 times as long, for the very same numbers), and because the
last layer of the VLM acts only through its keys and values: the rest of it is neither run nor held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from transformers import GemmaModel, PI0Config, PI0ForConditionalGeneration
from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer, apply_rotary_pos_emb
from transformers.utils import logging

from vlaq_ros.errors import CorruptModelError, ModelNotFoundError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def load(directory: Path) -> PI0ForConditionalGeneration:
    """Read a checkpoint for inference, in float32; pickle files are never opened.

    Raises:
        ModelNotFoundError: a file is missing.
        CorruptModelError: a file cannot be read, the weights do not fit the configuration, or one is not finite.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (directory / name).is_file():
            raise ModelNotFoundError(directory, name)
    try:
        values, _ = PI0Config.get_config_dict(directory)
        if values.get("model_type") != PI0Config.model_type:
            raise ValueError(f"model_type is {values.get('model_type')!r}, expected {PI0Config.model_type!r}")
        config = PI0Config.from_dict(values)
    except Exception as error:  # whatever a wrong value raises in transformers, the file is at fault
        raise CorruptModelError(directory / CONFIG_FILE, " ".join(str(error).split())) from None
    weights = directory / WEIGHTS_FILE
    try:
        with quiet():
            loaded: Any = PI0ForConditionalGeneration.from_pretrained(  # its annotation misses the tuple
                directory,
                config=config,
                dtype=torch.float32,
                attn_implementation="sdpa",  # faster than "eager" here; `denoise` makes its kind of mask
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # told below, in one sentence
                output_loading_info=True,
            )
    except Exception as error:
        raise CorruptModelError(weights, " ".join(str(error).split())) from None
    network: PI0ForConditionalGeneration = loaded[0]
    found: dict[str, Any] = loaded[1]
    for what, names in (
        ("missing", found["missing_keys"]),
        ("unexpected", found["unexpected_keys"]),
        ("of another shape", [name for name, _, _ in found["mismatched_keys"]]),
    ):
        if names:
            raise CorruptModelError(
                weights, f"for {CONFIG_FILE}, {len(names)} tensors are {what}, such as {min(names)}"
            )
    for name, parameter in network.named_parameters():
        if not parameter.isfinite().all():
            raise CorruptModelError(weights, f"{name} holds a value that is not finite")
    network.eval().requires_grad_(False)
    return network


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bar and loading report off the terminal: a mistake is an error of ours instead."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def drop_unused(network: PI0ForConditionalGeneration) -> None:
    """Free what never influences an action: the VLM after its last keys and values, the expert's word embedding."""
    language, expert = network.model.vlm.language_model, network.model.dit
    last = language.layers[-1]
    del last.self_attn.q_proj, last.self_attn.o_proj, last.post_attention_layernorm, last.mlp
    del language.norm, expert.embed_tokens


def is_quantized(name: str) -> bool:
    """Say whether a linear layer is worth its codes.

    Those of the three transformers' layers are; the projector, the embeddings of state, action and time and the action
    head stay in float: they are small, and a network loses most through them.
    """
    return name.startswith(
        ("model.vlm.vision_tower.encoder.layers.", "model.vlm.language_model.layers.", "model.dit.layers.")
    )


class Prefix:
    """The VLM's keys and values, in the shape of transformers' cache as far as a layer calls it."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep what a layer gives first; give what it has later behind that, without keeping it."""
        if layer not in self.layers:
            self.layers[layer] = (key, value)
            return key, value
        first_key, first_value = self.layers[layer]
        return torch.cat([first_key, key], dim=2), torch.cat([first_value, value], dim=2)


@torch.inference_mode()
def denoise(
    network: PI0ForConditionalGeneration,
    *,
    pixel_values: torch.Tensor,
    input_ids: torch.Tensor,
    state: torch.Tensor,
    noise: torch.Tensor,
    steps: int,
) -> torch.Tensor:
    """Carry noise along the flow to actions, in Euler steps from time 1 to 0.

    Equals `sample_actions` of transformers with an attention mask of ones.

    Args:
        network: with or without what `drop_unused` drops.
        pixel_values: [B, cameras, 3, H, W] in [-1, 1].
        input_ids: [B, P], `cameras` images long, then text.
        state: [B, S], normalised.
        noise: [B, T, A].
        steps: of Euler's method.

    Returns:
        [B, T, A] normalised actions.
    """
    prefix = Prefix()
    hidden = network.model.embed_prefix(input_ids, pixel_values, torch.ones(pixel_values.shape[:2], dtype=torch.bool))
    remember(network.model.vlm.language_model, hidden, prefix)
    # The state, then the actions: everything sees the prefix and the state, only the actions see the actions.
    expert, length, suffix = network.model.dit, input_ids.shape[1], 1 + noise.shape[1]
    rotary = expert.rotary_emb(hidden, torch.arange(length, length + suffix)[None])
    mask = torch.ones(1, 1, suffix, length + suffix, dtype=torch.bool)
    mask[:, :, 0, length + 1 :] = False
    for step in range(steps):
        time = torch.full((len(noise),), 1 - step / steps)
        hidden = network.embed_action_time(state, noise, time)
        for layer in expert.layers:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=prefix)
        noise = noise - network.action_out_proj(expert.norm(hidden)[:, 1:]) / steps
    return noise


def remember(language: GemmaModel, hidden: torch.Tensor, prefix: Prefix) -> list[torch.Tensor]:
    """Run the VLM over the embedded prompt [B, P, D], attending everywhere, for its keys and values.

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
