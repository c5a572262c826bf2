"""Which linears a layout holds as integers."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PI0Config

from vlaq_ros.calibrate.layout import Layout
from vlaq_ros.calibrate.probe import layers
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.pi0 import PI0Network

ATTENTION = {f"expert.layers.{layer}.{part}" for layer in (0, 1) for part in ("qkv", "o")}
VISION = {f"vision.layers.{layer}.{part}" for layer in (0, 1) for part in ("qkv", "out", "fc1", "fc2")}


@pytest.fixture
def config(tiny_checkpoint: Path) -> PI0Config:
    return Checkpoint.open(tiny_checkpoint).config


@pytest.mark.parametrize(
    ("layout", "kept"), [("all", set()), ("selective+vision", ATTENTION), ("selective", ATTENTION | VISION)]
)
def test_a_layout_keeps_some_linears_in_16_bits(layout: str, kept: set[str], config: PI0Config) -> None:
    assert {name for name in layers(PI0Network(config)) if Layout(layout).keeps(name)} == kept
