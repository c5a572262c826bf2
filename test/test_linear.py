"""Layers over nested codes: what they compute, and what networks that read different Precisions share."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nested_weights import random, weights_and_widths
from torch import nn

from vlaq_ros.quant.codes import NestedWeight, decode, quantize
from vlaq_ros.quant.hadamard import rotate
from vlaq_ros.quant.kernels import reference
from vlaq_ros.quant.kernels.select import Kernel, chosen
from vlaq_ros.quant.linear import NestedLinear, resident_bytes, view

KERNEL = chosen(torch.device("cpu"))
LAYOUTS = [Kernel("of no use here", layout, "Weights alone are read.") for layout in ("rows", "tiles")]
LEADING = st.sampled_from([(), (0,), (1,), (5,), (2, 3), (0, 2)])


def by_reference(x: torch.Tensor, weight: NestedWeight, bias: torch.Tensor | None, precision: int) -> torch.Tensor:
    groups = [number for group in weight.groups for number in (group.rows, group.bits[precision])]
    y = reference.nested_linear(
        x, weight.hi, weight.lo, weight.scale[precision], weight.rows, bias, groups, weight.block, weight.out_features
    )
    kept = nn.functional.linear(x, weight.half.to(x.dtype), None if bias is None else bias[weight.half_rows])
    y[..., weight.half_rows] = kept
    return y


def dense(x: torch.Tensor, weight: NestedWeight, bias: torch.Tensor | None, precision: int) -> torch.Tensor:
    y = rotate(x.double(), weight.block) @ decode(weight, precision).double().T
    return y if bias is None else y + bias


@given(weights_and_widths(most_rows=80), LEADING, st.sampled_from([0, 1]), st.booleans())
def test_a_layer_equals_the_reference_whatever_its_widths(
    drawn: tuple[torch.Tensor, torch.Tensor], leading: tuple[int, ...], precision: int, with_bias: bool
) -> None:
    weight, widths = drawn
    nested, bias = quantize(weight, widths), random(len(weight)) if with_bias else None
    layer = NestedLinear(nested, bias, precision, 8, KERNEL)
    x = random(*leading, weight.shape[1], seed=1)
    assert torch.equal(layer(x), by_reference(x, nested, bias, precision))


@pytest.mark.parametrize("kernel", LAYOUTS, ids=lambda kernel: kernel.layout)
@given(weights_and_widths(most_rows=80), LEADING, st.sampled_from([0, 1]), st.booleans())
def test_with_16_bit_activations_a_layer_equals_its_decoded_weights(
    kernel: Kernel,
    drawn: tuple[torch.Tensor, torch.Tensor],
    leading: tuple[int, ...],
    precision: int,
    with_bias: bool,
) -> None:
    weight, widths = drawn
    nested, bias = quantize(weight, widths), random(len(weight)) if with_bias else None
    layer = NestedLinear(nested, bias, precision, 16, kernel)
    x = random(*leading, weight.shape[1], seed=1)
    expected = dense(x, nested, bias, precision)
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-3, atol=2e-3)  # the 16-bit rows were not rotated


@pytest.mark.parametrize("kernel", LAYOUTS, ids=lambda kernel: kernel.layout)
def test_large_weights_are_expanded_piece_by_piece_without_a_seam(kernel: Kernel) -> None:
    nested = quantize(random(700, 80), torch.tensor([[8] * 300 + [4] * 400, [4] * 700]))
    layer, x = NestedLinear(nested, None, 0, 16, kernel), random(3, 80, seed=1)
    torch.testing.assert_close(layer(x).double(), dense(x, nested, None, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation_bits", [8, 16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_go_in_and_come_out(dtype: torch.dtype, activation_bits: int) -> None:
    nested = quantize(random(20, 64), torch.tensor([[16] * 4 + [8] * 16, [16] * 4 + [4] * 16]))
    bias, x = random(20, seed=1).to(dtype), random(6, 64, seed=2).to(dtype)
    y = NestedLinear(nested, bias, 0, activation_bits, KERNEL)(x)
    assert y.dtype is dtype
    torch.testing.assert_close(y.double(), dense(x, nested, bias, 0), rtol=0.05, atol=0.3)


def test_half_of_the_bytes_hold_both_widths() -> None:
    layer = NestedLinear(quantize(random(64, 1024)), None, 0, 8, KERNEL)
    assert resident_bytes(layer.buffers()) <= 0.505 * 2 * 64 * 1024


def network() -> nn.Sequential:
    norm = nn.LayerNorm(20)
    nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
    first = NestedLinear(quantize(random(20, 32)), random(20, seed=1), 0, 8, KERNEL)
    last = NestedLinear(quantize(random(3, 20, seed=2)), None, 0, 8, KERNEL)
    return nn.Sequential(OrderedDict(first=first, norm=norm, last=last)).requires_grad_(False)


def tensors(module: nn.Module) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in module.state_dict(keep_vars=True).items()}


def test_views_share_every_tensor_and_differ_in_what_they_read() -> None:
    source = network()
    x = random(5, 32, seed=3)
    fine, coarse, weights_alone = view(source, 0, 8), view(source, 1, 8), view(source, 1, 16)
    assert tensors(fine) == tensors(coarse) == tensors(weights_alone) == tensors(source)
    first, last = quantize(random(20, 32)), quantize(random(3, 20, seed=2))
    for held, precision in ((fine, 0), (coarse, 1)):
        hidden = source.norm(by_reference(x, first, source.first.bias, precision))
        assert torch.equal(held(x), by_reference(hidden, last, None, precision))
    hidden = source.norm(dense(x, first, source.first.bias, 1).float())
    torch.testing.assert_close(weights_alone(x).double(), dense(hidden, last, None, 1), rtol=1e-4, atol=1e-4)
    assert torch.equal(source(x), fine(x))


def test_views_outlive_the_network_they_came_from() -> None:
    source = network()
    coarse = view(source, 1, 8)
    x = torch.ones(2, 32)
    expected = view(source, 1, 8)(x)
    del source
    assert torch.equal(coarse(x), expected)


def test_bytes_are_counted_once_however_many_networks_hold_them() -> None:
    source = network()
    alone = resident_bytes(source.state_dict().values())
    views = [view(source, precision, 8) for precision in (0, 1)]
    assert resident_bytes(tensor for each in views for tensor in each.state_dict().values()) == alone


def test_a_slice_keeps_its_whole_storage() -> None:
    assert resident_bytes([torch.zeros(100)[:1]]) == 400
