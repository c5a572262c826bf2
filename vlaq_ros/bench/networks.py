"""Random pi0 checkpoints to be timed, of the widths of the public one or very small. Never for accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PI0Config, PI0ForConditionalGeneration
from transformers.utils import logging

from vlaq_ros.datatypes import ActionSpace, MotionScales
from vlaq_ros.policy.pi0 import towers
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.policy.tokenizer import IMAGE_TOKEN, build_tokenizer

INSTRUCTION = "put the red cube in the bin"
TEXT_TOKENS = 48  # of pi0's prompts
JOINTS = (*(f"joint{number}" for number in range(1, 8)), "gripper")


def true_size() -> PI0Config:
    """Give pi0 itself: 3.3 B weights."""
    return PI0Config()


def true_width(layers: int) -> PI0Config:
    """Give pi0 with `layers` in each of its towers, and few words."""
    config = PI0Config()
    vision, language, expert = towers(config)
    for tower in (vision, language, expert):
        tower.num_hidden_layers = layers
    for tower in (language, expert):
        tower.vocab_size = 1024
    return config


def smallest() -> PI0Config:
    """Give a pi0 whose inference takes so little time that a switch of precision would be seen in it."""
    config = true_width(1)
    vlm: Any = config.vlm_config
    vision, language, expert = towers(config)
    for tower in (vision, language, expert):
        tower.hidden_size, tower.intermediate_size, tower.num_attention_heads = 64, 128, 2
    for tower in (language, expert):
        tower.head_dim = 32
    vision.image_size, vision.projection_dim, vlm.projection_dim = 14, 64, 64
    config.num_inference_steps, config.chunk_size = 1, 8
    return config


def save(directory: Path, config: PI0Config, *, cameras: int, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a checkpoint of random weights: config.json, policy.json, the tokenizer and shards of weights."""
    tokenizer = build_tokenizer([INSTRUCTION])
    vlm: Any = config.vlm_config
    vlm.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        network = PI0ForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    logging.disable_progress_bar()
    network.save_pretrained(directory, max_shard_size="2GB")
    tokenizer.save_pretrained(directory)
    width = len(JOINTS)
    PolicySpec(
        family="pi0",
        cameras=tuple(f"camera{number}" for number in range(1, cameras + 1)),
        image_size_px=vlm.vision_config.image_size,
        joint_names=JOINTS,
        action_space=ActionSpace.JOINT,
        step_s=0.02,
        denoising_steps=config.num_inference_steps,
        text_length=TEXT_TOKENS,
        instructions=(INSTRUCTION,),
        state_mean=np.zeros(width),
        state_std=np.ones(width),
        action_mean=np.zeros(width),
        action_std=np.ones(width),
        motion=MotionScales(period_s=0.05, displacement_m=1.0, rotation_rad=1.0),
        fine_threshold=0.5,
    ).save(directory)
