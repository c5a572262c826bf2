"""Every recipe on a pi0 of the public widths, with one layer in each tower, calibrated on a recording.

VLAQ_TRUE_SIZE=1 python -m pytest -o faulthandler_timeout=0 --log-cli-level INFO test/test_calibrate_true_width.py
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin
from test_bags import BLUE, RED, ROBOT, session, write
from test_true_size import true_width, vlaq, write_checkpoint

from vlaq_ros.calibrate.recipes import RECIPES
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.policy.tokenizer import build_tokenizer

pytestmark = pytest.mark.skipif(
    "VLAQ_TRUE_SIZE" not in os.environ, reason="needs an hour of 2 cores, 1 GB of disk and VLAQ_TRUE_SIZE=1"
)

log = logging.getLogger(__name__)

OBSERVATIONS = 8
BUDGET = 0.305
LEAST = {"quantvla": 0.7, "quantvla+vision": 0.37}  # whose layouts keep 16 bits, of vision in half of all weights here


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Random weights, for the simulated Panda; of the language model they hold the keys and values of one layer."""
    directory = tmp_path_factory.mktemp("models") / "pi0"
    tokenizer = build_tokenizer([RED, BLUE])
    config = true_width(vision_layers=1, gemma_layers=1, words=len(tokenizer))
    write_checkpoint(directory, config, steps=2, shard_bytes=1 << 30)
    tokenizer.save_pretrained(directory)
    width = len(ROBOT.joint_names)
    replace(
        PolicySpec.load(directory),
        cameras=("front",),
        joint_names=ROBOT.joint_names,
        instructions=(RED, BLUE),
        state_mean=np.zeros(width),
        state_std=np.ones(width),
        action_mean=np.zeros(width),
        action_std=np.ones(width),
    ).save(directory)
    yield directory
    for file in directory.glob("*.safetensors"):
        file.unlink()


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of an arm in front of noise."""
    random = np.random.default_rng(0)
    entries = [
        (stamp_ns, topic, msgtype, fields | {"data": random.integers(0, 256, len(fields["data"]), dtype=np.uint8)})
        if topic.endswith("image_raw")
        else (stamp_ns, topic, msgtype, fields)
        for stamp_ns, topic, msgtype, fields in session(size_px=224, seconds=6)
    ]
    return write(tmp_path_factory.mktemp("bags") / "noise", entries, StoragePlugin.MCAP)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_keeps_its_budget_and_a_bound_of_memory(
    checkpoint: Path, bag: Path, recipe: str, tmp_path: Path
) -> None:
    out, budget = tmp_path / "calibrated", LEAST.get(recipe, BUDGET)
    asked = {
        "--data": str(bag),
        "--recipe": recipe,
        "--budget": str(budget),
        "--observations": str(OBSERVATIONS),
        "--episodes": "0",
        "--out": str(out),
    }
    _, resident = vlaq("calibrate", str(checkpoint), *(word for pair in asked.items() for word in pair))
    facts = json.loads((out / "report.json").read_text(encoding="utf-8"))
    printed, _ = vlaq("inspect", str(out), "--json")
    linears = json.loads(printed.splitlines()[-1])["bytes_over_bf16"]["linears"]
    errors = [precision["action_nmse"] for precision in facts["precisions"]]
    log.info("%s: linears %.4f, action error %s, seconds %s", recipe, linears, errors, facts["seconds"])
    assert linears <= budget
    assert resident < 12e9
    for file in out.glob("*.safetensors"):
        file.unlink()
