"""Quantized networks: which layers change, what is shared, what is freed, what is counted."""

from __future__ import annotations

import weakref
from collections import OrderedDict

import torch
from torch import nn

from vlaq_ros.quant.kernels.reference import nested_linear
from vlaq_ros.quant.linear import NestedLinear, linear_weights, quantize_linears, resident_bytes, view


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = OrderedDict(first=nn.Linear(6, 8), norm=nn.BatchNorm1d(8), last=nn.Linear(8, 3, bias=False))
        return nn.Sequential(layers).eval().requires_grad_(False)


def is_first(name: str) -> bool:
    return name == "first"


def tensors(module: nn.Module) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in module.state_dict(keep_vars=True).items()}


def test_only_selected_linears_are_replaced() -> None:
    source = network()
    norm, last, bias = source.norm, source.last, source.first.bias
    quantize_linears(source, lambda name: name in ("first", "norm"))
    assert isinstance(source.first, NestedLinear)
    assert source.first.bias is bias
    assert source.norm is norm
    assert source.last is last


def test_the_float_weight_is_freed() -> None:
    source = network()
    weight = weakref.ref(source.first.weight)
    quantize_linears(source, is_first)
    assert weight() is None


def test_views_share_every_tensor_and_differ_in_bits_alone() -> None:
    source = network()
    quantize_linears(source, lambda name: True)
    fine, coarse = view(source, 8), view(source, 4)
    assert tensors(fine) == tensors(coarse) == tensors(source)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    for held, bits in ((fine, 8), (coarse, 4)):
        expected = nested_linear(x, source.first.weight, bits, source.first.bias)
        assert torch.equal(held(x), nested_linear(source.norm(expected), source.last.weight, bits, None))
    assert source.first.bits == 8


def test_views_outlive_the_network_they_came_from() -> None:
    source = network()
    quantize_linears(source, is_first)
    fine = view(source, 8)
    x = torch.ones(2, 6)
    expected = source(x)
    del source
    assert torch.equal(fine(x), expected)


def test_bytes_are_counted_once_however_many_networks_hold_them() -> None:
    source = network()
    floats = list(linear_weights(source, is_first))
    assert resident_bytes(floats) == 4 * 6 * 8
    quantize_linears(source, is_first)
    views = [view(source, bits) for bits in (8, 4)]
    held = [weight for each in views for weight in linear_weights(each, is_first)]
    assert resident_bytes(held) == 6 * 8 + 4 * 8  # a byte per weight, a scale per output


def test_a_slice_keeps_its_whole_storage() -> None:
    assert resident_bytes([torch.zeros(100)[:1]]) == 400
