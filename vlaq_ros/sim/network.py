"""The embedded policy's network: a small instance of transformers' own PI0 class, sized for two CPU cores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import PI0Config, PI0ForConditionalGeneration, PreTrainedTokenizerFast
from transformers.utils import logging

from vlaq_ros.errors import VlaqError
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.tokenizer import IMAGE_TOKEN, load_tokenizer
from vlaq_ros.sim.demonstrations import CHUNK_STEPS

WIDTH = 128
LAYERS = 4
HEADS = 4
PATCH_PX = 12
IMAGE_PX = 96
GRID = IMAGE_PX // PATCH_PX  # tokens along a side of an image
DENOISING_STEPS = 8


class OtherNetworkError(VlaqError):
    """A checkpoint to begin from is of another network."""

    def __init__(self, directory: Path, tensor: str, got: tuple[int, ...] | None, expected: tuple[int, ...]) -> None:
        found = "missing" if got is None else f"of shape {got}"
        super().__init__(
            f"checkpoint {str(directory)!r} is of another network: {tensor} is {found}, expected shape {expected}; "
            "begin from one that vlaq train left, of the same --action-space"
        )


def build(tokenizer: PreTrainedTokenizerFast, state_size: int, action_size: int) -> PI0ForConditionalGeneration:
    """A freshly initialised network.

    transformers' constant deviation of 0.02 starves a network this narrow: the language model, the expert and the
    projections start at 1 / sqrt(fan in) instead, residual outputs smaller by sqrt(2 layers).
    """
    gemma = {
        "model_type": "gemma",
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "intermediate_size": 3 * WIDTH,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "head_dim": WIDTH // HEADS,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": None,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "intermediate_size": 3 * WIDTH,
        "num_attention_heads": HEADS,
        "patch_size": PATCH_PX,
        "image_size": IMAGE_PX,
        "vision_use_head": False,
    }
    config = PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": gemma,
            "vision_config": vision,
            "projection_dim": WIDTH,
            "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        },
        dit_config=dict(gemma),
        chunk_size=CHUNK_STEPS,
        max_state_dim=state_size,
        max_action_dim=action_size,
        num_inference_steps=DENOISING_STEPS,
    )
    network = PI0ForConditionalGeneration(config)
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear) and "vision_tower" not in name:
                residual = name.endswith(("o_proj", "down_proj"))
                nn.init.normal_(module.weight, std=(module.in_features * (2 * LAYERS if residual else 1)) ** -0.5)
            elif isinstance(module, nn.Embedding) and module.num_embeddings == len(tokenizer):
                nn.init.normal_(module.weight, std=WIDTH**-0.5)  # of unit size once Gemma has scaled it by sqrt(WIDTH)
    return network


@torch.no_grad()
def adopt(network: PI0ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, source: Checkpoint) -> None:
    """Give a network the weights of a checkpoint, word by word where they belong to words.

    Words that the checkpoint does not know, and what the network learns of its data (`PolicySpec`), stay as they are.

    Raises:
        OtherNetworkError: a tensor is missing or has another shape.
        CorruptModelError: a tensor cannot be read.
    """
    known = load_tokenizer(source.directory).get_vocab()
    rows = [(row, known[word]) for word, row in tokenizer.get_vocab().items() if word in known]
    here, there = (list(part) for part in zip(*rows, strict=True))
    for name, parameter in network.named_parameters():
        tensor = source.tensor(name) if name in source.places else None
        of_words = name.endswith("embed_tokens.weight")
        if tensor is None or tensor.shape[of_words:] != parameter.shape[of_words:]:
            got = None if tensor is None else tuple(tensor.shape)
            raise OtherNetworkError(source.directory, name, got, tuple(parameter.shape))
        if of_words:
            parameter[here] = tensor[there].to(parameter.dtype)
        else:
            parameter.copy_(tensor)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bar and report off the terminal while a network is saved."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
