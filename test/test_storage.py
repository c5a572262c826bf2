"""Bytes of widths: what the real layers and the loaded bundle hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nested_weights import random

from vlaq_ros.calibrate.allocate import precisions
from vlaq_ros.calibrate.storage import WIDTHS, over_bf16, stored_bytes
from vlaq_ros.policy import bundle, pi0
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.engine import Engine
from vlaq_ros.policy.manifest import PrecisionPlan
from vlaq_ros.quant import codes
from vlaq_ros.quant.kernels.select import Kernel
from vlaq_ros.quant.linear import NestedLinear, resident_bytes

TILES, ROWS = (Kernel("of no use here", layout, "Nothing is computed.") for layout in ("tiles", "rows"))
RUNS = st.lists(st.tuples(st.sampled_from(WIDTHS), st.sampled_from([1, 5, 16, 32])), min_size=1, max_size=5)


def measured(kernel: Kernel, features: int, widths: torch.Tensor) -> int:
    nested = codes.quantize(random(widths.shape[1], features), widths)
    return resident_bytes(NestedLinear(nested, random(widths.shape[1]), 0, 8, kernel).buffers()) - 4 * widths.shape[1]


@given(RUNS, st.integers(1, 200))
def test_a_layer_holds_what_its_widths_say(runs: list[tuple[int, int]], features: int) -> None:
    widths = torch.tensor([width for width, rows in runs for _ in range(rows)])
    assert stored_bytes(features, widths) == measured(TILES, features, precisions(widths))
    assert stored_bytes(features, widths) >= measured(ROWS, features, precisions(widths))


@pytest.mark.parametrize(("width", "expected"), [(16, 132), (8, 64 + 8), (4, 32 + 8), (0, 0)])
def test_bytes_of_a_full_tile(width: int, expected: int) -> None:
    assert stored_bytes(64, torch.full((16,), width)) == 16 * expected


def test_a_bundle_holds_what_its_widths_say(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    shapes = {
        name.removesuffix(".weight"): shape
        for name, shape in pi0.shapes(checkpoint.config).items()
        if pi0.is_quantized_weight(name)
    }
    generator = torch.Generator().manual_seed(0)
    widths = {
        name: torch.tensor(WIDTHS)[torch.randint(4, shape[:1], generator=generator)] for name, shape in shapes.items()
    }
    bundle.write(
        checkpoint,
        tmp_path / "mixed",
        (PrecisionPlan("fine", 8, 8, 0.45), PrecisionPlan("coarse", 8, 8, 0.0)),
        lambda name, weight: codes.quantize(weight, precisions(widths[name])),
        embedding_bits=16,
        report=lambda _: None,
    )
    engine = Engine.load(tmp_path / "mixed", device=torch.device("cpu"))
    assert engine.kernel.layout == "tiles"
    assert over_bf16(shapes, widths) == engine.bytes_over_bf16["linears"]
