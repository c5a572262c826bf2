"""pi0 of true width in the layout of the public checkpoints: quantized, loaded and run; the whole 3.3 B on request.

VLAQ_TRUE_SIZE=1 python -m pytest --log-cli-level INFO test/test_true_size.py
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sources import ROOT
from torch import Tensor
from transformers import PI0Config, PI0ForConditionalGeneration

from vlaq_ros.cli.main import main
from vlaq_ros.datatypes import ActionSpace, MotionScales, Observation
from vlaq_ros.policy.checkpoint import INDEX_FILE
from vlaq_ros.policy.engine import Engine
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.policy.tokenizer import IMAGE_TOKEN, build_tokenizer
from vlaq_ros.policy.transforms import normalize, pixel_values

log = logging.getLogger(__name__)

INSTRUCTION = "fold the towel"
PUBLIC = (  # transformers' names -> those of the public checkpoints; word embeddings are there as lm_head only
    (r"^model\.vlm\.language_model\.embed_tokens\.", "paligemma_with_expert.paligemma.lm_head."),
    (r"^model\.vlm\.vision_tower\.", "paligemma_with_expert.paligemma.model.vision_tower.vision_model."),
    (r"^model\.vlm\.", "paligemma_with_expert.paligemma.model."),
    (r"^model\.dit\.embed_tokens\.", "paligemma_with_expert.gemma_expert.lm_head."),
    (r"^model\.dit\.", "paligemma_with_expert.gemma_expert.model."),
    (r"^embed_action_time\.", ""),
)
JOINTS = tuple(f"joint{index}" for index in range(1, 8))


def public_name(name: str) -> str:
    for pattern, replacement in PUBLIC:
        name = re.sub(pattern, replacement, name)
    return name


def true_width(*, vision_layers: int, gemma_layers: int, words: int) -> PI0Config:
    """The defaults of PI0Config, which are the public checkpoints' own, with other depths and another vocabulary."""
    config = PI0Config()
    vlm = config.vlm_config
    vlm.vision_config.num_hidden_layers = vision_layers
    for gemma in (vlm.text_config, config.dit_config):
        gemma.num_hidden_layers, gemma.vocab_size = gemma_layers, words
    return config


def write_checkpoint(directory: Path, config: PI0Config, *, steps: int, shard_bytes: int) -> None:
    """Random bf16 weights under the public names, shard by shard, and the files beside them."""
    directory.mkdir()
    tokenizer = build_tokenizer([INSTRUCTION])
    tokenizer.save_pretrained(directory)
    config.vlm_config.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    config.save_pretrained(directory)
    state = np.linspace(-1, 1, len(JOINTS))
    PolicySpec(
        family="pi0",
        cameras=("base", "wrist"),
        image_size_px=224,
        joint_names=JOINTS,
        action_space=ActionSpace.JOINT,
        step_s=0.02,
        denoising_steps=steps,
        text_length=None,
        instructions=(INSTRUCTION,),
        state_mean=state,
        state_std=1 + state**2,
        action_mean=state / 2,
        action_std=2 + state,
        motion=MotionScales(period_s=0.05, displacement_m=0.02, rotation_rad=0.05),
        fine_threshold=0.5,
    ).save(directory)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in PI0ForConditionalGeneration(config).state_dict().items()}
    random = torch.Generator().manual_seed(0)
    places: dict[str, str] = {}
    shard: dict[str, Tensor] = {}

    def flush() -> None:
        file = f"model-{1 + len(set(places.values())):05d}.safetensors"
        save_file(shard, directory / file)
        places.update(dict.fromkeys(shard, file))
        shard.clear()

    for name, shape in shapes.items():
        fan_in = shape[1:].numel() if len(shape) > 1 else 16
        values = torch.empty(shape, dtype=torch.bfloat16)
        shard[public_name(name)] = values.normal_(std=fan_in**-0.5, generator=random)
        if sum(tensor.nbytes for tensor in shard.values()) >= shard_bytes:
            flush()
    flush()
    (directory / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")


def observation() -> Observation:
    random = np.random.default_rng(0)
    return Observation(
        stamp_ns=0,
        images={camera: random.integers(0, 256, (224, 224, 3), dtype=np.uint8) for camera in ("base", "wrist")},
        joint_names=JOINTS,
        joint_positions=random.normal(size=len(JOINTS)),
        instruction=INSTRUCTION,
    )


def test_true_width_in_the_public_layout(tmp_path: Path) -> None:
    checkpoint, bundle = tmp_path / "pi0", tmp_path / "pi0_w8w4"
    words = len(build_tokenizer([INSTRUCTION]))
    # Two layers of Gemma, since of the last language layer only keys and values are computed.
    config = true_width(vision_layers=1, gemma_layers=2, words=words)
    write_checkpoint(checkpoint, config, steps=2, shard_bytes=300 << 20)
    assert len(list(checkpoint.glob("*.safetensors"))) == 2
    assert main(["quantize", str(checkpoint), "--out", str(bundle), "--embeddings", "8"]) == 0
    noise = np.random.default_rng(1).normal(size=(50, 32))

    engine = Engine.load(bundle)
    assert engine.noise_shape == noise.shape
    for precision in engine.precisions:
        actions = engine.infer(observation(), precision, noise).actions
        assert actions.shape == (50, len(JOINTS))
        assert np.isfinite(actions).all()
    del engine

    full = Engine.load(bundle, full=True, dtype=torch.float32)
    ours = normalize(full.infer(observation(), "full", noise).actions, full.spec.action_mean, full.spec.action_std)
    np.testing.assert_allclose(ours, by_transformers(checkpoint, full.spec, noise), atol=1e-4)


def by_transformers(directory: Path, spec: PolicySpec, noise: np.ndarray) -> np.ndarray:
    """Normalised actions of the columns that the policy has."""
    seen, tokenizer = observation(), build_tokenizer([INSTRUCTION])
    image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    text = tokenizer(f"<bos>{INSTRUCTION}\n", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[image] * (2 * 256) + text])
    state = np.zeros(32)
    state[: len(JOINTS)] = (seen.joint_positions - spec.state_mean) / spec.state_std
    policy = PI0ForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        actions = policy.sample_actions(
            state=torch.tensor(state, dtype=torch.float32)[None],
            input_ids=ids,
            pixel_values=torch.stack([pixel_values(seen.images[camera], 224) for camera in spec.cameras])[None],
            noise=torch.tensor(noise, dtype=torch.float32)[None],
            attention_mask=torch.ones_like(ids),
            pixel_attention_mask=torch.ones(1, 2, dtype=torch.bool),
            num_steps=spec.denoising_steps,
        )
    columns: np.ndarray = actions[0, :, : len(JOINTS)].numpy()
    return columns


def vlaq(*arguments: str) -> tuple[str, int]:
    """Run the command in a process of its own: what it printed, and the most bytes that were resident."""
    start_s = time.monotonic()
    program = f"import sys; from vlaq_ros.cli.main import main; sys.exit(main({list(arguments)!r}))"
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    resident = 1024 * usage.ru_maxrss
    log.info("vlaq %s: %.0f s, %.2f GB resident at most", arguments[0], time.monotonic() - start_s, resident / 1e9)
    return printed, resident


@pytest.mark.skipif("VLAQ_TRUE_SIZE" not in os.environ, reason="needs 10 minutes, 12 GB of disk and VLAQ_TRUE_SIZE=1")
def test_true_size_is_quantized_and_loaded_in_12_gb(tmp_path: Path) -> None:
    checkpoint, bundle = tmp_path / "pi0", tmp_path / "pi0_w8w4"
    try:
        write_checkpoint(
            checkpoint,
            true_width(vision_layers=27, gemma_layers=18, words=257152),
            steps=10,
            shard_bytes=1 << 30,
        )
        assert sum(file.stat().st_size for file in checkpoint.glob("*.safetensors")) > 6.5e9
        _, quantizing = vlaq("quantize", str(checkpoint), "--out", str(bundle), "--embeddings", "8")
        assert quantizing < 12e9
        printed, loading = vlaq("inspect", str(bundle), "--json")
        assert loading < 12e9
        measured = json.loads(printed.splitlines()[-1])
        log.info("%s %s", measured["bytes_over_bf16"], measured["memory"])
        assert measured["bytes_over_bf16"]["linears"] < 0.505
    finally:
        for file in tmp_path.rglob("*.safetensors"):
            file.unlink()
