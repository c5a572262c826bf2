"""A policy bundle on disk: its files read, and held against each other before anything moves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PI0ForConditionalGeneration, PreTrainedTokenizerFast

from vlaq_ros.errors import CorruptModelError
from vlaq_ros.policy import pi0
from vlaq_ros.policy.manifest import Manifest
from vlaq_ros.policy.tokenizer import IMAGE_TOKEN, load_tokenizer, prompt_ids


@dataclass(frozen=True, slots=True)
class Bundle:
    """Files that fit each other."""

    manifest: Manifest
    prompts: dict[str, torch.Tensor]  # every instruction -> [P] token ids
    network: PI0ForConditionalGeneration  # float32

    @classmethod
    def load(cls, directory: Path) -> Bundle:
        """Read config.json, model.safetensors, the tokenizer's files and manifest.json.

        Raises:
            ModelNotFoundError: the directory, or a file in it, is missing.
            ManifestVersionError: the manifest has another format.
            UnknownKeyError: the manifest has an unknown key.
            CorruptModelError: a file cannot be used, or does not fit the others.
        """
        manifest = Manifest.load(directory)
        tokenizer = load_tokenizer(directory)
        network = pi0.load(directory)
        try:
            _check_fit(manifest, tokenizer, network.config)
            prompts = _prompts(manifest, tokenizer, network.config)
        except ValueError as error:
            raise CorruptModelError(directory / Manifest.FILE, str(error)) from None
        return cls(manifest, prompts, network)


def _check_fit(manifest: Manifest, tokenizer: PreTrainedTokenizerFast, config: Any) -> None:
    """Raise ValueError where the manifest or the tokenizer does not belong to the configuration."""
    rows, columns = manifest.action_mean.shape
    vlm = config.vlm_config
    for what, got, expected in (
        ("image_size_px", manifest.image_size_px, vlm.vision_config.image_size),
        ("the number of joint_names", len(manifest.joint_names), config.max_state_dim),
        ("the number of rows of action_mean", rows, config.chunk_size),
        ("the number of columns of action_mean", columns, config.max_action_dim),
        ("the number of words of the tokenizer", len(tokenizer), vlm.text_config.vocab_size),
        ("the tokenizer's id of <image>", tokenizer.convert_tokens_to_ids(IMAGE_TOKEN), vlm.image_token_id),
    ):
        if got != expected:
            raise ValueError(f"{what} is {got}, config.json says {expected}")


def _prompts(manifest: Manifest, tokenizer: PreTrainedTokenizerFast, config: Any) -> dict[str, torch.Tensor]:
    """Lay out the prompt of every instruction; ValueError where one is longer than the manifest's text."""
    vision = config.vlm_config.vision_config
    image_tokens = len(manifest.cameras) * (vision.image_size // vision.patch_size) ** 2
    return {
        instruction: prompt_ids(tokenizer, instruction, image_tokens, manifest.text_length)
        for instruction in manifest.instructions
    }
