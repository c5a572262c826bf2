"""Fixtures that several test files share. No ROS here: rclpy is imported only by the test files that need it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from transformers import PI0Config, PI0ForConditionalGeneration

from vlaq_ros.datatypes import ActionSpace, MotionScales
from vlaq_ros.policy import bundle
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.manifest import PrecisionPlan
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.policy.tokenizer import IMAGE_TOKEN, build_tokenizer, longest_text
from vlaq_ros.quant import codes

# Tests time nothing: a busy machine must not fail one. The same draws in every run: a rare one that fails belongs to
# nobody's change; without `derandomize` new ones are looked for.
settings.register_profile("patient", deadline=None, derandomize=True)
settings.load_profile("patient")

WIDTH, LAYERS, STEPS, IMAGE_PX = 32, 2, 16, 96
COLOURS = ("red", "green", "blue")
INSTRUCTIONS = tuple(f"pick up the {colour} cube" for colour in COLOURS) + tuple(
    f"put the {colour} cube in the bin" for colour in COLOURS
)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint with random weights, for the simulated Panda; read it, never write to it."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = build_tokenizer(INSTRUCTIONS)
    tokenizer.save_pretrained(directory)
    text = {
        "model_type": "gemma",
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": WIDTH // 2,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "patch_size": 16,
        "image_size": IMAGE_PX,
        "vision_use_head": False,
    }
    config = PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": text,
            "vision_config": vision,
            "projection_dim": WIDTH,
            "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        },
        dit_config=text,
        chunk_size=STEPS,
        max_state_dim=8,
        max_action_dim=8,
        num_inference_steps=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PI0ForConditionalGeneration(config)
        for parameter in model.parameters():  # the default 0.02 makes a network that hardly reacts to its input
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    model.save_pretrained(directory)
    reach_rad = 0.002 * np.arange(1, STEPS + 1)[:, None]
    PolicySpec(
        family="pi0",
        cameras=("front", "wrist"),
        image_size_px=IMAGE_PX,
        joint_names=(*(f"panda_joint{i}" for i in range(1, 8)), "panda_finger_joint1"),
        action_space=ActionSpace.JOINT,
        step_s=0.05,
        denoising_steps=8,
        text_length=longest_text(tokenizer, INSTRUCTIONS),
        instructions=INSTRUCTIONS,
        state_mean=np.array([0.0, -0.3, 0.0, -2.2, 0.0, 2.0, 0.8, 0.02]),
        state_std=np.array([0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.02]),
        action_mean=np.concatenate([np.zeros((STEPS, 7)), np.full((STEPS, 1), 0.02)], axis=1),
        action_std=np.concatenate([np.broadcast_to(reach_rad, (STEPS, 7)), np.full((STEPS, 1), 0.02)], axis=1),
        motion=MotionScales(period_s=0.05, displacement_m=0.02, rotation_rad=0.05),
        fine_threshold=0.45,
    ).save(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path) -> Path:
    """The bundle of `tiny_checkpoint`, beside it, with 8 and 4 bits; read it, never write to it."""
    directory = tiny_checkpoint.with_name("tiny_w8w4")
    bundle.write(
        Checkpoint.open(tiny_checkpoint),
        directory,
        (PrecisionPlan("fine", 8, 8, 0.45), PrecisionPlan("coarse", 8, 8, 0.0)),
        lambda _, weight: codes.quantize(weight),
        embedding_bits=16,
        report=lambda _: None,
    )
    return directory
