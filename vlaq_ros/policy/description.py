"""What a model directory says of its policy beside the weights: its files, held against each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PI0Config, PreTrainedTokenizerFast

from vlaq_ros.errors import CorruptModelError, ModelNotFoundError
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.policy.tokenizer import IMAGE_TOKEN, TOKENIZER_FILE, load_tokenizer, prompt_ids

CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class Description:
    """The files that a checkpoint and the bundles made of it have in common, fitting each other."""

    directory: Path
    config: PI0Config
    spec: PolicySpec
    prompts: dict[str, torch.Tensor]  # every instruction -> [P] token ids


def describe(directory: Path) -> Description:
    """Read config.json, policy.json and the tokenizer's files.

    Raises:
        ModelNotFoundError: the directory, or a file in it, is missing.
        FormatVersionError: policy.json has another format.
        UnknownKeyError: policy.json has an unknown key.
        CorruptModelError: a file cannot be used, or does not fit the others.
    """
    spec = PolicySpec.load(directory)
    config = _config(directory)
    tokenizer = load_tokenizer(directory)
    try:
        _check_sizes(spec, config)
        prompts = _prompts(spec, config, tokenizer)
    except ValueError as error:
        raise CorruptModelError(directory / PolicySpec.FILE, str(error)) from None
    try:
        _check_ids(tokenizer, config)
    except ValueError as error:
        raise CorruptModelError(directory / TOKENIZER_FILE, str(error)) from None
    return Description(directory, config, spec, prompts)


def _config(directory: Path) -> PI0Config:
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise ModelNotFoundError(directory, CONFIG_FILE)
    try:
        values, _ = PI0Config.get_config_dict(directory)
        if values.get("model_type") != PI0Config.model_type:
            raise ValueError(f"model_type is {values.get('model_type')!r}, expected {PI0Config.model_type!r}")
        return PI0Config.from_dict(values)
    except Exception as error:  # whatever a wrong value raises in transformers, the file is at fault
        raise CorruptModelError(path, " ".join(str(error).split())) from None


def _check_sizes(spec: PolicySpec, config: Any) -> None:
    """Raise ValueError where the specification does not belong to the configuration."""
    if spec.image_size_px != config.vlm_config.vision_config.image_size:
        expected = config.vlm_config.vision_config.image_size
        raise ValueError(f"image_size_px is {spec.image_size_px}, config.json says {expected}")
    *steps, columns = spec.action_mean.shape
    if steps and steps != [config.chunk_size]:
        raise ValueError(f"the number of rows of action_mean is {steps[0]}, config.json says {config.chunk_size}")
    for what, got, most in (
        ("the number of joint_names", len(spec.joint_names), config.max_state_dim),
        ("the number of columns of action_mean", columns, config.max_action_dim),
    ):
        if got > most:
            raise ValueError(f"{what} is {got}, config.json allows {most}")


def _check_ids(tokenizer: PreTrainedTokenizerFast, config: Any) -> None:
    """Raise ValueError where the tokenizer's ids do not fit the configuration; the image token needs no embedding."""
    image, expected = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN), config.vlm_config.image_token_id
    if image != expected:
        raise ValueError(f"the id of {IMAGE_TOKEN} is {image}, config.json says {expected}")
    highest = max(index for index in tokenizer.get_vocab().values() if index != image)
    vocabulary = config.vlm_config.text_config.vocab_size
    if highest >= vocabulary:
        raise ValueError(f"the highest token id is {highest}, config.json allows {vocabulary - 1}")


def _prompts(spec: PolicySpec, config: Any, tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    """Lay out the prompt of every instruction; ValueError where one is longer than the specification's text."""
    vision = config.vlm_config.vision_config
    image_tokens = len(spec.cameras) * (vision.image_size // vision.patch_size) ** 2
    return {
        instruction: prompt_ids(tokenizer, instruction, image_tokens, spec.text_length)
        for instruction in spec.instructions
    }
