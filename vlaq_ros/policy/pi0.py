"""The PI0 family (arXiv 2410.24164) for inference: vision tower, language model and action expert.

The modules hold what an action depends on and nothing else: of the last language layer, only keys and values.
Projections of the same input are one linear: queries, keys and values; gate and up. The reference for every number is
transformers' `PI0ForConditionalGeneration`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PI0Config

from vlaq_ros.policy.fused import gelu, rms_norm
from vlaq_ros.policy.window import Window

QUANTIZED = re.compile(r"(vision|language|expert)\.layers\.\d+\.(qkv|kv|out|o|fc1|fc2|gate_up|down)")
ACTIVATION = "gelu_pytorch_tanh"


def is_quantized(module: str) -> bool:
    """Say whether a linear layer of `PI0Network` is held as nested codes.

    =============================================  ====================================================
    nested codes                                   16 bits: small, and a network loses most through them
    =============================================  ====================================================
    vision.layers: qkv, out, fc1, fc2              vision.patch, vision.position, projector, embed_tokens
    language.layers: qkv (the last: kv), o,        state_in, action_in, time_in, time_out, action_out
    gate_up, down
    expert.layers: qkv, o, gate_up, down           every norm and every bias
    =============================================  ====================================================
    """
    return QUANTIZED.fullmatch(module) is not None


def is_quantized_weight(parameter: str) -> bool:
    """Say whether a parameter of `PI0Network` is the weight of such a layer."""
    module, kind = parameter.rsplit(".", 1)
    return kind == "weight" and is_quantized(module)


class RMSNorm(nn.Module):
    """Gemma's, computed in float32. A checkpoint holds its gain less one; `assemble` adds the one."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        normed: Tensor = rms_norm(x, self.weight, self.eps)
        return normed


class VisionLayer(nn.Module):
    """A layer of SigLIP."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.norm1 = nn.LayerNorm(width, config.layer_norm_eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, config.layer_norm_eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, patches, width] to the same."""
        query, key, value = self.qkv(self.norm1(hidden)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(query, key, value)
        hidden = hidden + self.out(seen.transpose(1, 2).flatten(2))
        forward: Tensor = self.fc2(gelu(self.fc1(self.norm2(hidden)), False))
        return hidden + forward


class KeyValueLayer(nn.Module):
    """What counts of the last language layer."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.kv = nn.Linear(config.hidden_size, 2 * config.num_key_value_heads * config.head_dim, bias=False)

    def forward(self, hidden: Tensor, window: Window) -> None:
        """Write the keys and values of [B, n, width]."""
        window.write(self.kv(self.norm1(hidden)))


class GemmaLayer(nn.Module):
    """A layer of the language model or of the action expert."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, queries = config.hidden_size, config.num_attention_heads * config.head_dim
        self.norm1 = RMSNorm(width, config.rms_norm_eps)
        self.qkv = nn.Linear(width, queries + 2 * config.num_key_value_heads * config.head_dim, bias=False)
        self.o = nn.Linear(queries, width, bias=False)
        self.norm2 = RMSNorm(width, config.rms_norm_eps)
        self.gate_up = nn.Linear(width, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, width, bias=False)

    def forward(self, hidden: Tensor, window: Window) -> Tensor:
        """[B, n, width] to the same; keys and values are written where the window says."""
        hidden = hidden + self.o(window.attend(self.qkv(self.norm1(hidden))))
        forward: Tensor = self.down(gelu(self.gate_up(self.norm2(hidden)), True))
        return hidden + forward


class Vision(nn.Module):
    """SigLIP."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, self.patch_size = config.hidden_size, config.patch_size
        self.patch = nn.Linear(config.num_channels * self.patch_size**2, width)
        self.position = nn.Parameter(torch.empty((config.image_size // self.patch_size) ** 2, width))
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1] to [N, patches, width]."""
        size = self.patch_size
        patches = pixels.unflatten(3, (-1, size)).unflatten(2, (-1, size)).permute(0, 2, 4, 1, 3, 5)
        hidden = self.patch(patches.flatten(3).flatten(1, 2)) + self.position
        for layer in self.layers:
            hidden = layer(hidden)
        return cast("Tensor", self.norm(hidden))


class Gemma(nn.Module):
    """The layers of the language model or of the action expert."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, hidden: Tensor, windows: Iterable[Window]) -> Tensor:
        """[B, n, width], and a window for every layer."""
        for layer, window in zip(self.layers, windows, strict=True):
            hidden = layer(hidden, window)
        return hidden


class Expert(Gemma):
    """The action expert: its layers, and the norm before actions are read off."""

    def __init__(self, config: Any) -> None:
        super().__init__(GemmaLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class CodedEmbedding(nn.Module):
    """A word embedding with rows of 8 bits."""

    weight_codes: Tensor
    weight_scale: Tensor

    def __init__(self, codes: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight_codes", codes)  # [V, D] int8
        self.register_buffer("weight_scale", scale)  # [V] float32

    def forward(self, ids: Tensor) -> Tensor:
        """[P] to [P, D] float32."""
        return self.weight_codes[ids] * self.weight_scale[ids, None]


class PI0Network(nn.Module):
    """All modules; `sampler` runs them.

    Raises:
        ValueError: the configuration asks for what these modules do not compute.
    """

    def __init__(self, config: PI0Config) -> None:
        super().__init__()
        _check(config)
        vision, language, expert = towers(config)
        width = expert.hidden_size
        self.vision = Vision(vision)
        self.projector = nn.Linear(vision.hidden_size, language.hidden_size)
        self.embed_tokens = nn.Embedding(language.vocab_size, language.hidden_size)
        full = language.num_hidden_layers - 1
        self.language = Gemma([*(GemmaLayer(language) for _ in range(full)), KeyValueLayer(language)])
        self.expert = Expert(expert)
        self.state_in = nn.Linear(config.max_state_dim, width)
        self.action_in = nn.Linear(config.max_action_dim, width)
        self.time_in = nn.Linear(2 * width, width)
        self.time_out = nn.Linear(width, width)
        self.action_out = nn.Linear(width, config.max_action_dim)

    def words(self, ids: Tensor) -> Tensor:
        """Embed [P] token ids for the language model, as Gemma scales them: [P, D]."""
        embedded: Tensor = self.embed_tokens(ids)
        return embedded.to(self.projector.weight.dtype) * math.sqrt(embedded.shape[-1])


def towers(config: PI0Config) -> tuple[Any, Any, Any]:
    """Give the configurations of vision tower, language model and action expert."""
    vlm: Any = config.vlm_config  # annotated as a dict, which it is in a file only
    return vlm.vision_config, vlm.text_config, config.dit_config


def _check(config: PI0Config) -> None:
    vision, language, expert = towers(config)
    known: list[tuple[str, Any, Any]] = [("vision_config.hidden_act", vision.hidden_act, ACTIVATION)]
    for name, gemma in (("text_config", language), ("dit_config", expert)):
        known += [
            (f"{name}.hidden_act", gemma.hidden_act, ACTIVATION),
            (f"{name}.attention_bias", gemma.attention_bias, False),
            (f"{name}'s rope_type", gemma.rope_parameters["rope_type"], "default"),
        ]
    known += [  # the expert attends to the language model's keys, layer by layer
        (f"dit_config.{name}", getattr(expert, name), getattr(language, name))
        for name in ("num_hidden_layers", "num_key_value_heads", "head_dim")
    ]
    for name, value, expected in known:
        if value != expected:
            raise ValueError(f"{name} is {value!r}, expected {expected!r}")


_PREFIXES = {
    "vision": "model.vlm.vision_tower.encoder.",
    "language": "model.vlm.language_model.",
    "expert": "model.dit.",
}
_SOURCES: dict[str, tuple[str, ...]] = {
    "vision.patch": ("model.vlm.vision_tower.embeddings.patch_embedding",),
    "vision.norm": ("model.vlm.vision_tower.post_layernorm",),
    "projector": ("model.vlm.multi_modal_projector.linear",),
    "embed_tokens": ("model.vlm.language_model.embed_tokens",),
    "expert.norm": ("model.dit.norm",),
    "state_in": ("embed_action_time.state_proj",),
    "action_in": ("embed_action_time.action_in_proj",),
    "time_in": ("embed_action_time.action_time_mlp_in",),
    "time_out": ("embed_action_time.action_time_mlp_out",),
    "action_out": ("action_out_proj",),
}
_ATTENTION: dict[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "kv": ("self_attn.k_proj", "self_attn.v_proj"),
}
_VISION_PARTS = _ATTENTION | {
    "norm1": ("layer_norm1",),
    "out": ("self_attn.out_proj",),
    "norm2": ("layer_norm2",),
    "fc1": ("mlp.fc1",),
    "fc2": ("mlp.fc2",),
}
_GEMMA_PARTS = _ATTENTION | {
    "norm1": ("input_layernorm",),
    "o": ("self_attn.o_proj",),
    "norm2": ("post_attention_layernorm",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


def sources(config: PI0Config) -> dict[str, tuple[str, ...]]:
    """Say where every parameter of `PI0Network` comes from.

    Returns:
        Name of a parameter -> transformers' names of the tensors that, concatenated along their first axis and reshaped
        to the parameter, are its value. Nothing else of a checkpoint is used.
    """
    return {name: _source(name) for name in shapes(config)}


def shapes(config: PI0Config) -> dict[str, torch.Size]:
    """Give the shape of every parameter of `PI0Network`."""
    with torch.device("meta"):
        return {name: value.shape for name, value in PI0Network(config).named_parameters()}


def size(config: PI0Config) -> int:
    """Count the weights of `PI0Network`."""
    return sum(shape.numel() for shape in shapes(config).values())


def _source(name: str) -> tuple[str, ...]:
    if name == "vision.position":
        return ("model.vlm.vision_tower.embeddings.position_embedding.weight",)
    module, kind = name.rsplit(".", 1)
    if module in _SOURCES:
        return tuple(f"{source}.{kind}" for source in _SOURCES[module])
    tower, layers, index, part = module.split(".")
    table = _VISION_PARTS if tower == "vision" else _GEMMA_PARTS
    return tuple(f"{_PREFIXES[tower]}{layers}.{index}.{source}.{kind}" for source in table[part])


def assemble(
    config: PI0Config,
    tensors: Iterable[tuple[str, Tensor]],
    replaced: Mapping[str, nn.Module],
    dtype: torch.dtype,
    device: torch.device,
) -> PI0Network:
    """Make a network for inference.

    Args:
        config: of the checkpoint.
        tensors: every parameter by its name, as `sources` says, but those of `replaced`; taken one at a time.
        replaced: modules that take the place of the plain ones of these names.
        dtype: of the arithmetic. The table of words keeps its own: only the rows that are looked up are converted.
        device: of everything.
    """
    with torch.device("meta"):
        network = PI0Network(config)
    for name, module in replaced.items():
        network.set_submodule(name, module)
    for name, tensor in tensors:
        path, kind = name.rsplit(".", 1)
        owner = network.get_submodule(path)
        if isinstance(owner, RMSNorm):
            value = 1 + tensor.to(device, torch.float32)
        else:
            value = tensor.to(device) if owner is network.embed_tokens else tensor.to(device, dtype)
        setattr(owner, kind, nn.Parameter(value, requires_grad=False))
    return network.eval()
