"""The operator as torch sees it: its schema, its shapes without data, compilation and export."""

from __future__ import annotations

import pytest
import torch
from nested_weights import random

from vlaq_ros.quant.codes import quantize
from vlaq_ros.quant.kernels.op import nested_linear
from vlaq_ros.quant.kernels.select import chosen
from vlaq_ros.quant.linear import NestedLinear

KERNEL = chosen(torch.device("cpu"))
WIDTHS = torch.tensor([[8, 8, 4, 16, 0, 8, 4], [8, 4, 4, 16, 0, 8, 0]])  # of 7 channels, of all kinds


def layer() -> NestedLinear:
    return NestedLinear(quantize(random(7, 40), WIDTHS), random(7, seed=1), 1, 8, KERNEL)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_torch_finds_no_fault_with_it(dtype: torch.dtype, rows: int) -> None:
    held = layer()
    x = random(rows, 40, seed=2).to(dtype)
    units = len(held.hi)  # all stored rows as one group, which need not have low nibbles
    arguments = (x, held.hi, held.lo, held.scale[0], held.rows, held.bias, [units, 4], held.block, 7)
    torch.library.opcheck(nested_linear, arguments)


def test_shapes_are_known_without_data() -> None:
    held = layer().to("meta")
    for leading in ((), (3,), (0, 2), (2, 3, 5)):
        y = held(torch.empty(*leading, 40, dtype=torch.bfloat16, device="meta"))
        assert y.shape == (*leading, 7)
        assert y.dtype is torch.bfloat16


def test_a_layer_compiles_to_one_graph() -> None:
    held, x = layer(), random(5, 40, seed=2)
    with torch.inference_mode():
        compiled = torch.compile(held, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), held(x))


def test_a_layer_is_exported() -> None:
    held, x = layer(), random(5, 40, seed=2)
    exported = torch.export.export(held, (x,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    called = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert called.count(nested_linear) == 1
    more = random(9, 40, seed=3)
    assert torch.equal(exported.module()(more), held(more))
