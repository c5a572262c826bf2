"""The Triton kernels against the reference: run by test_triton.py in a process of its own, interpreted or on a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import triton
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from nested_weights import random, weights_and_widths

from vlaq_ros.quant.codes import NestedWeight, quantize
from vlaq_ros.quant.kernels import cuda, reference, triton_kernels

INTERPRETED = triton.knobs.runtime.interpret
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
# The interpreter rounds halves away from zero where it makes a bfloat16: one unit in the last place.
ROUNDING = {torch.float32: 0.0, torch.float16: 0.0, torch.bfloat16: 2**-7 if INTERPRETED else 0.0}


def use(monkeypatch: pytest.MonkeyPatch, tile: triton.Config) -> None:
    """A single tile is not timed, which the interpreter could not do."""
    monkeypatch.setattr(triton_kernels.multiply, "configs", [tile])


@pytest.fixture(autouse=True, scope="module")
def _one_tile() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        use(monkeypatch, triton_kernels.TILES[0])
        yield


def check(
    x: torch.Tensor, weight: NestedWeight, precision: int, bias: torch.Tensor | None, in_order: bool = False
) -> None:
    groups = [number for group in weight.groups for number in (group.rows, group.bits[precision])]
    tensors = (weight.hi, weight.lo, weight.scale[precision], None if in_order else weight.rows, bias)
    arguments = [None if tensor is None else tensor.to(DEVICE) for tensor in tensors]
    got = cuda.nested_linear(x.to(DEVICE), *arguments, groups, weight.block, weight.out_features)
    expected = reference.nested_linear(x, *tensors, groups, weight.block, weight.out_features)
    torch.testing.assert_close(got.cpu(), expected, rtol=ROUNDING[x.dtype], atol=0, equal_nan=True)


@settings(deadline=None, max_examples=15, phases=[Phase.generate])  # interpreted, shrinking would take minutes
@given(weights_and_widths(), st.integers(1, 70), st.sampled_from(list(ROUNDING)), st.integers(0, 2**31), st.booleans())
def test_every_width_shape_and_dtype_equals_the_reference(
    drawn: tuple[torch.Tensor, torch.Tensor], m: int, dtype: torch.dtype, seed: int, biased: bool
) -> None:
    weight, widths = drawn
    x = random(m, weight.shape[1], seed=seed).to(dtype)
    bias = random(len(weight), seed=seed + 1) if biased else None
    for precision in (0, 1):
        check(x, quantize(weight, widths), precision, bias)


@pytest.mark.parametrize("tile", triton_kernels.TILES, ids=str)
@pytest.mark.parametrize("precision", [0, 1])
def test_every_tile_equals_the_reference_beyond_its_edges(
    monkeypatch: pytest.MonkeyPatch, tile: triton.Config, precision: int
) -> None:
    use(monkeypatch, tile)
    m, outputs = tile.kwargs["BLOCK_M"] + 3, tile.kwargs["BLOCK_N"] + 7
    check(random(m, 592), quantize(random(outputs, 592, seed=1)), precision, random(outputs, seed=2), in_order=True)


@pytest.mark.parametrize("block_multiple", [16, 32, 64])
def test_every_block_of_the_rotation(block_multiple: int) -> None:
    weight = quantize(random(20, 5 * block_multiple, seed=1))
    assert weight.block == block_multiple
    check(random(3, 5 * block_multiple), weight, 0, None)


def test_extreme_codes_and_long_rows_are_summed_exactly() -> None:
    weight = quantize(torch.ones(16, 16384))
    for precision in (0, 1):
        check(torch.full((2, 16384), -3.0), weight, precision, None)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 3e38])
def test_a_row_that_is_not_finite_is_nan_and_alone(poison: float) -> None:
    widths = torch.tensor([[8, 0, 4, 8], [4, 0, 0, 8]])  # channels without codes are NaN too
    x = random(5, 64)
    x[2, :3] = poison
    for precision in (0, 1):
        check(x, quantize(random(4, 64, seed=1), widths), precision, random(4, seed=2))


@pytest.mark.parametrize("value", [0.0, 1e-31, 1e-29, 1e30])
def test_rows_of_any_size_are_scaled(value: float) -> None:
    check(torch.full((2, 64), value) * random(2, 64), quantize(random(4, 64, seed=1)), 0, random(4, seed=2))


def test_any_strides_and_leading_sizes() -> None:
    weight = quantize(random(9, 70, seed=1))
    for x in (random(70, 2, 3).permute(2, 1, 0), random(4, 140)[:, ::2], random(1, 70).expand(3, 70), random(70)):
        check(x, weight, 0, None)


def test_no_rows_at_all() -> None:
    weight = quantize(random(9, 64, seed=1))
    check(random(3, 0, 64), weight, 0, None)


def test_a_layer_without_codes_is_its_bias() -> None:
    weight = quantize(random(5, 64), torch.tensor([[0] * 5, [0] * 5]))
    check(random(3, 64), weight, 0, random(5, seed=1))


@pytest.mark.skipif(INTERPRETED, reason="graphs are recorded on a GPU")
def test_a_graph_replays_what_was_tuned_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernels.multiply, "configs", triton_kernels.TILES)
    weight = quantize(random(96, 256, seed=1))
    x = random(17, 256).to(DEVICE)
    groups = [96, 8]
    arguments = [tensor.to(DEVICE) for tensor in (weight.hi, weight.lo, weight.scale[0])]
    eager = cuda.nested_linear(x, *arguments, None, None, groups, weight.block, 96)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = cuda.nested_linear(x, *arguments, None, None, groups, weight.block, 96)
    y.zero_()
    graph.replay()
    torch.testing.assert_close(y, eager, rtol=0, atol=0)
